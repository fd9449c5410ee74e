//! Who is never relayed, and what is made known of it.

use std::io::Write;
use std::net::SocketAddr;

use super::{
    LOCAL, SIGNATURE, addr, assert_reset, assert_turned_away, greeted, line, refusals, sends, site,
    speaks_for, v1, v2, v2_of, visits,
};
use crate::support::{Backend, Client, Edge, Metrics, Row, Site, eventually};

/// The first message of a TLS client, as far as anybody looks.
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// A connection of the trusted peer's that begins with these bytes and is reset. Says from where it
/// came.
fn is_reset(edge: &Edge, bytes: &[u8]) -> SocketAddr {
    let client = edge.client();
    let from = client.addr();
    assert_turned_away(client, bytes);
    from
}

#[test]
fn a_peer_that_is_not_trusted_is_reset_and_counted_and_summed_up_whatever_it_says() {
    let (backend, edge) = greeted();
    let said = [speaks_for("192.0.2.1:1"), v2_of(LOCAL, 0, b""), b"hello".into(), Vec::new()];
    for bytes in &said {
        Client::refused("127.0.0.2", edge.addr);
        // It may be reset before it knows that it is connected.
        if let Ok(client) = Client::connect("127.0.0.3", edge.addr) {
            assert_turned_away(client, bytes);
        }
    }
    refusals(&edge, "proxy_header", 8);
    // Those who are trusted and wrong are not among them.
    is_reset(&edge, b"hello");
    let summary = edge.wait_for_log("reason=\"proxy_header\"");
    assert!(summary.contains("connections=8"), "{summary}");
    assert!(summary.contains("127.0.0.2:4") && summary.contains("127.0.0.3:4"), "{summary}");
    assert!(summary.contains("EDGEPROXY_PROXY_PROTOCOL_TRUSTED"), "{summary}");
    assert!(!edge.access_lines().iter().any(|line| !line.contains(" client=127.0.0.1:")));
    assert_eq!(backend.accepted(), 0);
    assert_eq!(visits(&edge, "192.0.2.1:1").1, "a");
}

#[test]
fn what_does_not_begin_with_a_header_is_reset_and_never_relayed() {
    let (backend, edge) = greeted();
    let client = addr("192.0.2.1:1");
    let to = addr("192.0.2.80:80");
    let long_line = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    let too_long = [SIGNATURE, &[0x21, 0x11, 0x20, 0x00]].concat();
    let longest = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let wrong_version = [SIGNATURE, &[0x31, 0x11, 0, 12]].concat();
    let too_short = v2_of(0x21, 0x11, &[1; 11]);
    let wrongs: [&[u8]; 12] = [
        b"hello, is anybody there?",
        b"GET / HTTP/1.1\r\nHost: web\r\n\r\n",
        TLS_HELLO,
        b"\0",
        b"PROXY TCP4 192.0.2.1 192.0.2.80 1 80\nGET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 80\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.80 1 65536\r\n",
        &long_line,
        &too_long,
        &longest,
        &wrong_version,
        &too_short,
    ];
    for wrong in wrongs {
        let peer = is_reset(&edge, wrong);
        let line = edge.access_of_addr(peer);
        let moved = (&line["sent"], &line["received"], &line["reason"]);
        assert_eq!(moved, ("0", "0", "proxy_header"), "{}", wrong.escape_ascii());
    }
    refusals(&edge, "proxy_header", 12);
    assert_eq!(backend.accepted(), 0);
    // A second header is the client's own business.
    let mut twice = sends(&edge, &[v1(client, to), v2(client, to)].concat());
    assert_eq!(twice.greeting().unwrap(), "a");
}

