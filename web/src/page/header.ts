// Who this POP is, how it is, and whether what is shown is true now.

import type { Live, Status } from "../wire";
import { h, put, set, show } from "./dom";
import type { Link } from "./live";
import * as format from "./format";
import { themeButton } from "./theme";
import type { Token } from "./token";

/** How the POP is, in a word. */
export type Health = { kind: "good" | "warn" | "bad"; text: string };

export function health(status: Status): Health {
  if (status.not_ready !== null) return { kind: "bad", text: status.not_ready };
  if (status.apps.length === 0) return { kind: "bad", text: "no backends" };
  const alone = status.apps.filter((app) => app.eligible === 0);
  if (alone.length === status.apps.length) return { kind: "bad", text: "no backend can be chosen" };
  if (alone.length > 0) return { kind: "warn", text: `no backend for ${alone.map((app) => app.name).join(", ")}` };
  if (!status.registry.up) return { kind: "warn", text: "registry down" };
  return { kind: "good", text: "ready" };
}

const LINKS: Record<Link, string> = {
  connecting: "Connecting",
  live: "Live",
  stale: "Stale",
  lost: "Disconnected",
  locked: "Token needed",
};

export class Header {
  private readonly pop = h("span", { class: "pop-name" });
  private readonly region = h("span", { class: "chip" });
  private readonly healthDot = h("span", { class: "dot", "aria-hidden": "true" });
  private readonly healthText = h("span", { id: "health" });
  private readonly health = h("span", { class: "health", hidden: true }, this.healthDot, this.healthText);
  private readonly linkDot = h("span", { class: "dot", "aria-hidden": "true" });
  // Read aloud when it changes, not with every tick.
  private readonly linkText = h("span", { id: "link", role: "status" });
  private readonly link = h("span", { class: "link" }, this.linkDot, this.linkText);
  private readonly forget = h("button", { type: "button", class: "quiet", id: "forget", hidden: true }, "Forget token");
  private link_: Link = "connecting";
  private status: Status | null = null;

  readonly element = h(
    "header",
    { class: "top" },
    h(
      "div",
      { class: "brand" },
      h("h1", {}, h("span", { class: "mark", "aria-hidden": "true" }), h("span", {}, "edgeProxy")),
      this.pop,
      this.region,
      this.health,
    ),
    h("div", { class: "tools" }, this.link, this.forget, h("a", { href: "/docs", class: "button quiet" }, "API"), themeButton()),
  );

  constructor(token: Token) {
    this.forget.addEventListener("click", () => token.forget());
    const follow = (): void => show(this.forget, token.held);
    token.watch(follow);
    follow();
    this.connect("connecting");
  }

  connect(link: Link): void {
    this.link_ = link;
    put(this.linkText, LINKS[link]);
    const kind = link === "live" ? "good" : link === "connecting" || link === "stale" ? "warn" : "bad";
    set(this.linkDot, "class", `dot is-${kind}`);
    this.title();
  }

  update({ status }: Live): void {
    this.status = status;
    put(this.pop, status.pop);
    put(this.region, status.region);
    set(this.region, "title", `This POP's region is ${status.region}`);
    const known = health(status);
    set(this.healthDot, "class", `dot is-${known.kind}`);
    put(this.healthText, known.text);
    show(this.health, true);
    this.title();
  }

  private title(): void {
    const name = this.status?.pop ?? "edgeProxy";
    const word = this.link_ === "live" && this.status !== null ? health(this.status).text : LINKS[this.link_].toLowerCase();
    const title = `${name}: ${word} · edgeProxy`;
    if (document.title !== title) document.title = title;
  }
}

/** What is wrong, above everything else. */
export class Notices {
  private readonly link = h("p", { class: "notice bad", id: "link-notice", role: "alert", hidden: true });
  private readonly list = h("ul", { class: "notices", hidden: true, "aria-label": "Notices" });
  readonly element = h("div", { class: "notice-area" }, this.link, this.list);
  private said = "";

  constructor(private readonly retry: () => void) {}

  connect(link: Link, reason: string): void {
    const trouble = link === "lost" || link === "stale" || link === "locked";
    if (!trouble) {
      show(this.link, false);
      return;
    }
    const last = "What is shown below is old.";
    const text =
      link === "locked"
        ? `Nothing can be read without the token: ${reason}`
        : link === "stale"
          ? `No news for some seconds. ${last}`
          : `Disconnected from edge-proxy: ${reason}. Trying again. ${last}`;
    const key = `${link} ${text}`;
    if (this.link.dataset["key"] !== key) {
      this.link.dataset["key"] = key;
      const button = h(
        "button",
        { type: "button", onclick: this.retry },
        link === "locked" ? "Give the token" : "Try now",
      );
      this.link.replaceChildren(h("span", {}, text), ...(link === "stale" ? [] : [button]));
    }
    show(this.link, true);
  }

  update({ status }: Live): void {
    const notices: string[] = [];
    if (status.not_ready !== null) notices.push(`This POP takes no new connections: ${status.not_ready}.`);
    if (status.registry.change_held) {
      notices.push("A change of the registry is held back: it would take away more than half of the backends.");
    }
    if (!status.registry.up) {
      notices.push("The registry could not be read the last time. The last good table is in force.");
    }
    if (status.config.error !== null) {
      notices.push("The configuration could not be put in force; the one before is. See Registry and configuration.");
    }
    for (const app of status.apps) {
      if (app.fails_open) notices.push(`Health checks of ${app.name} are ignored: they say that none of its backends is healthy.`);
      if (app.eligible === 0) notices.push(`No backend of ${app.name} can be chosen: its clients are refused.`);
    }
    if (status.config.waiting.length > 0) {
      notices.push(`${format.many(status.config.waiting.length, "change")} of the configuration wait for a restart.`);
    }
    if (status.registry.skipped.length > 0) {
      notices.push(`${format.many(status.registry.skipped.length, "row")} of the registry cannot be used and are left out.`);
    }
    const said = notices.join("\n");
    if (said !== this.said) {
      this.said = said;
      this.list.replaceChildren(...notices.map((notice) => h("li", { class: "notice warn" }, notice)));
    }
    show(this.list, notices.length > 0);
  }
}
