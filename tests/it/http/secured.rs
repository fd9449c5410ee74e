//! Requests over TLS, on either side.

use std::io::Write;
use std::sync::Arc;

use super::peers::{Asking, Origin, Reader, get, ok, request, says, site};
use crate::support::{Edge, PATIENCE, Refusing, Row, Site};
use crate::tls::peer::{NAME, Pop, TLS12, TLS13, Tls};
use crate::tls_backends::peers::{Identity, Pki};

type Secured = Reader<Tls>;

fn pop(origin: &Origin) -> Pop {
    Pop::of(site().backend(Row::new("a", origin.addr())))
}

fn asks(client: &mut Secured, text: &str) -> super::peers::Message {
    client.stream.write_all(text.as_bytes()).unwrap();
    client.answer(text.split(' ').next().unwrap()).unwrap()
}

#[test]
fn requests_over_tls_are_requests_and_backends_are_told_of_it() {
    let origin = Origin::new(|seen, reader| says(reader, ok(seen.message.path())));
    let pop = pop(&origin);
    for version in [&TLS12, &TLS13] {
        let mut client = Reader::new(pop.tls(version));
        for number in 0..20 {
            let path = format!("/{number}");
            assert_eq!(asks(&mut client, &get(&path)).text(), path);
            assert_eq!(origin.last().field("x-forwarded-proto"), Some("https"));
            assert!(origin.last().field("forwarded").unwrap().contains("proto=https"));
        }
        client.stream.write_all(get("/a").repeat(10).as_bytes()).unwrap();
        for _ in 0..10 {
            assert_eq!(client.answer("GET").unwrap().text(), "/a");
        }
        asks(&mut client, &request("GET", "/", "Connection: close\r\n"));
        assert_eq!(client.rest().expect("TLS says that it ends"), b"");
    }
    let line = pop.edge.access_line("path=/19");
    assert!(line.contains("tls=TLSv1.") && line.contains(&format!("server_name={NAME}")), "{line}");
}

#[test]
fn long_bodies_go_through_tls_both_ways() {
    let origin = Origin::new(|seen, reader| says(reader, ok(&seen.message.text())));
    let pop = pop(&origin);
    let mut client = Reader::new(pop.tls(&TLS13));
    let body = "0123456789abcdef".repeat(200_000);
    let length = format!("Content-Length: {}\r\n", body.len());
    for _ in 0..3 {
        assert!(asks(&mut client, &(request("POST", "/", &length) + &body)).text() == body);
    }
}

#[test]
fn http_1_1_is_what_is_agreed_upon_by_clients_that_offer_it() {
    let origin = Origin::named("a");
    let pop = pop(&origin);
    for offers in [&["http/1.1"][..], &["http/1.1", "http/1.0"]] {
        let mut config = pop.config(&TLS13);
        config.alpn_protocols = offers.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut client = Reader::new(pop.tls_with(&Arc::new(config)));
        let agreed = client.stream.conn.alpn_protocol().map(<[u8]>::to_vec);
        assert!(agreed.as_deref().is_none_or(|name| name == b"http/1.1"), "{agreed:?}");
        assert_eq!(asks(&mut client, &get("/")).text(), "a");
    }
    let url = format!("https://{NAME}:{}/", pop.addr.port());
    let output = std::process::Command::new("curl")
        .args(["-sS", "--http1.1", "--max-time", "10", "--cacert"])
        .arg(pop.authority())
        .args(["--resolve", &format!("{NAME}:{}:127.0.0.1", pop.addr.port()), &url, &url])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "aa", "{output:?}");
}

/// An edge whose backend speaks TLS, and what that backend has been given.
fn before_tls(site: Site, pki: &Pki, origin: &Origin) -> (Edge, crate::support::Backend) {
    let server = Arc::new(pki.server());
    let inner = origin.addr();
    let backend = crate::support::Backend::serving(move |stream| {
        let conn = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
        let mut tls = Reader::new(rustls::StreamOwned::new(conn, stream));
        let mut plain = Asking::at("127.0.0.1", inner);
        while let Ok(asked) = tls.head() {
            let mut fields = String::new();
            for (name, value) in &asked.fields {
                fields = format!("{fields}{name}: {value}\r\n");
            }
            let answer = plain.ask(&format!("{}\r\n{fields}\r\n", asked.line));
            if tls.stream.write_all(ok(&answer.text()).as_bytes()).is_err() {
                return;
            }
        }
    });
    let toml = format!("[app.web.tls]\nca = \"{}\"\n", pki.root());
    (site.toml(&toml).backend(Row::new("a", backend.addr())).start(), backend)
}

#[test]
fn connections_to_backends_with_tls_are_used_again() {
    let (pki, origin) = (Pki::new(), Origin::named("secured"));
    for (pool, expected) in [("false", 10), ("true", 3)] {
        let site = site().env("EDGEPROXY_POOL_ENABLED", pool).env("EDGEPROXY_WORKERS", "1");
        let (edge, backend) = before_tls(site, &pki, &origin);
        for _ in 0..10 {
            let mut client = Asking::to(&edge);
            for _ in 0..5 {
                assert_eq!(client.get("/").text(), "secured");
            }
        }
        assert!(backend.accepted() <= expected, "{} connections, pool {pool}", backend.accepted());
    }
}

#[test]
fn a_client_let_in_under_one_name_does_not_get_what_asks_for_more_under_another() {
    let (pki, origin) = (Pki::new(), Origin::named("a"));
    let port = Refusing::new();
    let [open, strict] = ["open.test", "strict.test"].map(|name| pki.issue(&[name]));
    let file = |name: &str, text: &str| pki.file(name, text);
    let table = |name: &str, own: &Identity, more: &str| {
        format!(
            "[[certificate]]\ncert = \"{}\"\nkey = \"{}\"\n{more}\n",
            file(&format!("{name}.pem"), &own.chain),
            file(&format!("{name}.key"), &own.key)
        )
    };
    let toml = table("open", &open, "")
        + &table("strict", &strict, &format!("client_ca = \"{}\"", pki.root()));
    let edge = site()
        .env("EDGEPROXY_TLS_ENABLED", "true")
        .env("EDGEPROXY_TLS_LISTEN_ADDR", &port.addr().to_string())
        .toml(&toml)
        .backend(Row::new("a", origin.addr()))
        .start();
    let own = pki.issue(&["a client"]);
    let connect = |name: &'static str, identity| {
        let config = Arc::new(pki.client(identity));
        let name = rustls::pki_types::ServerName::try_from(name).unwrap();
        let conn = rustls::ClientConnection::new(config, name).unwrap();
        let stream = std::net::TcpStream::connect(port.addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Reader::new(rustls::StreamOwned::new(conn, stream))
    };
    let of = |client: &mut Secured, host: &str| {
        asks(client, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).status()
    };
    let mut unknown = connect("open.test", None);
    assert_eq!(of(&mut unknown, "open.test"), 200);
    for host in ["strict.test", "STRICT.test", "strict.test.", "strict.test:443"] {
        assert_eq!(of(&mut unknown, host), 421, "{host}");
    }
    assert_eq!(of(&mut unknown, "open.test"), 200, "the connection goes on");
    let mut known = connect("strict.test", Some(&own));
    assert_eq!(of(&mut known, "strict.test"), 200);
    assert_eq!(origin.seen().len(), 3);
    drop(edge);
}
