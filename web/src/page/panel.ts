// A part of the page that is read when somebody opens it.

import type { Answer } from "./api";
import { h, hold, put, show, type Child } from "./dom";
import * as format from "./format";
import { failure } from "./problem";

export abstract class Panel {
  private readonly as_of = h("span", { class: "hint" });
  private readonly refresh = h("button", { type: "submit" }, "Refresh");
  private readonly form = h("form", { class: "form-row" });
  private readonly buttons = h("div", { class: "field-buttons" }, this.refresh, this.as_of);
  protected readonly body = h("div", { class: "panel-body" });
  readonly element: HTMLElement;
  private opened = false;
  private busy = false;

  constructor(
    readonly id: string,
    readonly name: string,
    intro: string,
  ) {
    this.form.append(this.buttons);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.reload();
    });
    this.element = h("div", { class: "panel" }, h("p", { class: "hint intro" }, intro), this.form, this.body);
  }

  /** It is seen now. */
  open(): void {
    if (this.opened) return;
    this.opened = true;
    void this.reload();
  }

  /** Puts fields before the button. */
  protected fields(...fields: HTMLElement[]): void {
    this.buttons.before(...fields);
  }

  /** Puts a button beside the one that reads anew. */
  protected also(button: HTMLButtonElement): void {
    this.refresh.after(button);
  }

  async reload(): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    this.refresh.disabled = true;
    await this.load();
    this.refresh.disabled = false;
    this.busy = false;
  }

  /** Reads what is shown, and shows it. */
  protected abstract load(): Promise<void>;

  protected show<T>(answer: Answer<T>, made: (value: T) => Child[]): void {
    if (answer.kind !== "done") {
      // Nobody was asked for a token in vain: it is asked for again when the panel is opened again.
      this.opened = false;
      hold(this.body, failure(answer));
      show(this.as_of, false);
      return;
    }
    hold(this.body, ...made(answer.value));
    put(this.as_of, `as of ${format.time(Date.now() / 1000)}`);
    show(this.as_of, true);
  }
}
