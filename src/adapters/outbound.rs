//! What edgeProxy reads and writes outside itself.

pub mod geo;
mod leases;
pub mod postgres;
pub mod prometheus;
pub mod snapshot_file;
pub mod sqlite;
pub mod static_file;

pub use postgres::{PostgresBackendRepository, PostgresConfig};
pub use prometheus::PrometheusMetricsStore;
pub use static_file::StaticBackendRepository;
