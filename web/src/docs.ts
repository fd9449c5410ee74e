// What the control API can do, from its own OpenAPI document.

import { h, hold, set, type Child } from "./page/dom";
import { VERBS, example, named, variants, type Content, type Document, type Operation, type Schema, type Verb } from "./page/openapi";
import { table } from "./page/table";
import { themeButton } from "./page/theme";

interface Endpoint {
  path: string;
  verb: Verb;
  operation: Operation;
}

const link = (name: string): HTMLElement => h("a", { href: `#schema-${name}` }, name);

/** The type of something, with links to what it is made of. */
function type(schema: Schema): Child[] {
  const name = named(schema);
  if (name !== null) return [link(name)];
  const some = variants(schema);
  if (some.length !== 1 || some[0] !== schema) {
    const parts = some.flatMap((one, nth) => (nth === 0 ? type(one) : [" or ", ...type(one)]));
    const nullable = (schema.oneOf ?? schema.anyOf ?? []).some((one) => one.type === "null");
    return nullable ? [...parts, " or null"] : parts;
  }
  const types = typeof schema.type === "string" ? [schema.type] : (schema.type ?? ["anything"]);
  return types.flatMap((each, nth): Child[] => [
    nth > 0 && " or ",
    ...(each === "array" && schema.items !== undefined ? ["list of ", ...type(schema.items)] : [each]),
  ]);
}

/** What a value may be. */
function bounds(schema: Schema): string {
  const parts: string[] = [];
  if (schema.enum !== undefined) parts.push(schema.enum.map(String).join(", "));
  if (schema.minimum !== undefined && schema.maximum !== undefined) parts.push(`${schema.minimum} to ${schema.maximum}`);
  else if (schema.minimum !== undefined && schema.minimum !== 0) parts.push(`at least ${schema.minimum}`);
  else if (schema.maximum !== undefined) parts.push(`at most ${schema.maximum}`);
  if (schema.maxLength !== undefined) parts.push(`${schema.maxLength} characters at most`);
  if (schema.default !== undefined) parts.push(`else ${JSON.stringify(schema.default)}`);
  return parts.join("; ");
}

function describe(schema: Schema): string {
  return schema.description ?? variants(schema).find((one) => one.description !== undefined)?.description ?? "";
}

function properties(schema: Schema, caption: string): Child {
  const all = Object.entries(schema.properties ?? {});
  if (all.length === 0) return null;
  const needed = schema.required ?? [];
  return table(
    caption,
    [{ name: "Field" }, { name: "Type" }, { name: "May be" }, { name: "What it is" }],
    all.map(([name, value]) => [
      h("span", {}, h("code", {}, name), !needed.includes(name) && h("span", { class: "below" }, " optional")),
      h("span", {}, ...type(value)),
      bounds(value),
      describe(value),
    ]),
  );
}

function content(of: Content | undefined): Child[] {
  return Object.entries(of ?? {}).flatMap(([kind, { schema }], nth): Child[] => [
    nth > 0 && ", ",
    ...(schema === undefined ? [] : type(schema)),
    kind !== "application/json" && h("span", { class: "below" }, ` ${kind}`),
  ]);
}

/** Who may ask. */
function needs(operation: Operation): string {
  const any = operation.security ?? [];
  const tokens = any.flatMap((one) => Object.keys(one));
  if (tokens.length === 0) return "no token";
  const open = any.some((one) => Object.keys(one).length === 0);
  const named = tokens.join(" or ");
  return open ? `no token from the same machine, else ${named}` : `${named} token`;
}

