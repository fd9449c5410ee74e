//! What changes while connections are open, and what is left when they are gone.

use std::sync::Arc;

use super::peers::{Peer, Pki, Secured, echo};
use super::{before, front, trusting};
use crate::support::{Backend, Edge, Row, Site, eventually};

#[test]
fn tls_comes_changes_and_goes_for_those_who_come_then() {
    let (pki, other) = (Pki::new(), Pki::new());
    let plain = Backend::named("plain");
    let secured = Secured::named("secured", pki.server());
    let elsewhere = Secured::named("elsewhere", other.server());
    let site = Site::new().env("EDGEPROXY_POOL_ENABLED", "true").without_affinity();
    let edge = site
        .backend(Row::new("plain", plain.addr()))
        .backend(Row::new("secured", secured.addr()).place("eu", "DE"))
        .backend(Row::new("elsewhere", elsewhere.addr()).place("us", "US"))
        .start();
    let mut kept = Vec::new();
    let mut visits = |edge: &Edge, expected: &str| {
        for _ in 0..3 {
            let visit = edge.visit().unwrap();
            assert_eq!(visit.served_by, expected);
            kept.push(visit);
        }
        for visit in &mut kept {
            visit.client.echo("still here").unwrap();
        }
    };
    visits(&edge, "plain");
    let trusts = |pki: &Pki, tls: &str| format!("[app.web.tls]\n{tls}ca = \"{}\"\n", pki.root());
    edge.reload(&trusts(&pki, ""));
    visits(&edge, "secured");
    edge.reload(&trusts(&other, ""));
    visits(&edge, "elsewhere");
    edge.reload(&trusts(&pki, "name = \"localhost\"\n"));
    visits(&edge, "secured");
    edge.reload("");
    edge.wait_for_log("answers again backend=plain");
    visits(&edge, "plain");
}

#[test]
fn the_protocol_that_the_client_has_agreed_on_is_offered_to_the_backend() {
    let pki = Pki::new();
    let serving = |protocols: &[&str]| {
        let mut config = pki.server();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Secured::echo(config)
    };
    let both = serving(&["h2", "http/1.1"]);
    let none = serving(&[]);
    let old = serving(&["http/1.1"]);
    for (backend, asked, expected) in [
        (&both, &["h2"][..], Some("h2")),
        (&both, &["http/1.1"], Some("http/1.1")),
        (&both, &["http/1.1", "h2"], Some("h2")),
        (&both, &[], None),
        (&none, &["h2"], None),
        (&old, &["h2"], Some("refused")),
    ] {
        let site = Site::new()
            .env("EDGEPROXY_TLS_ALPN", "h2,http/1.1")
            .backend(Row::new("a", backend.addr()));
        let front = front(&pki, site, &trusting(&pki), "");
        let mut config = pki.client(None);
        config.alpn_protocols = asked.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut client = Peer::connect(front.addr, Some(&Arc::new(config)));
        let before = backend.seen().len();
        if expected == Some("refused") {
            assert!(client.echo("hello").is_err());
            // That is the client's doing and not held against the backend.
            let own = client.stream().local_addr().unwrap();
            let line = front.edge.access_of_addr(own);
            assert_eq!((&line["reason"], &line["tries"]), ("tls_failed", "1"));
            assert_eq!(front.edge.times_logged("dial failed"), 0);
            front.edge.client().echo("hello").unwrap();
            continue;
        }
        client.echo("hello").unwrap();
        let seen = &backend.seen()[before];
        assert_eq!(seen.alpn.as_deref(), expected.map(str::as_bytes), "{asked:?}");
        // Who comes plainly has agreed on nothing.
        front.edge.client().echo("hello").unwrap();
        assert_eq!(backend.seen()[before + 1].alpn, None);
    }
}

#[test]
fn memory_and_descriptors_come_back_after_thousands_of_connections() {
    const EACH: usize = 250;
    let pki = Pki::new();
    let backend = Secured::serving(pki.server(), echo);
    let edge = before(&pki, backend.addr());
    let at_rest = edge.descriptors_at_rest();
    let wave = || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..EACH {
                        let mut client = edge.client();
                        client.echo("hello").unwrap();
                        match number % 3 {
                            0 => client.reset(),
                            1 => {
                                client.finish();
                                client.rest().unwrap();
                            }
                            _ => {}
                        }
                    }
                });
            }
        });
        eventually("all have ended", || {
            (edge.metrics().value("edgeproxy_connections_active", &[]) == 0).then_some(())
        });
    };
    wave();
    let after_one = edge.memory_kib();
    wave();
    wave();
    let after_three = edge.memory_kib();
    assert!(after_three < after_one + 1_024, "{after_one} KiB, then {after_three}");
    eventually("no descriptor is left", || (edge.descriptors() <= at_rest + 2).then_some(()));
    assert_eq!(backend.seen().len(), 12 * EACH);
    let full = backend.seen().iter().filter(|seen| !seen.resumed).count();
    assert!(full < 12 * EACH, "{full} handshakes in full");
}
