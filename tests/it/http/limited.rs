//! Clients that ask too often, and backends that fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::peers::{Asking, Origin, Then, before, get, ok, once, request, says, site};
use crate::support::{Client, Row, Site, eventually};

fn limited(origin: &Origin, burst: &str) -> Site {
    before(origin)
        .env("EDGEPROXY_RATE_LIMIT_ENABLED", "true")
        .env("EDGEPROXY_RATE_LIMIT_MAX_REQUESTS", "1")
        .env("EDGEPROXY_RATE_LIMIT_WINDOW_SECS", "60")
        .env("EDGEPROXY_RATE_LIMIT_BURST", burst)
}

#[test]
fn the_rate_limit_counts_requests_and_not_connections() {
    let origin = Origin::named("a");
    let edge = limited(&origin, "5").with_metrics().start();
    let mut idle: Vec<Asking> = (0..20).map(|_| Asking::to(&edge)).collect();
    let statuses: Vec<u16> = (0..8).map(|_| idle[0].get("/").status()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    let answer = idle[1].get("/");
    assert_eq!(answer.status(), 429, "another connection of the same client");
    let again: u64 = answer.field("retry-after").expect("when to come again").parse().unwrap();
    assert!((50..=60).contains(&again), "{answer:?}");
    assert!(answer.all("connection").is_empty(), "the connection goes on: {answer:?}");
    assert_eq!(Asking::from("127.0.0.2", &edge).get("/").status(), 200, "another client");
    assert_eq!(origin.seen().len(), 6, "none of those reached a backend");
    let metrics = edge.metrics();
    assert_eq!(metrics.sum("edgeproxy_http_requests_total", &[("status", "4xx")]), 4);
}

#[test]
fn requests_in_one_piece_are_counted_each() {
    let origin = Origin::named("a");
    let edge = limited(&origin, "3").start();
    let mut client = Asking::to(&edge);
    client.say(get("/").repeat(6));
    let statuses: Vec<u16> = (0..6).map(|_| client.answer("GET").unwrap().status()).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429, 429]);
}

#[test]
fn a_trusted_peers_clients_have_a_limit_each_and_nobody_can_invent_one() {
    let origin = Origin::named("a");
    let edge = limited(&origin, "2").env("EDGEPROXY_HTTP_TRUSTED", "127.0.0.1").start();
    let mut balancer = Asking::to(&edge);
    for client in 0..10 {
        let said = format!("X-Forwarded-For: 198.51.100.{client}, 203.0.113.{client}\r\n");
        let statuses: Vec<u16> =
            (0..3).map(|_| balancer.ask(&request("GET", "/", &said)).status()).collect();
        assert_eq!(statuses, [200, 200, 429]);
    }
    // What was before the last is whatever the client has written.
    let said = "X-Forwarded-For: 192.0.2.99, 203.0.113.1\r\n";
    assert_eq!(balancer.ask(&request("GET", "/", said)).status(), 429);
    let mut other = Asking::from("127.0.0.2", &edge);
    let statuses: Vec<u16> = (0..3)
        .map(|number| {
            let said = format!("X-Forwarded-For: 203.0.113.{}\r\n", 100 + number);
            other.ask(&request("GET", "/", &said)).status()
        })
        .collect();
    assert_eq!(statuses, [200, 200, 429]);
}

#[test]
fn in_a_dry_run_nothing_is_refused() {
    let origin = Origin::named("a");
    let edge = limited(&origin, "1").env("EDGEPROXY_RATE_LIMIT_DRY_RUN", "true").start();
    let mut client = Asking::to(&edge);
    assert!((0..5).all(|_| client.get("/").status() == 200));
}

#[test]
fn a_refused_request_with_a_body_is_answered_and_its_body_is_no_request() {
    let origin = Origin::named("a");
    let edge = limited(&origin, "1").start();
    let mut client = Asking::to(&edge);
    client.get("/");
    let body = get("/smuggled");
    let length = format!("Content-Length: {}\r\n", body.len());
    client.say(request("POST", "/", &length) + &body + &get("/behind"));
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status(), answer.field("connection")), (429, Some("close")));
    client.ends();
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn who_is_denied_gets_no_answer_at_all() {
    let origin = Origin::named("a");
    let edge = before(&origin).env("EDGEPROXY_DENY", "127.0.9.0/24").start();
    Client::refused("127.0.9.1", edge.addr);
    assert_eq!(once(&edge, &get("/")).status(), 200);
}

#[test]
fn a_breaker_opens_for_a_backend_that_closes_or_says_that_it_is_a_bad_gateway() {
    for failing in [
        "closes",
        "HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
    ] {
        let bad = Origin::new(move |_, reader| match failing {
            "closes" => Then::Closes,
            answer => says(reader, answer),
        });
        let good = Origin::named("good");
        let edge = site()
            .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
            .env("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "3")
            .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "60")
            .backend(Row::new("bad", bad.addr()))
            .backend(Row::new("good", good.addr()))
            .start();
        let mut client = Asking::to(&edge);
        let failed = (0..100).filter(|_| client.get("/").status() >= 500).count();
        assert_eq!(failed, 3, "{failing:?}");
        assert_eq!(bad.seen().len(), 3, "{failing:?}");
    }
}

