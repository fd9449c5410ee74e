//! `HAProxy` at the other end, before the edge and behind it.

use std::io::Write;
use std::net::SocketAddr;

use super::site;
use crate::support::{
    Backend, Balancer, Client, Edge, Refusing, Row, Site, eventually, read_answer,
};

/// `HAProxy` that carries to an edge, with a header of the version that the option writes.
fn before(edge: &Edge, option: &str) -> Balancer {
    let port = Refusing::new();
    let text = format!(
        "listen front\n  mode tcp\n  bind {}\n  server edge {} {option}",
        port.addr(),
        edge.addr
    );
    Balancer::haproxy(port, &text)
}

/// `HAProxy` that takes a header and answers every request with the addresses in it.
pub fn answering(port: Refusing) -> Balancer {
    let text = format!(
        "frontend back\n  mode http\n  bind {} accept-proxy\n  http-request return status 200 \
         content-type text/plain lf-string \"%[src]:%[src_port] %[dst]:%[dst_port]\"",
        port.addr()
    );
    Balancer::haproxy(port, &text)
}

/// What whoever takes headers says of a client at this address.
pub fn seen(mut client: Client) -> String {
    client.stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
    let answer = read_answer(&mut client.stream).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[test]
fn clients_of_haproxy_are_known_by_their_own_addresses() {
    let backend = Backend::echo();
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"] {
        let edge = site().backend(Row::new("a", backend.addr())).start();
        let front = before(&edge, option);
        for ip in ["127.0.0.1", "127.0.0.9"] {
            let mut client = Client::connect(ip, front.addr()).unwrap();
            client.echo("hello").unwrap();
            client.echo(&"much more ".repeat(10_000)).unwrap();
            let addr = client.addr();
            drop(client);
            assert_eq!(&edge.access_of_addr(addr)["backend"], "a", "{option}");
        }
    }
}

#[test]
fn haproxy_behind_is_told_who_the_client_is_and_where_it_wanted_to_go() {
    let back = answering(Refusing::new());
    for version in ["v1", "v2"] {
        let edge = Site::new()
            .toml(&format!("[app.web]\nproxy_protocol = \"{version}\""))
            .backend(Row::new("a", back.addr()))
            .start();
        for ip in ["127.0.0.1", "127.0.0.9"] {
            let client = edge.try_client_from(ip).unwrap();
            let expected = format!("{} {}", client.addr(), edge.addr);
            assert_eq!(seen(client), expected, "{version}");
        }
    }
}

#[test]
fn haproxy_on_both_sides_agrees_on_who_the_client_is() {
    let back = answering(Refusing::new());
    for (option, version) in [("send-proxy", "v2"), ("send-proxy-v2", "v1")] {
        let edge = site()
            .env("EDGEPROXY_POOL_ENABLED", "true")
            .toml(&format!("[app.web]\nproxy_protocol = \"{version}\""))
            .backend(Row::new("a", back.addr()))
            .start();
        let front = before(&edge, option);
        let to: SocketAddr = front.addr();
        for _ in 0..5 {
            let client = Client::connect("127.0.0.9", to).unwrap();
            let expected = format!("{} {to}", client.addr());
            assert_eq!(seen(client), expected, "{option}, {version}");
        }
    }
}

#[test]
fn checks_of_haproxy_find_the_edge_up() {
    let backend = Backend::named("a");
    for option in ["send-proxy", "send-proxy-v2"] {
        let edge = site().backend(Row::new("a", backend.addr())).start();
        let front = before(&edge, &format!("{option} check inter 50 fall 1 rise 1"));
        eventually("three checks", || (edge.access_lines().len() >= 3).then_some(()));
        let mut client = Client::connect("127.0.0.1", front.addr()).unwrap();
        assert_eq!(client.greeting().unwrap(), "a", "{option}");
        let wrong = [("reason", "proxy_header")];
        assert_eq!(edge.metrics().sum("edgeproxy_refused_total", &wrong), 0, "{option}");
    }
}
