//! TLS that is passed through: the server's name says which app a client wants.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::support::{Backend, Balancer, Client, Edge, PATIENCE, Refusing, Row, Site, eventually};

/// Apps `one`, for `one.test` and what is below `sub.test`, and `two`.
const NAMES: &str =
    "[app.one]\nsni = [\"one.test\", \"*.sub.test\"]\n[app.two]\nsni = [\"Two.test.\"]";

/// A POP whose second listener passes TLS through, and where that is.
struct Passing {
    edge: Edge,
    addr: SocketAddr,
    _port: Refusing,
}

/// `listener` is what else is said of the listener.
fn passing(site: Site, listener: &str) -> Passing {
    let port = Refusing::new();
    let addr = port.addr();
    let edge = site
        .env("EDGEPROXY_APP", "one")
        .toml(&format!("[[listener]]\naddr = \"{addr}\"\ntls = \"passthrough\"\n{listener}"))
        .start();
    Passing { edge, addr, _port: port }
}

/// One backend for each app, which greets before anything is said.
fn backends(site: Site) -> ([Backend; 2], Site) {
    let backends = ["one", "two"].map(Backend::named);
    let [one, two] = backends.each_ref().map(Backend::addr);
    let site =
        site.backend(Row::new("one", one).app("one")).backend(Row::new("two", two).app("two"));
    (backends, site)
}

/// What a client of TLS says first, with the post-quantum key exchange that makes it long.
fn hello(name: &str) -> Vec<u8> {
    use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
    let mut provider = default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    assert!(bytes.len() > 1_200, "{} bytes", bytes.len());
    bytes
}

/// Who serves a client that says this.
fn served(to: SocketAddr, hello: &[u8]) -> std::io::Result<String> {
    let mut client = Client::connect("127.0.0.1", to)?;
    client.stream.write_all(hello)?;
    client.greeting()
}

#[test]
fn curl_gets_to_the_server_whose_name_it_asks_for_and_nobody_decrypts_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["one.test", "a.b.sub.test", "two.test"].map(String::from))
            .unwrap();
    let [chain, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&chain, cert.pem()).unwrap();
    fs::write(&key, signing_key.serialize_pem()).unwrap();
    let servers = ["one", "two"].map(|name| {
        let port = Refusing::new();
        let text = format!(
            "http {{ access_log off; server {{ listen {} ssl; ssl_certificate {}; \
             ssl_certificate_key {}; location / {{ return 200 {name}; }} }} }}",
            port.addr(),
            chain.display(),
            key.display()
        );
        Balancer::nginx(port, &text)
    });
    let site = Site::new()
        .toml(NAMES)
        .backend(Row::new("one", servers[0].addr()).app("one"))
        .backend(Row::new("two", servers[1].addr()).app("two"));
    let pop = passing(site, "");
    let curl = |name: &str| {
        let port = pop.addr.port();
        let done = Command::new("curl")
            .args(["-sS", "--max-time", "15", "--cacert"])
            .arg(&chain)
            .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
            .arg(format!("https://{name}:{port}/"))
            .output()
            .expect("curl runs");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (text(&done.stdout), text(&done.stderr))
    };
    for (name, server) in [("one.test", "one"), ("a.b.sub.test", "one"), ("two.test", "two")] {
        assert_eq!(curl(name), (server.into(), String::new()), "{name}");
        let said = format!("app={server} server_name={name} tls=- client_name=- backend={server} ");
        pop.edge.access_line(&said);
    }
    let (_, error) = curl("three.test");
    assert!(error.contains("unrecognized name"), "{error}");
    pop.edge.access_line("reason=no_backend");
}

#[test]
fn a_hello_in_any_number_of_pieces_is_read_and_goes_on_as_it_came() {
    let (_backends, site) = backends(Site::new().toml(NAMES));
    let pop = passing(site, "");
    for (name, app) in [("one.test", "one"), ("two.test", "two"), ("x.sub.test", "one")] {
        let hello = hello(name);
        for size in [1, 7, 500, hello.len()] {
            let mut client = Client::connect("127.0.0.1", pop.addr).unwrap();
            client.stream.set_nodelay(true).unwrap();
            for piece in hello.chunks(size) {
                client.stream.write_all(piece).unwrap();
            }
            assert_eq!(client.greeting().unwrap(), app, "{name} in pieces of {size}");
            let mut echo = vec![0; hello.len()];
            client.stream.read_exact(&mut echo).unwrap();
            assert!(echo == hello, "what the backend got is what was sent");
        }
    }
}

#[test]
fn who_asks_for_a_name_that_leads_nowhere_goes_where_the_listener_says() {
    let (_backends, site) = backends(Site::new().toml(NAMES));
    let pop = passing(site, "app = \"two\"");
    for (name, app) in [("three.test", "two"), ("sub.test", "two"), ("one.test", "one")] {
        assert_eq!(served(pop.addr, &hello(name)).unwrap(), app, "{name}");
    }
}

