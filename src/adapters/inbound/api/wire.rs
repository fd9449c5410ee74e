//! What the control API says and is told, as JSON. The command line reads the same types.
//!
//! Moments are seconds since the Unix epoch; spans are seconds, unless their names say milliseconds.

mod moment;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use moment::{End, Live, Origin, Quantiles};

use super::schema::{Address, CountryCode, Name, Range, maybe_whole, whole};

/// How this process stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// The name of this POP.
    pub pop: String,
    /// The region of this POP.
    pub region: String,
    /// Seconds since the start.
    pub uptime_secs: f64,
    /// Why it is not ready for connections (`draining`); absent = it is.
    pub not_ready: Option<String>,
    /// Addresses for clients.
    pub listeners: Vec<String>,
    /// Client connections.
    pub connections: Open,
    /// Where backends come from.
    pub registry: RegistryStatus,
    /// What is in force, and since when.
    pub config: ConfigStatus,
    /// The country data: source and date.
    pub geo: String,
    /// Every app.
    pub apps: Vec<AppStatus>,
}

/// Client connections.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Open {
    /// Open now.
    pub open: usize,
    /// Most at once.
    pub limit: usize,
}

/// How the registry stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RegistryStatus {
    /// The store: `SQLite routing.db`.
    pub store: String,
    /// Whether it could be read the last time.
    pub up: bool,
    /// Time since it last said what is in force.
    pub age_secs: f64,
    /// Whether a change that would take too much away is held back.
    pub change_held: bool,
    /// Rows that are left out, and why.
    pub skipped: Vec<String>,
    /// Rows that are not deleted.
    pub backends: usize,
}

/// How the configuration stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ConfigStatus {
    /// The file, if there is one.
    pub file: Option<String>,
    /// What is wrong with what was read last, because of which the one before stays in force.
    pub error: Option<String>,
    /// Times that it was read anew and put in force.
    pub reloads: u64,
    /// Times that it could not be.
    pub failures: u64,
    /// When it was last put in force.
    pub reloaded_at: Option<f64>,
    /// What has changed but needs a restart.
    pub waiting: Vec<String>,
}

/// How an app stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AppStatus {
    /// Its name.
    pub name: String,
    /// How far its clients may be carried: any, region or country.
    pub spill: String,
    /// Its backends that are not deleted.
    pub backends: usize,
    /// Those of them that can be chosen now.
    pub eligible: usize,
    /// Whether health checks are ignored because they say that none is healthy.
    pub fails_open: bool,
}

/// All backends.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Backends {
    /// Each of them, by app and id.
    pub backends: Vec<Backend>,
}

/// What an operator asks of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It takes connections.
    Ready,
    /// It takes no new connections; open ones go on.
    Drain,
    /// It takes no new connections; open ones are closed after the drain timeout.
    Maint,
    /// It is drained, and forgotten with its last connection. Only shown, never asked for.
    Deleted,
}

/// One backend: what the registry says, and what this POP observes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    /// Its name.
    pub id: String,
    /// The app that it serves.
    pub app: String,
    /// Where it is.
    pub region: String,
    /// The country that it is in (ISO 3166-1, two letters); absent = unknown.
    pub country: Option<String>,
    /// Its address.
    #[schema(value_type = Address)]
    pub ip: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// Its share of its tier; 0 = no new connections.
    pub weight: u32,
    /// From which the next tier is preferred; 0 = none.
    pub soft_limit: u32,
    /// Never exceeded; 0 = none.
    pub hard_limit: u32,
    /// What operators ask of it everywhere.
    pub state: State,
    /// What they ask of it on this POP only.
    pub state_here: Option<State>,
    /// For one that registered itself, or of which an operator has asked something.
    pub lease: Option<Lease>,
    /// Whether it can be chosen now.
    pub eligible: bool,
    /// Why not: deleted, draining, `weight_zero`, `lease_expired`, `probe_down`, `breaker_open`, `hard_limit`.
    pub reason: Option<String>,
    /// How near it is to this POP's own clients, 1 to 3.
    pub tier: u8,
    /// Client connections, those being dialled included.
    pub active: u32,
    /// Connections kept ready.
    pub warm: u32,
    /// What probes say: unknown, healthy or unhealthy; absent = it is not probed, or takes no connections anyway.
    pub probe: Option<String>,
    /// Its breaker: closed, `half_open` or open; absent = breakers are off, or it takes no connections anyway.
    pub breaker: Option<String>,
    /// What an operator holds its breaker at: open or closed.
    pub breaker_held: Option<String>,
    /// Whether it ranks last because its last dial failed.
    pub demoted: bool,
    /// How much of its weight counts while it warms up, in percent.
    pub share: u32,
    /// Connections since the start.
    pub connections_total: u64,
    /// Bytes sent to it since the start.
    pub sent_total: u64,
    /// Bytes received from it since the start.
    pub received_total: u64,
    /// Failed dials since the start.
    pub dial_failures_total: u64,
}

