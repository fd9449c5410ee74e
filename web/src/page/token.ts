// The token for changes: kept in memory, or in this tab when asked to; never anywhere else.

import { ask } from "./dialog";
import { h } from "./dom";
import { keep, kept } from "./store";

export class Token {
  private value = kept("session", "token");
  private asking: Promise<string | null> | null = null;
  private readonly listeners: (() => void)[] = [];

  get held(): boolean {
    return this.value !== null;
  }

  /** Calls back whenever there is one, or none any more. */
  watch(listener: () => void): void {
    this.listeners.push(listener);
  }

  forget(): void {
    this.value = null;
    keep("session", "token", null);
    this.tell();
  }

  /** The token that is known, else the one that is typed in; `null` = nobody wanted to. */
  get(what: string, refusal: string | null = null): Promise<string | null> {
    if (this.value !== null) return Promise.resolve(this.value);
    // Whoever needs it meanwhile waits for the same answer.
    this.asking ??= this.request(what, refusal).finally(() => {
      this.asking = null;
    });
    return this.asking;
  }

  /** The token, if it is known. */
  known(): string | null {
    return this.value;
  }

  private async request(what: string, refusal: string | null): Promise<string | null> {
    const field = h("input", {
      type: "password",
      id: "token",
      required: true,
      autocomplete: "off",
      spellcheck: "false",
      autofocus: true,
      // A header can carry nothing else.
      pattern: "[!-~]+",
      title: "Visible ASCII characters, no spaces",
    });
    const remember = h("input", { type: "checkbox", id: "remember" });
    const agreed = await ask({
      title: "Token needed",
      body: [
        refusal !== null && h("p", { class: "problem", role: "alert" }, refusal),
        h("p", {}, what),
        h("label", { for: "token" }, "Token"),
        field,
        h("label", { class: "check", for: "remember" }, remember, "Remember it in this tab"),
        h("p", { class: "hint" }, "It is EDGEPROXY_API_TOKEN, or what stands in the file edge-proxy.token."),
      ],
      agree: "Continue",
    });
    if (!agreed || field.value === "") return null;
    this.value = field.value;
    keep("session", "token", remember.checked ? field.value : null);
    this.tell();
    return this.value;
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}