#[test]
fn what_is_no_hello_is_reset_and_counted() {
    let (backends, site) = backends(Site::new().with_metrics().toml(NAMES));
    let pop = passing(site, "");
    let mut long = vec![22, 3, 1, 64, 0, 1, 0, 127, 255];
    long.resize(20_000, 0);
    let cut = &hello("one.test")[..200];
    for (what, bytes) in [("text", b"GET / HTTP/1.1\r\n\r\n".as_slice()), ("too long", &long)] {
        let error = served(pop.addr, bytes).unwrap_err();
        let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(kinds.contains(&error.kind()), "{what}: {error}");
    }
    let mut half = Client::connect("127.0.0.1", pop.addr).unwrap();
    half.stream.write_all(cut).unwrap();
    half.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(half.greeting().is_err());
    let ends = [("reason", "tls_failed")];
    let ended = "edgeproxy_connections_ended_total";
    pop.edge.metrics_when("all are counted", |metrics| metrics.value(ended, &ends) == 3);
    // One that only looks whether somebody listens is none of them.
    drop(Client::connect("127.0.0.1", pop.addr).unwrap());
    pop.edge.access_line("reason=client_closed");
    assert_eq!(backends.map(|backend| backend.accepted()), [0, 0]);
}

#[test]
fn whoever_says_too_little_is_cut_off_after_five_seconds() {
    let (_backends, site) = backends(Site::new().toml(NAMES));
    let pop = passing(site, "");
    let mut client = Client::connect("127.0.0.1", pop.addr).unwrap();
    client.stream.write_all(&hello("one.test")[..200]).unwrap();
    let error = client.greeting().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(&pop.edge.access_of(&client)["reason"], "tls_failed");
}

#[test]
fn who_is_denied_is_reset_before_the_hello() {
    let (_backends, site) = backends(Site::new().env("EDGEPROXY_DENY", "127.0.0.9").toml(NAMES));
    let pop = passing(site, "");
    Client::refused("127.0.0.9", pop.addr);
}

#[test]
fn a_header_comes_before_the_hello_and_one_to_the_backend_names_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = Site::new()
        .toml("proxy_protocol_trusted = [\"127.0.0.1\"]")
        .toml("[app.one]\nsni = [\"one.test\"]\nproxy_protocol = \"v2\"")
        .backend(Row::new("one", listener.local_addr().unwrap()).app("one"));
    let pop = passing(site, "proxy_protocol = true");
    let hello = hello("one.test");
    let mut client = Client::connect("127.0.0.1", pop.addr).unwrap();
    let header = b"PROXY TCP4 203.0.113.7 192.0.2.1 4000 443\r\n".as_slice();
    client.stream.write_all(&[header, &hello].concat()).unwrap();
    let (mut backend, _) = listener.accept().unwrap();
    backend.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut fixed = [0; 28];
    backend.read_exact(&mut fixed).unwrap();
    assert_eq!(fixed[16..20], [203, 0, 113, 7]);
    assert_eq!(fixed[20..24], [192, 0, 2, 1]);
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]])) - 12;
    let mut extensions = vec![0; rest];
    backend.read_exact(&mut extensions).unwrap();
    assert_eq!(extensions, [&[2, 0, 8], b"one.test".as_slice()].concat(), "PP2_TYPE_AUTHORITY");
    let mut got = vec![0; hello.len()];
    backend.read_exact(&mut got).unwrap();
    assert!(got == hello);
    drop((client, backend));
    pop.edge.access_line("client=203.0.113.7:4000 ");
}

#[test]
fn names_reload_and_lead_elsewhere_at_once() {
    let (_backends, site) = backends(Site::new().toml(NAMES));
    let pop = passing(site, "");
    assert_eq!(served(pop.addr, &hello("one.test")).unwrap(), "one");
    let swapped = NAMES.replace("one.test", "x.test").replace("Two.test.", "one.test");
    let listener = format!("[[listener]]\naddr = \"{}\"\ntls = \"passthrough\"\n", pop.addr);
    pop.edge.reload(&format!("{swapped}\n{listener}"));
    eventually("the other serves", || {
        (served(pop.addr, &hello("one.test")).ok()? == "two").then_some(())
    });
}

#[test]
fn a_name_of_two_apps_and_what_is_no_name_are_errors() {
    let site = Site::new()
        .toml("[app.one]\nsni = [\"a.test\", \"10.0.0.1\"]\n[app.two]\nsni = [\"A.test\"]")
        .prepared();
    let failed = site.run(&["check"]);
    assert_eq!(failed.code, Some(78), "{failed:?}");
    assert!(failed.err.contains("a.test leads to app.one already"), "{failed:?}");
    assert!(failed.err.contains("config.toml:2:18: app.one.sni = \"10.0.0.1\""), "{failed:?}");
}
