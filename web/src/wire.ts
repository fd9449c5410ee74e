// What the control API says and is told. Moments are seconds since the Unix epoch.

export type State = "ready" | "drain" | "maint" | "deleted";
export type Asked = "ready" | "drain" | "maint";
export type Held = "open" | "closed" | "auto";

export interface Status {
  version: string;
  pid: number;
  pop: string;
  region: string;
  uptime_secs: number;
  not_ready: string | null;
  listeners: string[];
  connections: { open: number; limit: number };
  registry: RegistryStatus;
  config: ConfigStatus;
  geo: string;
  apps: AppStatus[];
}

export interface RegistryStatus {
  store: string;
  up: boolean;
  age_secs: number;
  change_held: boolean;
  skipped: string[];
  backends: number;
}

export interface ConfigStatus {
  file: string | null;
  error: string | null;
  reloads: number;
  failures: number;
  reloaded_at: number | null;
  waiting: string[];
}

export interface AppStatus {
  name: string;
  spill: string;
  backends: number;
  eligible: number;
  fails_open: boolean;
}

export interface Lease {
  generation: number;
  expires_at: number | null;
}

export interface Backend {
  id: string;
  app: string;
  region: string;
  country: string | null;
  ip: string;
  port: number;
  weight: number;
  soft_limit: number;
  hard_limit: number;
  state: State;
  state_here: State | null;
  lease: Lease | null;
  eligible: boolean;
  reason: string | null;
  tier: number;
  active: number;
  warm: number;
  probe: string | null;
  breaker: string | null;
  breaker_held: string | null;
  demoted: boolean;
  share: number;
  connections_total: number;
  sent_total: number;
  received_total: number;
  dial_failures_total: number;
}

export interface Backends {
  backends: Backend[];
}

export interface Drain {
  id: string;
  state: State;
  active: number;
}

export interface SetState {
  state: Asked;
  here: boolean;
  close_after_secs?: number;
}

export interface Explanation {
  client: string;
  country: string | null;
  region: string | null;
  app: string;
  spill: string;
  bound: string | null;
  backends: Ranked[];
}

export interface Ranked {
  id: string;
  address: string;
  region: string;
  country: string | null;
  tier: number | null;
  active: number;
  soft_limit: number;
  hard_limit: number;
  weight: number;
  share: number;
  reason: string;
}

export interface Choices {
  choices: Choice[];
}

export interface Choice {
  at: number;
  since: number;
  count: number;
  client: string;
  country: string | null;
  app: string;
  backend: string;
  tier: number;
  best_tier: number;
  reasons: string[];
  more: number;
}

export interface Connections {
  total: number;
  connections: Connection[];
}

export interface Connection {
  id: string;
  client: string;
  country: string | null;
  app: string | null;
  backend: string | null;
  state: string;
  age_secs: number;
  idle_secs: number;
  sent: number | null;
  received: number | null;
  server_name: string | null;
}

export interface Killed {
  killed: number;
}

export interface DenyList {
  entries: Denied[];
}

export interface Denied {
  cidr: string;
  expires_at: number | null;
  note: string | null;
  configured: boolean;
}

export interface Deny {
  cidr: string;
  for_secs?: number;
  note?: string;
  kill: boolean;
}

export interface Limits {
  enabled: boolean;
  dry_run: boolean;
  max_requests: number;
  window_secs: number;
  burst: number;
  evictions: number;
  refused: Refused[];
}

export interface Refused {
  client: string;
  reason: string;
  count: number;
}

export interface Settings {
  file: string | null;
  settings: Setting[];
  parts: { name: string; value: string }[];
}

export interface Setting {
  name: string;
  toml: string;
  value: string;
  origin: string;
  reloadable: boolean;
}

export interface Reloaded {
  changes: string[];
  waiting: string[];
}

export interface Capacity {
  losses: Loss[];
}

export interface Loss {
  app: string;
  kind: string;
  name: string;
  active: number;
  room_below_soft: number | null;
  room_below_hard: number | null;
  verdict: string;
}

export interface Live {
  at: number;
  interval_secs: number;
  status: Status;
  accepted_per_sec: number;
  requests_per_sec: number;
  sent_per_sec: number;
  received_per_sec: number;
  setup: Quantiles | null;
  request: Quantiles | null;
  ends: End[];
  countries: Origin[];
  backends: Backend[];
}

export interface Quantiles {
  p50_ms: number;
  p99_ms: number;
}

export interface End {
  reason: string;
  is_error: boolean;
  total: number;
  per_sec: number;
}

export interface Origin {
  country: string | null;
  total: number;
  per_sec: number;
}

export interface Problem {
  error: string;
  reason: string;
  fields?: { field: string; reason: string }[];
}
