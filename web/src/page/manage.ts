// One backend in full, and what can be asked of it.

import type { Asked, Backend, Drain, Held, SetState, Status } from "../wire";
import type { Answer, Api } from "./api";
import { Glyph, condition, detail, label } from "./condition";
import { ask, dialog } from "./dialog";
import { h, put, set, show } from "./dom";
import { breakerText, leaseText } from "./backends";
import * as format from "./format";
import { Meter } from "./meter";
import { failure } from "./problem";
import * as words from "./words";

const STATES: [Asked, string, string][] = [
  ["ready", "Ready", "It takes connections."],
  ["drain", "Drain", "No new connections; open ones go on."],
  ["maint", "Maintenance", "No new connections; open ones are closed after the drain timeout."],
];
const VERBS: Record<Asked, string> = { ready: "Make ready", drain: "Drain", maint: "Take out" };
const BREAKERS: [Held, string][] = [
  ["auto", "Let it work"],
  ["open", "Hold open"],
  ["closed", "Hold closed"],
];

export class Manage {
  private open: { id: string; update: (backend: Backend | null, now: number) => void } | null = null;

  constructor(
    private readonly api: Api,
    private readonly find: (id: string) => Backend | null,
    private readonly status: () => Status | null,
    private readonly now: () => number,
  ) {}

  /** Follows the backend that is shown. */
  tick(): void {
    if (this.open === null) return;
    this.open.update(this.find(this.open.id), this.now());
  }

  show(id: string): void {
    const backend = this.find(id);
    if (backend === null) return;
    const glyph = new Glyph();
    const state = h("strong");
    const why = h("span", { class: "below" });
    const meter = new Meter();
    const facts = h("dl", { class: "facts" });
    const values = new Map<string, HTMLElement>();
    for (const name of ["App", "Place", "Address", "Tier", "Asked of it", "Probe", "Breaker", "Weight", "Warm connections", "Lease", "Since start", "Traffic", "Failed dials"]) {
      const value = h("dd");
      values.set(name, value);
      facts.append(h("div", {}, h("dt", {}, name), value));
    }
    const result = h("div", { class: "result", role: "status" });
    const stateForm = this.stateForm(id, (backend.state_here ?? backend.state) === "ready" ? "drain" : "ready", result);
    const breakers = this.breakers(id, result);
    const remove = this.removal(id, result);
    const element = dialog(
      id,
      h(
        "div",
        { class: "dialog-body manage" },
        h("div", { class: "manage-state" }, glyph.element, h("span", { class: "stack" }, state, why), meter.element),
        facts,
        stateForm.element,
        breakers.element,
        remove.element,
        result,
        h("div", { class: "actions" }, h("button", { type: "button", onclick: () => element.close() }, "Close")),
      ),
    );
    element.classList.add("wide");
    const update = (known: Backend | null, now: number): void => {
      if (known === null) {
        glyph.show("gone");
        put(state, "Gone");
        put(why, "It is not in the registry any more, or not among those that are followed");
        return;
      }
      glyph.show(condition(known));
      put(state, label(known));
      put(why, detail(known));
      meter.update(known);
      const here = known.state_here === null ? "" : `, ${known.state_here} on this POP`;
      const texts: Record<string, string> = {
        App: known.app,
        Place: known.country === null ? known.region : `${known.region}, ${format.country(known.country)}`,
        Address: format.address(known.ip, known.port),
        Tier: `${known.tier}: ${words.tier(known.tier)}, for clients near this POP`,
        "Asked of it": `${known.state} everywhere${here}`,
        Probe: known.probe ?? "not probed",
        Breaker: known.breaker === null ? "none in use now" : breakerText(known),
        Weight: known.share < 100 ? `${known.weight}, of which ${known.share} % count` : String(known.weight),
        "Warm connections": format.count(known.warm),
        Lease: leaseOf(known, now),
        "Since start": format.many(known.connections_total, "connection"),
        Traffic: `${format.size(known.sent_total)} to it, ${format.size(known.received_total)} from it`,
        "Failed dials": format.count(known.dial_failures_total),
      };
      for (const [name, value] of values) put(value, texts[name] ?? "");
      stateForm.update(known);
      breakers.update(known);
      remove.update(known);
    };
    update(backend, this.now());
    this.open = { id, update };
    element.addEventListener("close", () => {
      this.open = null;
    });
    element.showModal();
  }