#[test]
fn a_peer_that_comes_and_goes_without_a_word_is_logged_as_that() {
    let (backend, edge) = greeted();
    let silent = edge.client();
    let peer = silent.addr();
    drop(silent);
    assert_eq!(&edge.access_of_addr(peer)["reason"], "client_closed");

    let mut silent = edge.client();
    silent.finish();
    assert_eq!(silent.rest().unwrap(), b"");
    assert_eq!(&edge.access_of(&silent)["reason"], "client_closed");

    for bytes in [&b""[..], b"PROXY TCP4 "] {
        let gone = sends(&edge, bytes);
        let peer = gone.addr();
        gone.reset();
        assert_eq!(&edge.access_of_addr(peer)["reason"], "client_reset");
    }
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn nothing_is_left_of_any_number_of_them() {
    let (_backend, edge) = greeted();
    visits(&edge, "192.0.2.1:1");
    edge.metrics_when("the first has gone", |metrics| open(metrics) == 0);
    let before = edge.descriptors_at_rest();
    let half = &speaks_for("192.0.2.1:1")[..9];
    for _ in 0..100 {
        Client::refused("127.0.0.2", edge.addr);
        is_reset(&edge, TLS_HELLO);
        drop(sends(&edge, half));
        sends(&edge, half).reset();
        drop(edge.client());
    }
    edge.metrics_when("all have gone", |metrics| {
        metrics.sum("edgeproxy_connections_ended_total", &[]) == 501 && open(metrics) == 0
    });
    eventually("their descriptors are closed", || (edge.descriptors() <= before).then_some(()));
}

fn open(metrics: &Metrics) -> u64 {
    metrics.value("edgeproxy_connections_active", &[])
}

#[test]
fn half_a_header_and_the_end_is_no_header() {
    let (backend, edge) = greeted();
    let (client, to) = (addr("192.0.2.1:1"), addr("192.0.2.80:80"));
    for header in [v1(client, to), v2(client, to)] {
        for length in [1, 8, header.len() - 1] {
            let half = sends(&edge, &header[..length]);
            half.finish();
            let peer = half.addr();
            assert_reset(half);
            assert_eq!(&edge.access_of_addr(peer)["reason"], "proxy_header");
        }
    }
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn those_who_wait_for_their_header_count_against_the_cap() {
    let backend = Backend::named("a");
    let edge =
        site().env("EDGEPROXY_MAX_CONNECTIONS", "2").backend(Row::new("a", backend.addr())).start();
    let waits = sends(&edge, b"PROXY");
    let (_served, _) = visits(&edge, "192.0.2.1:1");
    Client::refused("127.0.0.1", edge.addr);
    refusals(&edge, "global_cap", 1);
    let peer = waits.addr();
    drop(waits);
    edge.access_of_addr(peer);
    // It has its place already, and needs no second one.
    assert_eq!(visits(&edge, "192.0.2.1:2").1, "a");
    assert!(edge.access_lines().iter().all(|line| !line.contains("global_cap")));
}

#[test]
fn who_is_trusted_changes_with_a_reload_and_touches_nobody_who_has_arrived() {
    let backend = Backend::named("a");
    let trusting = |whom: &str| format!("proxy_protocol_trusted = [\"{whom}\"]");
    let edge = Site::new()
        .with_metrics()
        .env("EDGEPROXY_PROXY_PROTOCOL", "true")
        .toml(&trusting("127.0.0.1"))
        .backend(Row::new("a", backend.addr()))
        .start();
    let comes = |from: &str, client: &str| {
        let mut connection = Client::connect(from, edge.addr).unwrap();
        let _ = connection.stream.write_all(&speaks_for(client));
        connection
    };
    let mut open = comes("127.0.0.1", "192.0.2.1:1");
    assert_eq!(open.greeting().unwrap(), "a");
    Client::refused("127.0.0.2", edge.addr);

    edge.reload(&trusting("127.0.0.2/31"));
    Client::refused("127.0.0.1", edge.addr);
    assert_eq!(comes("127.0.0.2", "192.0.2.1:2").greeting().unwrap(), "a");
    assert_eq!(comes("127.0.0.3", "192.0.2.1:3").greeting().unwrap(), "a");
    open.echo("goes on").unwrap();

    // The listener would go on expecting headers, and nobody could send one.
    let error = edge.refuses("");
    assert!(error.contains("EDGEPROXY_PROXY_PROTOCOL_TRUSTED"), "{error}");
    assert_eq!(comes("127.0.0.2", "192.0.2.1:4").greeting().unwrap(), "a");
}

#[test]
fn a_running_listener_is_not_left_without_anybody_to_trust() {
    let backend = Backend::named("a");
    let edge = Site::new()
        .toml("proxy_protocol = true\nproxy_protocol_trusted = [\"127.0.0.1\"]")
        .backend(Row::new("a", backend.addr()))
        .start();
    // By itself it is right; but that no header is expected takes a restart.
    let error = edge.refuses("");
    assert!(error.contains("which only a restart changes"), "{error}");
    assert_eq!(visits(&edge, "192.0.2.1:1").1, "a");
    edge.reload("proxy_protocol_trusted = [\"127.0.0.1\"]");
    assert_eq!(visits(&edge, "192.0.2.1:2").1, "a");
}

#[test]
fn without_anybody_to_trust_it_does_not_start_and_says_so() {
    let says = |site: Site, said: &str| {
        let site = site.prepared();
        for command in [&[][..], &["check"]] {
            let failed = site.run(command);
            assert_eq!(failed.code, Some(78), "{failed:?}");
            for said in ["EDGEPROXY_PROXY_PROTOCOL_TRUSTED", said] {
                assert!(failed.err.contains(said), "no {said:?} in {}", failed.err);
            }
        }
    };
    let all = Site::new().env("EDGEPROXY_PROXY_PROTOCOL", "true");
    says(all, "must name who may send the header when EDGEPROXY_PROXY_PROTOCOL is true");
    let one = Site::new().toml("[[listener]]\naddr = \"127.0.0.1:0\"\nproxy_protocol = true");
    says(one, "must name who may send the header when a [[listener]] has proxy_protocol = true");
}

#[test]
fn trusted_peers_of_a_dual_stack_listener_are_known_by_their_ipv4_address() {
    if !crate::listeners::has_ipv6() {
        return;
    }
    let backend = Backend::named("a");
    let edge = site()
        .env("EDGEPROXY_LISTEN_ADDR", "[::]:0")
        .backend(Row::new("a", backend.addr()))
        .start();
    let to = |ip: &str| SocketAddr::new(ip.parse().unwrap(), edge.addr.port());
    let mut client = Client::connect("127.0.0.1", to("127.0.0.1")).unwrap();
    client.stream.write_all(&speaks_for("192.0.2.1:1")).unwrap();
    assert_eq!(client.greeting().unwrap(), "a");
    Client::refused("127.0.0.2", to("127.0.0.2"));
    Client::refused("::1", to("::1"));
    drop(client);
    assert_eq!(&line(&edge, "192.0.2.1:1")["reason"], "client_closed");
    eventually("both are counted", || {
        (edge.metrics().value("edgeproxy_refused_total", &[("reason", "proxy_header")]) == 2)
            .then_some(())
    });
}
