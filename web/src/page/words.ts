// What the words of the API mean, in plain sentences.

const REASONS: Record<string, string> = {
  deleted: "It was removed and only finishes what is open",
  draining: "An operator drains it",
  weight_zero: "Its weight is 0",
  lease_expired: "Its lease has ended: no heartbeat came",
  probe_down: "Its health check fails",
  breaker_open: "Its circuit breaker is open",
  hard_limit: "It is at its hard limit",
  dial_failed: "Its last dial failed, so it comes last",
  without: "Left out in this what-if",
  spill_region: "Clients of this app stay in their region",
  spill_country: "Clients of this app stay in their country",
};

const TIERS = ["the client's country", "the client's region", "this POP's region", "another region"];

const ENDS: Record<string, string> = {
  client_closed: "The client ended it",
  backend_closed: "The backend ended it",
  client_reset: "The client reset it",
  backend_reset: "The backend reset it",
  idle: "Nothing happened for too long",
  no_backend: "No backend may take such a client",
  at_hard_limit: "Every backend is at its hard limit",
  connect_failed: "No backend could be dialled",
  proxy_header: "The PROXY protocol header was missing or wrong",
  tls_failed: "The TLS handshake failed",
  drained: "Closed by a drain or a stop",
  killed: "Closed by an operator or a health check",
  internal: "A fault in the proxy or a shortage",
  denied: "On the deny list",
  rate_limited: "Came too often",
  client_cap: "Has too many connections open",
  global_cap: "Too many connections in all",
  served: "The backend answered",
  bad_request: "The request could not be read safely",
  unknown_host: "The host leads to no app",
  request_timeout: "The client was late with its request",
  response_timeout: "The backend was late with its answer",
};

/** Why a backend is ranked as it is: `soft 100/100`, `farther: another region`, `probe_down`. */
export function why(reason: string): string {
  const known = REASONS[reason];
  if (known !== undefined) return known;
  const near = /^(chosen|farther): (.+)$/.exec(reason);
  if (near !== null) {
    const where = near[2] ?? "";
    return `${near[1] === "chosen" ? "Chosen" : "Farther"}: ${TIERS.includes(where) ? "in " : ""}${where}`;
  }
  const limit = /^(soft|hard) (\d+)\/(\d+)$/.exec(reason);
  if (limit !== null) return `At its ${limit[1]} limit: ${limit[2]} of ${limit[3]} open`;
  return reason;
}

/** How near a tier is. */
export function tier(number: number | null): string {
  return number === null ? "not allowed" : (TIERS[number] ?? `tier ${number}`);
}

/** How a connection or request ended. */
export function end(reason: string): string {
  return ENDS[reason] ?? reason.replaceAll("_", " ");
}