  private stateForm(id: string, likely: Asked, result: HTMLElement): { element: HTMLElement; update: (backend: Backend) => void } {
    const radio = (name: string, value: string, text: string, hint: string | null, checked: boolean): [HTMLInputElement, HTMLElement] => {
      const input = h("input", { type: "radio", name, value, id: `${name}-${value}`, checked });
      return [input, h("label", { class: "option", for: input.id }, input, h("span", { class: "stack" }, h("span", {}, text), hint !== null && h("span", { class: "below" }, hint)))];
    };
    const states = STATES.map(([value, text, hint]) => radio("asked", value, text, hint, value === likely));
    const places = [
      radio("place", "everywhere", "Everywhere", "Written to the registry", true),
      radio("place", "here", "This POP only", "Until this process ends", false),
    ];
    const close = h("input", { type: "number", id: "close-after", min: "0", max: "86400", step: "1", inputmode: "numeric", placeholder: "never" });
    const closeField = h("div", { class: "field" }, h("label", { for: "close-after" }, "Close what is open after (seconds)"), close);
    const warning = h("p", { class: "notice warn", hidden: true });
    const button = h("button", { type: "submit", class: "primary", id: "apply-state" });
    const element = h(
      "form",
      { class: "manage-form" },
      h("fieldset", {}, h("legend", {}, "State"), h("div", { class: "options" }, ...states.map(([, option]) => option))),
      h("fieldset", {}, h("legend", {}, "Where"), h("div", { class: "options" }, ...places.map(([, option]) => option))),
      closeField,
      warning,
      h("div", { class: "actions" }, button),
    );
    const chosen = (): Asked => STATES.find(([value], nth) => states[nth]?.[0].checked === true && value)?.[0] ?? "ready";
    const here = (): boolean => places[1]?.[0].checked === true;
    let last: Backend | null = null;
    const follow = (): void => {
      const wanted = chosen();
      show(closeField, wanted !== "ready");
      const app = this.status()?.apps.find((known) => known.name === last?.app);
      const isLast = wanted !== "ready" && last?.eligible === true && app?.eligible === 1;
      show(warning, isLast);
      put(warning, isLast ? `It is the only backend of ${app.name} that can be chosen: new clients would be refused.` : "");
      set(button, "class", wanted === "ready" ? "primary" : "danger");
      put(button, `${VERBS[wanted]} ${here() ? "on this POP" : "everywhere"}`);
    };
    element.addEventListener("change", follow);
    element.addEventListener("submit", (event) => {
      event.preventDefault();
      const state = chosen();
      const body: SetState = { state, here: here() };
      if (state !== "ready" && close.value !== "") body.close_after_secs = Number(close.value);
      const what = `${state} ${id} ${body.here ? "on this POP" : "everywhere"}`;
      void this.perform<Drain>(button, result, () => this.api.write("PUT", `/api/v1/backends/${encodeURIComponent(id)}/state`, `To ${what}, give the admin token.`, body), (done) => {
        const open = `${format.many(done.active, "connection")} open here.`;
        if (body.here && done.state !== state) return `Nothing is asked of ${id} on this POP any more; everywhere it is in state ${done.state}. ${open}`;
        return `${id} is in state ${done.state} ${body.here ? "on this POP" : "everywhere"}; ${open}`;
      });
    });
    return {
      element,
      update: (backend) => {
        last = backend;
        follow();
      },
    };
  }

  private breakers(id: string, result: HTMLElement): { element: HTMLElement; update: (backend: Backend) => void } {
    const note = h("span", { class: "below" });
    const buttons = BREAKERS.map(([held, text]) => {
      const button: HTMLButtonElement = h("button", { type: "button", onclick: () => {
        void this.perform<Backend>(
          button,
          result,
          () => this.api.write("PUT", `/api/v1/backends/${encodeURIComponent(id)}/breaker`, `To change the breaker of ${id}, give the admin token.`, { state: held }),
          (done) => `The breaker of ${id} is ${breakerText(done)}.`,
        );
      } }, text);
      return { held, button };
    });
    const element = h(
      "fieldset",
      { class: "manage-form" },
      h("legend", {}, "Circuit breaker on this POP"),
      h("div", { class: "segments" }, ...buttons.map(({ button }) => button)),
      note,
    );
    return {
      element,
      update: (backend) => {
        for (const { held, button } of buttons) set(button, "aria-pressed", (backend.breaker_held ?? "auto") === held ? "true" : "false");
        put(note, backend.breaker === null ? "There is none in use: circuit breakers are off, or it takes no connections." : "");
      },
    };
  }

  private removal(id: string, result: HTMLElement): { element: HTMLElement; update: (backend: Backend) => void } {
    const note = h("span", { class: "below" }, "It gets no new connections, and is forgotten with its last one.");
    const button = h("button", { type: "button", class: "danger" }, "Remove…");
    button.addEventListener("click", () => void this.remove(id, button, result));
    return {
      element: h("fieldset", { class: "manage-form" }, h("legend", {}, "Deregister"), h("div", { class: "with-note" }, button, note)),
      update: (backend) => {
        if (backend.state === "deleted") button.disabled = true;
      },
    };
  }

  private async remove(id: string, button: HTMLButtonElement, result: HTMLElement): Promise<void> {
    const agreed = await ask({
      title: `Remove ${id}?`,
      body: [h("p", {}, "It gets no new connections anywhere. Open ones go on, and with the last of them it is forgotten.")],
      agree: "Remove it",
      danger: true,
    });
    if (!agreed) return;
    await this.perform<Drain>(button, result, () => this.api.write("DELETE", `/api/v1/backends/${encodeURIComponent(id)}`, `To remove ${id}, give the token.`), (done) => {
      return `${id} is removed; ${format.many(done.active, "connection")} still open here.`;
    });
  }

  /** Does something once at a time, and says what came of it. */
  private async perform<T>(button: HTMLButtonElement, result: HTMLElement, act: () => Promise<Answer<T>>, said: (done: T) => string): Promise<void> {
    button.disabled = true;
    result.replaceChildren();
    const answer = await act();
    button.disabled = false;
    result.replaceChildren(answer.kind === "done" ? h("p", { class: "done" }, said(answer.value)) : (failure(answer) ?? ""));
    result.scrollIntoView({ block: "nearest" });
    this.tick();
  }
}

function leaseOf(backend: Backend, now: number): string {
  const { lease } = backend;
  if (lease === null || lease.expires_at === null) return "none: it did not register itself";
  return `${leaseText(backend, now)} (registration ${lease.generation})`;
}