function quote(text: string): string {
  return /^[\w@%+=:,./?&-]+$/.test(text) && !/[?&]/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A command that asks for it. */
function curl(document_: Document, { path, verb, operation }: Endpoint): string {
  const parameters = operation.parameters ?? [];
  const text = (value: unknown): string => String(Array.isArray(value) ? value[0] : value);
  let address = path;
  for (const parameter of parameters.filter((one) => one.in === "path")) {
    const value = parameter.example ?? (parameter.name === "id" ? "gru-1" : example(document_, parameter.schema));
    address = address.replace(`{${parameter.name}}`, encodeURIComponent(text(value)));
  }
  const query = parameters
    .filter((one) => one.in === "query" && (one.required === true || one.example !== undefined))
    .map((one) => `${one.name}=${encodeURIComponent(text(one.example ?? example(document_, one.schema)))}`);
  if (query.length > 0) address += `?${query.join("&")}`;
  const parts = ["curl"];
  if (verb !== "get") parts.push("-X", verb.toUpperCase());
  if (path.endsWith("/live")) parts.push("-N");
  const open = operation.security?.some((one) => Object.keys(one).length === 0) ?? true;
  if (!open) parts.push('-H "Authorization: Bearer $TOKEN"');
  const body = operation.requestBody?.content["application/json"];
  if (body !== undefined && operation.requestBody?.required === true) {
    parts.push("-H 'Content-Type: application/json'");
    parts.push("-d", quote(JSON.stringify(body.example ?? example(document_, body.schema))));
  }
  parts.push(quote(window.location.origin + address));
  return parts.join(" ");
}

function copyable(command: string): HTMLElement {
  const button = h("button", { type: "button", class: "quiet" }, "Copy");
  button.addEventListener("click", () => {
    void navigator.clipboard.writeText(command).then(() => {
      button.textContent = "Copied";
    });
  });
  // Browsers have no clipboard for pages without TLS from elsewhere.
  const able = window.isSecureContext && "clipboard" in navigator;
  return h("div", { class: "command" }, h("pre", { tabindex: "0" }, h("code", {}, command)), able && button);
}

function anchor({ path, verb }: Endpoint): string {
  return `${verb}-${path.replace(/[^a-z0-9]+/gi, "-").replace(/^-|-$/g, "")}`;
}

function endpoint(document_: Document, of: Endpoint): HTMLElement {
  const { path, verb, operation } = of;
  const id = anchor(of);
  const parameters = operation.parameters ?? [];
  const body = operation.requestBody;
  return h(
    "article",
    { class: "card endpoint", id, "aria-labelledby": `${id}-title`, "data-path": path, "data-verb": verb },
    h("h3", { id: `${id}-title` }, h("span", { class: `verb is-${verb}` }, verb.toUpperCase()), " ", h("code", {}, path)),
    h("p", {}, operation.summary ?? ""),
    operation.description !== undefined && operation.description !== operation.summary && h("p", {}, operation.description),
    h("p", { class: "hint" }, `Needs ${needs(operation)}.`),
    parameters.length > 0 && h("h4", {}, "Parameters"),
    parameters.length > 0 &&
      table(
        `Parameters of ${verb} ${path}`,
        [{ name: "Name" }, { name: "In" }, { name: "Type" }, { name: "May be" }, { name: "What it is" }],
        parameters.map((one) => [
          h("span", {}, h("code", {}, one.name), one.required !== true && h("span", { class: "below" }, " optional")),
          one.in,
          h("span", {}, ...type(one.schema ?? {})),
          bounds(one.schema ?? {}),
          one.description ?? "",
        ]),
      ),
    body !== undefined && h("h4", {}, "Body"),
    body !== undefined &&
      h("p", {}, ...content(body.content), body.required === true ? "" : " (may be left out)", body.description === undefined ? "" : `: ${body.description}`),
    h("h4", {}, "Answers"),
    table(
      `Answers of ${verb} ${path}`,
      [{ name: "Status" }, { name: "What it means" }, { name: "Body" }],
      Object.entries(operation.responses).map(([status, answer]) => [
        h("span", { class: status.startsWith("2") ? "chip is-good" : "chip" }, status),
        answer.description ?? "",
        h("span", {}, ...content(answer.content)),
      ]),
    ),
    h("h4", {}, "Example"),
    copyable(curl(document_, of)),
  );
}

function schemaCard(name: string, schema: Schema): HTMLElement {
  return h(
    "article",
    { class: "card endpoint", id: `schema-${name}`, "aria-labelledby": `schema-${name}-title` },
    h("h3", { id: `schema-${name}-title` }, h("code", {}, name)),
    schema.description !== undefined && h("p", {}, schema.description),
    schema.properties === undefined && h("p", {}, ...type(schema), bounds(schema) === "" ? "" : `: ${bounds(schema)}`),
    schema.pattern !== undefined && h("p", {}, "Pattern: ", h("code", {}, schema.pattern)),
    properties(schema, `Fields of ${name}`),
  );
}

function page(document_: Document): Child[] {
  const endpoints = Object.entries(document_.paths).flatMap(([path, item]) =>
    VERBS.flatMap((verb): Endpoint[] => {
      const operation = item[verb];
      return operation === undefined ? [] : [{ path, verb, operation }];
    }),
  );
  const tags = [...new Set(endpoints.map(({ operation }) => operation.tags?.[0] ?? "other"))];
  const of = (tag: string): Endpoint[] => endpoints.filter(({ operation }) => (operation.tags?.[0] ?? "other") === tag);
  const schemas = Object.entries(document_.components.schemas ?? {});
  const tokens = Object.entries(document_.components.securitySchemes ?? {});
  return [
    h(
      "nav",
      { class: "contents", "aria-label": "Endpoints" },
      ...tags.map((tag) =>
        h(
          "div",
          {},
          h("h2", {}, tag),
          h("ul", { class: "plain" }, ...of(tag).map((one) => h("li", {}, h("a", { href: `#${anchor(one)}` }, h("span", { class: `verb is-${one.verb}` }, one.verb.toUpperCase()), h("span", {}, one.path))))),
        ),
      ),
      h("div", {}, h("h2", {}, "Schemas"), h("ul", { class: "plain schema-links" }, ...schemas.map(([name]) => h("li", {}, link(name))))),
    ),
    h(
      "div",
      { class: "reference" },
      h(
        "section",
        { class: "card", "aria-labelledby": "about" },
        h("h2", { id: "about" }, `${document_.info.title} ${document_.info.version}`),
        h("p", {}, document_.info.description ?? ""),
        h("dl", { class: "facts" }, ...tokens.map(([name, scheme]) => h("div", {}, h("dt", {}, `${name} token`), h("dd", {}, scheme.description ?? "")))),
        h("p", { class: "hint" }, "This page is made from ", h("a", { href: "/openapi.json" }, "/openapi.json"), ". Nothing is fetched from elsewhere."),
      ),
      ...tags.map((tag) => h("section", { "aria-labelledby": `tag-${tag}` }, h("h2", { id: `tag-${tag}`, class: "tag" }, tag), ...of(tag).map((one) => endpoint(document_, one)))),
      h("section", { "aria-labelledby": "schemas" }, h("h2", { id: "schemas", class: "tag" }, "Schemas"), ...schemas.map(([name, schema]) => schemaCard(name, schema))),
    ),
  ];
}

const main = h("main", { id: "main", class: "docs", tabindex: "-1" }, h("p", { class: "hint" }, "Reading the document…"));

document.body.append(
  h("a", { class: "skip", href: "#main" }, "Skip to the content"),
  h(
    "header",
    { class: "top docs-page" },
    h("div", { class: "brand" }, h("h1", {}, h("span", { class: "mark", "aria-hidden": "true" }), h("span", {}, "edgeProxy")), h("span", { class: "chip" }, "Control API")),
    h("div", { class: "tools" }, h("a", { href: "/", class: "button quiet" }, "Dashboard"), themeButton()),
  ),
  main,
);

async function load(): Promise<void> {
  try {
    const response = await fetch("/openapi.json", { credentials: "omit", headers: { accept: "application/json" } });
    if (!response.ok) throw new Error(`it answered with status ${response.status}`);
    hold(main, ...page((await response.json()) as Document));
    // The part that the address names was not there yet when the page was opened.
    if (window.location.hash !== "") document.getElementById(decodeURIComponent(window.location.hash.slice(1)))?.scrollIntoView();
  } catch (error) {
    hold(main, h("p", { class: "problem", role: "alert" }, `The document cannot be read: ${error instanceof Error ? error.message : String(error)}`));
  }
  set(main, "data-ready", "true");
}

void load();
