// How connections and requests end, errors first.

import type { End, Live } from "../wire";
import { h, put, set, show } from "./dom";
import * as format from "./format";
import { List, type Entry } from "./list";
import * as words from "./words";

function entry(end: End): Entry<End> {
  // Colour alone would not tell everybody.
  const mark = h("span", { class: "error-mark" }, h("span", { "aria-hidden": "true" }, "▲"), h("span", { class: "unseen" }, "Error: "));
  const rate = h("td", { class: "number" });
  const total = h("td", { class: "number" });
  const element = h(
    "tr",
    {},
    h("th", { scope: "row", title: words.end(end.reason) }, mark, h("span", {}, words.end(end.reason)), h("code", {}, end.reason)),
    rate,
    total,
  );
  return {
    element,
    update(now) {
      set(element, "class", now.is_error ? (now.per_sec > 0 ? "is-error is-now" : "is-error") : "");
      show(mark, now.is_error);
      put(rate, format.rate(now.per_sec));
      put(total, format.short(now.total));
    },
  };
}

export class Ends {
  private readonly body = h("tbody");
  private readonly list = new List<End>(this.body, (end) => end.reason, entry);
  private readonly none = h("p", { class: "empty" }, "Nothing has ended yet.");
  private readonly scroll = h(
    "div",
    { class: "scroll side-scroll", tabindex: "0", role: "group", "aria-labelledby": "ends-title" },
    h(
      "table",
      { class: "compact", id: "ends" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Reason"),
          h("th", { scope: "col", class: "number" }, "/s"),
          h("th", { scope: "col", class: "number" }, "Total"),
        ),
      ),
      this.body,
    ),
  );
  readonly element = h(
    "section",
    { class: "card", "aria-labelledby": "ends-title" },
    h("h2", { id: "ends-title" }, "How connections end"),
    this.none,
    this.scroll,
  );

  update({ ends }: Live): void {
    show(this.none, ends.length === 0);
    show(this.scroll, ends.length > 0);
    // In the server's own order among each other, so that rows stay where they are.
    this.list.show([...ends].sort((a, b) => Number(b.is_error) - Number(a.is_error)));
  }
}
