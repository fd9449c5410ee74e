//! Sessions that go on from one before, as the backend sees it.

use super::peers::{Pki, Secured, TLS12, TLS13};
use super::{before, trusting};
use crate::support::{Balancer, Edge, Refusing, Row, Site};

fn visits(edge: &Edge, count: usize) {
    for _ in 0..count {
        let mut visit = edge.visit().unwrap();
        // Tickets come after the handshake, before the echo.
        visit.client.echo("hello").unwrap();
    }
}

#[test]
fn one_handshake_goes_on_from_another() {
    for versions in [TLS13, TLS12] {
        let pki = Pki::new();
        let backend = Secured::named("a", pki.issue(&["127.0.0.1"]).server(versions));
        let edge = before(&pki, backend.addr());
        visits(&edge, 6);
        let seen = backend.seen();
        assert_eq!(seen[0].version, versions[0].version);
        assert!(!seen[0].resumed);
        assert!(seen[1..].iter().all(|seen| seen.resumed), "{seen:?}");
        // Each backend has sessions of its own.
        let twin = Secured::named("b", pki.issue(&["127.0.0.1"]).server(versions));
        edge.site.sql(&Row::new("b", twin.addr()).weight(100_000).insert());
        crate::support::eventually("the twin serves", || {
            visits(&edge, 1);
            (twin.seen().len() > 1).then_some(())
        });
        assert!(!twin.seen()[0].resumed && twin.seen()[1].resumed, "{:?}", twin.seen());
    }
}

#[test]
fn sessions_outlive_a_reload_that_changes_nothing_of_it_and_no_other() {
    let pki = Pki::new();
    for versions in [TLS13, TLS12] {
        let backend = Secured::named("a", pki.issue(&["127.0.0.1"]).server(versions));
        let edge = before(&pki, backend.addr());
        visits(&edge, 2);
        edge.reload(&format!("connect_tries = 2\n{}", trusting(&pki)));
        visits(&edge, 1);
        assert!(backend.seen()[2].resumed);
        let stranger = pki.file("stranger.pem", &Pki::new().root_pem());
        edge.reload(&format!("[app.web.tls]\nca = \"{stranger}\"\n"));
        assert!(edge.visit().is_err());
        edge.wait_for_log("UnknownIssuer");
        edge.reload(&trusting(&pki));
        edge.visit().unwrap();
        assert!(!backend.seen().last().unwrap().resumed);
    }
}

#[test]
fn a_file_that_has_changed_is_read_again_at_a_reload_and_a_bad_one_refuses_it() {
    let pki = Pki::new();
    let backend = Secured::named("a", pki.server());
    let ca = pki.file("ca.pem", &Pki::new().root_pem());
    let tls = format!("[app.web.tls]\nca = \"{ca}\"\n");
    let edge = Site::new().with_metrics().toml(&tls).backend(Row::new("a", backend.addr())).start();
    assert!(edge.visit().is_err());
    pki.file("ca.pem", &pki.root_pem());
    edge.reload_in_silence(&tls);
    visits(&edge, 2);
    pki.file("ca.pem", "nothing");
    let said = edge.refuses(&format!("connect_tries = 1\n{tls}"));
    assert!(said.contains("app.web.tls") && said.contains(&ca), "{said}");
    visits(&edge, 1);
    assert!(backend.seen()[2].resumed, "nothing has changed");
}

#[test]
fn nginx_sees_it_too() {
    let pki = Pki::new();
    let own = pki.issue(&["127.0.0.1"]);
    let (chain, key) = (pki.file("own.pem", &own.chain), pki.file("own.key", &own.key));
    let port = Refusing::new();
    let text = format!(
        "http {{ access_log off; ssl_session_cache builtin:100; server {{ listen {} ssl; \
         ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; \
         location / {{ return 200 \"$ssl_protocol $ssl_session_reused\"; }} }} }}",
        port.addr()
    );
    let nginx = Balancer::nginx(port, &text);
    let edge = before(&pki, nginx.addr());
    let answers: Vec<_> = (0..3).map(|_| edge.fetch().unwrap()).collect();
    assert_eq!(answers, ["TLSv1.3 .", "TLSv1.3 r", "TLSv1.3 r"]);
}
