//! Whose certificates are taken, and what is said of those that are not.

use rcgen::{BasicConstraints, IsCa, date_time_ymd};

use super::peers::{Identity, Peer, Pki, Secured, TLS12, TLS13, self_signed};
use crate::support::{Client, Edge, Refusing, Row, Site, eventually};

/// A backend, what the configuration says of it, and whether it serves or why not.
struct Case {
    name: &'static str,
    backend: Secured,
    tls: String,
    refused: Option<&'static str>,
}

fn case(
    name: &'static str,
    own: &Identity,
    tls: &str,
    refused: impl Into<Option<&'static str>>,
) -> Case {
    let backend = Secured::named(name, own.server(TLS13));
    Case { name, backend, tls: tls.into(), refused: refused.into() }
}

/// One edge before all of them, each an app with a listener of its own.
fn judges(site: Site, cases: &[Case]) {
    let ports: Vec<_> = cases.iter().map(|_| Refusing::new()).collect();
    let mut site = site.with_metrics().env("EDGEPROXY_APP", cases[0].name);
    for (Case { name, backend, tls, .. }, port) in cases.iter().zip(&ports) {
        site = site
            .toml(&format!("[app.{name}.tls]\n{tls}"))
            .toml(&format!("[[listener]]\naddr = \"{}\"\napp = \"{name}\"", port.addr()))
            .backend(Row::new(name, backend.addr()).app(name));
    }
    let edge = site.start();
    for (Case { name, refused, .. }, port) in cases.iter().zip(&ports) {
        let Some(why) = refused else {
            let mut peer = Peer::connect(port.addr(), None);
            assert_eq!(peer.line().unwrap(), *name);
            peer.echo("hello").unwrap();
            continue;
        };
        Client::refused("127.0.0.1", port.addr());
        wait_for_reason(&edge, name, why);
        let labels = [("backend", *name), ("reason", "tls")];
        assert!(edge.metrics().value("edgeproxy_dial_failures_total", &labels) >= 1, "{name}");
    }
}

fn wait_for_reason(edge: &Edge, backend: &str, why: &str) {
    eventually(&format!("{backend}: {why}"), || {
        edge.log_so_far()
            .into_iter()
            .find(|line| {
                line.contains(&format!("backend={backend} ")) && line.contains("dial failed (TLS: ")
            })
            .map(|line| assert!(line.contains(why), "{line}"))
    });
}

#[test]
fn a_backend_must_be_vouched_for_and_be_the_one_it_is_taken_for() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let root = format!("ca = \"{}\"\n", pki.root());
    let named = format!("{root}name = \"db.internal\"");
    let (by_ip, by_name) = (pki.issue(&["127.0.0.1"]), pki.issue(&["db.internal"]));
    let past = |params: &mut rcgen::CertificateParams| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    };
    let authority = |params: &mut rcgen::CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    let expired = pki.issue_with(&["127.0.0.1"], past);
    let future = pki.issue_with(&["127.0.0.1"], |params| {
        params.not_before = date_time_ymd(2090, 1, 1);
        params.not_after = date_time_ymd(2091, 1, 1);
    });
    let own = self_signed(&["127.0.0.1"], |_| {});
    let own_ca = self_signed(&["127.0.0.1"], authority);
    let other_ca = self_signed(&["127.0.0.1"], authority);
    let own_expired = self_signed(&["127.0.0.1"], |params| {
        authority(params);
        past(params);
    });
    let own_elsewhere = self_signed(&["127.0.0.2"], authority);
    let client_only = pki.issue_with(&["127.0.0.1"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let given = |name: &str, own: &Identity| format!("ca = \"{}\"", pki.file(name, &own.chain));
    judges(
        Site::new(),
        &[
            case("address", &by_ip, &root, None),
            case("name", &by_name, &named, None),
            case("other_address", &pki.issue(&["127.0.0.2"]), &root, "not valid for name"),
            case("other_name", &pki.issue(&["web.internal"]), &named, "not valid for name"),
            case("no_name", &by_name, &root, "not valid for name"),
            case("other_ca", &stranger.issue(&["127.0.0.1"]), &root, "UnknownIssuer"),
            case("no_ca", &by_ip, "", "UnknownIssuer"),
            case("expired", &expired, &root, "expired"),
            case("future", &future, &root, "not valid yet"),
            case("for_clients", &client_only, &root, "certificate"),
            case("own", &own, &given("own.pem", &own), None),
            case("own_ca", &own_ca, &given("own_ca.pem", &own_ca), None),
            case("own_of_other", &own_ca, &given("other_ca.pem", &other_ca), "CaUsedAsEndEntity"),
            case("own_expired", &own_expired, &given("own_expired.pem", &own_expired), "expired"),
            case("own_else", &own_elsewhere, &given("own_else.pem", &own_elsewhere), "not valid"),
            case("unverified", &own_expired, "verify = false", None),
            case("unverified_name", &by_name, "verify = false\nname = \"x.test\"", None),
        ],
    );
}

#[test]
fn whom_the_system_trusts_is_trusted_where_nobody_is_named() {
    let pki = Pki::new();
    let own = pki.issue(&["127.0.0.1"]);
    let site = Site::new().env("SSL_CERT_FILE", &pki.root());
    judges(site, &[case("system", &own, "", None)]);
}

#[test]
fn the_name_is_asked_for_and_an_address_is_not() {
    let pki = Pki::new();
    let backend = Secured::echo(pki.server());
    let edge = super::before(&pki, backend.addr());
    edge.client().echo("hello").unwrap();
    edge.reload(&format!("{}name = \"localhost\"\n", super::trusting(&pki)));
    edge.client().echo("hello").unwrap();
    let names: Vec<_> = backend.seen().into_iter().map(|seen| seen.name).collect();
    assert_eq!(names, [None, Some("localhost".into())]);
}

#[test]
fn who_asks_for_a_certificate_gets_ours_and_who_has_none_is_refused() {
    let pki = Pki::new();
    let own = pki.issue(&["edge.internal"]);
    let with = format!(
        "{}cert = \"{}\"\nkey = \"{}\"\n",
        super::trusting(&pki),
        pki.file("edge.pem", &own.chain),
        pki.file("edge.key", &own.key)
    );
    for versions in [TLS13, TLS12] {
        let backend = Secured::named("a", pki.strict_server(versions));
        let site = Site::new().backend(Row::new("a", backend.addr()));
        let edge = site.toml(&super::trusting(&pki)).start();
        assert!(edge.visit().is_err());
        edge.reload(&with);
        let mut visit = edge.visit().unwrap();
        assert_eq!(visit.served_by, "a");
        visit.client.echo("hello").unwrap();
        assert!(backend.seen().iter().all(|seen| seen.identified));
    }
}

#[test]
fn what_is_not_checked_is_warned_about_at_the_start_and_at_a_reload() {
    let pki = Pki::new();
    let backend = Secured::named("a", pki.server());
    let site = Site::new().backend(Row::new("a", backend.addr()));
    let edge = site.toml("[app.web.tls]\nverify = false").start();
    let warning = "app.web.tls: verify = false";
    edge.wait_until_logged(1, warning);
    edge.reload(&super::trusting(&pki));
    assert_eq!(edge.times_logged(warning), 1);
    edge.reload("[app.web.tls]\nverify = false\nname = \"localhost\"");
    edge.wait_until_logged(2, warning);
    edge.visit().unwrap();
}
