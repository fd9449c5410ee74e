// Asks the control API. A token goes in a header, to this origin only, and never into an address.

import type { Problem } from "../wire";
import type { Token } from "./token";

export type Answer<T> =
  | { kind: "done"; value: T }
  | { kind: "cancelled" }
  | { kind: "failed"; status: number; problem: Problem };

export type Method = "POST" | "PUT" | "DELETE";

const PATIENCE_MS = 20_000;

export class Api {
  /** Whether even reads need the token: they do not from the same machine. */
  private locked = false;

  constructor(private readonly token: Token) {}

  /** Reads something; asks for the token when it cannot be read without. */
  read<T>(path: string, query: Query = {}): Promise<Answer<T>> {
    return this.persist<T>(
      () => (this.locked ? this.token.get("This page is read from another machine, which needs the token.") : null),
      (token) => send("GET", path + search(query), token, undefined, AbortSignal.timeout(PATIENCE_MS)),
    );
  }

  /** Changes something; asks for the token when there is none. */
  write<T>(method: Method, path: string, what: string, body?: object, query: Query = {}): Promise<Answer<T>> {
    return this.persist<T>(
      () => this.token.get(what),
      (token) => send(method, path + search(query), token, body, AbortSignal.timeout(PATIENCE_MS)),
      what,
    );
  }

  /** Begins to read something that goes on and on. */
  open(path: string, signal: AbortSignal): Promise<Response> {
    return send("GET", path, this.locked ? this.token.known() : null, undefined, signal);
  }

  /** Says that a read was refused for want of a token; `false` = nobody gave one. */
  async unlock(refusal: string): Promise<boolean> {
    const reason = this.locked || this.token.held ? refusal : null;
    if (this.locked) this.token.forget();
    this.locked = true;
    return (await this.token.get("This page is read from another machine, which needs the token.", reason)) !== null;
  }

  /** Tries until it is answered with anything but "who are you". */
  private async persist<T>(
    credential: () => Promise<string | null> | null,
    request: (token: string | null) => Promise<Response>,
    what?: string,
  ): Promise<Answer<T>> {
    for (;;) {
      const wanted = credential();
      const token = await wanted;
      if (wanted !== null && token === null) return { kind: "cancelled" };
      const answer = await judge<T>(request, token);
      if (answer.kind !== "failed" || answer.status !== 401) return answer;
      if (what === undefined) {
        if (!(await this.unlock(answer.problem.reason))) return { kind: "cancelled" };
      } else {
        this.token.forget();
        const again = await this.token.get(what, `Refused: ${answer.problem.reason}`);
        if (again === null) return { kind: "cancelled" };
      }
    }
  }
}

export type Query = Record<string, string | number | readonly string[] | undefined>;

function search(query: Query): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === "") continue;
    for (const each of typeof value === "object" ? value : [value]) params.append(name, String(each));
  }
  const text = params.toString();
  return text === "" ? "" : `?${text}`;
}

function send(
  method: "GET" | Method,
  path: string,
  token: string | null,
  body: object | undefined,
  signal: AbortSignal,
): Promise<Response> {
  const headers: Record<string, string> = { accept: "application/json, application/x-ndjson" };
  if (token !== null) headers["authorization"] = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  return fetch(path, {
    method,
    headers,
    signal,
    body: body === undefined ? null : JSON.stringify(body),
    // Nothing but the header says who asks.
    credentials: "omit",
    redirect: "error",
    cache: "no-store",
  });
}

async function judge<T>(
  request: (token: string | null) => Promise<Response>,
  token: string | null,
): Promise<Answer<T>> {
  try {
    const response = await request(token);
    if (!response.ok) return { kind: "failed", status: response.status, problem: await problem(response) };
    const text = await response.text();
    return { kind: "done", value: (text === "" ? null : JSON.parse(text)) as T };
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    const reason = late ? "edge-proxy did not answer in time" : "edge-proxy cannot be reached";
    return { kind: "failed", status: 0, problem: { error: "unreachable", reason } };
  }
}

/** What an answer says that is none. */
export async function problem(response: Response): Promise<Problem> {
  const wait = response.headers.get("retry-after");
  const known: unknown = await response.json().catch(() => null);
  if (typeof known === "object" && known !== null && "reason" in known) {
    const told = known as Problem;
    return wait === null ? told : { ...told, reason: `${told.reason} (again in ${wait} s)` };
  }
  return { error: "unknown", reason: `it answered with status ${response.status}` };
}
