// Clients that were not carried to the tier nearest to them.

import type { Choice, Choices } from "../wire";
import type { Api } from "./api";
import { h } from "./dom";
import * as format from "./format";
import { Panel } from "./panel";
import { field, table } from "./table";
import * as words from "./words";

export function choiceTable(caption: string, choices: readonly Choice[]): HTMLElement {
  const rows = choices.map((choice) => [
    h("span", { class: "stack" }, h("span", {}, format.time(choice.at)), h("span", { class: "below" }, choice.count > 1 ? `${format.count(choice.count)} times since ${format.time(choice.since)}` : "once")),
    h("code", {}, choice.client),
    choice.country === null ? "unknown" : h("span", { title: format.country(choice.country) }, choice.country),
    choice.app,
    h("strong", {}, choice.backend),
    h("span", { title: `${words.tier(choice.tier)}, instead of ${words.tier(choice.best_tier)}` }, `${choice.tier} instead of ${choice.best_tier}`),
    h(
      "ul",
      { class: "plain" },
      ...choice.reasons.map((reason) => {
        const cut = reason.indexOf(" ");
        const [id, why] = cut < 0 ? [reason, ""] : [reason.slice(0, cut), reason.slice(cut + 1)];
        return h("li", { title: reason }, h("strong", {}, id), why === "" ? "" : `: ${words.why(why)}`);
      }),
      choice.more > 0 && h("li", { class: "below" }, `and ${format.count(choice.more)} more`),
    ),
  ]);
  return table(
    caption,
    [{ name: "Last" }, { name: "Client" }, { name: "Country" }, { name: "App" }, { name: "Went to" }, { name: "Tier" }, { name: "Why not nearer" }],
    rows,
  );
}

export class ChoicesPanel extends Panel {
  private readonly client = h("input", { id: "choices-client", placeholder: "address or range", autocomplete: "off", spellcheck: "false" });

  constructor(private readonly api: Api) {
    super("choices", "Choices", "The latest choices outside the best tier, and why nearer backends were passed over.");
    this.fields(field("Client", this.client));
  }

  protected override async load(): Promise<void> {
    this.show(await this.api.read<Choices>("/api/v1/choices", { client: this.client.value.trim(), limit: 200 }), ({ choices }) =>
      choices.length === 0
        ? [h("p", { class: "empty" }, "Every client that is remembered was carried to the tier nearest to it.")]
        : [choiceTable("Choices outside the best tier", choices)],
    );
  }
}
