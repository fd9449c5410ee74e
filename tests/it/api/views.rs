//! What is seen: explanations, past choices, capacity, the stream of what happens now.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::{edge_with, site};
use crate::support::{Backend, PATIENCE, Refusing, Row, Web, eventually};

const PLACES: &str = "[[geo_override]]\ncidr = \"127.0.2.0/24\"\ncountry = \"DE\"\n\
    [[geo_override]]\ncidr = \"127.0.1.0/24\"\ncountry = \"BR\"\n";

#[test]
fn why_a_client_would_go_where_it_goes_is_told_with_what_is_open_now() {
    let [gru, fra] = ["gru", "fra"].map(Backend::named);
    let edge = site()
        .toml(PLACES)
        .backend(Row::new("gru", gru.addr()).place("sa", "BR").soft_limit(1).hard_limit(2))
        .backend(Row::new("fra", fra.addr()).place("eu", "DE"))
        .start();
    let api = edge.api();
    let route = |query: &str| api.get(&format!("/api/v1/route?{query}")).ok();
    let _one = edge.visit_from("127.0.1.1").unwrap();
    let told = route("client=127.0.1.9");
    assert_eq!(
        (&told["country"], &told["region"], &told["app"]),
        (&json!("BR"), &json!("sa"), &json!("web"))
    );
    let of = |told: &Value, id: &str| -> Value {
        let all = told["backends"].as_array().unwrap();
        all.iter().find(|backend| backend["id"] == id).unwrap().clone()
    };
    assert_eq!(of(&told, "gru")["reason"], "soft 1/1");
    assert_eq!(
        (&of(&told, "gru")["active"], &of(&told, "fra")["share"]),
        (&json!(1), &json!(100.0))
    );
    let without = route("client=127.0.1.9&without=fra");
    assert_eq!(of(&without, "gru")["share"], 100.0);
    let without = route("client=127.0.1.9&without=EU&without=gru");
    assert!(without["backends"].as_array().unwrap().iter().all(|b| b["share"] == 0.0));
    for (query, field) in [
        ("", "client"),
        ("client=nobody", "client"),
        ("client=127.0.0.1&client=127.0.0.1", "client"),
    ] {
        assert_eq!(api.get(&format!("/api/v1/route?{query}")).fields(), [field], "{query}");
    }
    for query in ["app=x", "without=x"] {
        let told = api.get(&format!("/api/v1/route?client=127.0.0.1&{query}"));
        assert_eq!(told.problem(), (404, "not_found"), "{query}");
    }
}

#[test]
fn afterwards_it_is_told_why_a_client_went_far() {
    let [gru, fra] = ["gru", "fra"].map(Backend::named);
    let dead = Refusing::new();
    let edge = site()
        .toml(PLACES)
        .backend(Row::new("scl", dead.addr()).place("sa", "BR"))
        .backend(Row::new("gru", gru.addr()).place("sa", "BR").soft_limit(1).hard_limit(0))
        .backend(Row::new("fra", fra.addr()).place("eu", "DE"))
        .start();
    let api = edge.api();
    let choices = |query: &str| -> Vec<Value> {
        api.get(&format!("/api/v1/choices{query}")).ok()["choices"].as_array().unwrap().clone()
    };
    let _home = edge.visit_from("127.0.1.1").unwrap();
    assert_eq!(choices(""), [json!(null); 0], "who is at home is not told of");
    for _ in 0..3 {
        assert_eq!(edge.visit_from("127.0.1.7").unwrap().served_by, "fra");
    }
    let told = choices("?client=127.0.1.7");
    assert_eq!(told.len(), 1, "the same again and again is one: {told:?}");
    let told = &told[0];
    assert_eq!(
        (&told["backend"], &told["tier"], &told["best_tier"]),
        (&json!("fra"), &json!(3), &json!(0))
    );
    assert_eq!((&told["country"], &told["count"]), (&json!("BR"), &json!(3)));
    let reasons: Vec<&str> =
        told["reasons"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(
        reasons.contains(&"gru soft 1/1") && reasons.contains(&"scl dial_failed"),
        "{reasons:?}"
    );
    assert_eq!(choices("?client=127.0.1.0/24&since_secs=60").len(), 1);
    assert_eq!(choices("?client=127.0.2.1").len(), 0);
    // What an operator has drained is a reason as well.
    api.put("/api/v1/backends/gru/state", &json!({ "state": "drain" })).ok();
    edge.visit_from("127.0.1.8").unwrap();
    let told = choices("?client=127.0.1.8&limit=1");
    let reasons = told[0]["reasons"].as_array().unwrap();
    assert!(reasons.contains(&json!("gru draining")), "{reasons:?}");
}

#[test]
fn requests_are_told_of_as_connections_are() {
    let fra = Web::named("fra");
    let edge = site()
        .toml(PLACES)
        .env("EDGEPROXY_MODE", "http")
        .backend(Row::new("gru", Refusing::new().addr()).place("sa", "BR"))
        .backend(Row::new("fra", fra.addr()).place("eu", "DE"))
        .start();
    let mut client = edge.try_client_from("127.0.1.7").unwrap();
    assert_eq!(client.fetch().unwrap(), "fra");
    let told = edge.api().get("/api/v1/choices?client=127.0.1.7").ok();
    assert_eq!(told["choices"][0]["reasons"], json!(["gru dial_failed"]));
}

#[test]
fn which_loss_would_not_fit_is_told() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = edge_with([
        Row::new("a", a.addr()).place("sa", "BR").soft_limit(2).hard_limit(3),
        Row::new("b", b.addr()).place("eu", "DE").soft_limit(2).hard_limit(3),
    ]);
    let visits: Vec<_> = (0..4).map(|_| edge.visit().unwrap()).collect();
    let told = edge.api().get("/api/v1/capacity").ok();
    let of = |name: &str| -> (Value, Value) {
        let all = told["losses"].as_array().unwrap();
        let loss = all.iter().find(|loss| loss["name"] == name).unwrap();
        (loss["active"].clone(), loss["verdict"].clone())
    };
    assert_eq!(of("a"), (json!(2), json!("too_much")), "{told}");
    assert_eq!(of("eu"), (json!(2), json!("too_much")));
    drop(visits);
    eventually("they are gone", || {
        let told = edge.api().get("/api/v1/capacity?app=web").ok();
        told["losses"]
            .as_array()
            .unwrap()
            .iter()
            .all(|loss| loss["verdict"] == "fits")
            .then_some(())
    });
}

