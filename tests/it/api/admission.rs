//! The deny list and the limits, as operators change and see them.

use serde_json::json;

use super::{edge_with, site};
use crate::support::{Backend, Row, eventually};

#[test]
fn who_is_denied_is_refused_at_once_and_let_in_when_the_time_is_over() {
    let a = Backend::named("a");
    let edge = edge_with([Row::new("a", a.addr())]);
    let api = edge.api();
    let mut visit = edge.visit_from("127.0.3.1").unwrap();
    let deny = json!({ "cidr": "127.0.3.0/24", "for_secs": 2, "note": "a flood" });
    let denied = api.post("/api/v1/deny", &deny);
    assert_eq!((denied.status, &denied.body["cidr"]), (201, &json!("127.0.3.0/24")));
    assert!(edge.visit_from("127.0.3.9").is_err());
    assert_eq!(edge.served_by().as_deref(), Some("a"), "others come in");
    visit.client.echo("it goes on").unwrap();
    let listed = api.get("/api/v1/deny").ok();
    assert_eq!(
        (&listed["entries"][0]["note"], &listed["entries"][0]["configured"]),
        (&json!("a flood"), &json!(false))
    );
    eventually("the time is over", || edge.visit_from("127.0.3.9").ok());
    assert_eq!(api.get("/api/v1/deny").ok()["entries"], json!([]));
}

#[test]
fn a_denial_can_end_what_is_open_outlasts_a_restart_and_is_taken_back() {
    let a = Backend::named("a");
    let edge = edge_with([Row::new("a", a.addr())]);
    let mut visit = edge.visit_from("127.0.3.1").unwrap();
    let kill = json!({ "cidr": "127.0.3.1", "kill": true });
    edge.api().post("/api/v1/deny", &kill).ok();
    eventually("it is closed", || visit.client.echo("?").err());
    let edge = edge.killed().start();
    assert!(edge.visit_from("127.0.3.1").is_err(), "a restart lets nobody in again");
    let api = edge.api();
    assert_eq!(api.delete("/api/v1/deny?cidr=127.0.3.1").status, 204);
    assert!(edge.visit_from("127.0.3.1").is_ok());
    assert_eq!(api.delete("/api/v1/deny?cidr=127.0.3.1").problem(), (404, "not_found"));
}

#[test]
fn what_the_configuration_denies_stays_and_what_makes_no_sense_is_refused() {
    let edge = site().env("EDGEPROXY_DENY", "192.0.2.0/24").start();
    let api = edge.api();
    assert_eq!(api.delete("/api/v1/deny?cidr=192.0.2.0/24").problem(), (409, "conflict"));
    assert_eq!(api.get("/api/v1/deny").ok()["entries"][0]["configured"], true);
    for (body, field) in [
        (json!({ "cidr": "nobody" }), "cidr"),
        (json!({ "cidr": "10.0.0.0/33" }), "cidr"),
        (json!({ "cidr": "10.0.0.1", "for_secs": 0 }), "for_secs"),
        (json!({ "cidr": "10.0.0.1", "note": "x".repeat(201) }), "note"),
    ] {
        assert_eq!(api.post("/api/v1/deny", &body).fields(), [field], "{body}");
    }
}

#[test]
fn who_is_limited_most_is_told() {
    let a = Backend::named("a");
    let edge = site()
        .backend(Row::new("a", a.addr()))
        .env("EDGEPROXY_RATE_LIMIT_ENABLED", "true")
        .env("EDGEPROXY_RATE_LIMIT_MAX_REQUESTS", "1")
        .env("EDGEPROXY_RATE_LIMIT_WINDOW_SECS", "3600")
        .env("EDGEPROXY_RATE_LIMIT_BURST", "2")
        .start();
    for _ in 0..30 {
        let _ = edge.visit_from("127.0.4.1");
    }
    let limits = eventually("it is summed up", || {
        let limits = edge.api().get("/api/v1/limits").ok();
        (!limits["refused"].as_array()?.is_empty()).then_some(limits)
    });
    assert_eq!((&limits["enabled"], &limits["burst"]), (&json!(true), &json!(2)));
    let first = &limits["refused"][0];
    assert_eq!((&first["client"], &first["reason"]), (&json!("127.0.4.1"), &json!("rate_limited")));
    assert_eq!(first["count"], 28);
}
