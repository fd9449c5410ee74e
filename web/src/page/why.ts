// Why a client goes where it goes.

import type { Choice, Choices, Explanation, Live, Ranked } from "../wire";
import type { Api } from "./api";
import { choiceTable } from "./choices";
import { h, hold, put, set, show } from "./dom";
import * as format from "./format";
import { Meter } from "./meter";
import { failure } from "./problem";
import { field, table } from "./table";
import * as words from "./words";

/** Backends that are listed; the best come first. */
const SHOWN = 200;

export class Why {
  private readonly client = h("input", {
    id: "why-client",
    required: true,
    placeholder: "203.0.113.7 or 2001:db8::1",
    autocomplete: "off",
    spellcheck: "false",
    autocapitalize: "off",
  });
  private readonly app = h("select", { id: "why-app" });
  private readonly appField = field("App", this.app);
  private readonly without = h("input", {
    id: "why-without",
    placeholder: "backends or regions: fra-1, eu",
    autocomplete: "off",
    spellcheck: "false",
    autocapitalize: "off",
  });
  private readonly button = h("button", { type: "submit", class: "primary" }, "Explain");
  private readonly said = h("p", { class: "why-said", role: "status" });
  private readonly ranked = h("div");
  private readonly past = h("div");
  private readonly clear = h("button", { type: "button", class: "quiet", hidden: true }, "Clear");
  private asked = 0;
  readonly element: HTMLElement;

  constructor(
    private readonly api: Api,
    private readonly onAnswer: (explanation: Explanation | null) => void,
  ) {
    const form = h(
      "form",
      { class: "form-row" },
      field("Client address", this.client),
      this.appField,
      field("As if these were gone (optional)", this.without),
      h("div", { class: "field-buttons" }, this.button, this.clear),
    );
    show(this.appField, false);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.explain();
    });
    this.clear.addEventListener("click", () => {
      this.asked += 1;
      this.answer(null);
      this.client.value = "";
      this.without.value = "";
      this.client.focus();
    });
    this.element = h(
      "section",
      { class: "card", id: "why", "aria-labelledby": "why-title" },
      h("div", { class: "card-head" }, h("h2", { id: "why-title" }, "Why does a client go there?")),
      form,
      this.said,
      this.ranked,
      this.past,
    );
  }

  update({ status }: Live): void {
    const names = status.apps.map((app) => app.name);
    show(this.appField, names.length > 1);
    const key = names.join("\n");
    if (this.app.dataset["key"] === key) return;
    const chosen = this.app.value;
    this.app.dataset["key"] = key;
    this.app.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    if (names.includes(chosen)) this.app.value = chosen;
  }

  private get gone(): string[] {
    return this.without.value.split(/[\s,]+/).filter((name) => name !== "");
  }

  private async explain(): Promise<void> {
    const turn = (this.asked += 1);
    const client = this.client.value.trim();
    this.button.disabled = true;
    const several = this.app.options.length > 1;
    const [route, choices] = await Promise.all([
      this.api.read<Explanation>("/api/v1/route", { client, app: several ? this.app.value : undefined, without: this.gone }),
      this.api.read<Choices>("/api/v1/choices", { client, limit: 20 }),
    ]);
    this.button.disabled = false;
    // Somebody has asked for another one meanwhile.
    if (turn !== this.asked) return;
    if (route.kind !== "done") {
      this.answer(null);
      show(this.clear, true);
      hold(this.said, failure(route));
      return;
    }
    this.answer(route.value);
    hold(this.past, ...this.history(choices.kind === "done" ? choices.value.choices : null, failure(choices)));
  }

  private answer(explanation: Explanation | null): void {
    this.onAnswer(explanation);
    show(this.clear, explanation !== null);
    hold(this.said);
    hold(this.ranked);
    hold(this.past);
    if (explanation === null) return;
    hold(this.said, ...sentence(explanation, this.gone));
    const rest = explanation.backends.length - SHOWN;
    hold(this.ranked, this.ranking(explanation), rest > 0 && h("p", { class: "hint" }, `${format.many(rest, "backend")} rank after these.`));
  }

  private ranking(explanation: Explanation): HTMLElement {
    const backends = explanation.backends.slice(0, SHOWN);
    const rows = backends.map((backend, nth) => {
      const meter = new Meter();
      meter.update(backend);
      return [
        String(nth + 1),
        h("span", { class: "stack" }, h("strong", {}, backend.id), h("code", { class: "below" }, backend.address)),
        reason(backend),
        backend.share > 0 ? `${format.millis(backend.share)} %` : "–",
        h("span", { class: "stack" }, h("span", {}, backend.tier ?? "–"), h("span", { class: "below" }, words.tier(backend.tier))),
        backend.country === null ? backend.region : `${backend.region} · ${backend.country}`,
        meter.element,
        String(backend.weight),
        this.whatIf(backend),
      ];
    });
    const element = table(
      `Backends for ${explanation.client}, best first`,
      [
        { name: "Rank" },
        { name: "Backend" },
        { name: "Why" },
        { name: "Chance", number: true },
        { name: "Tier" },
        { name: "Place" },
        { name: "Load / soft / hard" },
        { name: "Weight", number: true },
        { name: "What if", unseen: true },
      ],
      rows,
    );
    set(element, "id", "why-ranking");
    backends.forEach((backend, nth) => {
      const row = element.querySelectorAll("tbody tr")[nth];
      if (row !== undefined) set(row, "class", backend.share > 0 ? "is-chosen" : null);
    });
    return element;
  }

  private whatIf({ id, reason: known }: Ranked): HTMLElement {
    const isGone = known === "without";
    const button = h("button", { type: "button", class: "quiet" }, isGone ? "Bring back" : "If it were gone");
    set(button, "aria-label", isGone ? `Bring back ${id}` : `If it were gone: ${id}`);
    button.addEventListener("click", () => {
      const rest = this.gone.filter((name) => name !== id);
      this.without.value = (isGone ? rest : [...rest, id]).join(", ");
      void this.explain();
    });
    // One that is left out because its whole region is cannot be brought back alone.
    show(button, !isGone || this.gone.includes(id));
    return button;
  }

  private history(choices: readonly Choice[] | null, trouble: HTMLElement | null): HTMLElement[] {
    const title = h("h3", {}, "Its last choices outside the best tier");
    if (choices === null) return trouble === null ? [] : [title, trouble];
    if (choices.length === 0) {
      const none = h("p", { class: "hint" });
      put(none, "None that this POP remembers: this client has always been carried to the nearest tier.");
      return [title, none];
    }
    return [title, choiceTable("Choices of this client outside the best tier", choices)];
  }
}

