//! Backends that register themselves.

use serde_json::{Value, json};

use super::{edge_with, site};
use crate::support::api::registration;
use crate::support::postgres::Postgres;
use crate::support::{Backend, Row, Site, eventually};

/// The same with each registry.
fn with_each_registry(test: impl Fn(Site)) {
    test(site());
    let server = Postgres::start();
    test(site().with_postgres(&server, "60"));
}

#[test]
fn a_registration_takes_traffic_before_its_answer_and_a_deregistration_ends_that() {
    with_each_registry(|site| {
        let [a, b] = ["a", "b"].map(Backend::named);
        let edge = site.start();
        let api = edge.api();
        assert!(edge.visit().is_err(), "there is nobody yet");
        let told = api.register("a", a.addr());
        assert_eq!(told.status, 201, "{told:?}");
        assert_eq!((&told.body["generation"], &told.body["ttl_secs"]), (&json!(1), &json!(60)));
        assert_eq!(told.body["in_force"], true);
        let mut visit = edge.visit().expect("at once");
        assert_eq!(visit.served_by, "a");

        assert_eq!(api.register("b", b.addr()).status, 201);
        let removed = api.delete("/api/v1/backends/a").ok();
        assert_eq!((&removed["state"], &removed["active"]), (&json!("deleted"), &json!(1)));
        assert!((0..20).all(|_| edge.visit().unwrap().served_by == "b"));
        assert_eq!(api.backend("a")["active"], 1, "it shows its last connection");
        visit.client.echo("still").expect("it goes on");
        drop(visit);
        eventually("it is forgotten", || api.backend("a").is_null().then_some(()));
        assert_eq!(api.delete("/api/v1/backends/a").problem(), (404, "not_found"));
    });
}

#[test]
fn a_registration_again_is_the_same_backend_with_another_generation() {
    let [a] = ["a"].map(Backend::named);
    let edge = edge_with([]);
    let api = edge.api();
    let first = api.register("a", a.addr()).ok();
    let visit = edge.visit().unwrap();
    let again = json!({ "weight": 7, "soft_limit": 0, "hard_limit": 3.0 });
    let mut body = registration("a", a.addr());
    body.as_object_mut().unwrap().extend(again.as_object().unwrap().clone());
    let second = api.post("/api/v1/register", &body).ok();
    assert_eq!((&first["generation"], &second["generation"]), (&json!(1), &json!(2)));
    let seen = api.backend("a");
    let limits = ["weight", "soft_limit", "hard_limit", "active"].map(|key| seen[key].clone());
    assert_eq!(limits, [7, 0, 3, 1].map(Value::from), "its connection still counts");
    drop(visit);
    // Gone and back, it goes on counting.
    api.delete("/api/v1/backends/a").ok();
    assert_eq!(api.register("a", a.addr()).ok()["generation"], 3);
}

#[test]
fn an_operators_drain_outlasts_a_registration() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = edge_with([]);
    let api = edge.api();
    for (id, backend) in [("a", &a), ("b", &b)] {
        api.register(id, backend.addr()).ok();
    }
    api.put("/api/v1/backends/a/state", &json!({ "state": "drain" })).ok();
    api.register("a", a.addr()).ok();
    assert_eq!(api.backend("a")["state"], "drain");
    assert!((0..10).all(|_| edge.visit().unwrap().served_by == "b"));
    api.put("/api/v1/backends/a/state", &json!({ "state": "ready" })).ok();
    eventually("it is back", || (edge.served_by()? == "a").then_some(()));
}

