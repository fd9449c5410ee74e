// Where backends come from, and what configuration is in force.

import type { Live, Reloaded } from "../wire";
import type { Api } from "./api";
import { h, hold, put, set, show } from "./dom";
import * as format from "./format";
import { Panel } from "./panel";
import { failure } from "./problem";

type Name =
  | "Store" | "Reachable" | "Last read" | "Backends" | "Held change"
  | "File" | "Last put in force" | "Reloads" | "Failed reloads"
  | "Version" | "Uptime" | "Clients connect to" | "Country data" | "Process";

export class RegistryPanel extends Panel {
  private readonly values = new Map<Name, HTMLElement>();
  private readonly skipped = h("ul", { class: "lines-list" });
  private readonly skippedPart = h("div", { hidden: true }, h("h3", {}, "Rows that are left out"), this.skipped);
  private readonly error = h("pre", { class: "problem", tabindex: "0" });
  private readonly errorPart = h("div", { hidden: true }, h("h3", {}, "Why the last one could not be put in force"), this.error);
  private readonly waiting = h("ul", { class: "lines-list" });
  private readonly waitingPart = h("div", { hidden: true }, h("h3", {}, "Waiting for a restart"), this.waiting);
  private readonly apps = h("ul", { class: "app-list" });
  private readonly button = h("button", { type: "button", class: "primary", id: "reload-now" }, "Reload now");
  private readonly result = h("div", { class: "result", role: "status" });

  constructor(private readonly api: Api) {
    super("registry", "Registry and configuration", "");
    this.button.addEventListener("click", () => void this.reloadConfig());
    this.element.replaceChildren(
      h(
        "div",
        { class: "columns" },
        this.group("Registry", ["Store", "Reachable", "Last read", "Backends", "Held change"], this.skippedPart),
        this.group(
          "Configuration",
          ["File", "Last put in force", "Reloads", "Failed reloads"],
          this.errorPart,
          this.waitingPart,
          h("div", { class: "with-note" }, this.button, h("span", { class: "below" }, "Reads it anew; when anything is wrong, the one in force stays.")),
          this.result,
        ),
        this.group("This process", ["Version", "Uptime", "Clients connect to", "Country data", "Process"], h("h3", {}, "Apps"), this.apps),
      ),
    );
  }

  protected override load(): Promise<void> {
    // The stream brings it.
    return Promise.resolve();
  }

  update({ at, status }: Live): void {
    const { registry, config } = status;
    const texts: Record<Name, string> = {
      Store: registry.store,
      Reachable: registry.up ? "yes" : "no: the last good table is in force",
      "Last read": `${format.moment(registry.age_secs)} ago`,
      Backends: format.count(registry.backends),
      "Held change": registry.change_held ? "yes: it would take away more than half" : "none",
      File: config.file ?? "none",
      "Last put in force": config.reloaded_at === null ? "at the start" : `${format.time(config.reloaded_at)} (${format.span(at - config.reloaded_at)} ago)`,
      Reloads: format.count(config.reloads),
      "Failed reloads": format.count(config.failures),
      Version: status.version,
      Uptime: format.span(status.uptime_secs),
      "Clients connect to": status.listeners.join(", ") || "nothing",
      "Country data": status.geo,
      Process: `pid ${status.pid}`,
    };
    for (const [name, value] of this.values) put(value, texts[name]);
    this.mark("Reachable", !registry.up);
    this.mark("Held change", registry.change_held);
    lines(this.skipped, registry.skipped);
    show(this.skippedPart, registry.skipped.length > 0);
    put(this.error, config.error ?? "");
    show(this.errorPart, config.error !== null);
    lines(this.waiting, config.waiting);
    show(this.waitingPart, config.waiting.length > 0);
    lines(
      this.apps,
      status.apps.map((app) => `${app.name}: ${app.eligible} of ${format.many(app.backends, "backend")} can be chosen; spill ${app.spill}${app.fails_open ? "; health checks are ignored" : ""}`),
    );
  }

  private mark(name: Name, bad: boolean): void {
    const value = this.values.get(name);
    if (value !== undefined) set(value, "class", bad ? "is-bad" : null);
  }

  private group(title: string, names: readonly Name[], ...more: HTMLElement[]): HTMLElement {
    const facts = h("dl", { class: "facts" });
    for (const name of names) {
      const value = h("dd");
      this.values.set(name, value);
      facts.append(h("div", {}, h("dt", {}, name), value));
    }
    return h("div", {}, h("h3", {}, title), facts, ...more);
  }

  private async reloadConfig(): Promise<void> {
    this.button.disabled = true;
    hold(this.result);
    const answer = await this.api.write<Reloaded>("POST", "/api/v1/config/reload", "To reload the configuration, give the admin token.");
    this.button.disabled = false;
    if (answer.kind !== "done") {
      hold(this.result, failure(answer));
      return;
    }
    const { changes, waiting } = answer.value;
    hold(
      this.result,
      h("p", { class: "done" }, changes.length === 0 ? "Reloaded; nothing has changed." : `Reloaded; ${format.many(changes.length, "change")}:`),
      changes.length > 0 && h("ul", { class: "lines-list" }, ...changes.map((change) => h("li", {}, change))),
      waiting.length > 0 && h("p", {}, "These need a restart:"),
      waiting.length > 0 && h("ul", { class: "lines-list" }, ...waiting.map((change) => h("li", {}, change))),
    );
  }
}

/** Shows lines of text, unless they stand there already. */
function lines(list: HTMLElement, texts: readonly string[]): void {
  const key = texts.join("\n");
  if (list.dataset["key"] === key) return;
  list.dataset["key"] = key;
  list.replaceChildren(...texts.map((text) => h("li", {}, text)));
}
