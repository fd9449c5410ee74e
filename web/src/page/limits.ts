// Who is refused, and how often.

import type { Limits } from "../wire";
import type { Api } from "./api";
import { h } from "./dom";
import * as format from "./format";
import { Panel } from "./panel";
import { table } from "./table";
import * as words from "./words";

export class LimitsPanel extends Panel {
  constructor(
    private readonly api: Api,
    private readonly deny: (client: string) => void,
  ) {
    super("limits", "Limits", "Clients that were refused most in the last ten minutes, and the rate limit in force.");
  }

  protected override async load(): Promise<void> {
    this.show(await this.api.read<Limits>("/api/v1/limits"), (limits) => [
      h("p", {}, inForce(limits)),
      limits.refused.length === 0
        ? h("p", { class: "empty" }, "Nobody was refused.")
        : table(
            "Clients that were refused",
            [{ name: "Client" }, { name: "Reason" }, { name: "At least", number: true }, { name: "Action", unseen: true }],
            limits.refused.map((refused) => [
              h("code", {}, refused.client),
              h("span", { class: "stack" }, h("span", {}, words.end(refused.reason)), h("code", { class: "below" }, refused.reason)),
              format.count(refused.count),
              h("button", { type: "button", "aria-label": `Deny ${refused.client}`, onclick: () => this.deny(refused.client) }, "Deny…"),
            ]),
          ),
    ]);
  }
}

function inForce({ enabled, dry_run, max_requests, window_secs, burst, evictions }: Limits): string {
  if (!enabled) return "The rate limit is off.";
  const forgotten = evictions > 0 ? ` ${format.many(evictions, "client")} were forgotten before their time.` : "";
  const window = window_secs === 1 ? "second" : `${window_secs} s`;
  return `The rate limit is on${dry_run ? ", as a dry run: it counts and refuses nothing" : ""}: ${format.count(max_requests)} each ${window}, ${format.count(burst)} at once, for each client.${forgotten}`;
}
