//! What operators ask of backends and connections.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{edge_with, site};
use crate::support::postgres::Postgres;
use crate::support::{Backend, Edge, Refusing, Row, Site, eventually};

fn rows(backends: &[(&str, &Backend)]) -> Vec<Row> {
    backends.iter().map(|(id, backend)| Row::new(id, backend.addr())).collect()
}

#[test]
fn a_drain_lets_open_connections_go_on_and_tells_how_many_there_are() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = edge_with(rows(&[("a", &a), ("b", &b)]));
    let api = edge.api();
    let mut at_a =
        eventually("a client of a's", || edge.visit().ok().filter(|v| v.served_by == "a"));
    let drained = api.put("/api/v1/backends/a/state", &json!({ "state": "drain" })).ok();
    assert_eq!((&drained["state"], &drained["active"]), (&json!("drain"), &json!(1)));
    assert!((0..20).all(|_| edge.visit().unwrap().served_by == "b"));
    at_a.client.echo("open ones go on").unwrap();
    drop(at_a);
    eventually("it is empty", || (api.backend("a")["active"] == 0).then_some(()));
    assert_eq!(api.backend("a")["reason"], "draining");
    api.put("/api/v1/backends/a/state", &json!({ "state": "ready" })).ok();
    eventually("it is back", || edge.visit().ok().filter(|visit| visit.served_by == "a"));
    edge.wait_for_log(
        "action=\"state\" what=\"backend a everywhere\" before=\"drain\" after=\"ready\"",
    );
}

#[test]
fn a_bound_client_leaves_a_backend_that_is_drained() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = rows(&[("a", &a), ("b", &b)])
        .into_iter()
        .fold(site().env("EDGEPROXY_BINDING_TTL_SECS", "600"), Site::backend)
        .start();
    let first = edge.served_by().unwrap();
    assert!((0..10).all(|_| edge.served_by().as_ref() == Some(&first)));
    let path = format!("/api/v1/backends/{first}/state");
    edge.api().put(&path, &json!({ "state": "drain" })).ok();
    assert!((0..10).all(|_| edge.served_by().is_some_and(|now| now != first)));
}

#[test]
fn maintenance_closes_what_is_open_after_the_drain_timeout_and_a_drain_when_it_is_told() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = rows(&[("a", &a), ("b", &b)])
        .into_iter()
        .fold(site().env("EDGEPROXY_SHUTDOWN_TIMEOUT_SECS", "1"), Site::backend)
        .start();
    let api = edge.api();
    for (state, more) in [("maint", json!({})), ("drain", json!({ "close_after_secs": 1 }))] {
        let mut at_a =
            eventually("a client of a's", || edge.visit().ok().filter(|v| v.served_by == "a"));
        let mut at_b =
            eventually("a client of b's", || edge.visit().ok().filter(|v| v.served_by == "b"));
        let mut asked = json!({ "state": state });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let begun = Instant::now();
        api.put("/api/v1/backends/a/state", &asked).ok();
        eventually("it is closed", || at_a.client.echo("?").err());
        assert!(begun.elapsed() > Duration::from_millis(800), "{state}: {:?}", begun.elapsed());
        at_b.client.echo("others go on").unwrap();
        api.put("/api/v1/backends/a/state", &json!({ "state": "ready" })).ok();
    }
}

#[test]
fn who_is_ready_again_in_time_loses_no_connection() {
    let [a] = ["a"].map(Backend::named);
    let edge = edge_with(rows(&[("a", &a)]));
    let api = edge.api();
    let mut visit = edge.visit().unwrap();
    let path = "/api/v1/backends/a/state";
    api.put(path, &json!({ "state": "drain", "close_after_secs": 1 })).ok();
    api.put(path, &json!({ "state": "ready" })).ok();
    assert!(!visit.client.has_ended(Duration::from_millis(1_500)));
    visit.client.echo("still here").unwrap();
}

