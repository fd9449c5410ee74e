// A small curve of the last minutes, the newest at the right.

import { s, set } from "./dom";
import type { History } from "./history";

const HEIGHT = 40;
/** A curve that has just begun is drawn as if it were so long. */
const SHORTEST = 60;

export class Sparkline {
  readonly element: SVGSVGElement;
  private readonly lines: SVGPathElement[];
  private readonly area: SVGPathElement;

  /** The first history is drawn in full, others as thin lines. */
  constructor(
    private readonly histories: readonly History[],
    private readonly least: number,
  ) {
    this.area = s("path", { class: "spark-area" });
    this.lines = histories.map((_, nth) => s("path", { class: nth === 0 ? "spark-line" : "spark-line second" }));
    this.element = s(
      "svg",
      {
        class: "spark",
        viewBox: `0 0 ${SHORTEST - 1} ${HEIGHT}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      this.area,
      ...this.lines,
    );
  }

  draw(): void {
    // Room above the highest point, so that the line is not cut.
    const top = Math.max(this.least, ...this.histories.map((history) => history.most)) * 1.08;
    const longest = Math.max(SHORTEST, ...this.histories.map((history) => history.values.length));
    set(this.element, "viewBox", `0 0 ${longest - 1} ${HEIGHT}`);
    this.histories.forEach((history, nth) => {
      const { values } = history;
      const first = longest - values.length;
      let line = "";
      let area = "";
      let begun = -1;
      values.forEach((value, index) => {
        const x = first + index;
        if (value === null) {
          if (begun >= 0) area += `V${HEIGHT}H${begun}z`;
          begun = -1;
          return;
        }
        const y = (HEIGHT - (value / top) * HEIGHT).toFixed(1);
        line += `${begun < 0 ? "M" : "L"}${x} ${y}`;
        area += begun < 0 ? `M${x} ${HEIGHT}V${y}` : `L${x} ${y}`;
        if (begun < 0) begun = x;
        if (index === values.length - 1) area += `V${HEIGHT}H${begun}z`;
      });
      const path = this.lines[nth];
      if (path !== undefined) set(path, "d", line);
      if (nth === 0) set(this.area, "d", area);
    });
  }
}
