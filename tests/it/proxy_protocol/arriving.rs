//! Connections that arrive with a header: the address in it is the client everywhere.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

use super::{
    LOCAL, PROXY, Written, addr, assert_reset, greeted, line, refusals, sends, site, speaks_for,
    v1, v2, v2_of, visits,
};
use crate::support::{Backend, Client, Refusing, Row, Site, eventually, noise};

/// More than any buffer on the way takes at once.
const MUCH: usize = 700_000;
/// The longest header that is taken.
const LONGEST: usize = 4_096;

/// Says how many bytes it got, when they have ended.
fn counting() -> Backend {
    Backend::serving(|mut stream| {
        let mut bytes = Vec::new();
        if stream.read_to_end(&mut bytes).is_ok() {
            let _ = stream.write_all(format!("{} bytes\n", bytes.len()).as_bytes());
        }
    })
}

#[test]
fn the_address_in_the_header_is_the_clients_in_both_versions_and_families() {
    let (_backend, edge) = greeted();
    for (version, client, destination) in [
        (v1 as Written, "192.0.2.1:4001", "198.51.100.1:443"),
        (v2, "192.0.2.2:4002", "198.51.100.1:443"),
        (v1, "[2001:db8::3]:4003", "[2001:db8::80]:443"),
        (v2, "[2001:db8::4]:4004", "[2001:db8::80]:443"),
    ] {
        let mut connection = sends(&edge, &version(addr(client), addr(destination)));
        assert_eq!(connection.greeting().unwrap(), "a");
        connection.echo("hello").unwrap();
        drop(connection);
        let line = line(&edge, client);
        let said = (&line["backend"], &line["sent"], &line["received"], &line["reason"]);
        assert_eq!(said, ("a", "5", "7", "client_closed"));
    }
    // One that came mapped into IPv6 is an IPv4 client.
    let mapped = b"PROXY TCP6 ::ffff:192.0.2.5 ::ffff:192.0.2.80 4005 80\r\n";
    drop(sends(&edge, mapped).greeting().unwrap());
    assert_eq!(&line(&edge, "192.0.2.5:4005")["reason"], "client_closed");
}

#[test]
fn extensions_are_read_over() {
    let (_backend, edge) = greeted();
    let ipv4 = &v2(addr("192.0.2.1:4001"), addr("192.0.2.80:80"))[16..];
    let authority = b"\x02\0\x0bexample.org";
    let rest = [ipv4, authority].concat();
    // Nothing, as long as it takes to make the header as long as one may be.
    let nothing = LONGEST - 16 - rest.len() - 3;
    let length = u16::try_from(nothing).unwrap().to_be_bytes();
    let longest = [&rest[..], b"\x04", &length, &vec![0; nothing]].concat();
    for rest in [rest, longest] {
        let mut client = sends(&edge, &v2_of(PROXY, 0x11, &rest));
        assert_eq!(client.greeting().unwrap(), "a");
        client.echo("hello").unwrap();
    }
    edge.wait_for_ends(2, "client_closed");
    assert!(edge.access_lines().iter().all(|line| line.contains(" client=192.0.2.1:4001 ")));
}

#[test]
fn a_peer_that_comes_for_itself_or_cannot_say_for_whom_is_the_client() {
    let (_backend, edge) = greeted();
    let unknown = "PROXY UNKNOWN 2001:db8::1 2001:db8::2 1 2\r\n";
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        unknown.into(),
        v2_of(LOCAL, 0, b""),
        v2_of(LOCAL, 0x11, &[7; 12]),
        v2_of(PROXY, 0, b""),
    ] {
        let mut client = sends(&edge, &header);
        assert_eq!(client.greeting().unwrap(), "a");
        client.echo("hello").unwrap();
        let peer = client.addr();
        drop(client);
        assert_eq!(&edge.access_of_addr(peer)["sent"], "5");
    }
}

