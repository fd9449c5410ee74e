// The world: this POP, its backends, and where its clients are. The tables say the same in words.

import world from "world";
import type { Backend, Explanation, Live, Origin } from "../wire";
import { CONDITIONS, condition, conditionLabel, detail, label, shape, type Condition } from "./condition";
import { h, put, s, set, show } from "./dom";
import * as format from "./format";
import { List, type Entry } from "./list";

type Spot = readonly [x: number, y: number];

/** More in one place are one mark with their number. */
const FANNED = 8;
/** Countries that lines are drawn from. */
const LINES = 40;
/** How fast a rate that is shown follows the real one. */
const SMOOTHING = 0.25;

/** What is drawn for backends: one of them, or many in one place. */
interface Mark {
  key: string;
  spot: Spot;
  backends: Backend[];
  /** Where its name stands. */
  name: { text: string; x: number; y: number; anchor: string } | null;
}

/** Where clients of a country are. */
interface Source {
  code: string;
  spot: Spot;
  origin: Origin;
  rate: number;
  radius: number;
}

/** Where a backend is: in its country, else in its region. */
function spotOf(country: string | null, region: string): Spot | null {
  return (country === null ? undefined : world.spots[country]) ?? world.regions[region] ?? null;
}

function worst(backends: readonly Backend[]): Condition {
  const all = backends.map(condition);
  return [...CONDITIONS].reverse().find((known) => all.includes(known)) ?? "ok";
}

export class WorldMap {
  private readonly land = new Map<string, SVGPathElement[]>();
  private readonly lines = s("g", { class: "map-lines" });
  private readonly answer = s("g", { class: "map-answer" });
  private readonly sources = s("g", { class: "map-sources" });
  private readonly marks = s("g", { class: "map-marks" });
  private readonly pop = s("g", { class: "map-pop" });
  private readonly svg: SVGSVGElement;
  private readonly legend = h("ul", { class: "legend", "aria-label": "What the marks mean" });
  private readonly unplaced = h("p", { class: "hint", hidden: true });
  readonly element: HTMLElement;

  private readonly lineList: List<Source>;
  private readonly sourceList: List<Source>;
  private readonly markList: List<Mark>;
  private readonly rates = new Map<string, number>();
  /** Units of the map in a pixel of the screen: marks keep their size on every screen. */
  private scale = 2;
  private popSpot: Spot | null = null;
  private laid = "";
  private placed: Mark[] = [];
  private lit = new Set<string>();
  private explanation: Explanation | null = null;
  private last: Live | null = null;

  constructor(private readonly onBackend: (id: string) => void) {
    const land = s("g", { class: "map-land" });
    for (const [code, outline] of world.shapes) {
      const path = s("path", { d: outline });
      land.append(path);
      if (code !== "") this.land.set(code, [...(this.land.get(code) ?? []), path]);
    }
    this.svg = s(
      "svg",
      { class: "map", viewBox: `0 0 ${world.width} ${world.height}`, role: "img", "aria-label": "Map of the world" },
      land,
      this.lines,
      this.answer,
      this.sources,
      this.marks,
      this.pop,
    );
    this.element = h(
      "section",
      { class: "card map-card", "aria-labelledby": "map-title" },
      h("div", { class: "card-head" }, h("h2", { id: "map-title" }, "Where clients come from, and who serves them"), this.legend),
      h("div", { class: "map-frame" }, this.svg),
      this.unplaced,
    );
    this.lineList = new List(this.lines, (source) => source.code, () => this.line());
    this.sourceList = new List(this.sources, (source) => source.code, () => this.source());
    this.markList = new List(this.marks, (mark) => mark.key, () => this.mark());
    new ResizeObserver(() => this.resize()).observe(this.svg);
  }

  /** Shows where a client of the "why" box goes. */
  explain(explanation: Explanation | null): void {
    this.explanation = explanation;
    this.drawAnswer();
  }

  update(live: Live): void {
    this.last = live;
    this.place(live);
    this.drawSources(live.countries);
    const known = new Map(live.backends.map((backend) => [backend.id, backend]));
    for (const mark of this.placed) mark.backends = mark.backends.map((backend) => known.get(backend.id) ?? backend);
    this.markList.show(this.placed);
    this.describe(live);
  }

