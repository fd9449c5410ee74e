//! Backends with which no handshake comes about.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::peers::{Pki, Secured, accept, echo};
use super::trusting;
use crate::support::{Backend, Edge, Row, Site, eventually, reset};

/// A bad backend, which everybody goes to first, and a good one in another region.
fn bad_before_good(pki: &Pki, site: Site, bad: SocketAddr, good: SocketAddr) -> Edge {
    site.with_metrics()
        .without_affinity()
        .toml(&trusting(pki))
        .backend(Row::new("bad", bad).weight(1_000))
        .backend(Row::new("good", good).place("eu", "DE"))
        .start()
}

fn failures(edge: &Edge, reason: &str) -> u64 {
    let labels = [("backend", "bad"), ("reason", reason)];
    edge.metrics().sum("edgeproxy_dial_failures_total", &labels)
}

/// What a backend does with a connection.
type Manner = Box<dyn Fn(TcpStream) + Send + Sync>;

/// Reads the client's hello, or as much as has come.
fn hears(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 4_096]);
}

#[test]
fn whatever_a_backend_does_in_place_of_a_handshake_its_client_gets_the_next() {
    let pki = Pki::new();
    let good = Secured::named("good", pki.server());
    let strange = Arc::new(Pki::new().server());
    let manners: [(&str, &str, Manner); 6] = [
        (
            "speaks plainly",
            "TLS: received corrupt message",
            Box::new(|mut stream| {
                let _ = stream.write_all(b"SSH-2.0-server\r\n");
                hears(&mut stream);
                let _ = stream.read(&mut [0; 1]);
            }),
        ),
        (
            "answers plainly",
            "TLS: received corrupt message",
            Box::new(|mut stream| {
                hears(&mut stream);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }),
        ),
        (
            "closes",
            "TLS: the connection was closed during the handshake",
            Box::new(|mut stream| hears(&mut stream)),
        ),
        (
            "closes in a record",
            "TLS: the connection was closed during the handshake",
            Box::new(|mut stream| {
                hears(&mut stream);
                // The head of a record, and the first byte of what is in it.
                let _ = stream.write_all(&[22, 3, 3, 1, 0, 2]);
            }),
        ),
        (
            "resets",
            "reset",
            Box::new(|mut stream| {
                hears(&mut stream);
                reset(stream);
            }),
        ),
        (
            "is a stranger",
            "TLS: invalid peer certificate: UnknownIssuer",
            Box::new(move |stream| drop(accept(&strange, stream, &Mutex::default()))),
        ),
    ];
    for (what, why, manner) in manners {
        let bad = Backend::serving(manner);
        let edge = bad_before_good(&pki, Site::new(), bad.addr(), good.addr());
        let begun = Instant::now();
        let mut visit = edge.visit().unwrap();
        assert_eq!(visit.served_by, "good", "{what}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{what}: nobody waits for it");
        visit.client.echo("hello").unwrap();
        let addr = visit.client.addr();
        drop(visit);
        assert_eq!(&edge.access_of_addr(addr)["tries"], "2", "{what}");
        let warning = edge.wait_for_log("dial failed (");
        assert!(warning.contains("bad") && warning.contains(why), "{what}: {warning}");
        let counted = failures(&edge, "tls");
        // The system may tell of a reset before it is read.
        let counted = if what == "resets" { counted + failures(&edge, "other") } else { counted };
        assert!(counted >= 1, "{what}");
        // It ranks last now.
        let visit = edge.visit().unwrap();
        let addr = visit.client.addr();
        drop(visit);
        assert_eq!(&edge.access_of_addr(addr)["tries"], "1", "{what}");
    }
}

/// A backend whose certificate is nobody's until it gets a right one.
fn healing(pki: &Pki) -> (Secured, Arc<AtomicBool>) {
    let (wrong, right) = (Arc::new(Pki::new().server()), Arc::new(pki.server()));
    let healed = Arc::new(AtomicBool::new(false));
    let is_healed = Arc::clone(&healed);
    let backend = Secured::choosing(
        move || Arc::clone(if is_healed.load(Ordering::SeqCst) { &right } else { &wrong }),
        |peer| {
            if peer.write_all(b"bad\n").is_ok() {
                echo(peer);
            }
        },
    );
    (backend, healed)
}

