// Questions that come before the page: each is answered, or cancelled with Escape.

import { h, unique, type Child } from "./dom";

export interface Question {
  title: string;
  body: Child[];
  /** What the button says that agrees; none = there is only something to read. */
  agree?: string;
  /** Whether agreeing takes something away. */
  danger?: boolean;
  cancel?: string;
}

/** A dialog around some content; it is forgotten when it closes. */
export function dialog(title: string, ...content: Child[]): HTMLDialogElement {
  const heading = h("h2", { id: unique("dialog") }, title);
  const element = h("dialog", { "aria-labelledby": heading.id }, heading, ...content);
  element.addEventListener("close", () => element.remove());
  // A click beside it is a cancel too.
  element.addEventListener("click", (event) => {
    if (event.target === element) element.close();
  });
  document.body.append(element);
  return element;
}

/** Asks something; `false` = cancelled. */
export function ask(question: Question): Promise<boolean> {
  return new Promise((resolve) => {
    let agreed = false;
    const form = h(
      "form",
      { class: "dialog-body" },
      ...question.body,
      h(
        "div",
        { class: "actions" },
        h("button", { type: "button", onclick: () => element.close() }, question.cancel ?? "Cancel"),
        question.agree !== undefined &&
          h("button", { type: "submit", class: question.danger === true ? "danger" : "primary" }, question.agree),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      agreed = true;
      element.close();
    });
    const element = dialog(question.title, form);
    element.addEventListener("close", () => resolve(agreed));
    element.showModal();
  });
}
