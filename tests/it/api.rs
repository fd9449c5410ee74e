//! The control API: what programs and operators see and steer, and who may.

mod access;
mod admission;
mod clients;
mod contract;
mod garbage;
mod leases;
mod registration;
mod steering;
mod views;

use crate::support::{Edge, Row, Site};

/// An edge with the API and these backends.
fn edge_with(rows: impl IntoIterator<Item = Row>) -> Edge {
    rows.into_iter().fold(site(), Site::backend).start()
}

fn site() -> Site {
    Site::new().with_api().without_affinity().env("EDGEPROXY_SLOW_START_SECS", "0")
}