  private resize(): void {
    const width = this.svg.clientWidth;
    if (width === 0) return;
    // Somewhat smaller marks on small maps, where they would cover all of it.
    const scale = (world.width / width) * (width < 600 ? 0.72 : 1);
    if (Math.abs(scale - this.scale) < 0.01) return;
    this.scale = scale;
    this.laid = "";
    if (this.last !== null) this.update(this.last);
  }

  /** Finds a place for the POP and its backends, when there are others than before. */
  private place({ status, backends }: Live): void {
    const where = backends.map((backend) => `${backend.id} ${backend.country} ${backend.region}`).join("\n");
    const key = `${status.region}\n${this.scale}\n${where}`;
    if (key === this.laid) return;
    this.laid = key;
    const near = backends.find((backend) => backend.region === status.region && backend.country !== null);
    this.popSpot = world.regions[status.region] ?? (near === undefined ? null : spotOf(near.country, near.region));
    this.drawPop(status.pop);

    const groups = new Map<string, { spot: Spot; backends: Backend[] }>();
    let lost = 0;
    for (const backend of backends) {
      const spot = spotOf(backend.country, backend.region);
      if (spot === null) {
        lost += 1;
        continue;
      }
      const group = groups.get(spot.join());
      if (group === undefined) groups.set(spot.join(), { spot, backends: [backend] });
      else group.backends.push(backend);
    }
    this.placed = [];
    for (const { spot, backends: together } of groups.values()) this.fan(spot, together);
    this.name(status.pop);
    show(this.unplaced, lost > 0);
    put(this.unplaced, `Not on the map, for want of a known country or region: ${format.many(lost, "backend")}.`);
  }

  /** Spreads those that are in one place around it. */
  private fan(spot: Spot, backends: Backend[]): void {
    const near = this.popSpot !== null && Math.hypot(spot[0] - this.popSpot[0], spot[1] - this.popSpot[1]) < 16 * this.scale;
    if (backends.length > FANNED) {
      const away: Spot = near ? [spot[0], spot[1] + 22 * this.scale] : spot;
      this.placed.push({ key: `many ${spot.join()}`, spot: away, backends, name: null });
      return;
    }
    const spread = backends.length > 1 || near;
    const radius = !spread ? 0 : (near ? 19 : 6 + backends.length * 1.8) * this.scale;
    backends.forEach((backend, nth) => {
      const turn = ((nth + 0.5) / backends.length) * 2 * Math.PI - Math.PI / 2;
      const at: Spot = [spot[0] + Math.cos(turn) * radius, spot[1] + Math.sin(turn) * radius];
      this.placed.push({ key: backend.id, spot: at, backends: [backend], name: null });
    });
  }

  /** Writes names where there is room for them. */
  private name(pop: string): void {
    const size = this.scale;
    if (this.svg.clientWidth < 560) return;
    type Box = [left: number, top: number, right: number, bottom: number];
    const taken: Box[] = this.placed.map(({ spot: [x, y] }) => [x - 6 * size, y - 6 * size, x + 6 * size, y + 6 * size]);
    if (this.popSpot !== null) {
      const [x, y] = this.popSpot;
      taken.push([x - 12 * size, y - 12 * size, x + 12 * size, y + 12 * size]);
      const half = pop.length * 3.6 * size;
      taken.push([x - half, y - 30 * size, x + half, y - 14 * size]);
    }
    for (const mark of this.placed) {
      const [only] = mark.backends;
      if (mark.backends.length !== 1 || only === undefined) continue;
      const text = only.id.length > 18 ? `${only.id.slice(0, 17)}…` : only.id;
      const [x, y] = mark.spot;
      const wide = (text.length * 6.1 + 4) * size;
      const sides: [x: number, y: number, anchor: string, box: Box][] = [
        [x + 9 * size, y + 3.5 * size, "start", [x + 7 * size, y - 6 * size, x + 9 * size + wide, y + 7 * size]],
        [x - 9 * size, y + 3.5 * size, "end", [x - 9 * size - wide, y - 6 * size, x - 7 * size, y + 7 * size]],
        [x, y + 16 * size, "middle", [x - wide / 2, y + 7 * size, x + wide / 2, y + 19 * size]],
        [x, y - 9 * size, "middle", [x - wide / 2, y - 19 * size, x + wide / 2, y - 7 * size]],
      ];
      const free = sides.find(([, , , [left, top, right, bottom]]) => {
        const inside = left > 0 && right < world.width && top > 0 && bottom < world.height;
        return inside && !taken.some(([l, t, r, b]) => left < r && right > l && top < b && bottom > t);
      });
      if (free === undefined) continue;
      mark.name = { text, x: free[0] - x, y: free[1] - y, anchor: free[2] };
      taken.push(free[3]);
    }
  }

