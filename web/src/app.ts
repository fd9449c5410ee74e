// The dashboard of one POP.

import type { Live } from "./wire";
import { Api } from "./page/api";
import { BackendTable } from "./page/backends";
import { CapacityPanel } from "./page/capacity";
import { ChoicesPanel } from "./page/choices";
import { ConnectionsPanel } from "./page/connections";
import { Countries } from "./page/countries";
import { DenyPanel } from "./page/deny";
import { h, put, set } from "./page/dom";
import { Ends } from "./page/ends";
import { Header, Notices } from "./page/header";
import { LimitsPanel } from "./page/limits";
import { Stream } from "./page/live";
import { Manage } from "./page/manage";
import { WorldMap } from "./page/map";
import { RegistryPanel } from "./page/registry";
import { SettingsPanel } from "./page/settings";
import { Tabs } from "./page/tabs";
import { Toasts } from "./page/toast";
import { Token } from "./page/token";
import { Vitals } from "./page/vitals";
import { Why } from "./page/why";

const token = new Token();
const api = new Api(token);
const toasts = new Toasts();

let latest: Live | null = null;

const header = new Header(token);
const notices = new Notices(() => stream.retry());
const vitals = new Vitals();
const map = new WorldMap((id) => manage.show(id));
const countries = new Countries();
const ends = new Ends();
const why = new Why(api, (explanation) => map.explain(explanation));
const backends = new BackendTable(api, (id) => manage.show(id));
const manage = new Manage(
  api,
  (id) => backends.find(id),
  () => latest?.status ?? null,
  () => latest?.at ?? Date.now() / 1000,
);
const registry = new RegistryPanel(api);
const deny = new DenyPanel(api, toasts);
const limits = new LimitsPanel(api, (client) => {
  tabs.select("deny");
  deny.prefill(client);
});
const tabs = new Tabs("More", [
  registry,
  new ConnectionsPanel(api, toasts),
  new ChoicesPanel(api),
  new CapacityPanel(api),
  limits,
  deny,
  new SettingsPanel(api),
]);
const footer = h("span");

const main = h(
  "main",
  { id: "main", tabindex: "-1", "data-waiting": "true" },
  notices.element,
  vitals.element,
  h("div", { class: "world" }, map.element, h("div", { class: "side" }, countries.element, ends.element)),
  why.element,
  backends.element,
  tabs.element,
);

document.body.append(
  h("a", { class: "skip", href: "#main" }, "Skip to the content"),
  header.element,
  main,
  h("footer", {}, footer, h("span", {}, "Map: Natural Earth")),
  toasts.element,
);

/** Draws what was told last. Nothing is drawn while nobody looks. */
function draw(): void {
  if (latest === null || document.hidden) return;
  header.update(latest);
  notices.update(latest);
  vitals.draw();
  map.update(latest);
  countries.update(latest);
  ends.update(latest);
  why.update(latest);
  backends.update(latest);
  registry.update(latest);
  manage.tick();
  put(footer, `edge-proxy ${latest.status.version} · ${latest.status.geo}`);
}

const stream = new Stream(
  api,
  (live) => {
    latest = live;
    set(main, "data-waiting", null);
    vitals.note(live);
    draw();
  },
  (link, reason) => {
    header.connect(link);
    notices.connect(link, reason);
    set(main, "class", link === "live" || latest === null ? null : "is-old");
  },
);

document.addEventListener("visibilitychange", draw);
token.watch(() => {
  if (token.held) stream.retry();
});
void stream.run();
