//! Where it listens, in both families.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use crate::support::{Backend, Client, Edge, Refusing, Row, Site, eventually};

/// Whether this machine has IPv6 at all; without it these tests have nothing to look at.
pub fn has_ipv6() -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        eprintln!("skipped: this machine has no IPv6");
    }
    has
}

/// A client at `ip` that connects to the loopback address of its own family is served, and logged
/// with its own address.
fn assert_served(edge: &Edge, ip: &str) {
    let ip = ip.parse().unwrap();
    let to = SocketAddr::new(ip, edge.addr.port());
    let mut client = Client::connect(&ip.to_string(), to).unwrap();
    assert_eq!(client.greeting().unwrap(), "a", "for the client at {ip}");
    client.echo("hello").unwrap();
    let addr = client.addr();
    assert_eq!(addr.ip(), ip);
    drop(client);
    let line = edge.access_of_addr(addr);
    assert_eq!((&line["backend"], &line["reason"]), ("a", "client_closed"));
}

#[test]
fn every_address_of_a_list_is_served() {
    let backend = Backend::named("a");
    let reserved = [Refusing::new(), Refusing::new(), Refusing::new()];
    let addrs = reserved.each_ref().map(|port| port.addr().to_string());
    let edge = Site::new()
        .env("EDGEPROXY_LISTEN_ADDR", &addrs.join(","))
        .backend(Row::new("a", backend.addr()))
        .start();
    for to in reserved.each_ref().map(Refusing::addr) {
        let mut client = Client::connect("127.0.0.1", to).unwrap();
        assert_eq!(client.greeting().unwrap(), "a", "for a client of {to}");
    }
    assert_eq!(edge.stop().code, Some(0));
}

/// A port below those that the system gives to whoever asks for any.
fn free_port_of_both_families() -> u16 {
    eventually("a free port", || {
        let port = fastrand::u16(10_000..30_000);
        let _free = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).ok()?;
        Some(port)
    })
}

#[test]
fn one_port_of_both_families_is_listened_on_by_two_addresses() {
    if !has_ipv6() {
        return;
    }
    let backend = Backend::named("a");
    let port = free_port_of_both_families();
    for addrs in [format!("0.0.0.0:{port},[::]:{port}"), format!("[::]:{port},0.0.0.0:{port}")] {
        let edge = Site::new()
            .env("EDGEPROXY_LISTEN_ADDR", &addrs)
            .backend(Row::new("a", backend.addr()))
            .start();
        for _ in 0..3 {
            assert_served(&edge, "127.0.0.1");
            assert_served(&edge, "::1");
        }
        assert_eq!(edge.stop().code, Some(0));
    }
}

#[test]
fn clients_of_both_families_are_served_through_the_ipv6_wildcard_and_logged_as_who_they_are() {
    if !has_ipv6() {
        return;
    }
    let backend = Backend::named("a");
    let edge = Site::new()
        .env("EDGEPROXY_LISTEN_ADDR", "[::]:0")
        .backend(Row::new("a", backend.addr()))
        .start();
    assert_served(&edge, "::1");
    assert_served(&edge, "127.0.0.1");
}