#[test]
fn probes_find_out_whether_the_handshake_comes_about_again_and_no_client_does() {
    let pki = Pki::new();
    let good = Secured::named("good", pki.server());
    let (bad, healed) = healing(&pki);
    let edge = bad_before_good(&pki, Site::new(), bad.addr(), good.addr());
    assert_eq!(edge.visit().unwrap().served_by, "good");
    // The first probe comes after a second, the next after two more.
    edge.metrics_when("two probes have failed", |metrics| {
        let labels = [("backend", "bad"), ("reason", "tls")];
        metrics.sum("edgeproxy_dial_failures_total", &labels) >= 3
    });
    assert_eq!(edge.times_logged("answers again"), 0);
    let visit = edge.visit().unwrap();
    let addr = visit.client.addr();
    drop(visit);
    assert_eq!(&edge.access_of_addr(addr)["tries"], "1", "it still ranks last");
    healed.store(true, Ordering::SeqCst);
    edge.wait_for_log("answers again");
    assert_eq!(edge.visit().unwrap().served_by, "bad");
}

#[test]
fn probes_begin_with_the_header_that_the_backend_expects() {
    let pki = Pki::new();
    let good = Backend::serving(super::headers::after_header(pki.server(), |peer| {
        let _ = peer.write_all(b"good\n");
        echo(peer);
    }));
    let healed = Arc::new(AtomicBool::new(false));
    let is_healed = Arc::clone(&healed);
    let serve = super::headers::after_header(pki.server(), |peer| {
        let _ = peer.write_all(b"bad\n");
        echo(peer);
    });
    let bad = Backend::serving(move |stream| {
        if is_healed.load(Ordering::SeqCst) {
            serve(stream);
        }
    });
    let site = Site::new().toml("[app.web]\nproxy_protocol = \"v2\"");
    let edge = bad_before_good(&pki, site, bad.addr(), good.addr());
    assert_eq!(edge.visit().unwrap().served_by, "good");
    edge.metrics_when("a probe has failed", |metrics| {
        metrics.sum("edgeproxy_dial_failures_total", &[("backend", "bad")]) >= 2
    });
    healed.store(true, Ordering::SeqCst);
    edge.wait_for_log("answers again");
    assert_eq!(edge.visit().unwrap().served_by, "bad");
}

#[test]
fn one_that_stalls_gets_company_after_half_a_second_and_fails_when_the_time_is_up() {
    let pki = Pki::new();
    let good = Secured::named("good", pki.server());
    let stalls = || Backend::serving(|mut stream| while let Ok(1..) = stream.read(&mut [0; 64]) {});
    let bad = stalls();
    let site = Site::new().env("EDGEPROXY_POOL_CONNECT_TIMEOUT_SECS", "1");
    let edge = bad_before_good(&pki, site, bad.addr(), good.addr());
    let begun = Instant::now();
    assert_eq!(edge.visit().unwrap().served_by, "good");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(1), "{took:?}");
    edge.wait_for_log("dial failed (no answer for 50");
    assert_eq!(edge.visit().unwrap().served_by, "good");
    eventually("it is counted", || (failures(&edge, "timeout") >= 1).then_some(()));

    // With nobody else the client is told when the time is up.
    let site = Site::new().env("EDGEPROXY_POOL_CONNECT_TIMEOUT_SECS", "1");
    let edge = site.toml(&trusting(&pki)).backend(Row::new("bad", bad.addr())).start();
    let begun = Instant::now();
    assert_eq!(&edge.refusal_of("127.0.0.1")["reason"], "connect_failed");
    assert!(begun.elapsed() >= Duration::from_millis(950), "{:?}", begun.elapsed());
}

#[test]
fn a_breaker_opens_on_handshakes_that_fail() {
    let pki = Pki::new();
    let bad = Secured::named("bad", Pki::new().server());
    let edge = Site::new()
        .with_metrics()
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
        .env("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "12")
        .toml(&trusting(&pki))
        .backend(Row::new("bad", bad.addr()))
        .start();
    // More than probes make in all of a test's patience.
    for _ in 0..12 {
        assert!(edge.visit().is_err());
    }
    edge.metrics_when("it is open", |metrics| {
        metrics.value("edgeproxy_breaker_state", &[("backend", "bad")]) == 2
    });
    assert!(failures(&edge, "tls") >= 12);
}