  private drawPop(name: string): void {
    if (this.popSpot === null) {
      this.pop.replaceChildren();
      return;
    }
    const [x, y] = this.popSpot;
    set(this.pop, "transform", `translate(${x} ${y}) scale(${this.scale})`);
    this.pop.replaceChildren(
      s("circle", { class: "pop-halo", r: 11 }),
      s("circle", { class: "pop-ring", r: 7 }),
      s("circle", { class: "pop-core", r: 3 }),
      s("text", { y: -16, "text-anchor": "middle" }, name),
      s("title", {}, `This POP: ${name}`),
    );
  }

  private drawSources(countries: readonly Origin[]): void {
    const present = new Set<string>();
    const most = Math.max(1, ...countries.map((origin) => origin.total));
    const sources: Source[] = [];
    for (const origin of countries) {
      const code = origin.country;
      const spot = code === null ? undefined : world.spots[code];
      if (code === null || spot === undefined) continue;
      present.add(code);
      const before = this.rates.get(code) ?? origin.per_sec;
      const rate = before + (origin.per_sec - before) * SMOOTHING;
      this.rates.set(code, rate < 0.005 ? 0 : rate);
      const radius = 3.5 + 11 * Math.sqrt(origin.total / most);
      sources.push({ code, spot, origin, rate: this.rates.get(code) ?? 0, radius });
    }
    for (const code of [...this.rates.keys()]) if (!present.has(code)) this.rates.delete(code);
    this.light(present);
    this.sourceList.show(sources);
    const busy = this.popSpot === null ? [] : sources.filter((source) => source.rate > 0);
    busy.sort((a, b) => b.rate - a.rate);
    this.lineList.show(busy.slice(0, LINES));
  }

  private light(present: Set<string>): void {
    for (const code of this.lit) if (!present.has(code)) for (const path of this.land.get(code) ?? []) set(path, "class", null);
    for (const code of present) for (const path of this.land.get(code) ?? []) set(path, "class", "has-clients");
    this.lit = present;
  }

  private source(): Entry<Source> {
    const circle = s("circle");
    const title = s("title");
    const element = s("g", {}, circle, title);
    return {
      element,
      update: ({ code, spot, origin, rate, radius }) => {
        set(element, "class", rate > 0 ? "source is-busy" : "source");
        set(circle, "cx", spot[0]);
        set(circle, "cy", spot[1]);
        set(circle, "r", (radius * this.scale).toFixed(1));
        put(title, `${format.country(code)}: ${format.count(origin.total)} connections, ${format.rate(origin.per_sec)}/s`);
      },
    };
  }

  private line(): Entry<Source> {
    const element = s("path");
    return {
      element,
      update: ({ spot, rate }) => {
        if (this.popSpot === null) return;
        set(element, "d", arc(spot, this.popSpot));
        // Ten times as many clients: one step wider.
        const weight = Math.min(3, 1 + Math.log10(1 + rate));
        set(element, "stroke-width", (weight * 0.75 * this.scale).toFixed(1));
        set(element, "stroke-opacity", Math.min(0.65, 0.12 + weight * 0.17).toFixed(2));
      },
    };
  }