/** Where it is, and where it goes. */
function sentence(explanation: Explanation, gone: readonly string[]): HTMLElement[] {
  const { client, country, region, app, spill, bound, backends } = explanation;
  const place =
    country === null
      ? "is in no country that is known"
      : `is in ${format.country(country)} (${country})${region === null ? "" : `, region ${region}`}`;
  const best = backends.filter((backend) => backend.share > 0);
  const names = best.slice(0, 5).map((backend) => backend.id).join(" or ");
  const others = best.length > 5 ? ` or ${best.length - 5} others` : "";
  const where =
    best.length === 0
      ? "would be refused: no backend can be chosen for it"
      : `goes to ${names}${others}, in ${words.tier(best[0]?.tier ?? null)}`;
  const lines = [
    h("span", { class: "why-line" }, h("strong", {}, client), ` ${place}. Asking for ${app}, it ${where}${gone.length > 0 ? `, if ${gone.join(", ")} were gone` : ""}.`),
  ];
  if (spill !== "any") lines.push(h("span", { class: "hint" }, `Clients of ${app} are never carried out of their ${spill}.`));
  const keeps =
    bound === null
      ? "A client that comes back keeps the backend that it had, while that one can be chosen."
      : `It is bound to ${bound}, where it was carried before.`;
  lines.push(h("span", { class: "hint" }, keeps));
  return lines;
}

function reason(backend: Ranked): HTMLElement {
  const text = words.why(backend.reason);
  return h(
    "span",
    { class: "stack" },
    h("span", { class: "why-reason" }, text),
    // The word that stands in logs and metrics too.
    /^[a-z_]+$/.test(backend.reason) && text !== backend.reason && h("code", { class: "below" }, backend.reason),
  );
}
