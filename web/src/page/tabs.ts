// Panels of which one is seen.

import { h, set, show } from "./dom";
import type { Panel } from "./panel";

export class Tabs {
  private readonly tabs = new Map<string, HTMLButtonElement>();
  private readonly panels = new Map<string, { panel: Panel; frame: HTMLElement }>();
  readonly element: HTMLElement;

  constructor(name: string, panels: readonly Panel[]) {
    const list = h("div", { class: "tabs", role: "tablist", "aria-label": name });
    this.element = h("section", { class: "card", "aria-labelledby": "tabs-title" }, h("h2", { id: "tabs-title", class: "unseen" }, name), list);
    for (const panel of panels) {
      const tab = h(
        "button",
        { type: "button", role: "tab", id: `tab-${panel.id}`, "aria-controls": `panel-${panel.id}`, onclick: () => this.select(panel.id) },
        panel.name,
      );
      const frame = h("div", { role: "tabpanel", id: `panel-${panel.id}`, "aria-labelledby": tab.id }, panel.element);
      this.tabs.set(panel.id, tab);
      this.panels.set(panel.id, { panel, frame });
      list.append(tab);
      this.element.append(frame);
    }
    list.addEventListener("keydown", (event) => this.move(event));
    const [first] = panels;
    if (first !== undefined) this.mark(first.id);
  }

  /** Shows a panel, and reads it when it is seen for the first time. */
  select(id: string): void {
    this.mark(id);
    this.panels.get(id)?.panel.open();
  }

  private mark(id: string): void {
    for (const [known, tab] of this.tabs) {
      set(tab, "aria-selected", known === id ? "true" : "false");
      // One stop for the Tab key; arrows lead to the others.
      set(tab, "tabindex", known === id ? "0" : "-1");
    }
    for (const [known, { frame }] of this.panels) show(frame, known === id);
  }

  private move(event: KeyboardEvent): void {
    const ids = [...this.tabs.keys()];
    const at = ids.findIndex((id) => this.tabs.get(id) === document.activeElement);
    const steps: Record<string, number> = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: ids.length - 1 };
    const to = steps[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const id = ids[(to + ids.length) % ids.length];
    if (id === undefined) return;
    this.select(id);
    this.tabs.get(id)?.focus();
  }
}
