//! What clients offer, from the newest to the least.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};

use super::peer::{Pop, TLS12, TLS13, VERSIONS, to_send};
use crate::support::Backend;

#[test]
fn a_long_hello_with_nothing_but_a_post_quantum_exchange_may_be_split_anywhere() {
    let backend = Backend::named("a");
    let pop = Pop::before(&backend);
    let kx_groups = vec![kx_group::X25519MLKEM768];
    let config = pop.config_with(CryptoProvider { kx_groups, ..default_provider() }, &TLS13);
    let config = Arc::new(config);
    let length = to_send(&mut super::peer::connection(&config)).len();
    assert!(length > 1_200, "{length} bytes");
    for cut in (1..12).chain((12..length).step_by(53)) {
        let mut tls = pop.comer(&config);
        tls.sock.set_nodelay(true).unwrap();
        let hello = to_send(&mut tls.conn);
        let (first, second) = hello.split_at(cut.min(hello.len()));
        tls.sock.write_all(first).unwrap();
        // The kernel would else hand over both as one.
        std::thread::yield_now();
        tls.sock.write_all(second).unwrap();
        let mut greeting = [0; 2];
        tls.read_exact(&mut greeting).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let group = tls.conn.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    }
}

#[test]
fn any_one_group_will_do() {
    let backend = Backend::named("a");
    let pop = Pop::before(&backend);
    for group in [kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519] {
        for version in [&TLS12, &TLS13] {
            let kx_groups = vec![group];
            let provider = CryptoProvider { kx_groups, ..default_provider() };
            let mut tls = pop.tls_with(&Arc::new(pop.config_with(provider, version)));
            tls.read_exact(&mut [0; 2]).unwrap();
        }
    }
    // One whose first guess is not spoken is asked for another.
    let done = pop.openssl(&["-groups", "P-521:P-256", "-tls1_3", "-msg"]);
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.contains("Verify return code: 0 (ok)"), "{done:?}");
    assert_eq!(said.matches(", ClientHello").count(), 2, "{said}");
}

#[test]
fn a_protocol_that_is_offered_where_none_is_configured_changes_nothing() {
    let backend = Backend::named("a");
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        let mut config = pop.config(version);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut tls = pop.tls_with(&Arc::new(config));
        tls.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(tls.conn.alpn_protocol(), None);
    }
}
