// Every backend: how it is, and how much it carries.

import type { Backend, Backends, Live } from "../wire";
import type { Api } from "./api";
import { CONDITIONS, Glyph, condition, detail, label } from "./condition";
import { h, put, set, show, unique } from "./dom";
import * as format from "./format";
import { List, type Entry } from "./list";
import { Meter } from "./meter";
import { failure } from "./problem";
import * as words from "./words";

/** Rows that are drawn; more are found with the filter. */
const DRAWN = 500;

type Key = "id" | "state" | "place" | "tier" | "load" | "probe" | "breaker" | "weight" | "lease" | "total";

interface Column {
  key: Key;
  name: string;
  number?: boolean;
  compare: (a: Backend, b: Backend) => number;
}

const text = (a: string | null, b: string | null): number => (a ?? "").localeCompare(b ?? "", "en", { numeric: true });

const COLUMNS: readonly Column[] = [
  { key: "id", name: "Backend", compare: (a, b) => text(a.app, b.app) || text(a.id, b.id) },
  { key: "state", name: "State", compare: (a, b) => CONDITIONS.indexOf(condition(b)) - CONDITIONS.indexOf(condition(a)) },
  { key: "place", name: "Place", compare: (a, b) => text(a.region, b.region) || text(a.country, b.country) },
  { key: "tier", name: "Tier", number: true, compare: (a, b) => a.tier - b.tier },
  { key: "load", name: "Load / soft / hard", compare: (a, b) => b.active - a.active },
  { key: "probe", name: "Probe", compare: (a, b) => text(b.probe, a.probe) },
  { key: "breaker", name: "Breaker", compare: (a, b) => text(b.breaker, a.breaker) },
  { key: "weight", name: "Weight", number: true, compare: (a, b) => b.weight * b.share - a.weight * a.share },
  { key: "lease", name: "Lease", compare: (a, b) => (a.lease?.expires_at ?? Infinity) - (b.lease?.expires_at ?? Infinity) || 0 },
  { key: "total", name: "Since start", number: true, compare: (a, b) => b.connections_total - a.connections_total },
];

type Show = "all" | "eligible" | "not";

/** How a lease stands. */
export function leaseText(backend: Backend, now: number): string {
  // An operator's state makes a lease without an end, which is none.
  const expires_at = backend.lease?.expires_at ?? null;
  if (expires_at === null) return "–";
  return expires_at > now ? `${format.span(expires_at - now)} left` : "ended";
}

/** The breaker, and whether somebody holds it. */
export function breakerText(backend: Backend): string {
  const word = backend.breaker === null ? "–" : backend.breaker.replace("_", " ");
  return backend.breaker_held === null ? word : `${word}, held`;
}

class Row {
  private readonly glyph = new Glyph();
  private readonly app = h("span", { class: "below" });
  private readonly state = h("span", { class: "state-word" });
  private readonly detail = h("span", { class: "below" });
  private readonly place = h("span");
  private readonly address = h("code", { class: "below" });
  private readonly tier = h("td", { role: "cell", class: "number", "data-label": "Tier" });
  private readonly meter = new Meter();
  private readonly probe = h("td", { role: "cell", "data-label": "Probe" });
  private readonly breaker = h("td", { role: "cell", "data-label": "Breaker" });
  private readonly weight = h("td", { role: "cell", class: "number", "data-label": "Weight" });
  private readonly lease = h("td", { role: "cell", "data-label": "Lease" });
  private readonly total = h("span");
  private readonly failed = h("span", { class: "below" });
  readonly element: HTMLTableRowElement;

  constructor(
    { id }: Backend,
    manage: (id: string) => void,
    private readonly now: () => number,
    private readonly severalApps: () => boolean,
  ) {
    this.element = h(
      "tr",
      { role: "row", "data-id": id },
      h("th", { role: "rowheader", scope: "row", class: "id" }, h("div", { class: "id-box" }, this.glyph.element, h("span", {}, h("strong", {}, id), this.app))),
      h("td", { role: "cell", class: "state", "data-label": "State" }, h("span", { class: "stack" }, this.state, this.detail)),
      h("td", { role: "cell", "data-label": "Place" }, h("span", { class: "stack" }, this.place, this.address)),
      this.tier,
      h("td", { role: "cell", class: "load-cell", "data-label": "Load" }, this.meter.element),
      this.probe,
      this.breaker,
      this.weight,
      this.lease,
      h("td", { role: "cell", class: "number", "data-label": "Since start" }, h("span", { class: "stack" }, this.total, this.failed)),
      h(
        "td",
        { role: "cell", class: "row-action" },
        h("button", { type: "button", "aria-label": `Manage ${id}`, onclick: () => manage(id) }, "Manage"),
      ),
    );
  }

