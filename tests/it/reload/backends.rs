//! What a reload puts in force for backends, while connections that are open go on.

use std::io::ErrorKind;

use super::{NO_AFFINITY, Open, is_eligible, named, one, served, site};
use crate::slow_start::{HALF, LITTLE, percent_of};
use crate::support::{Metrics, Refusing, Row, Web, eventually};

#[test]
fn circuit_breakers_and_after_how_many_failures_they_open() {
    let dead = Refusing::new();
    let edge = site().backend(Row::new("dead", dead.addr())).start();
    let state = |metrics: &Metrics| metrics.sum("edgeproxy_breaker_state", &[("backend", "dead")]);
    for _ in 0..6 {
        assert_eq!(&edge.refusal_of("127.0.0.1")["reason"], "connect_failed");
    }
    assert!(!edge.metrics().has("edgeproxy_breaker_state", &[]));
    let breakers = |threshold: u32| {
        format!(
            "[circuit_breaker]\nenabled = true\nfailure_threshold = {threshold}\ntimeout_secs = 3600"
        )
    };
    edge.reload(&breakers(1_000));
    for _ in 0..6 {
        edge.refusal_of("127.0.0.1");
    }
    assert_eq!(state(&edge.metrics()), 0, "what was before does not count");
    edge.reload(&breakers(7));
    eventually("it opens", || {
        edge.refusal_of("127.0.0.1");
        (state(&edge.metrics()) == 2).then_some(())
    });
    assert!(!is_eligible(&edge.metrics(), "dead"));
    edge.reload("");
    assert!(!edge.metrics().has("edgeproxy_breaker_state", &[]));
    assert!(is_eligible(&edge.metrics(), "dead"));
}

/// Health checks that are made once, so that what is seen is the work of the reload.
fn probing(rest: &str) -> String {
    format!("[health_check]\nenabled = true\ninterval_secs = 3600\nhealthy_threshold = 1\n{rest}")
}

#[test]
fn health_checks_what_they_ask_and_that_they_are_off() {
    let [sick, twin] = ["sick", "twin"].map(Web::named);
    sick.tells_probes(500);
    let edge = site()
        .without_affinity()
        .backend(Row::new("sick", sick.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    let mut open = edge.client();
    assert_eq!(open.fetch().unwrap(), open.fetch().unwrap());
    let becomes = |eligible| {
        edge.metrics_when("it has been found out", |metrics| {
            is_eligible(metrics, "sick") == eligible && is_eligible(metrics, "twin")
        });
    };
    becomes(true);
    edge.reload(&probing("type = \"http\""));
    becomes(false);
    for _ in 0..20 {
        assert_eq!(edge.fetch().unwrap(), "twin");
    }
    edge.reload(&probing("type = \"http\"\npath = \"/\""));
    becomes(true);
    edge.reload(&probing("type = \"http\"\nunhealthy_threshold = 1"));
    becomes(false);
    edge.reload(&probing("type = \"tcp\""));
    becomes(true);
    edge.reload(&probing("type = \"http\"\nunhealthy_threshold = 1"));
    becomes(false);
    edge.reload("");
    becomes(true);
    open.fetch().unwrap();
    let probes = sick.probes().len();
    edge.site.sql("UPDATE backends SET weight = 2");
    edge.wait_for_log("registry changed");
    assert_eq!(sick.probes().len(), probes, "nobody is probed any more");
}

#[test]
fn how_often_backends_are_probed_and_whether_one_that_fails_loses_its_connections() {
    let [sick, twin] = ["sick", "twin"].map(Web::named);
    let edge = site()
        .toml(&probing("type = \"http\""))
        .backend(Row::new("sick", sick.addr()))
        .backend(Row::new("twin", twin.addr()).place("eu", "DE"))
        .start();
    eventually("it is probed", || sick.probes().pop());
    let mut client = edge.client();
    assert_eq!(client.fetch().unwrap(), "sick");
    sick.tells_probes(500);
    edge.reload(&probing("type = \"http\"\nclose_connections = true").replace("3600", "1"));
    assert_eq!(client.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(&edge.access_of(&client)["reason"], "killed");
}

#[test]
fn what_an_apps_own_health_checks_ask() {
    let [web] = ["web"].map(Web::named);
    let edge = site().toml(&probing("type = \"http\"")).backend(Row::new("a", web.addr())).start();
    let asked = |times: usize, for_path: &str| {
        let probe = eventually("it is probed", || web.probes().get(times - 1).cloned());
        assert!(probe.starts_with(&format!("GET {for_path} ")), "{probe}");
    };
    asked(1, "/health");
    edge.reload(&probing("type = \"http\"\n[app.web.health]\npath = \"/own\""));
    asked(2, "/own");
    assert_eq!(web.probes().len(), 2);
}

#[test]
fn warm_connections_and_that_there_are_none() {
    let [a] = named(["a"]);
    let edge = one(&a).start();
    let mut open = Open::at(&edge);
    let warm = |m: &Metrics| m.sum("edgeproxy_pool_idle_connections", &[]);
    edge.visit().unwrap();
    assert_eq!(warm(&edge.metrics()), 0);
    for _ in 0..2 {
        edge.reload("[pool]\nenabled = true");
        edge.visit().unwrap();
        edge.metrics_when("some wait", |metrics| warm(metrics) > 0);
        edge.reload("");
        edge.metrics_when("they are closed", |metrics| warm(metrics) == 0);
        open.goes_on();
    }
    drop(open);
    a.wait_until_idle();
}

#[test]
fn how_slowly_new_backends_start() {
    let [old, new] = ["old", "new"].map(Web::named);
    let slowly = |secs: u32| format!("slow_start_secs = {secs}\n{NO_AFFINITY}");
    let edge = site().toml(&slowly(0)).backend(Row::new("old", old.addr())).start();
    edge.reload(&slowly(3_600));
    edge.site.sql(&Row::new("new", new.addr()).insert());
    edge.wait_for_log("registry changed added=1");
    let share = percent_of(&edge, "new");
    assert!(LITTLE.contains(&share), "{share} %");
    edge.reload(&slowly(0));
    let share = percent_of(&edge, "new");
    assert!(HALF.contains(&share), "{share} %");
}

#[test]
fn how_often_the_registry_is_looked_at() {
    let [a, b] = named(["a", "b"]);
    let edge = one(&a).env("EDGEPROXY_DB_RELOAD_SECS", "").toml("db_reload_secs = 3600").start();
    edge.site.sql("UPDATE backends SET weight = 2");
    edge.reload("db_reload_secs = 7200");
    edge.wait_for_log("registry changed added=0");
    edge.site.sql(&Row::new("b", b.addr()).insert());
    // As long as nothing is due, nothing is read.
    assert_eq!(served(&edge, "127.0.0.1", 100), ["a"]);
    assert_eq!(edge.times_logged("registry changed"), 1);
    edge.reload("db_reload_secs = 1");
    edge.wait_for_log("registry changed added=1");
}