  private mark(): Entry<Mark> {
    const path = s("path", { "fill-rule": "evenodd" });
    const ring = s("circle", { class: "many", r: 11 });
    const number = s("text", { class: "many-number", "text-anchor": "middle", y: 3.5 });
    const name = s("text", { class: "mark-name" });
    const title = s("title");
    const element = s("g", { class: "mark" }, ring, path, number, name, title);
    let id = "";
    element.addEventListener("click", () => {
      if (id !== "") this.onBackend(id);
    });
    return {
      element,
      update: ({ spot, backends, name: named }) => {
        const [only] = backends;
        const of = worst(backends);
        const one = backends.length === 1 && only !== undefined;
        id = one ? only.id : "";
        set(element, "transform", `translate(${spot[0].toFixed(1)} ${spot[1].toFixed(1)}) scale(${this.scale.toFixed(3)})`);
        shape(path, of);
        // One mark for many shows how the worst of them is, above their number.
        set(path, "transform", one ? null : "translate(0 -12) scale(.8)");
        set(ring, "visibility", one ? "hidden" : "visible");
        put(number, one ? "" : String(backends.length));
        put(name, named?.text ?? "");
        set(name, "x", named === null ? null : (named.x / this.scale).toFixed(1));
        set(name, "y", named === null ? null : (named.y / this.scale).toFixed(1));
        set(name, "text-anchor", named?.anchor);
        put(
          title,
          one
            ? `${only.id} (${only.region}${only.country === null ? "" : `, ${only.country}`}): ${label(only)}. ${detail(only)}. ${format.many(only.active, "open connection")}.`
            : `${format.many(backends.length, "backend")}; the worst is: ${conditionLabel(of)}`,
        );
      },
    };
  }

  /** A line from the client to where it goes. */
  private drawAnswer(): void {
    const explanation = this.explanation;
    this.answer.replaceChildren();
    if (explanation === null) return;
    const from = spotOf(explanation.country, explanation.region ?? "");
    const best = explanation.backends.filter((backend) => backend.share > 0);
    for (const backend of best.slice(0, FANNED)) {
      const to = this.placed.find((mark) => mark.backends.some((known) => known.id === backend.id))?.spot;
      if (from === null || to === undefined) continue;
      this.answer.append(s("path", { d: arc(from, to), "stroke-width": (1.8 * this.scale).toFixed(1) }));
    }
    if (from !== null) this.answer.append(s("circle", { cx: from[0], cy: from[1], r: (4 * this.scale).toFixed(1) }));
  }

  private describe({ status, backends, countries }: Live): void {
    const conditions = CONDITIONS.filter((known) => backends.some((backend) => condition(backend) === known));
    const text =
      `Map of the world: POP ${status.pop} in region ${status.region}, ` +
      `${format.many(backends.length, "backend")}, clients from ${format.many(countries.length, "country", "countries")}. ` +
      "The tables beside and below say the same.";
    set(this.svg, "aria-label", text);
    const key = conditions.join();
    if (this.legend.dataset["key"] === key) return;
    this.legend.dataset["key"] = key;
    const sample = (of: Condition): HTMLElement => {
      const path = s("path", { "fill-rule": "evenodd" });
      shape(path, of);
      return h("li", {}, s("svg", { class: "glyph-box", viewBox: "-7 -7 14 14", "aria-hidden": "true" }, path), conditionLabel(of));
    };
    const icon = (kind: string): SVGSVGElement =>
      s("svg", { class: "glyph-box", viewBox: "-7 -7 14 14", "aria-hidden": "true" }, s("circle", { class: kind, r: 5 }));
    this.legend.replaceChildren(
      h("li", {}, icon("pop-ring"), "This POP"),
      h("li", {}, icon("source-sample"), "Clients"),
      ...conditions.map(sample),
    );
  }
}

/** A line that rises a little, so that two ways over the same sea can be told apart. */
function arc(from: Spot, to: Spot): string {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length = Math.hypot(dx, dy);
  if (length < 1) return "";
  const lift = Math.min(0.22, 60 / length + 0.08);
  const [x, y] = [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2 - length * lift];
  return `M${from[0]} ${from[1]}Q${x.toFixed(0)} ${y.toFixed(0)} ${to[0].toFixed(0)} ${to[1].toFixed(0)}`;
}
