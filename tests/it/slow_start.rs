//! Backends that are new or recover begin with a tenth of their share.

use std::collections::BTreeMap;

use crate::support::{Edge, Refusing, Row, Site, Web};

/// Connections that are counted, one after the other.
const CLIENTS: u32 = 400;

/// In an hour nothing has changed by the end of a test.
fn site(secs: u32) -> Site {
    Site::new()
        .without_affinity()
        .with_metrics()
        .env("EDGEPROXY_SLOW_START_SECS", &secs.to_string())
}

/// Of so many clients in the hundred that this backend serves.
pub fn percent_of(edge: &Edge, backend: &str) -> u32 {
    let mut served: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..CLIENTS {
        *served.entry(edge.fetch().unwrap()).or_default() += 1;
    }
    served.get(backend).copied().unwrap_or(0) * 100 / CLIENTS
}

/// What one of two equal backends gets. It varies by 2.5; more than six times that is allowed.
pub const HALF: std::ops::RangeInclusive<u32> = 34..=66;
/// What it gets as long as it counts for a tenth: one part of eleven, which varies by 1.4.
pub const LITTLE: std::ops::RangeInclusive<u32> = 1..=18;

#[test]
fn at_the_start_of_the_process_every_backend_gets_its_full_share() {
    let [one, other] = ["one", "other"].map(Web::named);
    let edge = site(3_600)
        .backend(Row::new("one", one.addr()))
        .backend(Row::new("other", other.addr()))
        .start();
    let share = percent_of(&edge, "one");
    assert!(HALF.contains(&share), "{share} %");
}

#[test]
fn a_backend_that_is_added_later_gets_a_tenth_of_its_share() {
    let [old, new] = ["old", "new"].map(Web::named);
    let edge = site(3_600).backend(Row::new("old", old.addr())).start();
    edge.site.sql(&Row::new("new", new.addr()).insert());
    edge.wait_for_log("registry changed added=1");
    let share = percent_of(&edge, "new");
    assert!(LITTLE.contains(&share), "{share} %");
}

#[test]
fn its_share_grows_to_the_full() {
    let [old, new] = ["old", "new"].map(Web::named);
    let edge = site(1).backend(Row::new("old", old.addr())).start();
    edge.site.sql(&Row::new("new", new.addr()).insert());
    edge.wait_for_log("registry changed added=1");
    let grown = (0..20).any(|_| HALF.contains(&percent_of(&edge, "new")));
    assert!(grown, "it never gets its share");
}

#[test]
fn when_it_is_off_a_new_backend_gets_its_full_share_at_once() {
    let [old, new] = ["old", "new"].map(Web::named);
    let edge = site(0).backend(Row::new("old", old.addr())).start();
    edge.site.sql(&Row::new("new", new.addr()).insert());
    edge.wait_for_log("registry changed added=1");
    let share = percent_of(&edge, "new");
    assert!(HALF.contains(&share), "{share} %");
}

#[test]
fn a_backend_that_is_back_by_its_probes_starts_slowly() {
    let [sick, twin] = ["sick", "twin"].map(Web::named);
    sick.tells_probes(500);
    let edge = site(3_600)
        .env("EDGEPROXY_HEALTH_CHECK_ENABLED", "true")
        .env("EDGEPROXY_HEALTH_CHECK_TYPE", "http")
        .env("EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS", "1")
        .backend(Row::new("sick", sick.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    edge.wait_for_log("unhealthy: the first probe failed");
    assert_eq!(percent_of(&edge, "twin"), 100);
    sick.tells_probes(200);
    edge.wait_for_log("healthy again");
    let share = percent_of(&edge, "sick");
    assert!(LITTLE.contains(&share), "{share} %");
}

#[test]
fn a_backend_that_is_back_by_its_breaker_starts_slowly() {
    let dead = Refusing::new();
    let twin = Web::named("twin");
    let edge = site(3_600)
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
        .env("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "1")
        .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "1")
        .backend(Row::new("dead", dead.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    let state = || edge.metrics().value("edgeproxy_breaker_state", &[("backend", "dead")]);
    while state() == 0 {
        assert_eq!(edge.fetch().unwrap(), "twin");
    }
    let _back = dead.wake("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback");
    while state() != 0 {
        edge.fetch().unwrap();
    }
    let share = percent_of(&edge, "back");
    assert!(LITTLE.contains(&share), "{share} %");
}
