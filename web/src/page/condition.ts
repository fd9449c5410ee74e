// How a backend is, in one word and one shape: colour is never all that tells it.

import type { Backend } from "../wire";
import { s, set } from "./dom";
import * as words from "./words";

export type Condition = "ok" | "busy" | "warming" | "full" | "drained" | "down" | "gone";

/** The worst last. */
export const CONDITIONS: readonly Condition[] = ["ok", "warming", "busy", "gone", "drained", "full", "down"];

const LABELS: Record<Condition, string> = {
  ok: "Ready",
  busy: "Busy",
  warming: "Warming",
  full: "Full",
  drained: "Drained",
  down: "Down",
  gone: "Leaving",
};

export function condition(backend: Backend): Condition {
  if (backend.state === "deleted") return "gone";
  if (!backend.eligible) {
    if (backend.reason === "hard_limit") return "full";
    const asked = backend.reason === "draining" || backend.reason === "weight_zero";
    return asked ? "drained" : "down";
  }
  if (backend.demoted || backend.share < 100) return "warming";
  return backend.soft_limit > 0 && backend.active >= backend.soft_limit ? "busy" : "ok";
}

/** The word for it. */
export function label(backend: Backend): string {
  const known = condition(backend);
  if (known !== "drained") return LABELS[known];
  if (inMaintenance(backend)) return "Maintenance";
  return backend.reason === "weight_zero" ? "Weight 0" : "Drained";
}

function inMaintenance(backend: Backend): boolean {
  return backend.reason === "draining" && (backend.state_here ?? backend.state) === "maint";
}

/** More about it. */
export function detail(backend: Backend): string {
  if (inMaintenance(backend)) return "An operator has taken it out";
  if (backend.reason !== null) return words.why(backend.reason);
  if (backend.demoted) return "Its last dial failed, so it ranks last";
  if (backend.share < 100) return `Slow start: ${backend.share} % of its weight counts`;
  if (condition(backend) === "busy") return "At its soft limit: others are preferred";
  return "Takes connections";
}

export function conditionLabel(of: Condition): string {
  return LABELS[of];
}

/** A path within 12 by 12, around the middle. */
const SHAPES: Record<Condition, string> = {
  ok: "M0-5A5 5 0 1 1-.01-5z",
  busy: "M0-5.6L5.6 0L0 5.6L-5.6 0z",
  warming: "M0-5A5 5 0 1 1-.01-5zM0-2A2 2 0 1 0 .01-2z",
  full: "M-4.6-4.6H4.6V4.6H-4.6z",
  drained: "M-4.5-5H-1.2V5H-4.5zM1.2-5H4.5V5H1.2z",
  down: "M0-5.8L6 5H-6z",
  gone: "M-5-1.3H5V1.3H-5z",
};

/** Draws the shape of a condition into a path. */
export function shape(path: SVGPathElement, of: Condition): void {
  set(path, "d", SHAPES[of]);
  set(path, "class", `glyph is-${of}`);
}

/** A small picture of it. */
export class Glyph {
  private readonly path = s("path", { "fill-rule": "evenodd" });
  readonly element = s("svg", { class: "glyph-box", viewBox: "-7 -7 14 14", "aria-hidden": "true" }, this.path);

  show(of: Condition): void {
    shape(this.path, of);
  }
}