  update(backend: Backend): void {
    const of = condition(backend);
    this.glyph.show(of);
    set(this.element, "class", `row is-${of}`);
    put(this.app, this.severalApps() ? backend.app : "");
    const here = backend.state_here !== null ? " (here)" : "";
    put(this.state, label(backend) + here);
    put(this.detail, of === "ok" ? "" : detail(backend));
    put(this.place, backend.country === null ? backend.region : `${backend.region} · ${backend.country}`);
    set(this.place, "title", backend.country === null ? null : format.country(backend.country));
    put(this.address, format.address(backend.ip, backend.port));
    put(this.tier, backend.tier);
    set(this.tier, "title", `For clients near this POP: ${words.tier(backend.tier)}`);
    this.meter.update(backend);
    put(this.probe, backend.probe ?? "–");
    set(this.probe, "class", backend.probe === "unhealthy" ? "is-bad" : backend.probe === null ? "is-none" : null);
    put(this.breaker, breakerText(backend));
    set(this.breaker, "class", backend.breaker === "open" ? "is-bad" : backend.breaker === null ? "is-none" : null);
    put(this.weight, backend.share < 100 ? `${backend.weight} × ${backend.share} %` : backend.weight);
    put(this.lease, leaseText(backend, this.now()));
    set(this.lease, "class", (backend.lease?.expires_at ?? null) === null ? "is-none" : null);
    put(this.total, format.short(backend.connections_total));
    const failures = backend.dial_failures_total;
    put(this.failed, failures > 0 ? format.many(failures, "failed dial") : "");
  }
}

export class BackendTable {
  private live: readonly Backend[] = [];
  private all: { backends: Backend[]; at: number } | null = null;
  private now = 0;
  private apps = 0;
  private registered = 0;
  private sort: Key = "id";
  private reversed = false;
  private shown: Show = "all";
  /** The order in force while somebody is at the table: rows do not run from under a pointer. */
  private order: string[] = [];
  private pointed = false;

  private readonly search = h("input", { type: "search", id: "filter", placeholder: "id, app, place or address", autocomplete: "off", spellcheck: "false" });
  private readonly app = h("select", { id: "filter-app" });
  private readonly appField = h("div", { class: "field inline", hidden: true }, h("label", { for: "filter-app" }, "App"), this.app);
  private readonly sorting = h("select", { id: "sort-by" }, ...COLUMNS.map((column) => h("option", { value: column.key }, column.name)));
  private readonly choices: Record<Show, HTMLButtonElement>;
  private readonly heads = new Map<Key, HTMLTableCellElement>();
  private readonly body = h("tbody", { role: "rowgroup" });
  private readonly list: List<Backend>;
  private readonly none = h("p", { class: "empty", hidden: true });
  private readonly note = h("p", { class: "hint", hidden: true });
  private readonly noteText = h("span");
  private readonly fetch = h("button", { type: "button" });
  private readonly trouble = h("div");
  readonly element: HTMLElement;

