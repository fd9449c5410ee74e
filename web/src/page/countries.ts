// Where clients come from, as a table: what the map shows, in words.

import type { Live, Origin } from "../wire";
import { h, put, show } from "./dom";
import * as format from "./format";
import { List, type Entry } from "./list";

interface Row extends Origin {
  part: number;
}

function entry(row: Row): Entry<Row> {
  const bar = h("span", { class: "bar", "aria-hidden": "true" });
  const rate = h("td", { class: "number" });
  const total = h("td", { class: "number" });
  const part = h("td", { class: "number" });
  const element = h(
    "tr",
    {},
    h("th", { scope: "row" }, h("span", {}, format.country(row.country)), h("code", {}, row.country ?? "–"), bar),
    rate,
    total,
    part,
  );
  return {
    element,
    update(now) {
      put(rate, format.rate(now.per_sec));
      put(total, format.short(now.total));
      put(part, `${(now.part * 100).toFixed(now.part < 0.0995 ? 1 : 0)} %`);
      const width = `${(now.part * 100).toFixed(1)}%`;
      if (bar.style.width !== width) bar.style.width = width;
    },
  };
}

export class Countries {
  private readonly body = h("tbody");
  private readonly list = new List<Row>(this.body, (row) => row.country ?? "", entry);
  private readonly none = h("p", { class: "empty" }, "No client has come yet.");
  private readonly scroll = h(
    "div",
    { class: "scroll side-scroll", tabindex: "0", role: "group", "aria-labelledby": "countries-title" },
    h(
      "table",
      { class: "compact", id: "countries" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Country"),
          h("th", { scope: "col", class: "number" }, "/s"),
          h("th", { scope: "col", class: "number" }, "Total"),
          h("th", { scope: "col", class: "number" }, "Part"),
        ),
      ),
      this.body,
    ),
  );
  readonly element = h(
    "section",
    { class: "card", "aria-labelledby": "countries-title" },
    h("h2", { id: "countries-title" }, "Clients by country"),
    this.none,
    this.scroll,
  );

  update({ countries }: Live): void {
    show(this.none, countries.length === 0);
    show(this.scroll, countries.length > 0);
    const all = countries.reduce((sum, origin) => sum + origin.total, 0);
    this.list.show(countries.map((origin) => ({ ...origin, part: all > 0 ? origin.total / all : 0 })));
  }
}