#[test]
fn a_drain_reaches_every_pop_and_one_for_here_does_not() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let server = Postgres::start();
    let [one, two] = [1, 2].map(|_| site().with_postgres(&server, "60").start());
    for (id, backend) in [("a", &a), ("b", &b)] {
        one.api().register(id, backend.addr()).ok();
    }
    eventually("the other knows", || (!two.api().backend("b").is_null()).then_some(()));
    let state = |state: &str, here: bool| {
        let asked = json!({ "state": state, "here": here });
        one.api().put("/api/v1/backends/a/state", &asked).ok();
    };
    let only_b = |edge: &Edge| (0..20).all(|_| edge.served_by().as_deref() == Some("b"));
    state("drain", true);
    assert!(only_b(&one));
    assert_eq!(one.api().backend("a")["state_here"], "drain");
    assert!(!only_b(&two));
    state("ready", true);
    assert!(!only_b(&one));
    state("drain", false);
    assert!(only_b(&one));
    eventually("the other hears of it long before it looks", || only_b(&two).then_some(()));
}

#[test]
fn a_breaker_is_held_open_closed_and_let_go() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = rows(&[("a", &a), ("b", &b)])
        .into_iter()
        .fold(site(), Site::backend)
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
        .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "1")
        .start();
    let api = edge.api();
    let hold = |state: &str| api.put("/api/v1/backends/a/breaker", &json!({ "state": state })).ok();
    let held = hold("open");
    assert_eq!((&held["breaker"], &held["breaker_held"]), (&json!("open"), &json!("open")));
    assert_eq!((&held["eligible"], &held["reason"]), (&json!(false), &json!("breaker_open")));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(edge.served_by().as_deref(), Some("b"), "its timeout does not matter");
    }
    assert_eq!(hold("auto")["breaker"], "closed");
    eventually("it is back", || (edge.served_by()? == "a").then_some(()));
    assert_eq!(hold("closed")["breaker_held"], "closed");
    let unknown = api.put("/api/v1/backends/x/breaker", &json!({ "state": "open" }));
    assert_eq!(unknown.problem(), (404, "not_found"));
    let word = api.put("/api/v1/backends/a/breaker", &json!({ "state": "ajar" }));
    assert_eq!(word.problem(), (422, "invalid"));
}

