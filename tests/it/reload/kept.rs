//! What a reload that changes something else leaves as it is.

use super::{NO_AFFINITY, is_eligible, named, served, site};
use crate::slow_start::{HALF, LITTLE, percent_of};
use crate::support::{Client, Metrics, Refusing, Row, Web, eventually};

/// One token an hour.
const HOURLY: &str = "[rate_limit]\nenabled = true\nmax_requests = 1\nwindow_secs = 3600\n";

#[test]
fn what_a_client_has_spent_of_its_rate_limit_stays_spent_whatever_else_changes() {
    let [a] = named(["a"]);
    let limits = |burst: u32| format!("{HOURLY}burst = {burst}");
    let edge = site().toml(&limits(3)).backend(Row::new("a", a.addr())).start();
    let admitted = |ip: &str| (0..10).filter(|_| edge.visit_from(ip).is_ok()).count();
    assert_eq!(admitted("127.0.7.1"), 3);
    edge.reload(&format!("connect_tries = 2\n{}", limits(3)));
    assert_eq!(admitted("127.0.7.1"), 0);
    edge.reload(&limits(5));
    assert_eq!(admitted("127.0.7.1"), 2, "of five it has spent three");
    edge.reload(&limits(2));
    assert_eq!(admitted("127.0.7.1"), 0);
    edge.reload(&limits(2).replace("max_requests = 1", "max_requests = 2"));
    assert_eq!(admitted("127.0.7.1"), 0);
    assert_eq!(admitted("127.0.7.2"), 2);
}

