//! The PROXY protocol, in and out. Headers are made by hand here, byte by byte as the specification
//! says (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>), or by `HAProxy` and nginx.

mod arriving;
mod haproxy;
mod nginx;
mod patience;
mod probed;
mod refused;
mod sent;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

use crate::support::{Access, Backend, Client, Edge, Row, Site};

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2's command byte for a connection that is the sender's own.
const LOCAL: u8 = 0x20;
/// And for one that is somebody else's.
const PROXY: u8 = 0x21;

/// Writes a header for whoever comes from one address and wants to go to another.
type Written = fn(SocketAddr, SocketAddr) -> Vec<u8>;

fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let ports = format!("{} {}", source.port(), destination.port());
    format!("PROXY {family} {from} {to} {ports}\r\n").into()
}

fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    let mut addresses = Vec::new();
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    for port in [source.port(), destination.port()] {
        addresses.extend(port.to_be_bytes());
    }
    v2_of(PROXY, family, &addresses)
}

fn v2_of(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The header of version 1 for a client at an address, which is all that most tests ask for.
fn speaks_for(client: &str) -> Vec<u8> {
    v1(addr(client), addr("192.0.2.80:80"))
}

/// Expects a header, and believes 127.0.0.1 only.
fn site() -> Site {
    Site::new()
        .with_metrics()
        .env("EDGEPROXY_PROXY_PROTOCOL", "true")
        .env("EDGEPROXY_PROXY_PROTOCOL_TRUSTED", "127.0.0.1")
}

/// The same with a backend that greets and echoes.
fn greeted() -> (Backend, Edge) {
    let backend = Backend::named("a");
    let edge = site().backend(Row::new("a", backend.addr())).start();
    (backend, edge)
}

/// A connection of the trusted peer's that begins with these bytes.
fn sends(edge: &Edge, bytes: &[u8]) -> Client {
    let mut client = edge.client();
    client.stream.write_all(bytes).unwrap();
    client
}

/// The trusted peer comes for a client, which is greeted: by whom.
fn visits(edge: &Edge, client: &str) -> (Client, String) {
    let mut connection = sends(edge, &speaks_for(client));
    let served_by = connection.greeting().unwrap();
    (connection, served_by)
}

/// The connection is reset before a byte has come.
fn assert_reset(client: Client) {
    assert_turned_away(client, b"");
}

/// The same of one that would begin with these bytes: it may be reset before it has said them.
fn assert_turned_away(mut client: Client, bytes: &[u8]) {
    let heard = client.stream.write_all(bytes).and_then(|()| client.stream.read(&mut [0]));
    let error = heard.expect_err("a reset, no byte and no end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// What the access log says of a client, once its connection has ended.
fn line(edge: &Edge, client: &str) -> Access {
    edge.access_of_addr(addr(client))
}

fn refusals(edge: &Edge, reason: &str, count: u64) {
    edge.metrics_when(&format!("{count} refusals as {reason}"), |metrics| {
        metrics.value("edgeproxy_refused_total", &[("reason", reason)]) == count
    });
}