#[test]
fn what_happens_is_streamed_once_a_second() {
    let a = Backend::named("a");
    let edge = site()
        .toml(PLACES)
        .env("EDGEPROXY_DENY", "127.0.9.9")
        .backend(Row::new("a", a.addr()))
        .start();
    let mut stream = TcpStream::connect(edge.api_addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        "GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut next = || -> Value {
        let line = lines.by_ref().find(|line| line.starts_with("{\"at\"")).expect("another line");
        serde_json::from_str(&line).expect("JSON")
    };
    let first = next();
    assert_eq!(
        (&first["status"]["connections"]["open"], &first["setup"]),
        (&json!(0), &json!(null))
    );
    let visits: Vec<_> = (0..10).map(|_| edge.visit_from("127.0.2.2").unwrap()).collect();
    assert!(edge.visit_from("127.0.9.9").is_err());
    let live = std::iter::repeat_with(&mut next)
        .take(5)
        .find(|live| live["status"]["connections"]["open"] == 10)
        .expect("within seconds");
    assert_eq!(live["backends"][0]["active"], 10);
    assert_eq!(live["countries"][0]["country"], "DE");
    assert_eq!(live["countries"][0]["total"], 10);
    assert!(live["setup"]["p99_ms"].as_f64() > Some(0.0), "{live}");
    let ends = live["ends"].as_array().unwrap();
    assert!(
        ends.iter().any(|end| end["reason"] == "denied" && end["is_error"] == true),
        "{ends:?}"
    );
    drop(visits);
}

#[test]
fn pages_hold_no_data_and_allow_nothing_from_elsewhere() {
    let edge = edge_with([]);
    let api = edge.api().without_token();
    for (path, kind) in [
        ("/", "text/html"),
        ("/docs", "text/html"),
        ("/assets/app.js", "text/javascript"),
        ("/assets/docs.js", "text/javascript"),
        ("/assets/app.css", "text/css"),
    ] {
        let answer = api.say("GET", path, &[], "");
        assert_eq!(answer.status, 200, "{path}");
        let head = answer.head.to_ascii_lowercase();
        for header in [
            format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self'".into(),
            "x-content-type-options: nosniff".into(),
            "x-frame-options: deny".into(),
        ] {
            assert!(head.contains(&header), "{path}: {header}: {head}");
        }
        assert!(!answer.body.contains("http://") || !answer.body.contains("<script src=\"http"));
    }
}

#[test]
fn the_document_names_every_answer() {
    let edge = edge_with([]);
    let document = edge.api().get("/openapi.json").ok();
    assert_eq!(document["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 18, "{}", paths.len());
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            let answers = operation["responses"].as_object().unwrap();
            let is_open = ["/health", "/readyz"].contains(&path.as_str());
            assert!(is_open || answers.contains_key("401"), "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
        }
    }
}
