//! Warm connections: the handshake is made when a client takes one.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::peers::{Pki, Secured, accept, echo};
use super::trusting;
use crate::pool::pooled;
use crate::support::{Backend, Edge, Row, connections_to, eventually};

const ESTABLISHED: u8 = 1;

fn wait_until_some_wait(backend: &Backend) {
    eventually("some wait", || connections_to(backend.addr()).contains(&ESTABLISHED).then_some(()));
}

/// After the first client of all.
fn wait_until_two_wait(edge: &Edge) {
    edge.metrics_when("the client's dial and two ahead are answered", |metrics| {
        metrics.sum("edgeproxy_backend_rtt_seconds_count", &[("backend", "a")]) == 3
    });
}

#[test]
fn a_warm_connection_is_one_of_tcp_whose_handshake_the_client_makes() {
    let pki = Pki::new();
    let config = Arc::new(pki.server());
    let (came, handshakes) = (AtomicUsize::new(0), Arc::<Mutex<Vec<_>>>::default());
    let sees = Arc::clone(&handshakes);
    let backend = Backend::serving(move |stream| {
        let number = came.fetch_add(1, Ordering::SeqCst);
        if let Some(mut peer) = accept(&config, stream, &sees) {
            let _ = peer.write_all(format!("{number}\n").as_bytes());
            echo(&mut peer);
        }
    });
    let edge = pooled().toml(&trusting(&pki)).backend(Row::new("a", backend.addr())).start();
    let (mut ready, mut numbers) = (0, HashSet::new());
    for _ in 0..40 {
        let before = backend.accepted();
        let mut visit = edge.visit().unwrap();
        let number: usize = visit.served_by.parse().unwrap();
        assert!(numbers.insert(number), "{number} was used before");
        ready += usize::from(number < before);
        visit.client.echo("hello").unwrap();
    }
    assert!(ready > 15, "only {ready} of 40 found a connection that was ready");
    assert_eq!(handshakes.lock().unwrap().len(), 40, "only clients make handshakes");
}

/// A backend whose connections that wait are spoiled by `spoils` as soon as a client makes use of them,
/// and which counts those that were.
struct Spoiling {
    backend: Backend,
    spoilt: Arc<AtomicUsize>,
    spoils: Arc<AtomicBool>,
}

/// Every connection made while `armed` is not on is good.
fn spoiling(pki: &Pki, spoil: impl Fn(TcpStream) + Send + Sync + 'static) -> Spoiling {
    let config = Arc::new(pki.server());
    let (spoilt, spoils) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let (counts, armed) = (Arc::clone(&spoilt), Arc::clone(&spoils));
    let backend = Backend::serving(move |mut stream| {
        // What was there before a hello came has waited.
        let waited =
            stream.peek(&mut [0]).is_ok_and(|read| read == 1) && armed.load(Ordering::SeqCst);
        if waited && counts.load(Ordering::SeqCst) == 0 {
            counts.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4_096]);
            return spoil(stream);
        }
        if let Some(mut peer) = accept(&config, stream, &Mutex::default()) {
            let _ = peer.write_all(b"a\n");
            echo(&mut peer);
        }
    });
    Spoiling { backend, spoilt, spoils }
}

#[test]
fn one_that_fails_is_followed_by_a_fresh_one_to_the_same_backend_and_not_held_against_it() {
    let pki = Pki::new();
    let manners: [fn(TcpStream); 3] = [drop, crate::support::reset, |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n");
    }];
    for most in ["1", "2", "3"] {
        for spoil in manners {
            let Spoiling { backend, spoilt, spoils } = spoiling(&pki, spoil);
            let twin = Secured::named("twin", pki.server());
            let edge = crate::support::Site::new()
                .with_metrics()
                .env("EDGEPROXY_POOL_ENABLED", "true")
                .env("EDGEPROXY_CONNECT_TRIES", most)
                .env("EDGEPROXY_WORKERS", "1")
                .toml(&trusting(&pki))
                .backend(Row::new("a", backend.addr()).weight(1_000))
                .backend(Row::new("twin", twin.addr()).place("eu", "DE"))
                .start();
            assert_eq!(edge.visit().unwrap().served_by, "a");
            wait_until_two_wait(&edge);
            spoils.store(true, Ordering::SeqCst);
            assert_eq!(edge.visit().unwrap().served_by, "a", "{most} tries");
            assert_eq!(spoilt.load(Ordering::SeqCst), 1, "a warm one was taken");
            let failures = edge.metrics().sum("edgeproxy_dial_failures_total", &[]);
            assert_eq!(failures, 0, "{most} tries");
            assert_eq!(edge.times_logged("dial failed"), 0);
        }
    }
}

#[test]
fn who_finds_nobody_after_a_warm_one_has_failed_is_told_so() {
    let pki = Pki::new();
    let (right, wrong) = (Arc::new(pki.server()), Arc::new(Pki::new().server()));
    for most in ["1", "2", "3"] {
        let is_wrong = Arc::<AtomicBool>::default();
        let chooses = Arc::clone(&is_wrong);
        let (right, wrong) = (Arc::clone(&right), Arc::clone(&wrong));
        let backend = Backend::serving(move |stream| {
            // The choice is made when the client's hello has come.
            let _ = stream.peek(&mut [0]);
            let config = if chooses.load(Ordering::SeqCst) { &wrong } else { &right };
            if let Some(mut peer) = accept(config, stream, &Mutex::default()) {
                let _ = peer.write_all(b"a\n");
                echo(&mut peer);
            }
        });
        let edge = pooled()
            .with_metrics()
            .env("EDGEPROXY_CONNECT_TRIES", most)
            .env("EDGEPROXY_WORKERS", "1")
            .toml(&trusting(&pki))
            .backend(Row::new("a", backend.addr()))
            .start();
        assert_eq!(edge.visit().unwrap().served_by, "a");
        wait_until_two_wait(&edge);
        is_wrong.store(true, Ordering::SeqCst);
        let line = edge.refusal_of("127.0.0.1");
        assert_eq!((&line["reason"], &line["tries"]), ("connect_failed", "2"), "{most} tries");
        assert_eq!(edge.times_logged("panicked"), 0);
    }
}

#[test]
fn one_that_the_backend_closed_while_it_waited_is_nobodys() {
    let pki = Pki::new();
    let mut backend = Backend::serving({
        let config = Arc::new(pki.server());
        move |stream| {
            if let Some(mut peer) = accept(&config, stream, &Mutex::default()) {
                let _ = peer.write_all(b"a\n");
                echo(&mut peer);
            }
        }
    });
    let edge = pooled().toml(&trusting(&pki)).backend(Row::new("a", backend.addr())).start();
    for _ in 0..3 {
        assert_eq!(edge.visit().unwrap().served_by, "a");
        wait_until_some_wait(&backend);
        backend.stop();
        backend.restart();
        assert_eq!(edge.visit().unwrap().served_by, "a");
    }
    assert_eq!(edge.times_logged("dial failed"), 0);
}
