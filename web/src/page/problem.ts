// What went wrong, as the server tells it.

import type { Problem } from "../wire";
import type { Answer } from "./api";
import { h } from "./dom";

/** A box that says what is wrong, field by field if that is known. */
export function problemBox(problem: Problem): HTMLElement {
  const fields = problem.fields ?? [];
  if (fields.length === 0) return h("div", { class: "problem" }, problem.reason);
  return h(
    "div",
    { class: "problem" },
    h(
      "ul",
      {},
      ...fields.map((field) => h("li", {}, h("code", {}, field.field), ": ", h("span", { class: "lines" }, field.reason))),
    ),
  );
}

/** The same of an answer; `null` = it is one. */
export function failure(answer: Answer<unknown>): HTMLElement | null {
  if (answer.kind === "failed") return problemBox(answer.problem);
  if (answer.kind === "cancelled") return h("div", { class: "hint" }, "Cancelled; nothing has changed.");
  return null;
}