/// A registered backend's lease.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// Counts registrations.
    pub generation: i64,
    /// When it ends without another heartbeat, in seconds since the epoch; absent = it lives without.
    pub expires_at: Option<i64>,
}

/// A backend that registers itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Its name, unique in the registry: 1 to 128 visible characters without spaces, quotes or commas.
    #[schema(value_type = Name, example = "gru-1")]
    pub id: String,
    /// The app that it serves.
    #[schema(value_type = Name, example = "web")]
    pub app: String,
    /// Where it is: sa, us, eu, ap or one of your own.
    #[schema(value_type = Name, example = "sa")]
    pub region: String,
    /// Its address on the private network, an IP literal.
    #[schema(value_type = Address, example = "10.50.1.1")]
    pub ip: String,
    /// Its TCP port.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 65535, example = 8080)]
    pub port: i64,
    /// The country that it is in (ISO 3166-1, two letters).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CountryCode>, example = "BR")]
    pub country: Option<String>,
    /// Its share of its tier; 1 if not given.
    #[serde(default, deserialize_with = "maybe_whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub weight: Option<i64>,
    /// From which the next tier is preferred; 100 if not given, 0 = none.
    #[serde(default, deserialize_with = "maybe_whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub soft_limit: Option<i64>,
    /// Never exceeded; 150 if not given, 0 = none.
    #[serde(default, deserialize_with = "maybe_whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub hard_limit: Option<i64>,
}

/// What came of a registration.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Registered {
    /// The backend.
    pub id: String,
    /// To be given with heartbeats, so that a late one cannot renew a later registration.
    pub generation: i64,
    /// The lease ends so many seconds after the last heartbeat.
    pub ttl_secs: u64,
    /// How often to send one.
    pub heartbeat_every_secs: u64,
    /// Whether it takes traffic on this POP by now; false when the store did not answer in time.
    pub in_force: bool,
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Which registration it is of; not given = the last.
    #[serde(default, deserialize_with = "maybe_whole", skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// What came of a heartbeat.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Renewed {
    /// Which registration was renewed.
    pub generation: i64,
    /// The lease ends so many seconds from now without another.
    pub ttl_secs: u64,
}

/// What an operator asks of a backend.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetState {
    /// ready, drain or maint.
    pub state: Asked,
    /// On this POP only, until it ends.
    #[serde(default)]
    pub here: bool,
    /// With drain or maint: close what is open on this POP after so many seconds.
    #[serde(default, deserialize_with = "maybe_whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 86_400)]
    pub close_after_secs: Option<i64>,
}

/// What can be asked of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    /// Take connections.
    Ready,
    /// Take no new connections; open ones go on.
    Drain,
    /// Take no new connections; open ones are closed after the drain timeout.
    Maint,
}

/// How a breaker is held.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetBreaker {
    /// open, closed, or auto to let it work by itself again.
    pub state: Held,
}

/// How a breaker is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Held {
    /// Lets nobody through.
    Open,
    /// Lets everybody through.
    Closed,
    /// Works by itself.
    Auto,
}

/// How far a drain is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// The backend.
    pub id: String,
    /// What is asked of it now.
    pub state: State,
    /// Client connections that are still open on this POP.
    pub active: u32,
}

/// Choices outside the best tier.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Choices {
    /// The latest first.
    pub choices: Vec<Choice>,
}

/// A client that was not carried to the tier nearest to it, and why.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Choice {
    /// When, for the last time.
    pub at: f64,
    /// When, for the first time.
    pub since: f64,
    /// How often.
    pub count: u64,
    /// The client.
    #[schema(value_type = Address)]
    pub client: IpAddr,
    /// Its country; absent = unknown.
    pub country: Option<String>,
    /// The app that it asked for.
    pub app: String,
    /// Where it was carried.
    pub backend: String,
    /// How near that is, 0 to 3.
    pub tier: u8,
    /// How near the nearest backends of the app are, 0 to 3.
    pub best_tier: u8,
    /// Why not to nearer ones: `scl-1 probe_down`, `gru-1 soft 100/100`; a few of them.
    pub reasons: Vec<String>,
    /// How many nearer backends there are besides.
    pub more: usize,
}

/// Open connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// How many match.
    pub total: usize,
    /// The oldest of them, as many as were asked for.
    pub connections: Vec<Connection>,
}

