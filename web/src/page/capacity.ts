// Which loss would not fit.

import type { Capacity } from "../wire";
import type { Api } from "./api";
import { h } from "./dom";
import * as format from "./format";
import { Panel } from "./panel";
import { table } from "./table";

const VERDICTS: Record<string, [kind: string, text: string]> = {
  fits: ["good", "fits"],
  over_soft: ["warn", "fits above soft limits"],
  too_much: ["bad", "does not fit"],
};

export class CapacityPanel extends Panel {
  constructor(private readonly api: Api) {
    super("capacity", "Capacity", "What would happen if one backend or one region were gone, with the connections that are open now.");
  }

  protected override async load(): Promise<void> {
    const room = (value: number | null): string => (value === null ? "any number" : format.count(value));
    this.show(await this.api.read<Capacity>("/api/v1/capacity"), ({ losses }) =>
      losses.length === 0
        ? [h("p", { class: "empty" }, "There is no backend to lose.")]
        : [
            table(
              "Losses, those that would not fit first",
              [{ name: "Without" }, { name: "App" }, { name: "Outcome" }, { name: "Would have to move", number: true }, { name: "Room below soft limits", number: true }, { name: "Room below hard limits", number: true }],
              losses.map((loss) => {
                const [kind, text] = VERDICTS[loss.verdict] ?? ["warn", loss.verdict];
                return [
                  h("span", {}, h("span", { class: "below before" }, `${loss.kind} `), h("strong", {}, loss.name)),
                  loss.app,
                  h("span", { class: `chip is-${kind}` }, text),
                  format.count(loss.active),
                  room(loss.room_below_soft),
                  room(loss.room_below_hard),
                ];
              }),
            ),
          ],
    );
  }
}
