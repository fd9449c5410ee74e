// The deny list.

import type { Denied, Deny, DenyList } from "../wire";
import type { Api } from "./api";
import { ask } from "./dialog";
import { h, hold } from "./dom";
import * as format from "./format";
import { Panel } from "./panel";
import { failure } from "./problem";
import { field, table } from "./table";
import type { Toasts } from "./toast";

export class DenyPanel extends Panel {
  private readonly cidr = h("input", { id: "deny-cidr", required: true, placeholder: "203.0.113.0/24", autocomplete: "off", spellcheck: "false" });
  private readonly number = h("input", { id: "deny-for", type: "number", min: "1", step: "1", placeholder: "for good" });
  private readonly unit = h(
    "select",
    { id: "deny-unit", "aria-label": "Unit of time" },
    h("option", { value: "60" }, "minutes"),
    h("option", { value: "3600" }, "hours"),
    h("option", { value: "86400" }, "days"),
  );
  private readonly note = h("input", { id: "deny-note", maxlength: "200", autocomplete: "off" });
  private readonly kill = h("input", { id: "deny-kill", type: "checkbox" });
  private readonly button = h("button", { type: "submit", class: "danger" }, "Deny");
  private readonly result = h("div", { class: "result", role: "status" });

  constructor(
    private readonly api: Api,
    private readonly toasts: Toasts,
  ) {
    super("deny", "Deny list", "Clients that this POP refuses. The list is this POP's own and ends with the process.");
    const form = h(
      "form",
      { class: "form-row" },
      field("Address or range", this.cidr),
      h("div", { class: "field" }, h("label", { for: "deny-for" }, "For how long"), h("div", { class: "joined" }, this.number, this.unit)),
      field("Note", this.note),
      h("label", { class: "check", for: "deny-kill" }, this.kill, "Close what they have open"),
      h("div", { class: "field-buttons" }, this.button),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.add();
    });
    this.element.append(h("h3", {}, "Deny somebody"), form, this.result);
  }

  /** Fills in whom to deny. */
  prefill(client: string): void {
    this.cidr.value = client;
    this.number.focus();
  }

  protected override async load(): Promise<void> {
    this.show(await this.api.read<DenyList>("/api/v1/deny"), ({ entries }) =>
      entries.length === 0
        ? [h("p", { class: "empty" }, "Nobody is denied.")]
        : [
            table(
              "Denied clients",
              [{ name: "Clients" }, { name: "Until" }, { name: "Note" }, { name: "From" }, { name: "Action", unseen: true }],
              entries.map((entry) => [
                h("code", {}, entry.cidr),
                entry.expires_at === null ? "for good" : format.time(entry.expires_at),
                entry.note ?? "–",
                entry.configured ? "configuration" : "this list",
                entry.configured
                  ? h("span", { class: "below" }, "a reload changes it")
                  : h("button", { type: "button", "aria-label": `Take ${entry.cidr} off the list`, onclick: () => void this.remove(entry) }, "Take off…"),
              ]),
            ),
          ],
    );
  }

  private async add(): Promise<void> {
    const body: Deny = { cidr: this.cidr.value.trim(), kill: this.kill.checked };
    if (this.number.value !== "") body.for_secs = Number(this.number.value) * Number(this.unit.value);
    if (this.note.value.trim() !== "") body.note = this.note.value.trim();
    this.button.disabled = true;
    const answer = await this.api.write<Denied>("POST", "/api/v1/deny", `To deny ${body.cidr}, give the admin token.`, body);
    this.button.disabled = false;
    hold(this.result, failure(answer));
    if (answer.kind !== "done") return;
    this.cidr.value = "";
    this.note.value = "";
    this.toasts.done(`${answer.value.cidr} is denied.`);
    await this.reload();
  }

  private async remove({ cidr }: Denied): Promise<void> {
    const agreed = await ask({ title: `Take ${cidr} off the list?`, body: [h("p", {}, "It may connect again at once.")], agree: "Take it off" });
    if (!agreed) return;
    const answer = await this.api.write<null>("DELETE", "/api/v1/deny", `To take ${cidr} off the list, give the admin token.`, undefined, { cidr });
    if (answer.kind === "done") this.toasts.done(`${cidr} is no longer denied.`);
    else if (answer.kind === "failed") this.toasts.failed(failure(answer));
    await this.reload();
  }
}