/// An open connection.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// Its name in this process, to close it by.
    pub id: String,
    /// The client's address and port.
    pub client: String,
    /// The client's country; absent = unknown.
    pub country: Option<String>,
    /// The app; absent while nobody knows.
    pub app: Option<String>,
    /// The backend; absent while there is none.
    pub backend: Option<String>,
    /// dialing, relaying, or serving (http mode).
    pub state: String,
    /// How long it has been open.
    pub age_secs: f64,
    /// How long nothing has happened on it.
    pub idle_secs: f64,
    /// Bytes sent to the backend; absent in http mode, where they are counted for each request.
    pub sent: Option<u64>,
    /// Bytes received from the backend.
    pub received: Option<u64>,
    /// The server's name of TLS that was asked for.
    pub server_name: Option<String>,
}

/// How many connections were closed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Killed {
    /// So many.
    pub killed: usize,
}

/// The deny list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DenyList {
    /// Its entries.
    pub entries: Vec<Denied>,
}

/// An entry of the deny list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Denied {
    /// Whom it refuses.
    pub cidr: String,
    /// When it ends; absent = never.
    pub expires_at: Option<i64>,
    /// Why, as somebody said.
    pub note: Option<String>,
    /// Whether the configuration says so, which only a reload changes.
    pub configured: bool,
}

/// A new entry of the deny list, or another end for the one that there is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deny {
    /// Whom it refuses: an address or a range.
    #[schema(value_type = Range, example = "203.0.113.0/24")]
    pub cidr: String,
    /// How long, in seconds; not given = until it is taken off or the process ends.
    #[serde(default, deserialize_with = "maybe_whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub for_secs: Option<i64>,
    /// Why, for whoever reads the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub note: Option<String>,
    /// Whether to close what such clients have open.
    #[serde(default)]
    pub kill: bool,
}

/// Who is refused, and how often.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Whether the rate limit is on.
    pub enabled: bool,
    /// Whether it only counts.
    pub dry_run: bool,
    /// Requests a window.
    pub max_requests: u32,
    /// The window.
    pub window_secs: f64,
    /// Requests at once.
    pub burst: u32,
    /// Clients forgotten before their buckets were full.
    pub evictions: u64,
    /// Who was refused most in the last ten minutes.
    pub refused: Vec<Refused>,
}

/// A client that was refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Refused {
    /// Its address, or IPv6 /64.
    pub client: String,
    /// Why: `rate_limited`, `denied`, `client_cap`, `global_cap` or `proxy_header`.
    pub reason: String,
    /// How often at least.
    pub count: u64,
}

/// The effective configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    /// The file, if there is one.
    pub file: Option<String>,
    /// Every setting, secrets masked.
    pub settings: Vec<Setting>,
    /// What only the file can say, each as one line (`app.web.spill = region`).
    pub parts: Vec<Part>,
}

/// A setting.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Its variable.
    pub name: String,
    /// Its name in the file.
    pub toml: String,
    /// Its value, masked if it is a secret.
    pub value: String,
    /// Where it comes from: env, file or default.
    pub origin: String,
    /// Whether a reload changes it.
    pub reloadable: bool,
}

/// What only the file can say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What a reload has changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// What is in force now: `rate_limit.burst: 10 -> 50`.
    pub changes: Vec<String>,
    /// What needs a restart.
    pub waiting: Vec<String>,
}

/// What a look at the registry came to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Refreshed {
    /// Rows in force that are not deleted.
    pub backends: usize,
}

/// What would happen if something were gone.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Each backend and each region of each app, those that would not fit first.
    pub losses: Vec<Loss>,
}

/// A loss, and whether the others could take over.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Loss {
    /// The app.
    pub app: String,
    /// backend or region.
    pub kind: String,
    /// Which.
    pub name: String,
    /// Connections that would have to go elsewhere.
    pub active: u64,
    /// How many more the others take below their soft limits; absent = any number.
    pub room_below_soft: Option<u64>,
    /// How many more they take below their hard limits; absent = any number.
    pub room_below_hard: Option<u64>,
    /// fits, `over_soft` (it fits above soft limits), or `too_much`.
    pub verdict: String,
}

/// Whether the process lives, or is ready.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// ok, ready or `not_ready`.
    pub status: String,
    /// Why it is not ready: draining, or `no_backend`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is wrong with a request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// One word: `invalid`, `malformed`, `unauthorized`, `forbidden`, `not_found`, `method_not_allowed`,
    /// `conflict`, `gone`, `too_large`, `unsupported_media_type`, `too_many_requests`, `timeout`,
    /// `unavailable` or `internal`.
    pub error: String,
    /// For people.
    pub reason: String,
    /// What is wrong with which field of what was sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Field {
    /// Its name.
    pub field: String,
    /// What it is, and what it may be.
    pub reason: String,
}
