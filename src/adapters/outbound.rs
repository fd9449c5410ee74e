//! What edgeProxy reads and writes outside itself.

pub mod geo;
pub mod prometheus;
pub mod sqlite;

pub use prometheus::PrometheusMetricsStore;
