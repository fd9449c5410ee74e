// Short messages at the edge of the page: what came of something.

import { h, type Child } from "./dom";

const SHOWN_MS = 8_000;
const MOST = 4;

export class Toasts {
  private readonly good = h("div", { class: "toasts-good", role: "status" });
  private readonly bad = h("div", { class: "toasts-bad", role: "alert" });
  readonly element = h("div", { class: "toasts" }, this.good, this.bad);

  /** Something went well; it goes away by itself. */
  done(text: string): void {
    const toast = this.add(this.good, "toast good", text);
    window.setTimeout(() => toast.remove(), SHOWN_MS);
  }

  /** Something did not; it stays until it is read. */
  failed(...content: Child[]): void {
    this.add(this.bad, "toast bad", ...content);
  }

  private add(to: Element, kind: string, ...content: Child[]): HTMLElement {
    const toast = h(
      "div",
      { class: kind },
      h("div", {}, ...content),
      h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => toast.remove() }, "×"),
    );
    while (to.childElementCount >= MOST) to.firstElementChild?.remove();
    to.append(toast);
    return toast;
  }
}
