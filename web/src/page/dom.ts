// Elements, made and changed by code. Text goes in as text: nothing here reads markup.

type Value = string | number | boolean | null | undefined;
type Listener = (event: Event) => void;
export type Attributes = Record<string, Value | Listener>;
export type Child = Node | string | number | null | undefined | false;

const SVG = "http://www.w3.org/2000/svg";

function fill(element: Element, attributes: Attributes, children: readonly Child[]): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else set(element, name, value);
  }
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** An element of HTML; a name that begins with `on` is a listener. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  fill(element, attributes, children);
  return element;
}

/** An element of SVG. */
export function s<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[K] {
  const element = document.createElementNS(SVG, tag);
  fill(element, attributes, children);
  return element;
}

/** Sets an attribute, unless it is so already: a write costs layout, a read does not. */
export function set(element: Element, name: string, value: Value): void {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** Sets the text of an element that holds nothing else. */
export function put(element: Element, text: string | number): void {
  const wanted = String(text);
  const only = element.firstChild;
  if (only instanceof Text && only === element.lastChild) {
    if (only.data !== wanted) only.data = wanted;
  } else if (wanted !== "" || only !== null) {
    element.textContent = wanted;
  }
}

/** Shows an element or hides it. */
export function show(element: Element, visible: boolean): void {
  set(element, "hidden", !visible);
}

/** Replaces all that an element holds. */
export function hold(element: Element, ...children: Child[]): void {
  element.replaceChildren();
  fill(element, {}, children);
}

let counted = 0;

/** A name that no other element has. */
export function unique(prefix: string): string {
  counted += 1;
  return `${prefix}-${counted}`;
}
