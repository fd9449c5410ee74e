//! nginx at the other end, before the edge and behind it. It sends version 1 only.

use super::haproxy::seen;
use super::site;
use crate::support::{Backend, Balancer, Client, Refusing, Row, Site};

/// nginx that takes a header and answers every request with the addresses in it.
fn answering() -> Balancer {
    let port = Refusing::new();
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = folders.map(|kind| format!("{kind}_temp_path {kind};")).join(" ");
    let text = format!(
        "http {{ access_log off; {folders} server {{ listen {} proxy_protocol; location / {{ \
         return 200 \"$proxy_protocol_addr:$proxy_protocol_port \
         $proxy_protocol_server_addr:$proxy_protocol_server_port\"; }} }} }}",
        port.addr()
    );
    Balancer::nginx(port, &text)
}

#[test]
fn clients_of_nginx_are_known_by_their_own_addresses() {
    let backend = Backend::named("a");
    let edge = site().backend(Row::new("a", backend.addr())).start();
    let port = Refusing::new();
    let text = format!(
        "stream {{ server {{ listen {}; proxy_pass {}; proxy_protocol on; }} }}",
        port.addr(),
        edge.addr
    );
    let front = Balancer::nginx(port, &text);
    for ip in ["127.0.0.1", "127.0.0.9"] {
        let mut client = Client::connect(ip, front.addr()).unwrap();
        assert_eq!(client.greeting().unwrap(), "a");
        client.echo("hello").unwrap();
        let addr = client.addr();
        drop(client);
        let line = edge.access_of_addr(addr);
        assert_eq!((&line["sent"], &line["reason"]), ("5", "client_closed"));
    }
}

#[test]
fn nginx_behind_is_told_who_the_client_is_and_where_it_wanted_to_go() {
    let back = answering();
    for version in ["v1", "v2"] {
        let edge = Site::new()
            .env("EDGEPROXY_POOL_ENABLED", "true")
            .toml(&format!("[app.web]\nproxy_protocol = \"{version}\""))
            .backend(Row::new("a", back.addr()))
            .start();
        for ip in ["127.0.0.1", "127.0.0.9", "127.0.0.9"] {
            let client = edge.try_client_from(ip).unwrap();
            let expected = format!("{} {}", client.addr(), edge.addr);
            assert_eq!(seen(client), expected, "{version}");
        }
    }
}