#[test]
fn what_is_wrong_is_named_field_by_field_and_nothing_is_registered() {
    let edge = edge_with([]);
    let api = edge.api();
    let good = registration("a", "10.0.0.1:80".parse().unwrap());
    let with = |changes: Value| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        api.post("/api/v1/register", &body)
    };
    for (changes, fields) in [
        (json!({ "id": "" }), vec!["id"]),
        (json!({ "id": "a b", "app": "x,y", "region": "\u{7}" }), vec!["id", "app", "region"]),
        (json!({ "id": "x".repeat(129) }), vec!["id"]),
        (json!({ "ip": "backend.internal", "port": 0 }), vec!["ip", "port"]),
        (json!({ "port": 65_536 }), vec!["port"]),
        (json!({ "port": -1, "weight": -1 }), vec!["port", "weight"]),
        (json!({ "weight": 1_000_001, "soft_limit": -1 }), vec!["weight", "soft_limit"]),
        (json!({ "hard_limit": 1_u64 << 40 }), vec!["hard_limit"]),
        (json!({ "country": "BRA" }), vec!["country"]),
        (json!({ "unknown": 1 }), vec!["unknown"]),
    ] {
        let told = with(changes.clone());
        assert_eq!((told.problem(), told.fields()), ((422, "invalid"), fields), "{changes}");
    }
    for (changes, word) in [
        (json!({ "port": "80" }), "port"),
        (json!({ "port": 1.5 }), "1.5"),
        (json!({ "ip": 7 }), "7"),
    ] {
        let told = with(changes);
        assert_eq!(told.problem(), (422, "invalid"));
        assert!(told.body["reason"].as_str().unwrap().contains(word) || word == "port", "{told:?}");
    }
    let missing = api.post("/api/v1/register", &json!({ "id": "a" }));
    assert_eq!((missing.problem(), missing.fields()), ((422, "invalid"), vec!["app"]));
    for body in ["", "{", "[]", "nonsense", "{\"id\": \"a\"}{}"] {
        let headers =
            ["Content-Type: application/json", "Authorization: Bearer a-token-of-the-tests"];
        let answer = api.say("POST", "/api/v1/register", &headers.map(str::to_owned), body);
        assert!(matches!(answer.status, 400 | 422), "{body}: {answer:?}");
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        assert!(problem["reason"].is_string());
    }
    assert_eq!(api.get("/api/v1/backends?all=true").ok()["backends"], json!([]));
}

#[test]
fn dangerous_addresses_are_refused() {
    let edge = Site::new()
        .with_api()
        .env("EDGEPROXY_LISTEN_ADDR", "0.0.0.0:0")
        .env("EDGEPROXY_API_REGISTER_ALLOW", "127.0.9.0/24,169.254.7.7")
        .start();
    let api = edge.api();
    let told = |addr: &str| api.register("a", addr.parse().unwrap());
    for refused in [
        "127.0.0.1:80",
        "127.0.8.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "169.254.0.1:80",
        "[fe80::1]:80",
        "224.0.0.1:80",
        "[ff02::1]:80",
        "0.0.0.0:80",
        "0.1.2.3:80",
        "[::]:80",
        "255.255.255.255:80",
    ] {
        let told = told(refused);
        assert_eq!((told.problem(), told.fields()), ((422, "invalid"), vec!["ip"]), "{refused}");
    }
    let own = format!("127.0.9.1:{}", edge.addr.port());
    assert_eq!(told(&own).fields(), ["port"], "a listener of its own: {own}");
    for allowed in ["127.0.9.1:80", "169.254.7.7:80", "10.0.0.1:80", "[fd00::1]:80"] {
        assert_eq!(told(allowed).status, 201, "{allowed}");
    }
}

#[test]
fn an_edge_of_this_machine_alone_takes_backends_of_this_machine_but_not_itself() {
    let a = Backend::named("a");
    let edge = edge_with([]);
    assert_eq!(edge.api().register("a", a.addr()).status, 201);
    assert_eq!(edge.api().register("b", edge.addr).fields(), ["port"]);
}

#[test]
fn one_address_is_one_backend_until_its_lease_has_ended() {
    let a = Backend::named("a");
    let edge = site().env("EDGEPROXY_HEARTBEAT_TTL_SECS", "1").start();
    let api = edge.api();
    api.register("old", a.addr()).ok();
    let told = api.register("new", a.addr());
    assert_eq!(told.problem(), (409, "conflict"));
    assert!(told.body["reason"].as_str().unwrap().contains("backend old"), "{told:?}");
    eventually("its lease ends", || {
        (api.backend("old")["reason"] == "lease_expired").then_some(())
    });
    assert_eq!(api.register("new", a.addr()).ok()["in_force"], true);
    assert_eq!(edge.served_by().as_deref(), Some("a"));
    assert!(api.backend("old").is_null());
}