#[test]
fn an_open_circuit_breaker_stays_open_also_when_breakers_change() {
    let dead = Refusing::new();
    let [twin] = named(["twin"]);
    let breakers = |threshold: u32, timeout: u32| {
        format!(
            "{NO_AFFINITY}[circuit_breaker]\nenabled = true\nfailure_threshold = {threshold}\n\
             timeout_secs = {timeout}\n"
        )
    };
    let edge = site()
        .toml(&breakers(1, 3_600))
        .backend(Row::new("dead", dead.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    let is_open =
        |metrics: &Metrics| metrics.value("edgeproxy_breaker_state", &[("backend", "dead")]) == 2;
    while !is_open(&edge.metrics()) {
        assert_eq!(edge.visit().unwrap().served_by, "twin");
    }
    let back = dead.wake("back");
    edge.reload(&format!("connect_tries = 2\n{}", breakers(1, 3_600)));
    edge.reload(&breakers(100, 7_200));
    assert!(is_open(&edge.metrics()));
    assert_eq!(served(&edge, "127.0.0.1", 50), ["twin"]);
    assert_eq!(back.accepted(), 0);
}

#[test]
fn a_client_keeps_its_backend_though_another_would_be_chosen_now() {
    let [gru, fra] = named(["gru", "fra"]);
    let edge = site()
        .backend(Row::new("gru", gru.addr()).place("sa", "BR"))
        .backend(Row::new("fra", fra.addr()).place("eu", "DE"))
        .start();
    assert_eq!(served(&edge, "127.0.2.1", 1), ["gru"]);
    edge.reload("[[geo_override]]\ncidr = \"127.0.2.0/24\"\ncountry = \"DE\"");
    assert_eq!(served(&edge, "127.0.2.2", 1), ["fra"]);
    assert_eq!(served(&edge, "127.0.2.1", 20), ["gru"]);
}

#[test]
fn a_backend_that_is_down_stays_down_without_another_probe() {
    let [sick, twin] = ["sick", "twin"].map(Web::named);
    sick.tells_probes(500);
    let probing = "[health_check]\nenabled = true\ntype = \"http\"\ninterval_secs = 3600\n";
    let edge = site()
        .toml(probing)
        .backend(Row::new("sick", sick.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    edge.metrics_when("it is out", |metrics| !is_eligible(metrics, "sick"));
    sick.tells_probes(200);
    let probes = || (sick.probes().len(), twin.probes().len());
    // Each is probed at once, and again within the hour, at a moment drawn from it.
    let before = (1, 1);
    eventually("both are probed", || (probes() == before).then_some(()));
    edge.reload(&format!("connect_tries = 2\n{probing}"));
    assert!(!is_eligible(&edge.metrics(), "sick"));
    for _ in 0..20 {
        assert_eq!(edge.fetch().unwrap(), "twin");
    }
    assert_eq!(probes(), before);
}

#[test]
fn a_backend_that_is_down_stays_down_when_it_is_probed_otherwise_until_enough_probes_pass() {
    let [sick, twin] = ["sick", "twin"].map(Web::named);
    sick.tells_probes(500);
    let probing = |threshold: u32| {
        format!(
            "[health_check]\nenabled = true\ntype = \"http\"\ninterval_secs = 3600\n\
             healthy_threshold = {threshold}"
        )
    };
    let edge = site()
        .toml(&probing(2))
        .backend(Row::new("sick", sick.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    edge.metrics_when("it is out", |metrics| !is_eligible(metrics, "sick"));
    sick.tells_probes(200);
    let probes = sick.probes().len();
    edge.reload(&probing(3));
    eventually("it is probed in the new manner", || (sick.probes().len() > probes).then_some(()));
    assert!(!is_eligible(&edge.metrics(), "sick"), "one is not three");
}

#[test]
fn connections_that_are_open_count_against_the_hard_limit_and_the_clients_own() {
    let [a] = named(["a"]);
    let edge = site()
        .toml("max_connections_per_client = 2")
        .backend(Row::new("a", a.addr()).hard_limit(3))
        .start();
    let first = edge.visit_from("127.0.7.1").unwrap();
    let _second = edge.visit_from("127.0.7.1").unwrap();
    let third = edge.visit_from("127.0.7.2").unwrap();
    for tries in [1, 2, 3] {
        edge.reload(&format!("max_connections_per_client = 2\nconnect_tries = {tries}"));
        Client::refused("127.0.7.1", edge.addr);
        assert_eq!(&edge.refusal_of("127.0.7.3")["reason"], "at_hard_limit");
    }
    let addr = first.client.addr();
    drop(first);
    edge.access_of_addr(addr);
    let _again = edge.visit_from("127.0.7.1").unwrap();
    assert_eq!(&edge.refusal_of("127.0.7.3")["reason"], "at_hard_limit");
    drop(third);
}

#[test]
fn slow_start_neither_begins_anew_nor_ends() {
    let [one, other, new] = ["one", "other", "new"].map(Web::named);
    let slowly = format!("slow_start_secs = 3600\n{NO_AFFINITY}");
    let edge = site()
        .toml(&slowly)
        .backend(Row::new("one", one.addr()))
        .backend(Row::new("other", other.addr()))
        .start();
    edge.reload(&format!("connect_tries = 2\n{slowly}"));
    let share = percent_of(&edge, "one");
    assert!(HALF.contains(&share), "{share} %");
    edge.site.sql("DELETE FROM backends WHERE id = 'other'");
    edge.wait_for_log("removed=1");
    edge.site.sql(&Row::new("new", new.addr()).insert());
    edge.wait_for_log("registry changed added=1");
    edge.reload(&format!("connect_tries = 1\n{slowly}"));
    let share = percent_of(&edge, "new");
    assert!(LITTLE.contains(&share), "{share} %");
}

#[test]
fn warm_connections_stay_open_for_those_who_come() {
    let [a] = named(["a"]);
    let pool = "[pool]\nenabled = true\nidle_timeout_secs = 3600\n";
    let edge =
        site().env("EDGEPROXY_WORKERS", "1").toml(pool).backend(Row::new("a", a.addr())).start();
    let warm = |m: &Metrics| m.sum("edgeproxy_pool_idle_connections", &[]);
    drop(edge.visit().unwrap());
    edge.metrics_when("two wait", |metrics| warm(metrics) == 2);
    eventually("both were accepted", || (a.accepted() == 3).then_some(()));
    edge.reload(&format!("connect_tries = 2\n{pool}"));
    assert_eq!(warm(&edge.metrics()), 2);
    assert_eq!(a.accepted(), 3);
}
