//! Leases of registered backends: how long they last, and what renews them.

use std::time::{Duration, Instant};

use serde_json::json;

use super::site;
use crate::support::postgres::Postgres;
use crate::support::{Backend, Site, eventually};

fn with_ttl(secs: u32) -> Site {
    site().env("EDGEPROXY_HEARTBEAT_TTL_SECS", &secs.to_string())
}

#[test]
fn a_backend_lives_while_its_heartbeats_come_and_no_longer() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = with_ttl(2).start();
    let api = edge.api();
    api.register("a", a.addr()).ok();
    api.register("b", b.addr()).ok();
    let begun = Instant::now();
    let mut last = begun;
    // Heartbeats for twice the time that a lease lasts.
    while begun.elapsed() < Duration::from_secs(4) {
        last = Instant::now();
        assert_eq!(api.heartbeat("a").status, 200);
        assert_eq!(api.backend("a")["eligible"], true);
        std::thread::park_timeout(Duration::from_millis(200));
    }
    assert_eq!(api.backend("b")["reason"], "lease_expired");
    assert!((0..10).all(|_| edge.visit().unwrap().served_by == "a"));
    eventually("the other ends as well", || edge.visit().is_err().then_some(()));
    assert!(last.elapsed() >= Duration::from_secs(2), "{:?}", last.elapsed());
}

#[test]
fn a_late_heartbeat_revives_nobody_and_a_registration_does() {
    let a = Backend::named("a");
    let edge = with_ttl(1).start();
    let api = edge.api();
    api.register("a", a.addr()).ok();
    eventually("its lease ends", || (api.backend("a")["eligible"] == false).then_some(()));
    assert_eq!(api.heartbeat("a").problem(), (410, "gone"));
    assert!(edge.visit().is_err());
    assert_eq!(api.register("a", a.addr()).ok()["generation"], 2);
    assert_eq!(edge.served_by().as_deref(), Some("a"));
    api.delete("/api/v1/backends/a").ok();
    assert_eq!(api.heartbeat("a").problem(), (404, "not_found"));
    assert_eq!(api.heartbeat("nobody").problem(), (404, "not_found"));
    assert!(edge.visit().is_err());
}

#[test]
fn a_heartbeat_of_an_earlier_registration_renews_nothing() {
    let a = Backend::named("a");
    let edge = with_ttl(60).start();
    let api = edge.api();
    api.register("a", a.addr()).ok();
    api.register("a", a.addr()).ok();
    let beat =
        |generation: i64| api.post("/api/v1/heartbeat/a", &json!({ "generation": generation }));
    assert_eq!(beat(1).problem(), (409, "conflict"));
    assert_eq!(beat(3).problem(), (409, "conflict"));
    assert_eq!(beat(2).ok()["generation"], 2);
}

#[test]
fn heartbeats_to_whichever_pop_keep_a_backend_at_all_of_them() {
    let a = Backend::named("a");
    let server = Postgres::start();
    let [one, two] = [1, 2].map(|_| with_ttl(3).with_postgres(&server, "1").start());
    one.api().register("a", a.addr()).ok();
    eventually("the other knows", || (two.served_by()? == "a").then_some(()));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        assert_eq!(two.api().heartbeat("a").status, 200);
        assert_eq!(one.served_by().as_deref(), Some("a"));
        assert_eq!(two.served_by().as_deref(), Some("a"));
        std::thread::park_timeout(Duration::from_millis(300));
    }
    eventually("it ends at both", || (one.visit().is_err() && two.visit().is_err()).then_some(()));
}

#[test]
fn a_registration_at_one_pop_can_be_renewed_at_another_at_once() {
    let a = Backend::named("a");
    let server = Postgres::start();
    let [one, two] = [1, 2].map(|_| with_ttl(60).with_postgres(&server, "60").start());
    one.api().register("a", a.addr()).ok();
    assert_eq!(two.api().heartbeat("a").status, 200);
}

#[test]
fn who_could_not_renew_while_the_process_was_down_has_the_time_to() {
    let a = Backend::named("a");
    let edge = with_ttl(2).start();
    edge.api().register("a", a.addr()).ok();
    let site = edge.killed();
    let begun = Instant::now();
    eventually("it is later", || (begun.elapsed() > Duration::from_secs(3)).then_some(()));
    let edge = site.start();
    assert_eq!(edge.served_by().as_deref(), Some("a"), "its lease ended meanwhile");
    assert_eq!(edge.api().heartbeat("a").status, 200);
    let begun = Instant::now();
    eventually("it ends after all", || edge.visit().is_err().then_some(()));
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[test]
fn while_the_database_is_down_nobodys_lease_ends() {
    let a = Backend::named("a");
    let mut server = Postgres::start();
    let edge = with_ttl(2).with_postgres(&server, "1").start();
    edge.api().register("a", a.addr()).ok();
    server.kill();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(edge.served_by().as_deref(), Some("a"));
        assert_eq!(edge.api().heartbeat("a").status, 200);
        std::thread::park_timeout(Duration::from_millis(300));
    }
    server.restart();
    eventually("it ends once that is back", || edge.visit().is_err().then_some(()));
}

#[test]
fn heartbeats_cost_one_write_in_a_third_of_the_time() {
    let a = Backend::named("a");
    let server = Postgres::start();
    let edge = with_ttl(6).with_postgres(&server, "60").start();
    let api = edge.api();
    api.register("a", a.addr()).ok();
    let writes = || -> u64 {
        let count = "SELECT n_tup_upd FROM pg_stat_user_tables \
                     WHERE relname = 'edgeproxy_backend_state'";
        server.sql(count).trim().parse().expect("a number")
    };
    let before = writes();
    let begun = Instant::now();
    let mut beats = 0;
    while begun.elapsed() < Duration::from_secs(6) {
        api.heartbeat("a").ok();
        beats += 1;
    }
    let written =
        eventually("they are counted", || Some(writes()).filter(|now| *now > before)) - before;
    assert!(beats > 100 && written <= 4, "{beats} heartbeats, {written} writes");
}
