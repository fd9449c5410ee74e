//! Another configuration for a process that runs: what it puts in force, what it leaves alone, what it
//! refuses, and when it is read.

mod at_once;
mod backends;
mod in_force;
mod kept;
mod load;
mod mass_change;
mod refused;
mod watched;

use crate::support::{Backend, Edge, Metrics, Row, Site, Visit};

/// With metrics, and nothing in the environment that a test's file says.
fn site() -> Site {
    Site::new().with_metrics()
}

/// The same with one backend.
fn one(backend: &Backend) -> Site {
    site().backend(Row::new("a", backend.addr()))
}

/// Without affinity, by the file.
const NO_AFFINITY: &str = "[binding]\nttl_secs = 0\n";

/// Backends that say these names.
fn named<const N: usize>(names: [&str; N]) -> [Backend; N] {
    names.map(Backend::named)
}

fn is_eligible(metrics: &Metrics, backend: &str) -> bool {
    metrics.value("edgeproxy_backend_eligible", &[("backend", backend)]) == 1
}

/// Who serves so many clients of one address that come one after the other.
fn served(edge: &Edge, from: &str, clients: usize) -> Vec<String> {
    let visit = |_| edge.visit_from(from).unwrap().served_by;
    let mut all: Vec<String> = (0..clients).map(visit).collect();
    all.sort();
    all.dedup();
    all
}

/// A connection that is open all the while, from an address that no other client has.
struct Open(Visit);

impl Open {
    fn at(edge: &Edge) -> Self {
        let mut open = Self(edge.visit_from("127.0.99.1").unwrap());
        open.goes_on();
        open
    }

    fn goes_on(&mut self) {
        self.0.client.echo("carried both ways").unwrap();
    }
}
