//! Sessions that go on where others ended.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use super::peer::{Pop, TLS13, Tls, VERSIONS, shake_hands};
use crate::support::Backend;

fn echoes(tls: &mut Tls, said: &[u8]) {
    tls.write_all(said).unwrap();
    let mut heard = vec![0; said.len()];
    tls.read_exact(&mut heard).unwrap();
    assert_eq!(heard, said);
}

#[test]
fn tickets_are_taken_by_any_worker_and_what_goes_on_from_them_carries_bytes() {
    let backend = Backend::echo();
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        let config = Arc::new(pop.config(version));
        for number in 0..16 {
            let mut tls = pop.tls_with(&config);
            // The ticket comes before it.
            echoes(&mut tls, b"hello");
            let kind = if number == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
            assert_eq!(tls.conn.handshake_kind(), Some(kind), "{number}, {version:?}");
        }
    }
}

#[test]
fn a_ticket_that_was_changed_is_none() {
    let backend = Backend::echo();
    let pop = Pop::before(&backend);
    let [session, der, changed] =
        ["session.pem", "session.der", "changed.pem"].map(|name| pop.edge.site.path(name));
    let convert = |from: (&Path, &str), to: (&Path, &str)| {
        let done = Command::new("openssl")
            .args(["sess_id", "-inform", from.1, "-in"])
            .arg(from.0)
            .args(["-outform", to.1, "-out"])
            .arg(to.0)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let kind = |arguments: &[&str]| {
        let done = pop.openssl(&[&["-tls1_2"], arguments].concat());
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(said.contains("Verify return code: 0 (ok)"), "{done:?}");
        if said.contains("\nReused, ") { "resumed" } else { "full" }
    };
    let [named, other] = [&session, &changed].map(|path| path.display().to_string());
    assert_eq!(kind(&["-sess_out", &named]), "full");
    assert_eq!(kind(&["-sess_in", &named]), "resumed");
    convert((&session, "PEM"), (&der, "DER"));
    let bytes = fs::read(&der).unwrap();
    // The ticket: an explicit [10] with a string of bytes in it.
    let is_ticket =
        |head: &[u8]| matches!(head, [0xaa, 0x81, _, 4, 0x81, ..] | [0xaa, 0x82, _, _, 4, 0x82]);
    let at = bytes.windows(6).position(is_ticket).expect("a ticket");
    let length = bytes.len();
    for place in [at + 8, at + 30, at + 60] {
        assert!(place < length);
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        fs::write(&der, &bytes).unwrap();
        convert((&der, "DER"), (&changed, "PEM"));
        assert_eq!(kind(&["-sess_in", &other]), "full", "byte {place} of {length}");
    }
    assert_eq!(kind(&["-sess_in", &named]), "resumed");
}

#[test]
fn data_before_the_handshake_is_over_is_not_taken_and_said_again() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    // Another server with the same name has promised to take it.
    let cert = CertificateDer::from_pem_file(pop.edge.site.path("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(pop.edge.site.path("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    server.max_early_data_size = 16 << 10;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap();
    let server = Arc::new(server);
    let serving = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(server).unwrap(), stream);
        tls.write_all(b"!").unwrap();
    });
    let mut config = pop.config(&TLS13);
    config.enable_early_data = true;
    let config = Arc::new(config);
    let own = std::mem::replace(&mut pop.addr, other);
    pop.tls_with(&config).read_exact(&mut [0]).unwrap();
    serving.join().unwrap();
    pop.addr = own;

    let mut tls = pop.comer(&config);
    let said = b"as early as can be";
    tls.conn.early_data().expect("it was promised").write_all(said).unwrap();
    shake_hands(&mut tls).unwrap();
    assert!(!tls.conn.is_early_data_accepted());
    echoes(&mut tls, said);
    let from = tls.sock.local_addr().unwrap();
    super::peer::say_end(&mut tls);
    assert_eq!(&pop.edge.access_of_addr(from)["sent"], said.len().to_string());
    // And here nobody promises it.
    let mut tls = pop.comer(&config);
    assert!(tls.conn.early_data().is_none());
    echoes(&mut tls, b"in its time");
}
