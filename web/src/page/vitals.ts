// The numbers that matter, each with its last three minutes.

import type { Live } from "../wire";
import { h, put, set, show, unique } from "./dom";
import * as format from "./format";
import { History } from "./history";
import { Sparkline } from "./sparkline";

interface Reading {
  value: string;
  unit: string;
  note: string;
  samples: (number | null)[];
}

class Tile {
  private readonly value = h("span", { class: "number" });
  private readonly unit = h("span", { class: "unit" });
  private readonly note = h("p", { class: "note" });
  private readonly histories: History[];
  private readonly spark: Sparkline;
  readonly element: HTMLElement;

  constructor(
    name: string,
    private readonly read: (live: Live) => Reading,
    curves: number,
    least: number,
    id: string,
  ) {
    this.histories = Array.from({ length: curves }, () => new History());
    this.spark = new Sparkline(this.histories, least);
    const title = h("h3", { id: unique("tile") }, name);
    this.element = h(
      "article",
      { class: "tile", id, "aria-labelledby": title.id },
      title,
      h("p", { class: "value" }, this.value, this.unit),
      this.note,
      this.spark.element,
    );
  }

  push(live: Live): Reading {
    const reading = this.read(live);
    this.histories.forEach((history, nth) => history.push(reading.samples[nth] ?? null));
    return reading;
  }

  gap(): void {
    for (const history of this.histories) history.push(null);
  }

  draw({ value, unit, note }: Reading): void {
    put(this.value, value);
    put(this.unit, unit);
    put(this.note, note);
    this.spark.draw();
  }
}

function traffic(per_sec: number): Reading {
  const [value, unit] = format.bytes(per_sec);
  return { value, unit: `${unit}/s`, note: "", samples: [per_sec] };
}

function quantiles(of: Live["setup"]): Reading {
  if (of === null) return { value: "–", unit: "", note: "nobody in the last 10 s", samples: [null, null] };
  return {
    value: format.millis(of.p50_ms),
    unit: "ms",
    note: `p99 ${format.millis(of.p99_ms)} ms`,
    samples: [of.p99_ms, of.p50_ms],
  };
}

export class Vitals {
  private requested = false;
  private last: Live | null = null;

  private readonly open = new Tile(
    "Open connections",
    ({ status: { connections } }) => ({
      value: format.count(connections.open),
      unit: "",
      note: `of ${format.short(connections.limit)} at most`,
      samples: [connections.open],
    }),
    1,
    4,
    "vital-open",
  );
  private readonly accepted = new Tile(
    "Accepted",
    (live) => ({
      value: format.rate(live.accepted_per_sec),
      unit: "/s",
      note: `${format.short(live.countries.reduce((sum, origin) => sum + origin.total, 0))} since start`,
      samples: [live.accepted_per_sec],
    }),
    1,
    2,
    "vital-accepted",
  );
  private readonly requests = new Tile(
    "Requests",
    (live) => ({ value: format.rate(live.requests_per_sec), unit: "/s", note: "answered", samples: [live.requests_per_sec] }),
    1,
    2,
    "vital-requests",
  );
  private readonly sent = new Tile("To backends", (live) => traffic(live.sent_per_sec), 1, 1000, "vital-sent");
  private readonly received = new Tile("From backends", (live) => traffic(live.received_per_sec), 1, 1000, "vital-received");
  private readonly setup = new Tile("Setup, median", (live) => quantiles(live.setup), 2, 0.2, "vital-setup");
  private readonly request = new Tile("Request, median", (live) => quantiles(live.request), 2, 0.2, "vital-request");
  private readonly errors = new Tile(
    "Errors",
    ({ ends }) => {
      const errors = ends.filter((end) => end.is_error);
      const now = errors.reduce((sum, end) => sum + end.per_sec, 0);
      const total = errors.reduce((sum, end) => sum + end.total, 0);
      return { value: format.rate(now), unit: "/s", note: `${format.short(total)} since start`, samples: [now] };
    },
    1,
    2,
    "vital-errors",
  );

  private readonly tiles = [
    this.open,
    this.accepted,
    this.requests,
    this.sent,
    this.received,
    this.setup,
    this.request,
    this.errors,
  ];

  readonly element = h(
    "section",
    { class: "vitals", "aria-labelledby": "vitals-title" },
    h("h2", { id: "vitals-title", class: "unseen" }, "Live numbers"),
    ...this.tiles.map((tile) => tile.element),
  );

  /** Notes a sample, also while nobody looks. */
  note(live: Live): void {
    const missed = this.last === null ? 0 : Math.min(180, Math.round(live.at - this.last.at) - 1);
    for (let gap = 0; gap < missed; gap += 1) for (const tile of this.tiles) tile.gap();
    this.last = live;
    this.readings = this.tiles.map((tile) => tile.push(live));
    this.requested ||= live.requests_per_sec > 0 || live.request !== null || live.ends.some((end) => end.reason === "served");
  }

  private readings: Reading[] = [];

  draw(): void {
    show(this.requests.element, this.requested);
    show(this.request.element, this.requested);
    set(this.errors.element, "class", (this.readings.at(-1)?.samples[0] ?? 0) > 0 ? "tile alarming" : "tile");
    this.tiles.forEach((tile, nth) => {
      const reading = this.readings[nth];
      if (reading !== undefined) tile.draw(reading);
    });
  }
}
