// A table of what was read once: it is made anew with each reading.

import { h, type Child } from "./dom";

export interface Column {
  name: string;
  number?: boolean;
  /** Only for those who hear the page. */
  unseen?: boolean;
}

export function table(caption: string, columns: readonly Column[], rows: readonly (readonly Child[])[]): HTMLElement {
  const head = columns.map((column) =>
    h(
      "th",
      { scope: "col", class: column.number === true ? "number" : null },
      column.unseen === true ? h("span", { class: "unseen" }, column.name) : column.name,
    ),
  );
  const body = rows.map((cells) =>
    h(
      "tr",
      {},
      ...cells.map((cell, nth) =>
        nth === 0
          ? h("th", { scope: "row" }, cell)
          : h("td", { class: columns[nth]?.number === true ? "number" : null }, cell),
      ),
    ),
  );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...body)),
  );
}

/** A label over a field. */
export function field(label: string, input: HTMLElement, hint?: string): HTMLElement {
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, hint !== undefined && h("span", { class: "hint" }, hint));
}
