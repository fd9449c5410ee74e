//! A registry that loses most of its backends at once is more often a mistake than not.

use super::{NO_AFFINITY, served, site};
use crate::support::{Backend, Edge, Row};

const BACKENDS: usize = 12;
const DELETE_8: &str = "DELETE FROM backends WHERE id >= 'b04'";

fn start(db_reload_secs: &str) -> (Vec<Backend>, Edge) {
    let names: Vec<String> = (0..BACKENDS).map(|n| format!("b{n:02}")).collect();
    let backends: Vec<Backend> = names.iter().map(|name| Backend::named(name)).collect();
    let site = site().env("EDGEPROXY_DB_RELOAD_SECS", db_reload_secs).toml(NO_AFFINITY);
    let site = names
        .iter()
        .zip(&backends)
        .fold(site, |site, (name, backend)| site.backend(Row::new(name, backend.addr())));
    let edge = site.start();
    (backends, edge)
}

fn is_held(edge: &Edge) -> bool {
    edge.metrics().value("edgeproxy_registry_change_held", &[]) == 1
}

/// Clients meet so many backends, and no others.
fn assert_served_by(edge: &Edge, count: usize) {
    // Two of twelve are drawn each time, so that it takes about 40.
    let all = served(edge, "127.0.0.1", 300);
    assert_eq!(all.len(), count, "{all:?}");
}

#[test]
fn it_is_held_and_leaves_no_trace_when_it_is_undone_in_time() {
    // Nothing is read in an hour but when a reload changes something.
    let (_backends, edge) = start("3600");
    edge.site.sql("CREATE TABLE backup AS SELECT * FROM backends");
    let mut tries = 3;
    let mut look = || {
        tries = tries % 3 + 1;
        edge.reload(&format!("connect_tries = {tries}\n{NO_AFFINITY}"));
    };
    edge.site.sql(DELETE_8);
    look();
    let said = edge.wait_for_log("a change of the registry is held");
    assert!(said.contains("8 of 12 eligible backends at once (b04, b05"), "{said}");
    edge.metrics_when("it is held", |_| is_held(&edge));
    assert_served_by(&edge, BACKENDS);
    look();
    assert_served_by(&edge, BACKENDS);
    assert!(is_held(&edge));

    edge.site.sql("INSERT INTO backends SELECT * FROM backup WHERE id >= 'b04'");
    look();
    edge.wait_for_log("the registry says again what the table in force says");
    edge.metrics_when("it is not held any more", |_| !is_held(&edge));
    assert_served_by(&edge, BACKENDS);
    assert_eq!(edge.times_logged("registry changed"), 0);
    assert_eq!(edge.times_logged("a change of the registry is held"), 1);
}

#[test]
fn it_is_taken_up_when_the_registry_says_so_for_longer_than_the_interval() {
    let (_backends, edge) = start("1");
    edge.site.sql(DELETE_8);
    edge.wait_for_log("registry changed added=0 removed=8 changed=0 backends=4");
    assert_eq!(edge.times_logged("a change of the registry is held"), 1);
    assert!(!is_held(&edge));
    assert_served_by(&edge, 4);
}
