//! Health checks of backends with TLS.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::headers::after_header;
use super::peers::{Peer, Pki, Secured};
use super::trusting;
use crate::support::{Backend, Edge, Row, Site, Web, eventually};

fn probing(check: &str) -> Site {
    Site::new()
        .with_metrics()
        .without_affinity()
        .env("EDGEPROXY_HEALTH_CHECK_ENABLED", "true")
        .env("EDGEPROXY_HEALTH_CHECK_TYPE", check)
        .env("EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS", "1")
        .env("EDGEPROXY_HEALTH_HEALTHY_THRESHOLD", "1")
        .env("EDGEPROXY_HEALTH_UNHEALTHY_THRESHOLD", "1")
}

fn eligible(edge: &Edge, backend: &str) -> bool {
    edge.metrics().value("edgeproxy_backend_eligible", &[("backend", backend)]) == 1
}

/// Answers requests, with a status that can be changed.
fn answering(ok: &Arc<AtomicBool>, asked: &Arc<AtomicUsize>) -> impl Fn(&mut Peer) + use<> {
    let (ok, asked) = (Arc::clone(ok), Arc::clone(asked));
    move |peer: &mut Peer| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if !matches!(peer.read(&mut byte), Ok(1)) {
                return;
            }
            head.push(byte[0]);
        }
        asked.fetch_add(1, Ordering::SeqCst);
        let status = if ok.load(Ordering::SeqCst) { 200 } else { 503 };
        let _ = peer
            .write_all(format!("HTTP/1.1 {status} -\r\nContent-Length: 4\r\n\r\ngood").as_bytes());
        peer.finish();
    }
}

#[test]
fn requests_are_made_behind_tls_and_the_status_counts() {
    let pki = Pki::new();
    let (ok, asked) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
    for header in [false, true] {
        let serve = answering(&ok, &asked);
        let (plain, secured);
        let addr = if header {
            plain = Backend::serving(after_header(pki.server(), serve));
            plain.addr()
        } else {
            secured = Secured::serving(pki.server(), serve);
            secured.addr()
        };
        let twin = Secured::named("twin", Pki::new().server());
        let proxy = if header { "[app.web]\nproxy_protocol = \"v2\"\n" } else { "" };
        let edge = probing("http")
            .toml(&format!("{proxy}{}", trusting(&pki)))
            .backend(Row::new("a", addr))
            .backend(Row::new("twin", twin.addr()))
            .start();
        let before = asked.load(Ordering::SeqCst);
        eventually("two probes", || (asked.load(Ordering::SeqCst) >= before + 2).then_some(()));
        let why = edge.wait_for_log("unhealthy: ");
        assert!(why.contains("twin") && why.contains("TLS: "), "{why}");
        assert!(why.contains(if header { "" } else { "UnknownIssuer" }), "{why}");
        assert!(eligible(&edge, "a") && !eligible(&edge, "twin"));
        assert_eq!(edge.fetch().unwrap(), "good");
        ok.store(false, Ordering::SeqCst);
        edge.wait_for_log("status 503, expected 200");
        ok.store(true, Ordering::SeqCst);
        edge.wait_for_log("healthy again");
    }
}

#[test]
fn a_connection_is_probed_up_to_the_end_of_the_handshake() {
    let pki = Pki::new();
    let (wrong, right) = (Arc::new(Pki::new().server()), Arc::new(pki.server()));
    let is_right = Arc::new(AtomicBool::new(true));
    let chooses = Arc::clone(&is_right);
    let backend = Secured::choosing(
        move || Arc::clone(if chooses.load(Ordering::SeqCst) { &right } else { &wrong }),
        super::peers::echo,
    );
    let plain = Backend::named("plain");
    let edge = probing("tcp")
        .toml(&trusting(&pki))
        .backend(Row::new("a", backend.addr()))
        .backend(Row::new("plain", plain.addr()))
        .start();
    let why = edge.wait_for_log("unhealthy: ");
    assert!(why.contains("plain") && why.contains("TLS: "), "{why}");
    eventually("probes have come", || (backend.seen().len() >= 3).then_some(()));
    assert!(eligible(&edge, "a"));
    is_right.store(false, Ordering::SeqCst);
    eventually("it is found out", || {
        // A session that goes on needs no certificate.
        edge.log_so_far()
            .iter()
            .any(|line| line.contains("unhealthy: ") && line.contains("backend=a "))
            .then_some(())
    });
    is_right.store(true, Ordering::SeqCst);
    edge.wait_for_log("healthy again");
}

#[test]
fn a_port_of_its_own_is_probed_plainly() {
    let pki = Pki::new();
    let (backend, health) = (Secured::named("a", pki.server()), Web::named("health"));
    let tables = format!(
        "[app.web]\nproxy_protocol = \"off\"\n[app.web.health]\nport = {}\n{}",
        health.addr().port(),
        trusting(&pki)
    );
    let edge = probing("http").toml(&tables).backend(Row::new("a", backend.addr())).start();
    eventually("two probes", || (health.probes().len() >= 2).then_some(()));
    assert!(eligible(&edge, "a"));
    assert_eq!(edge.visit().unwrap().served_by, "a");
    // A reload that takes TLS away has the same port asked as before, and the backend plainly.
    health.tells_probes(500);
    edge.wait_for_log("status 500");
}
