// A backend's load against its limits: the bar, a mark at the soft limit, the end at the hard one.

import type { Backend } from "../wire";
import { h, put, set, show } from "./dom";
import * as format from "./format";

type Load = Pick<Backend, "active" | "soft_limit" | "hard_limit">;

export class Meter {
  private readonly fill = h("span", { class: "meter-fill" });
  private readonly soft = h("span", { class: "meter-soft" });
  private readonly bar = h("span", { class: "meter", role: "meter", "aria-valuemin": "0", "aria-label": "Load" }, this.fill, this.soft);
  private readonly now = h("strong");
  private readonly limits = h("span", { class: "meter-limits" });
  readonly element = h("div", { class: "load" }, h("span", { class: "load-text" }, this.now, this.limits), this.bar);

  update({ active, soft_limit, hard_limit }: Load): void {
    put(this.now, format.count(active));
    const limit = (value: number): string => (value === 0 ? "∞" : format.short(value));
    put(this.limits, ` / ${limit(soft_limit)} / ${limit(hard_limit)}`);
    set(this.limits, "title", `soft limit ${limit(soft_limit)}, hard limit ${limit(hard_limit)}`);
    // Without a hard limit the bar ends somewhat above the soft one.
    const end = hard_limit > 0 ? hard_limit : soft_limit > 0 ? Math.max(soft_limit * 1.5, active) : 0;
    set(this.bar, "class", end === 0 ? "meter is-endless" : hard_limit > 0 ? "meter has-hard" : "meter");
    set(this.bar, "aria-valuemax", end === 0 ? Math.max(1, active) : Math.round(end));
    set(this.bar, "aria-valuenow", active);
    set(this.bar, "aria-valuetext", `${active} open; soft limit ${limit(soft_limit)}, hard limit ${limit(hard_limit)}`);
    const part = end === 0 ? 0 : Math.min(1, active / end);
    const width = `${(part * 100).toFixed(1)}%`;
    if (this.fill.style.width !== width) this.fill.style.width = width;
    const over = hard_limit > 0 && active >= hard_limit ? "is-full" : soft_limit > 0 && active >= soft_limit ? "is-busy" : "";
    set(this.fill, "class", `meter-fill ${over}`);
    show(this.soft, soft_limit > 0 && soft_limit < end);
    const left = end === 0 ? "" : `${((soft_limit / end) * 100).toFixed(1)}%`;
    if (this.soft.style.left !== left) this.soft.style.left = left;
  }
}
