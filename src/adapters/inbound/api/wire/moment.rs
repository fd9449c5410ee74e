//! How things are at one moment: what is told again and again.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Backend, Status};

/// How things are at one moment, once a second.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Live {
    /// The moment.
    pub at: f64,
    /// The time that rates are of.
    pub interval_secs: f64,
    /// How this process stands.
    pub status: Status,
    /// Connections accepted, a second.
    pub accepted_per_sec: f64,
    /// Requests answered, a second (http mode).
    pub requests_per_sec: f64,
    /// Bytes sent to backends, a second.
    pub sent_per_sec: f64,
    /// Bytes received from backends, a second.
    pub received_per_sec: f64,
    /// From accepting a client to its backend's answer, over the last ten seconds; absent = nobody came.
    pub setup: Option<Quantiles>,
    /// From a request's head to the end of its answer, likewise (http mode).
    pub request: Option<Quantiles>,
    /// How connections and requests ended, those reasons that there were.
    pub ends: Vec<End>,
    /// Where connections came from, the most frequent first.
    pub countries: Vec<Origin>,
    /// The busiest backends, those that are not eligible first, 200 at most.
    pub backends: Vec<Backend>,
}

/// Two quantiles, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Quantiles {
    /// The median.
    pub p50_ms: f64,
    /// Exceeded by one in a hundred.
    pub p99_ms: f64,
}

/// How often something ended for a reason.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct End {
    /// The reason, as in the access log.
    pub reason: String,
    /// Whether somebody was refused or failed for it.
    pub is_error: bool,
    /// How often since the start.
    pub total: u64,
    /// How often a second.
    pub per_sec: f64,
}

/// How many connections came from a country.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Origin {
    /// Two letters; absent = unknown.
    pub country: Option<String>,
    /// Connections since the start.
    pub total: u64,
    /// Connections a second.
    pub per_sec: f64,
}