#[test]
fn what_follows_the_header_reaches_the_backend_byte_for_byte_and_only_that() {
    let backend = Backend::echo();
    let edge = site().backend(Row::new("a", backend.addr())).start();
    for (number, version) in [v1 as Written, v2].into_iter().enumerate() {
        for length in [1, 4_095, 4_096, MUCH] {
            let client = SocketAddr::from(([192, 0, 2, 1], 4_000 + u16::try_from(number).unwrap()));
            let bytes = noise(length as u64, length);
            let all = [version(client, addr("192.0.2.80:80")), bytes.clone()].concat();
            let mut connection = edge.client();
            let mut sending = connection.stream.try_clone().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    sending.write_all(&all).unwrap();
                    sending.shutdown(std::net::Shutdown::Write).unwrap();
                });
                assert!(
                    connection.rest().unwrap() == bytes,
                    "{length} bytes after version {number}"
                );
            });
        }
    }
    let lines =
        eventually("eight lines", || Some(edge.access_lines()).filter(|lines| lines.len() == 8));
    for length in [1, 4_095, 4_096, MUCH] {
        let moved = format!(" sent={length} received={length} ");
        assert_eq!(lines.iter().filter(|line| line.contains(&moved)).count(), 2, "{lines:#?}");
    }
}

#[test]
fn a_header_may_come_byte_by_byte_and_what_follows_may_too() {
    let backend = Backend::echo();
    let edge = site().backend(Row::new("a", backend.addr())).start();
    for (version, from) in [(v1 as Written, "192.0.2.1:4001"), (v2, "192.0.2.1:4002")] {
        let header = version(addr(from), addr("192.0.2.80:80"));
        let mut client = edge.client();
        client.stream.set_nodelay(true).unwrap();
        let before = backend.accepted();
        for byte in &header[..header.len() - 1] {
            client.stream.write_all(&[*byte]).unwrap();
            // The kernel would else hand over several as one.
            thread::yield_now();
        }
        assert_eq!(backend.accepted(), before, "nobody is dialled for half a header");
        client.stream.write_all(&header[header.len() - 1..]).unwrap();
        for word in ["h", "e", "llo"] {
            client.echo(word).unwrap();
        }
        client.finish();
        assert_eq!(client.rest().unwrap(), b"");
        assert_eq!(&line(&edge, from)["sent"], "5");
    }
}

#[test]
fn a_client_that_says_nothing_more_right_behind_its_header_is_heard_to_the_end() {
    let backend = counting();
    let edge = site().backend(Row::new("a", backend.addr())).start();
    for (said, client, answer) in
        [("", "192.0.2.1:4001", "0 bytes\n"), ("hello", "192.0.2.1:4002", "5 bytes\n")]
    {
        let mut connection = sends(&edge, &[speaks_for(client), said.into()].concat());
        connection.finish();
        assert_eq!(String::from_utf8(connection.rest().unwrap()).unwrap(), answer);
        assert_eq!(&line(&edge, client)["reason"], "client_closed");
    }
}