  constructor(
    private readonly api: Api,
    manage: (id: string) => void,
  ) {
    const choice = (which: Show): HTMLButtonElement =>
      h("button", { type: "button", "aria-pressed": which === this.shown ? "true" : "false", onclick: () => this.choose(which) });
    this.choices = { all: choice("all"), eligible: choice("eligible"), not: choice("not") };
    this.note.append(this.noteText, " ", this.fetch);
    const title = unique("backends");
    const head = COLUMNS.map((column) => {
      const cell = h(
        "th",
        { scope: "col", role: "columnheader", class: column.number === true ? "number" : null },
        h("button", { type: "button", class: "sort", onclick: () => this.sortBy(column.key) }, column.name),
      );
      this.heads.set(column.key, cell);
      return cell;
    });
    const scroll = h(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": title },
      h(
        "table",
        { class: "backends", role: "table", "aria-labelledby": title },
        h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head, h("th", { scope: "col", role: "columnheader" }, h("span", { class: "unseen" }, "Actions")))),
        this.body,
      ),
    );
    this.element = h(
      "section",
      { class: "card", id: "backends", "aria-labelledby": title },
      h("div", { class: "card-head" }, h("h2", { id: title }, "Backends"), h("div", { class: "segments", role: "group", "aria-label": "Which ones" }, this.choices.all, this.choices.eligible, this.choices.not)),
      h(
        "div",
        { class: "filters" },
        h("div", { class: "field inline grow" }, h("label", { for: "filter" }, "Filter"), this.search),
        this.appField,
        h("div", { class: "field inline narrow-only" }, h("label", { for: "sort-by" }, "Sort by"), this.sorting),
      ),
      scroll,
      this.none,
      this.note,
      this.trouble,
    );
    this.list = new List<Backend>(
      this.body,
      (backend) => backend.id,
      (backend): Entry<Backend> => {
        const row = new Row(backend, manage, () => this.now, () => this.apps > 1);
        return { element: row.element, update: (next) => row.update(next) };
      },
    );
    this.search.addEventListener("input", () => this.draw(true));
    this.app.addEventListener("change", () => this.draw(true));
    this.sorting.addEventListener("change", () => {
      const column = COLUMNS.find((known) => known.key === this.sorting.value);
      if (column !== undefined) this.sortBy(column.key, false);
    });
    this.body.addEventListener("pointerenter", (event) => {
      this.pointed = event.pointerType === "mouse";
    });
    this.body.addEventListener("pointerleave", () => {
      this.pointed = false;
    });
    this.fetch.addEventListener("click", () => void this.fetchAll());
    this.markSort();
  }

  update({ at, status, backends }: Live): void {
    this.live = backends;
    this.now = at;
    this.apps = status.apps.length;
    this.registered = status.registry.backends;
    this.listApps(status.apps.map((app) => app.name));
    this.draw(false);
  }

  /** A backend by its name, as it was told last. */
  find(id: string): Backend | null {
    return this.known().find((backend) => backend.id === id) ?? null;
  }

  private known(): Backend[] {
    if (this.all === null) return [...this.live];
    const live = new Set(this.live.map((backend) => backend.id));
    return [...this.live, ...this.all.backends.filter((backend) => !live.has(backend.id))];
  }

  private choose(which: Show): void {
    this.shown = which;
    for (const [name, button] of Object.entries(this.choices)) set(button, "aria-pressed", name === which ? "true" : "false");
    this.draw(true);
  }

  private sortBy(key: Key, turn = true): void {
    this.reversed = turn && this.sort === key ? !this.reversed : false;
    this.sort = key;
    this.sorting.value = key;
    this.markSort();
    this.draw(true);
  }

  private markSort(): void {
    for (const [key, cell] of this.heads) {
      set(cell, "aria-sort", key !== this.sort ? null : this.reversed ? "descending" : "ascending");
    }
  }

  private listApps(names: string[]): void {
    show(this.appField, names.length > 1);
    const key = names.join("\n");
    if (this.app.dataset["key"] === key) return;
    const chosen = this.app.value;
    this.app.dataset["key"] = key;
    this.app.replaceChildren(h("option", { value: "" }, "All"), ...names.map((name) => h("option", { value: name }, name)));
    this.app.value = names.includes(chosen) ? chosen : "";
  }

  /** `asked`: somebody changed what is wanted, so that a new order is no surprise. */
  private draw(asked: boolean): void {
    const known = this.known();
    const eligible = known.filter((backend) => backend.eligible).length;
    put(this.choices.all, `All ${known.length}`);
    put(this.choices.eligible, `Can be chosen ${eligible}`);
    put(this.choices.not, `Cannot ${known.length - eligible}`);
    const words = this.search.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    const wanted = known.filter((backend) => {
      if (this.shown !== "all" && backend.eligible !== (this.shown === "eligible")) return false;
      if (this.app.value !== "" && backend.app !== this.app.value) return false;
      if (words.length === 0) return true;
      const country = backend.country === null ? "" : `${backend.country} ${format.country(backend.country)}`;
      const hay = `${backend.id} ${backend.app} ${backend.region} ${country} ${format.address(backend.ip, backend.port)} ${label(backend)}`.toLowerCase();
      return words.every((word) => hay.includes(word));
    });
    const rows = this.ordered(wanted, asked).slice(0, DRAWN);
    this.list.show(rows);
    show(this.none, rows.length === 0);
    put(this.none, known.length === 0 ? "The registry holds no backend." : "No backend is like that.");
    this.annotate(wanted.length);
  }

  private ordered(wanted: Backend[], asked: boolean): Backend[] {
    const busy = this.pointed || this.body.contains(document.activeElement);
    if (busy && !asked) {
      const rank = new Map(this.order.map((id, nth) => [id, nth]));
      const last = this.order.length;
      return wanted.sort((a, b) => (rank.get(a.id) ?? last) - (rank.get(b.id) ?? last));
    }
    const column = COLUMNS.find((known) => known.key === this.sort);
    const turn = this.reversed ? -1 : 1;
    wanted.sort((a, b) => turn * (column?.compare(a, b) ?? 0) || text(a.app, b.app) || text(a.id, b.id));
    this.order = wanted.map((backend) => backend.id);
    return wanted;
  }

  private annotate(matching: number): void {
    const missing = this.registered > this.live.length;
    show(this.note, missing || this.all !== null || matching > DRAWN);
    const parts: string[] = [];
    if (missing && this.all === null) {
      parts.push(`The ${this.live.length} busiest of ${format.count(this.registered)} backends are followed.`);
    }
    if (this.all !== null) {
      parts.push(`The ${this.live.length} busiest are followed; the others are as of ${format.time(this.all.at)}.`);
    }
    if (matching > DRAWN) parts.push(`The first ${DRAWN} of ${format.count(matching)} are shown: filter for others.`);
    put(this.noteText, parts.join(" "));
    put(this.fetch, this.all === null ? "Fetch all" : "Fetch again");
    show(this.fetch, missing || this.all !== null);
  }

  private async fetchAll(): Promise<void> {
    this.fetch.disabled = true;
    const answer = await this.api.read<Backends>("/api/v1/backends");
    this.fetch.disabled = false;
    this.trouble.replaceChildren();
    if (answer.kind === "done") {
      this.all = { backends: answer.value.backends, at: this.now };
      this.draw(true);
    } else {
      this.trouble.append(failure(answer) ?? "");
    }
  }
}
