//! What backends are told: exactly the header, and then the client's bytes.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

use super::{LOCAL, SIGNATURE, Written, addr, line, sends, site, v1, v2, v2_of};
use crate::support::{Backend, Client, Edge, Refusing, Row, Site, noise};

/// How an app's version is configured, and what it looks like.
const VERSIONS: [(&str, Written); 2] = [("v1", v1), ("v2", v2)];

/// The configuration of app `web`, whose backends expect this version.
fn expecting(version: &str) -> String {
    format!("[app.web]\nproxy_protocol = \"{version}\"")
}

/// An edge before a backend that sends back what it gets, the header included.
fn before(backend: &Backend, version: &str) -> Edge {
    Site::new().toml(&expecting(version)).backend(Row::new("a", backend.addr())).start()
}

/// Exactly so many bytes.
fn read(client: &mut Client, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_backend_gets_exactly_the_header_and_then_the_clients_bytes_which_alone_are_counted() {
    let backend = Backend::echo();
    for (name, version) in VERSIONS {
        let edge = before(&backend, name);
        for said in ["", "hello"] {
            let mut client = edge.try_client_from("127.0.0.7").unwrap();
            client.stream.write_all(said.as_bytes()).unwrap();
            client.finish();
            let header = version(client.addr(), edge.addr);
            let all = [&header, said.as_bytes()].concat();
            assert_eq!(client.rest().unwrap(), all, "{name}");
            let line = edge.access_of(&client);
            let moved = (&line["sent"], &line["received"], &line["reason"]);
            let (sent, received) = (said.len().to_string(), all.len().to_string());
            assert_eq!(moved, (&*sent, &*received, "client_closed"), "{name}");
        }
    }
}

#[test]
fn addresses_are_those_of_the_clients_own_family() {
    if !crate::listeners::has_ipv6() {
        return;
    }
    let backend = Backend::echo();
    for (name, version) in VERSIONS {
        let edge = Site::new()
            .env("EDGEPROXY_LISTEN_ADDR", "[::]:0")
            .toml(&expecting(name))
            .backend(Row::new("a", backend.addr()))
            .start();
        for ip in ["::1", "127.0.0.1"] {
            let to = SocketAddr::new(ip.parse().unwrap(), edge.addr.port());
            let mut client = Client::connect(ip, to).unwrap();
            client.finish();
            assert_eq!(client.rest().unwrap(), version(client.addr(), to), "{name} from {ip}");
        }
    }
}

#[test]
fn the_header_does_not_wait_for_the_client_and_a_backend_may_speak_first() {
    let backend = Backend::named("a");
    for (name, version) in VERSIONS {
        let edge = before(&backend, name);
        let mut client = edge.client();
        assert_eq!(client.greeting().unwrap(), "a");
        let header = version(client.addr(), edge.addr);
        assert_eq!(read(&mut client, header.len()), header, "{name}, and nobody has said a word");
        client.echo("hello").unwrap();
        client.echo("again").unwrap();
        let addr = client.addr();
        drop(client);
        assert_eq!(&edge.access_of_addr(addr)["sent"], "10");
    }
}

#[test]
fn a_warm_connection_begins_with_the_header_of_the_client_that_gets_it() {
    let backend = crate::pool::numbering();
    for (name, version) in VERSIONS {
        let edge =
            crate::pool::pooled().toml(&expecting(name)).backend(Row::new("a", backend.addr()));
        let edge = edge.start();
        let (mut ready, mut clients) = (0, Vec::new());
        for _ in 0..60 {
            let before = backend.accepted();
            let mut client = edge.client();
            let session: usize = client.greeting().unwrap().parse().unwrap();
            ready += usize::from(session < before);
            let header = version(client.addr(), edge.addr);
            assert_eq!(read(&mut client, header.len()), header);
            client.echo("hello").unwrap();
            clients.push(client.addr());
        }
        for client in clients {
            assert_eq!(&edge.access_of_addr(client)["sent"], "5");
        }
        assert!(ready > 15, "only {ready} of 60 found a connection that was ready");
    }
}

#[test]
fn many_bytes_follow_the_header_whole_and_in_order() {
    const MUCH: usize = 3 << 20;
    let backend = Backend::echo();
    for (name, version) in VERSIONS {
        let edge = before(&backend, name);
        let mut client = edge.client();
        let mut sending = client.stream.try_clone().unwrap();
        let bytes = noise(7, MUCH);
        thread::scope(|scope| {
            scope.spawn(|| {
                sending.write_all(&bytes).unwrap();
                sending.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let heard = client.rest().unwrap();
            let header = version(client.addr(), edge.addr);
            assert!(heard == [header, bytes.clone()].concat(), "{name}: {} bytes", heard.len());
        });
        assert_eq!(&edge.access_of(&client)["sent"], &MUCH.to_string());
    }
}

#[test]
fn the_backend_that_answers_after_others_have_failed_gets_one_header() {
    let (dead, backend) = (Refusing::new(), Backend::echo());
    let edge = Site::new()
        .toml(&expecting("v1"))
        .backend(Row::new("dead", dead.addr()).weight(1_000))
        .backend(Row::new("a", backend.addr()).place("eu", "DE"))
        .start();
    let mut client = edge.client();
    client.finish();
    assert_eq!(client.rest().unwrap(), v1(client.addr(), edge.addr));
    assert_eq!(&edge.access_of(&client)["tries"], "2");
}

#[test]
fn what_a_trusted_peer_said_is_passed_on_with_source_and_destination() {
    let backend = Backend::echo();
    for (name, version) in VERSIONS {
        let edge = site().toml(&expecting(name)).backend(Row::new("a", backend.addr())).start();
        for (client, to) in
            [("192.0.2.1:4001", "198.51.100.1:443"), ("[2001:db8::1]:4002", "[2001:db8::80]:443")]
        {
            let (client, to) = (addr(client), addr(to));
            for header in [v1(client, to), v2(client, to)] {
                let mut connection = sends(&edge, &[&header, &b"hello"[..]].concat());
                connection.finish();
                let all = [&version(client, to), &b"hello"[..]].concat();
                assert_eq!(connection.rest().unwrap(), all, "{name}");
            }
            assert_eq!(&line(&edge, &client.to_string())["sent"], "5");
        }
        // One that comes for itself is told of as what it is: a client of this listener.
        let mut own = sends(&edge, &v2_of(LOCAL, 0, b""));
        own.finish();
        assert_eq!(own.rest().unwrap(), version(own.addr(), edge.addr), "{name}");
    }
}

#[test]
fn addresses_of_two_families_are_both_told_as_ipv6() {
    let backend = Backend::echo();
    let mixed = b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::80 4001 443\r\n";
    for (name, version) in VERSIONS {
        let edge = site().toml(&expecting(name)).backend(Row::new("a", backend.addr())).start();
        let mut client = sends(&edge, mixed);
        client.finish();
        let heard = client.rest().unwrap();
        if heard.starts_with(SIGNATURE) {
            assert_eq!(heard, version(addr("[::ffff:192.0.2.1]:4001"), addr("[2001:db8::80]:443")));
        } else {
            assert_eq!(heard, b"PROXY TCP6 ::ffff:c000:201 2001:db8::80 4001 443\r\n");
        }
    }
}

#[test]
fn which_header_is_sent_changes_with_a_reload_for_those_who_come_then() {
    let backend = Backend::echo();
    let edge = Site::new().with_metrics().backend(Row::new("a", backend.addr())).start();
    let mut before = edge.client();
    before.echo("hello").unwrap();
    for (name, version) in VERSIONS {
        edge.reload(&expecting(name));
        let mut client = edge.client();
        client.finish();
        assert_eq!(client.rest().unwrap(), version(client.addr(), edge.addr));
        before.echo("goes on without").unwrap();
    }
    edge.reload(&expecting("off"));
    edge.client().echo("hello").unwrap();
}