#[test]
fn it_is_the_client_in_the_header_that_is_denied_and_not_the_peer() {
    let backend = Backend::named("a");
    let edge = site()
        .env("EDGEPROXY_DENY", "192.0.2.0/24, 2001:db8::/32")
        .backend(Row::new("a", backend.addr()))
        .start();
    for (denied, to) in
        [("192.0.2.1:4001", "203.0.113.80:80"), ("[2001:db8::1]:4001", "[2001:db9::80]:80")]
    {
        assert_reset(sends(&edge, &v2(addr(denied), addr(to))));
    }
    assert_reset(sends(&edge, b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4001 80\r\n"));
    refusals(&edge, "denied", 3);
    assert_eq!(backend.accepted(), 0, "no refusal costs a dial");
    assert_eq!(visits(&edge, "203.0.113.1:4001").1, "a");
}

#[test]
fn it_is_the_client_in_the_header_that_is_limited_and_not_the_peer() {
    let backend = Backend::named("a");
    let edge = site()
        .env("EDGEPROXY_RATE_LIMIT_ENABLED", "true")
        .env("EDGEPROXY_RATE_LIMIT_MAX_REQUESTS", "1")
        .env("EDGEPROXY_RATE_LIMIT_WINDOW_SECS", "86400")
        .env("EDGEPROXY_RATE_LIMIT_BURST", "3")
        .backend(Row::new("a", backend.addr()))
        .start();
    for last in 1..=5 {
        for port in 4_001..=4_003 {
            assert_eq!(visits(&edge, &format!("192.0.2.{last}:{port}")).1, "a");
        }
    }
    assert_reset(sends(&edge, &speaks_for("192.0.2.1:4004")));
    refusals(&edge, "rate_limited", 1);
}

#[test]
fn it_is_the_client_in_the_header_whose_connections_are_counted() {
    let backend = Backend::named("a");
    let edge = site()
        .env("EDGEPROXY_MAX_CONNECTIONS_PER_CLIENT", "2")
        .backend(Row::new("a", backend.addr()))
        .start();
    let open: Vec<_> = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "192.0.2.2:2", "192.0.2.3:1"]
        .into_iter()
        .map(|client| visits(&edge, client).0)
        .collect();
    assert_reset(sends(&edge, &speaks_for("192.0.2.1:3")));
    refusals(&edge, "client_cap", 1);
    drop(open);
    line(&edge, "192.0.2.1:1");
    line(&edge, "192.0.2.1:2");
    assert_eq!(visits(&edge, "192.0.2.1:4").1, "a");
}

#[test]
fn it_is_located_routed_and_bound_by_the_address_in_the_header() {
    let [near, far] = ["near", "far"].map(Backend::named);
    let edge = site()
        .toml("[[geo_override]]\ncidr = \"192.0.2.0/24\"\ncountry = \"CL\"")
        .toml("[[geo_override]]\ncidr = \"198.51.100.0/24\"\ncountry = \"DE\"")
        .backend(Row::new("near", near.addr()).place("sa", "CL"))
        .backend(Row::new("far", far.addr()).place("eu", "DE"))
        .start();
    for (client, served_by, country) in
        [("192.0.2.1:1", "near", "CL"), ("198.51.100.1:1", "far", "DE")]
    {
        assert_eq!(visits(&edge, client).1, served_by);
        let line = line(&edge, client);
        assert_eq!((&line["country"], &line["tier"]), (country, "0"));
    }
}

#[test]
fn each_client_behind_one_peer_keeps_a_backend_of_its_own() {
    let backends = ["a", "b"].map(Backend::named);
    let edge = site()
        .backend(Row::new("a", backends[0].addr()))
        .backend(Row::new("b", backends[1].addr()))
        .start();
    let mut seen = HashSet::new();
    for last in 1..=30 {
        let first = visits(&edge, &format!("192.0.2.{last}:1")).1;
        for port in 2..=4 {
            assert_eq!(visits(&edge, &format!("192.0.2.{last}:{port}")).1, first);
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "thirty clients are not one");
}

#[test]
fn one_for_whom_there_is_no_backend_is_refused_by_its_own_name() {
    let backend = Backend::named("a");
    let edge = site().backend(Row::new("a", backend.addr()).hard_limit(1)).start();
    let (_first, _) = visits(&edge, "192.0.2.1:1");
    assert_reset(sends(&edge, &speaks_for("192.0.2.2:1")));
    assert_eq!(&line(&edge, "192.0.2.2:1")["reason"], "at_hard_limit");
}

#[test]
fn warm_connections_are_handed_to_those_who_arrive() {
    let backend = crate::pool::numbering();
    let edge = site()
        .without_affinity()
        .env("EDGEPROXY_POOL_ENABLED", "true")
        .backend(Row::new("a", backend.addr()))
        .start();
    let mut ready = 0;
    for port in 1..=100 {
        let before = backend.accepted();
        let (mut client, session) = visits(&edge, &format!("192.0.2.1:{port}"));
        ready += usize::from(session.parse::<usize>().unwrap() < before);
        client.echo("hello").unwrap();
    }
    for port in 1..=100 {
        assert_eq!(&line(&edge, &format!("192.0.2.1:{port}"))["sent"], "5");
    }
    assert!(ready > 30, "only {ready} of 100 found a connection that was ready");
}

#[test]
fn a_listener_of_its_own_expects_a_header_and_the_others_do_not() {
    let backend = Backend::named("a");
    let behind = Refusing::new();
    let edge = Site::new()
        .toml("proxy_protocol_trusted = [\"127.0.0.0/8\"]")
        .toml(&format!("[[listener]]\naddr = \"{}\"\nproxy_protocol = true", behind.addr()))
        .backend(Row::new("a", backend.addr()))
        .start();
    assert_eq!(edge.visit().unwrap().served_by, "a");
    let mut client = Client::connect("127.0.0.1", behind.addr()).unwrap();
    client.stream.write_all(&speaks_for("192.0.2.1:1")).unwrap();
    assert_eq!(client.greeting().unwrap(), "a");
    drop(client);
    assert_eq!(&line(&edge, "192.0.2.1:1")["reason"], "client_closed");
}
