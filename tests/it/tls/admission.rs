//! Who is let in comes before TLS.

use std::io::{Read, Write};
use std::sync::Arc;

use super::peer::{Pop, TLS13, VERSIONS, connection, to_send};
use crate::support::{Backend, Client, Row, Site, eventually};

#[test]
fn who_is_denied_or_comes_too_often_is_reset_before_a_byte_of_tls() {
    let backend = Backend::named("a");
    let site = Site::new()
        .env("EDGEPROXY_DENY", "127.0.0.9")
        .env("EDGEPROXY_RATE_LIMIT_ENABLED", "true")
        .env("EDGEPROXY_RATE_LIMIT_MAX_REQUESTS", "1")
        .env("EDGEPROXY_RATE_LIMIT_WINDOW_SECS", "86400")
        .env("EDGEPROXY_RATE_LIMIT_BURST", "2")
        .backend(Row::new("a", backend.addr()));
    let pop = Pop::of(site);
    Client::refused("127.0.0.9", pop.addr);
    for version in VERSIONS {
        pop.tls(version).read_exact(&mut [0; 2]).unwrap();
    }
    Client::refused("127.0.0.1", pop.addr);
    assert_eq!(backend.accepted(), 2);
}

#[test]
fn connections_that_shake_hands_are_counted_among_their_clients() {
    let backend = Backend::named("a");
    let site = Site::new()
        .env("EDGEPROXY_MAX_CONNECTIONS_PER_CLIENT", "2")
        .backend(Row::new("a", backend.addr()));
    let pop = Pop::of(site);
    let mut open = pop.tls(&TLS13);
    open.read_exact(&mut [0; 2]).unwrap();
    let mut shaking = pop.client();
    shaking.stream.write_all(&to_send(&mut connection(&Arc::new(pop.config(&TLS13))))).unwrap();
    shaking.stream.read_exact(&mut [0]).unwrap();
    Client::refused("127.0.0.1", pop.addr);
    shaking.reset();
    eventually("there is a place again", || {
        let mut tls = pop.comer(&Arc::new(pop.config(&TLS13)));
        tls.read_exact(&mut [0; 2]).ok()
    });
    open.write_all(b"and it goes on").unwrap();
    open.read_exact(&mut [0; 14]).unwrap();
}

#[test]
fn a_header_comes_before_the_hello_in_any_pieces() {
    let backend = Backend::named("a");
    let site = Site::new()
        .env("EDGEPROXY_PROXY_PROTOCOL", "true")
        .env("EDGEPROXY_PROXY_PROTOCOL_TRUSTED", "127.0.0.1")
        .backend(Row::new("a", backend.addr()));
    let pop = Pop::of(site);
    let config = Arc::new(pop.config(&TLS13));
    let header = b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 443\r\n";
    let length = header.len() + to_send(&mut connection(&config)).len();
    let near = header.len() - 2..header.len() + 8;
    for cut in [0, 1, 20].into_iter().chain(near).chain([length - 1]) {
        let mut tls = pop.comer(&config);
        tls.sock.set_nodelay(true).unwrap();
        let all = [&header[..], &to_send(&mut tls.conn)].concat();
        let (first, second) = all.split_at(cut.min(all.len()));
        tls.sock.write_all(first).unwrap();
        // The kernel would else hand over both as one.
        std::thread::yield_now();
        tls.sock.write_all(second).unwrap();
        let mut greeting = [0; 2];
        tls.read_exact(&mut greeting).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!(greeting, *b"a\n");
    }
    pop.edge.wait_for_ends(10, "client_closed");
    assert!(pop.edge.access_lines().iter().all(|line| line.contains(" client=192.0.2.1:4000 ")));
    // Without a header there is no handshake.
    let mut tls = pop.comer(&config);
    let from = tls.sock.local_addr().unwrap();
    assert!(tls.read_exact(&mut [0]).is_err());
    assert_eq!(pop.reason_of(from), "proxy_header");
}
