// Light or dark: as the system says, until somebody says otherwise.

import { h, put, set } from "./dom";
import { keep, kept } from "./store";

type Theme = "light" | "dark";

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function current(): Theme {
  const chosen = kept("local", "theme");
  if (chosen === "light" || chosen === "dark") return chosen;
  return dark.matches ? "dark" : "light";
}

/** The button that changes it. */
export function themeButton(): HTMLButtonElement {
  const button = h("button", { type: "button", class: "quiet", id: "theme" });
  const apply = (): void => {
    const theme = current();
    set(document.documentElement, "data-theme", theme);
    put(button, theme === "dark" ? "Light" : "Dark");
    set(button, "aria-label", theme === "dark" ? "Use light colours" : "Use dark colours");
  };
  button.addEventListener("click", () => {
    const next: Theme = current() === "dark" ? "light" : "dark";
    // What the system says anyway need not be remembered.
    keep("local", "theme", (next === "dark") === dark.matches ? null : next);
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
  return button;
}
