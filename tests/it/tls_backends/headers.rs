//! The PROXY protocol before TLS, read by nginx, by `HAProxy` and byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};

use rcgen::DnType;
use rustls::ServerConfig;

use super::peers::{Peer, Pki, accept, echo};
use super::{front, trusting};
use crate::support::{Backend, Balancer, PATIENCE, Refusing, Row, Site, read_answer};

/// A header of version 2, taken apart.
#[derive(Debug)]
pub struct Told {
    pub command: u8,
    pub source: Option<SocketAddr>,
    pub extensions: Vec<(u8, Vec<u8>)>,
}

impl Told {
    fn read(stream: &mut TcpStream) -> std::io::Result<Self> {
        let mut fixed = [0; 16];
        stream.read_exact(&mut fixed)?;
        assert_eq!(&fixed[..12], b"\r\n\r\n\0\r\nQUIT\n");
        let mut rest = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
        stream.read_exact(&mut rest)?;
        let is_tcp4 = fixed[13] == 0x11;
        let source = is_tcp4.then(|| {
            let ip: [u8; 4] = rest[..4].try_into().unwrap();
            SocketAddr::from((ip, u16::from_be_bytes([rest[8], rest[9]])))
        });
        let extensions = extensions(&rest[if is_tcp4 { 12 } else { 0 }..]);
        Ok(Self { command: fixed[12], source, extensions })
    }

    fn extension(&self, kind: u8) -> Option<&[u8]> {
        find(&self.extensions, kind)
    }

    /// What is said of the client's TLS, and of its parts.
    fn tls(&self) -> Option<(u8, u32, Vec<(u8, Vec<u8>)>)> {
        let said = self.extension(0x20)?;
        let verify = u32::from_be_bytes(said[1..5].try_into().unwrap());
        Some((said[0], verify, extensions(&said[5..])))
    }
}

fn extensions(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, next) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        all.push((*kind, value.to_vec()));
        bytes = next;
    }
    all
}

fn find(all: &[(u8, Vec<u8>)], kind: u8) -> Option<&[u8]> {
    all.iter().find(|(other, _)| *other == kind).map(|(_, value)| &**value)
}

/// Reads a header of version 2, makes the handshake behind it, and does what `service` does.
pub fn after_header(
    config: ServerConfig,
    service: impl Fn(&mut Peer) + Send + Sync + 'static,
) -> impl Fn(TcpStream) + Send + Sync + 'static {
    let config = Arc::new(config);
    move |mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if Told::read(&mut stream).is_ok()
            && let Some(mut peer) = accept(&config, stream, &Mutex::default())
        {
            service(&mut peer);
        }
    }
}

/// A backend that says what it is told, with TLS behind it or without.
fn telling(tls: Option<ServerConfig>) -> (Backend, mpsc::Receiver<Told>) {
    let (says, said) = mpsc::channel();
    let tls = tls.map(Arc::new);
    let backend = Backend::serving(move |mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let Ok(told) = Told::read(&mut stream) else { return };
        let _ = says.send(told);
        let peer = match &tls {
            Some(config) => accept(config, stream, &Mutex::default()),
            None => Some(Peer::Plain(stream)),
        };
        if let Some(mut peer) = peer {
            echo(&mut peer);
        }
    });
    (backend, said)
}

#[test]
fn a_backend_is_told_of_the_clients_tls_before_its_own_and_without() {
    let pki = Pki::new();
    let named = pki.issue_with(&["edge-client.test"], |params| {
        params.distinguished_name.push(DnType::CommonName, "Jane");
    });
    for secured in [false, true] {
        let (backend, said) = telling(secured.then(|| pki.server()));
        let tls = if secured { trusting(&pki) } else { String::new() };
        let site = Site::new()
            .env("EDGEPROXY_TLS_CLIENT_CA", &pki.root())
            .env("EDGEPROXY_TLS_CLIENT_AUTH", "optional")
            .env("EDGEPROXY_TLS_ALPN", "h2,http/1.1")
            .backend(Row::new("a", backend.addr()));
        let front = front(&pki, site, &format!("[app.web]\nproxy_protocol = \"v2\"\n{tls}"), "");
        for identity in [None, Some(&named)] {
            let mut config = pki.client(identity);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let config = Arc::new(config);
            for resumed in [false, true] {
                let mut client = Peer::connect(front.addr, Some(&config));
                client.echo("hello").unwrap();
                let told = said.recv_timeout(PATIENCE).unwrap();
                assert_eq!((told.command, told.source), (0x21, client.stream().local_addr().ok()));
                assert_eq!(told.extension(1), Some(&b"http/1.1"[..]), "PP2_TYPE_ALPN");
                assert_eq!(told.extension(2), Some(&b"localhost"[..]), "PP2_TYPE_AUTHORITY");
                let (flags, verify, parts) = told.tls().expect("PP2_TYPE_SSL");
                assert_eq!(find(&parts, 0x21), Some(&b"TLSv1.3"[..]));
                assert!(find(&parts, 0x23).unwrap().starts_with(b"TLS_"), "{parts:?}");
                // That there is TLS, a certificate on this connection, and one in this session.
                let certificate = if resumed { 4 } else { 6 };
                let expected = if identity.is_some() { 1 | certificate } else { 1 };
                assert_eq!(flags, expected, "{secured} {resumed}");
                assert_eq!(verify == 0, identity.is_some());
                assert_eq!(find(&parts, 0x22), identity.map(|_| &b"Jane"[..]));
            }
        }
        // Who comes plainly has no TLS to tell of.
        let mut plain = front.edge.client();
        plain.echo("hello").unwrap();
        let told = said.recv_timeout(PATIENCE).unwrap();
        assert_eq!(told.source, Some(plain.addr()));
        assert!(told.extensions.is_empty(), "{told:?}");
        let addr = plain.addr();
        drop(plain);
        assert_eq!(&front.edge.access_of_addr(addr)["sent"], "5", "the header is not the client's");
    }
}

