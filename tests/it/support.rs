//! A small language for tests: sites and edges, backends, clients, and waiting without guessing.

pub mod api;
mod backend;
mod balancer;
mod client;
mod edge;
mod geo;
mod http;
mod lines;
mod logged;
mod metrics;
pub mod postgres;
mod process;
mod registry;
mod reload;
mod site;
mod web;

use std::time::{Duration, Instant};

pub use backend::{Backend, BlackHole, Refusing};
pub use balancer::Balancer;
pub use client::{Client, Visit, reset};
pub use edge::Edge;
pub use geo::country_file;
pub use http::{ask, read_answer};
pub use lines::{Access, Lines};
pub use logged::Logged;
pub use metrics::Metrics;
pub use process::{connections_to, handles, make_pipe, open_pipe, raise_descriptor_limit};
pub use registry::Row;
pub use site::{Finished, Site};
pub use web::Web;

/// How long anything that must happen may take on a busy machine. Only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The value that `look` finds, asked again and again until it finds one.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// The same with a deadline that is itself part of what is tested.
pub fn within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same for what takes a future to look at.
pub async fn comes_true<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes that look random and are the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}
