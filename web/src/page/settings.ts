// The effective configuration. The server has masked what is secret.

import type { Setting, Settings } from "../wire";
import type { Api } from "./api";
import { h, hold, type Child } from "./dom";
import * as format from "./format";
import { Panel } from "./panel";
import { field, table } from "./table";

export class SettingsPanel extends Panel {
  private readonly search = h("input", { id: "settings-search", type: "search", placeholder: "name or value", autocomplete: "off", spellcheck: "false" });
  private readonly changed = h("input", { id: "settings-changed", type: "checkbox" });
  private readonly found = h("div");
  private settings: Settings | null = null;

  constructor(private readonly api: Api) {
    super("settings", "Settings", "Every setting in force, and where it comes from. Secrets are masked by the server.");
    this.fields(
      field("Search", this.search),
      h("label", { class: "check", for: "settings-changed" }, this.changed, "Without defaults"),
    );
    this.search.addEventListener("input", () => this.draw());
    this.changed.addEventListener("change", () => this.draw());
  }

  protected override async load(): Promise<void> {
    this.show(await this.api.read<Settings>("/api/v1/config"), (settings) => {
      this.settings = settings;
      this.draw();
      return [this.found];
    });
  }

  private draw(): void {
    if (this.settings === null) return;
    const words = this.search.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    const matches = (...texts: string[]): boolean => {
      const hay = texts.join(" ").toLowerCase();
      return words.every((word) => hay.includes(word));
    };
    const settings = this.settings.settings.filter(
      (setting) => (!this.changed.checked || setting.origin !== "default") && matches(setting.name, setting.toml, setting.value),
    );
    const parts = this.settings.parts.filter((part) => matches(part.name, part.value));
    const found: Child[] = [
      h("p", { class: "hint", role: "status" }, `${format.many(settings.length + parts.length, "setting")}${this.settings.file === null ? "" : `; the file is ${this.settings.file}`}.`),
    ];
    if (settings.length > 0) found.push(settingTable(settings));
    if (parts.length > 0) {
      found.push(
        h("h3", {}, "Only in the file"),
        table("What only the file can say", [{ name: "Name" }, { name: "Value" }], parts.map((part) => [h("code", {}, part.name), h("code", { class: "value" }, part.value)])),
      );
    }
    hold(this.found, ...found);
  }
}

function settingTable(settings: readonly Setting[]): HTMLElement {
  return table(
    "Settings",
    [{ name: "Setting" }, { name: "Value" }, { name: "From" }, { name: "Changes with" }],
    settings.map((setting) => [
      h("span", { class: "stack" }, h("code", {}, setting.toml), h("code", { class: "below" }, setting.name)),
      h("code", { class: "value" }, setting.value),
      setting.origin === "default" ? h("span", { class: "below" }, "default") : setting.origin,
      setting.reloadable ? "a reload" : "a restart",
    ]),
  );
}