#[test]
fn nginx_takes_either_version_before_tls() {
    let pki = Pki::new();
    let own = pki.issue(&["back.test"]);
    let (chain, key) = (pki.file("own.pem", &own.chain), pki.file("own.key", &own.key));
    let port = Refusing::new();
    let text = format!(
        "http {{ access_log off; server {{ listen {} ssl proxy_protocol; ssl_certificate {chain}; \
         ssl_certificate_key {key}; ssl_protocols TLSv1.3; location / {{ return 200 \
         \"$proxy_protocol_addr:$proxy_protocol_port $ssl_protocol $ssl_server_name\"; }} }} }}",
        port.addr()
    );
    let nginx = Balancer::nginx(port, &text);
    for version in ["v1", "v2"] {
        let tables = format!(
            "[app.web]\nproxy_protocol = \"{version}\"\n{}name = \"back.test\"\n",
            trusting(&pki)
        );
        let site =
            Site::new().env("EDGEPROXY_POOL_ENABLED", "true").backend(Row::new("a", nginx.addr()));
        let front = front(&pki, site, &tables, "");
        let config = Arc::new(pki.client(None));
        for tls in [None, Some(&config)] {
            for _ in 0..3 {
                let to = if tls.is_some() { front.addr } else { front.edge.addr };
                let mut client = Peer::connect(to, tls);
                let own = client.stream().local_addr().unwrap();
                let answer = asks(&mut client);
                assert_eq!(answer, format!("{own} TLSv1.3 back.test"), "{version}");
            }
        }
    }
}

fn asks(client: &mut Peer) -> String {
    client.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").unwrap();
    let answer = read_answer(client).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[test]
fn haproxy_takes_either_version_before_tls_and_reads_the_authority() {
    let pki = Pki::new();
    let own = pki.issue(&["back.test"]);
    let both = pki.file("both.pem", &format!("{}{}", own.chain, own.key));
    let port = Refusing::new();
    let text = format!(
        "frontend back\n  mode http\n  bind {} accept-proxy ssl crt {both} ca-file {} verify \
         optional alpn h2,http/1.1\n  http-request return status 200 content-type text/plain \
         lf-string \"%[src]:%[src_port] %[fc_pp_authority] %[ssl_fc_sni] %[ssl_fc_protocol] \
         %[ssl_c_s_dn(CN)] %[ssl_fc_alpn]\"",
        port.addr(),
        pki.root()
    );
    let haproxy = Balancer::haproxy(port, &text);
    let ours = pki.issue_with(&["edge.test"], |params| {
        params.distinguished_name.push(DnType::CommonName, "edge");
    });
    for version in ["v1", "v2"] {
        let tables = format!(
            "[app.web]\nproxy_protocol = \"{version}\"\n{}name = \"back.test\"\ncert = \"{}\"\n\
             key = \"{}\"\n",
            trusting(&pki),
            pki.file("ours.pem", &ours.chain),
            pki.file("ours.key", &ours.key)
        );
        let site = Site::new()
            .env("EDGEPROXY_TLS_ALPN", "http/1.1")
            .backend(Row::new("a", haproxy.addr()));
        let front = front(&pki, site, &tables, "");
        let mut config = pki.client(None);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut client = Peer::connect(front.addr, Some(&Arc::new(config)));
        let own = client.stream().local_addr().unwrap();
        let authority = if version == "v2" { "localhost" } else { "" };
        assert_eq!(asks(&mut client), format!("{own} {authority} back.test TLSv1.3 edge http/1.1"));
    }
}