#[test]
fn a_breaker_does_not_open_for_answers_that_are_the_requests_own_fault_or_an_apps_error() {
    for status in [400, 404, 429, 500] {
        let answer = format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n");
        let origin = Origin::saying(&answer);
        let edge = before(&origin)
            .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
            .env("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "1")
            .start();
        let mut client = Asking::to(&edge);
        for _ in 0..10 {
            assert_eq!(client.get("/").status(), status);
        }
    }
}

#[test]
fn a_breaker_that_opened_closes_again_when_requests_are_answered() {
    let fails: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(true)));
    let origin = Origin::new(move |_, reader| {
        if fails.load(Ordering::SeqCst) {
            return Then::Closes;
        }
        says(reader, ok("a"))
    });
    let other = Origin::named("b");
    let edge = site()
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
        .env("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "2")
        .env("EDGEPROXY_CIRCUIT_SUCCESS_THRESHOLD", "2")
        .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "1")
        .backend(Row::new("a", origin.addr()))
        .backend(Row::new("b", other.addr()))
        .start();
    let mut client = Asking::to(&edge);
    eventually("it is open", || {
        client.get("/");
        (origin.seen().len() >= 2).then_some(())
    });
    fails.store(false, Ordering::SeqCst);
    eventually("it serves again", || {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200);
        (answer.text() == "a").then_some(())
    });
    for _ in 0..20 {
        assert_eq!(client.get("/").status(), 200);
    }
}

#[test]
fn a_client_that_goes_away_is_no_failure_of_its_backends() {
    let origin = Origin::new(|seen, reader| {
        if seen.message.path() == "/slow" {
            std::thread::sleep(Duration::from_millis(50));
            return says(reader, ok(&"x".repeat(1 << 20)));
        }
        says(reader, ok("a"))
    });
    let edge = before(&origin)
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
        .env("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "2")
        .start();
    for _ in 0..10 {
        let mut client = Asking::to(&edge);
        client.say(get("/slow"));
        let seen = origin.seen().len();
        eventually("the backend has it", || (origin.seen().len() >= seen).then_some(()));
        crate::support::reset(client.stream);
    }
    let mut client = Asking::to(&edge);
    for _ in 0..20 {
        assert_eq!(client.get("/").status(), 200);
    }
}

#[test]
fn an_unhealthy_backend_gets_no_requests_on_connections_that_are_open() {
    let healthy: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(true)));
    let sick = Origin::new(move |seen, reader| {
        let ok_now = healthy.load(Ordering::SeqCst);
        if seen.message.path() == "/health" && !ok_now {
            return says(reader, "HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n");
        }
        says(reader, ok("sick"))
    });
    let well = Origin::named("well");
    let edge = site()
        .env("EDGEPROXY_HEALTH_CHECK_ENABLED", "true")
        .env("EDGEPROXY_HEALTH_CHECK_TYPE", "http")
        .env("EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS", "1")
        .env("EDGEPROXY_HEALTH_UNHEALTHY_THRESHOLD", "1")
        .env("EDGEPROXY_HEALTH_HEALTHY_THRESHOLD", "1")
        .backend(Row::new("sick", sick.addr()))
        .backend(Row::new("well", well.addr()))
        .start();
    let mut client = Asking::to(&edge);
    eventually("both serve", || (client.get("/").text() == "sick").then_some(()));
    healthy.store(false, Ordering::SeqCst);
    edge.wait_for_log("unhealthy");
    for _ in 0..50 {
        assert_eq!(client.get("/").text(), "well");
    }
    healthy.store(true, Ordering::SeqCst);
    eventually("it is back", || (client.get("/").text() == "sick").then_some(()));
}

#[test]
fn who_asks_without_end_in_one_piece_does_not_keep_others_waiting() {
    let origin = Origin::named("a");
    // Each of those is answered at once, without a backend.
    let edge = limited(&origin, "1")
        .env("EDGEPROXY_RATE_LIMIT_EXEMPT", "127.0.0.2")
        .env("EDGEPROXY_WORKERS", "1")
        .start();
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let client = Asking::to(&edge);
                let mut reading = client.stream.try_clone().unwrap();
                let reader = scope.spawn(move || {
                    let mut bytes = [0; 1 << 12];
                    while std::io::Read::read(&mut reading, &mut bytes).is_ok_and(|read| read > 0) {
                    }
                });
                let flood = get("/").repeat(1_000);
                let mut writing = &client.stream;
                while !ends.load(Ordering::SeqCst) {
                    if std::io::Write::write_all(&mut writing, flood.as_bytes()).is_err() {
                        break;
                    }
                }
                let _ = client.stream.shutdown(std::net::Shutdown::Both);
                reader.join().unwrap();
            });
        }
        let mut good = Asking::from("127.0.0.2", &edge);
        let mut longest = Duration::ZERO;
        for _ in 0..30 {
            let begun = std::time::Instant::now();
            assert_eq!(good.get("/").status(), 200);
            longest = longest.max(begun.elapsed());
        }
        ends.store(true, Ordering::SeqCst);
        assert!(longest < Duration::from_millis(500), "{longest:?}");
    });
}