#[test]
fn a_registry_in_the_file_is_not_written() {
    let a = Backend::named("a");
    let edge = site()
        .toml(&format!(
            "[[backend]]\nid = \"a\"\napp = \"web\"\nregion = \"sa\"\nwg_ip = \"127.0.0.1\"\nport = {}\n",
            a.addr().port()
        ))
        .start();
    let api = edge.api();
    assert_eq!(api.register("b", "127.0.0.1:1".parse().unwrap()).problem(), (409, "conflict"));
    assert_eq!(api.delete("/api/v1/backends/a").problem(), (409, "conflict"));
    let drain = json!({ "state": "drain" });
    assert_eq!(api.put("/api/v1/backends/a/state", &drain).problem(), (409, "conflict"));
    let here = json!({ "state": "drain", "here": true });
    assert_eq!(api.put("/api/v1/backends/a/state", &here).status, 200);
    assert!(edge.visit().is_err());
}

#[test]
fn with_the_register_token_nobody_takes_the_place_of_what_an_operator_has_written() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = site()
        .env("EDGEPROXY_API_REGISTER_TOKEN", "for-apps")
        .backend(Row::new("a", a.addr()))
        .start();
    let apps = edge.api().with_token("for-apps");
    assert_eq!(apps.register("a", b.addr()).problem(), (409, "conflict"));
    assert_eq!(apps.delete("/api/v1/backends/a").problem(), (409, "conflict"));
    assert_eq!(apps.heartbeat("a").problem(), (409, "conflict"));
    assert_eq!(edge.served_by().as_deref(), Some("a"));
    assert_eq!(apps.register("b", b.addr()).status, 201);
    assert_eq!(apps.heartbeat("b").status, 200);
    assert_eq!(apps.delete("/api/v1/backends/b").status, 200);
    assert_eq!(edge.api().register("a", b.addr()).status, 201, "an operator may");
}

#[test]
fn of_several_that_come_to_one_address_at_once_one_is_registered() {
    let a = Backend::named("a");
    let edge = site().start();
    let told: Vec<(u16, String)> = std::thread::scope(|scope| {
        let each = (0..8).map(|number| {
            let (api, addr) = (edge.api(), a.addr());
            scope.spawn(move || {
                let told = api.register(&format!("a{number}"), addr);
                (told.status, told.body.to_string())
            })
        });
        let all: Vec<_> = each.collect();
        all.into_iter().map(|one| one.join().expect("it is answered")).collect()
    });
    let created = told.iter().filter(|(status, _)| *status == 201).count();
    let refused = told.iter().filter(|(status, _)| *status == 409).count();
    assert_eq!((created, refused), (1, 7), "{told:?}");
    let backends = edge.api().get("/api/v1/backends").ok();
    assert_eq!(backends["backends"].as_array().map(Vec::len), Some(1));
    assert_eq!(edge.api().get("/api/v1/status").ok()["registry"]["skipped"], json!([]));
}

#[test]
fn the_register_token_takes_over_no_row_that_somebody_has_just_written() {
    let [own, other] = ["own", "other"].map(Backend::named);
    let edge = site()
        .env("EDGEPROXY_API_REGISTER_TOKEN", "for-apps")
        .env("EDGEPROXY_DB_RELOAD_SECS", "3600")
        .start();
    edge.site.sql(&Row::new("a", own.addr()).insert());
    edge.site.sql(
        "INSERT INTO backends (id, app, region, country, wg_ip, port) \
         VALUES ('bad', 'web', 'sa', '', 'db.internal', 80)",
    );
    let apps = edge.api().with_token("for-apps");
    for id in ["a", "bad"] {
        assert_eq!(apps.register(id, other.addr()).problem(), (409, "conflict"), "{id}");
    }
    assert_eq!(edge.served_by().as_deref(), Some("own"));
}

#[test]
fn a_registration_does_not_undo_what_an_operator_has_written_into_the_row() {
    let a = Backend::named("a");
    let edge = site().start();
    let api = edge.api();
    api.register("a", a.addr()).ok();
    let set = edge.site.run(&["backends", "set", "a", "--healthy", "false"]);
    assert_eq!(set.code, Some(0), "{set:?}");
    api.register("a", a.addr()).ok();
    assert_eq!(api.backend("a")["reason"], "draining");
    assert!(edge.visit().is_err());
    api.put("/api/v1/backends/a/state", &json!({ "state": "ready" })).ok();
    assert_eq!(edge.served_by().as_deref(), Some("a"));
}