#[test]
fn a_breaker_that_is_held_closed_stays_so_whatever_happens() {
    let [a] = ["a"].map(Backend::named);
    let dead = Refusing::new();
    let edge = site()
        .backend(Row::new("dead", dead.addr()))
        .backend(Row::new("a", a.addr()))
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
        .env("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "1")
        .start();
    let api = edge.api();
    let path = "/api/v1/backends/dead/breaker";
    api.put(path, &json!({ "state": "closed" })).ok();
    for _ in 0..20 {
        assert_eq!(edge.served_by().as_deref(), Some("a"));
    }
    eventually("it was tried", || (api.backend("dead")["dial_failures_total"] != 0).then_some(()));
    assert_eq!(api.backend("dead")["breaker"], "closed");
}

#[test]
fn without_breakers_there_is_none_to_hold() {
    let [a] = ["a"].map(Backend::named);
    let edge = edge_with(rows(&[("a", &a)]));
    let told = edge.api().put("/api/v1/backends/a/breaker", &json!({ "state": "open" }));
    assert_eq!(told.problem(), (409, "conflict"));
}

#[test]
fn connections_are_listed_found_and_closed() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = edge_with(rows(&[("a", &a), ("b", &b)]));
    let api = edge.api();
    let mut visits: Vec<_> =
        (1..=40).map(|turn| edge.visit_from(&format!("127.0.5.{turn}")).unwrap()).collect();
    visits[0].client.echo("some bytes").unwrap();
    let list = |query: &str| api.get(&format!("/api/v1/connections{query}")).ok();
    let all = list("?limit=1000");
    assert_eq!((&all["total"], all["connections"].as_array().unwrap().len()), (&json!(40), 40));
    let ages: Vec<f64> = all["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|listed| listed["age_secs"].as_f64().unwrap())
        .collect();
    assert!(ages.is_sorted_by(|one, next| one >= next), "the oldest first: {ages:?}");
    let first = list("?client=127.0.5.1");
    let first = &first["connections"][0];
    assert_eq!(first["client"], visits[0].client.addr().to_string());
    assert_eq!(first["backend"], *visits[0].served_by);
    assert_eq!((&first["state"], &first["app"]), (&json!("relaying"), &json!("web")));
    assert!(first["sent"].as_u64() >= Some(10), "{first}");
    let some = list("?limit=3");
    assert_eq!((&some["total"], some["connections"].as_array().unwrap().len()), (&json!(40), 3));
    let of_a = visits.iter().filter(|visit| visit.served_by == "a").count();
    assert_eq!(list("?backend=a")["total"], of_a);
    assert_eq!(list("?app=other")["total"], 0);

    let id = first["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/connections/{id}");
    assert_eq!(api.delete(&path).ok()["killed"], 1);
    eventually("it is closed", || visits[0].client.echo("?").err());
    assert_eq!(api.delete(&path).problem(), (404, "not_found"));
    let rest = visits[1..].iter().filter(|visit| visit.served_by == "a").count();
    assert_eq!(api.delete("/api/v1/connections?backend=a").ok()["killed"], rest);
    for visit in &mut visits[1..] {
        let is_open = visit.client.echo("open?").is_ok();
        assert_eq!(is_open, visit.served_by == "b");
    }
    assert_eq!(api.delete("/api/v1/connections").fields(), ["client"], "not all at once");
    for nonsense in ["x", "0-", "9-1", "0-zz", "0-1-1", "-"] {
        let told = api.delete(&format!("/api/v1/connections/{nonsense}"));
        assert_eq!(told.problem(), (404, "not_found"), "{nonsense}");
    }
    edge.wait_for_ends(1, "reason=killed");
}

#[test]
fn a_reload_is_asked_for_and_says_what_changed_and_what_is_wrong() {
    let edge = site().toml("idle_timeout_secs = 100").start();
    let api = edge.api();
    let reload = || api.ask("POST", "/api/v1/config/reload", None);
    assert_eq!(reload().ok(), json!({ "changes": [], "waiting": [] }));
    edge.site.configure("idle_timeout_secs = 200\npop = \"other\"");
    assert_eq!(
        reload().ok(),
        json!({
            "changes": ["idle_timeout_secs: 100 -> 200"],
            "waiting": ["pop: - -> other (needs a restart)"],
        })
    );
    let status = api.get("/api/v1/status").ok();
    assert_eq!(status["config"]["waiting"].as_array().map(Vec::len), Some(1), "{status}");
    edge.site.configure("idle_timeout_secs = 0\nnonsense = ");
    let told = reload();
    assert_eq!(told.problem(), (422, "invalid"));
    let status = api.get("/api/v1/status").ok();
    assert!(status["config"]["error"].is_string(), "{status}");
    assert_eq!(status["config"]["failures"], 1);
    let is = |name: &str| -> Value {
        let settings = api.get("/api/v1/config").ok();
        let all = settings["settings"].as_array().unwrap().clone();
        all.into_iter().find(|setting| setting["toml"] == name).unwrap()
    };
    assert_eq!(
        (&is("idle_timeout_secs")["value"], &is("idle_timeout_secs")["origin"]),
        (&json!("200"), &json!("file"))
    );
    assert_eq!(is("api.token")["value"], "***");
}

#[test]
fn a_later_word_that_says_nothing_of_closing_takes_the_earlier_one_back() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = edge_with(rows(&[("a", &a), ("b", &b)]));
    let api = edge.api();
    let mut at_a =
        eventually("a client of a's", || edge.visit().ok().filter(|v| v.served_by == "a"));
    let mut at_b =
        eventually("a client of b's", || edge.visit().ok().filter(|v| v.served_by == "b"));
    let state =
        |id: &str, body: Value| api.put(&format!("/api/v1/backends/{id}/state"), &body).ok();
    state("a", json!({ "state": "maint", "close_after_secs": 1 }));
    state("a", json!({ "state": "drain" }));
    state("b", json!({ "state": "drain", "close_after_secs": 2 }));
    eventually("that of b's is closed", || at_b.client.echo("x").err());
    at_a.client.echo("this one goes on").unwrap();
}
