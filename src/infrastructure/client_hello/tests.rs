//! Hellos of real clients, each also read by rustls; hellos made by hand, with everything wrong that
//! can be; and whatever else may come.

use std::io::Read;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};

use super::*;

const NEW: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const OLD: &[&SupportedProtocolVersion] = &[&version::TLS12];

/// What [`read`] says, to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    More(usize),
    Done { name: Option<String>, protocols: Vec<Vec<u8>>, length: usize },
    Wrong(Wrong),
}

fn answer(bytes: &[u8]) -> Answer {
    match read(bytes) {
        Outcome::More { need } => Answer::More(need),
        Outcome::Done { hello, length } => Answer::Done {
            name: hello.name().map(ToString::to_string),
            protocols: hello.protocols().map(|protocol| protocol.to_vec()).collect(),
            length,
        },
        Outcome::Wrong(wrong) => Answer::Wrong(wrong),
    }
}

fn done(name: Option<&str>, protocols: &[&str], length: usize) -> Answer {
    let protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Answer::Done { name: name.map(Into::into), protocols, length }
}

/// What rustls' server says: the name and protocols; none for what it does not take, or not yet.
fn rustls_says(bytes: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest.by_ref().take(4096)).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let protocols = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
            return Some((hello.server_name().map(Into::into), protocols));
        }
    }
    None
}

/// The first bytes of a client of rustls.
fn real(
    versions: &[&'static SupportedProtocolVersion],
    post_quantum: bool,
    host: &str,
    protocols: &[&str],
    fragment: Option<usize>,
) -> Vec<u8> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519];
    if post_quantum {
        provider.kx_groups.insert(0, kx_group::X25519MLKEM768);
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().into()).collect();
    config.max_fragment_size = fragment;
    config.resumption = Resumption::disabled();
    let host = pki_types::ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), host).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// A value behind its length of so many bytes.
fn vector(length_bytes: usize, value: &[u8]) -> Vec<u8> {
    [&value.len().to_be_bytes()[8 - length_bytes..], value].concat()
}

fn extension_of(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, body)].concat()
}

fn name_entry(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind], &vector(2, name)[..]].concat()
}

/// The extension with one host name.
fn sni(name: &[u8]) -> Vec<u8> {
    extension_of(SERVER_NAME, &vector(2, &name_entry(0, name)))
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols.iter().flat_map(|protocol| vector(1, protocol)).collect();
    extension_of(ALPN, &vector(2, &list))
}

/// What comes before the extensions.
fn beginning() -> Vec<u8> {
    [&b"\x03\x03"[..], &[7; 32], &vector(1, &[8; 32]), &vector(2, b"\x13\x01"), b"\x01\0"].concat()
}

/// The message with these extensions.
fn message_with(extensions: &[Vec<u8>]) -> Vec<u8> {
    message_of(&[beginning(), vector(2, &extensions.concat())].concat())
}

fn message_of(hello: &[u8]) -> Vec<u8> {
    [&[1], &vector(3, hello)[..]].concat()
}

fn record_of(fragment: &[u8]) -> Vec<u8> {
    [b"\x16\x03\x01", &vector(2, fragment)[..]].concat()
}

/// The message in records of so many bytes.
fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(record_of).collect()
}

fn hello_with(extensions: &[Vec<u8>]) -> Vec<u8> {
    record_of(&message_with(extensions))
}

#[test]
fn hellos_of_real_clients_are_read_as_rustls_reads_them() {
    for (versions, post_quantum) in [(NEW, true), (NEW, false), (OLD, false)] {
        for fragment in [None, Some(32), Some(200)] {
            for (host, protocols) in [
                ("www.example.org", &["h2", "http/1.1"][..]),
                ("Shop.EXAMPLE.org", &["acme-tls/1"]),
                ("example.org.", &[]),
                ("_acme.xn--bcher-kva.example", &["h2"]),
                ("192.0.2.1", &["h2"]),
                ("2001:db8::1", &[]),
            ] {
                let bytes = real(versions, post_quantum, host, protocols, fragment);
                let (name, offered) = rustls_says(&bytes).expect("its own hello");
                let host = host.to_ascii_lowercase();
                let host = host.trim_end_matches('.');
                let is_address = host.parse::<std::net::IpAddr>().is_ok();
                let expected = done((!is_address).then_some(host), protocols, bytes.len());
                assert_eq!(answer(&bytes), expected, "{fragment:?}");
                let theirs = Answer::Done { name, protocols: offered, length: bytes.len() };
                assert_eq!(theirs, expected, "{fragment:?}");
                // The key share alone is longer than a segment of most networks.
                assert_eq!(bytes.len() > 1216, post_quantum, "{} bytes", bytes.len());
            }
        }
    }
}

#[test]
fn a_real_hello_is_read_the_same_wherever_it_is_cut() {
    for bytes in [
        real(NEW, true, "www.example.org", &["h2"], None),
        real(NEW, true, "www.example.org", &["h2"], Some(32)),
    ] {
        let expected = done(Some("www.example.org"), &["h2"], bytes.len());
        for cut in 0..bytes.len() {
            let Answer::More(need) = answer(&bytes[..cut]) else { panic!("an answer at {cut}") };
            assert!(cut < need && need <= bytes.len(), "{need} at {cut}");
        }
        assert_eq!(answer(&bytes), expected);
        // What a client sends right behind it, early data for one, is not looked at.
        assert_eq!(answer(&[&bytes[..], b"\x17\x03\x03 and so on"].concat()), expected);
    }
}

#[test]
fn what_is_asked_for_is_all_that_is_missing_of_a_hello_in_one_record() {
    let bytes = real(NEW, true, "www.example.org", &[], None);
    assert_eq!(answer(b""), Answer::More(50));
    assert_eq!(answer(&bytes[..8]), Answer::More(50));
    assert_eq!(answer(&bytes[..9]), Answer::More(bytes.len()));
}

#[test]
fn a_hello_in_the_smallest_records_is_asked_for_a_few_dozen_times() {
    let message = message_with(&[sni(b"example.org"), extension_of(21, &[0; 2500])]);
    let bytes = in_records(&message, 1);
    assert!((MAX_LENGTH - 1000..=MAX_LENGTH).contains(&bytes.len()), "{} bytes", bytes.len());
    let mut rounds = 0;
    let mut length = 0;
    while let Answer::More(need) = answer(&bytes[..length]) {
        (length, rounds) = (need, rounds + 1);
    }
    assert_eq!(answer(&bytes[..length]), done(Some("example.org"), &[], bytes.len()));
    assert!(rounds < 50, "{rounds} rounds");
}

#[test]
fn what_is_not_tls_is_seen_at_its_first_wrong_byte() {
    for bytes in [
        &b"G"[..],
        b"S",
        b"\r",
        b"\x00",
        // SSL 2's hello, long and short; an alert; a change of cipher.
        b"\x80",
        b"\x01",
        b"\x15",
        b"\x14",
        // A datagram's version.
        b"\x16\xfe",
        b"\x16\x02",
        // Another message than a ClientHello.
        b"\x16\x03\x01\x02\x00\x02",
        // SSL 3, and a version that is none.
        b"\x16\x03\x00\x00\x80\x01\x00\x00\x7c\x03\x00",
        b"\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x04",
    ] {
        let before = &bytes[..bytes.len() - 1];
        assert!(matches!(answer(before), Answer::More(_)), "{before:x?}");
        assert_eq!(answer(bytes), Answer::Wrong(Wrong::NotTls), "{bytes:x?}");
    }
}

#[test]
fn records_are_judged_by_their_heads() {
    let message = message_with(&[sni(b"example.org")]);
    let (first, rest) = message.split_at(20);
    let then = |next: &[u8]| answer(&[&record_of(first), next].concat());
    // An older client writes 3.0 before its first record, and whatever it is, it is not looked at.
    for version in [0x00, 0x03, 0x04, 0xff] {
        let mut rest = record_of(rest);
        rest[2] = version;
        let length = message.len() + 10;
        assert_eq!(then(&rest), done(Some("example.org"), &[], length));
    }
    assert_eq!(then(b"\x15"), Answer::Wrong(Wrong::Interrupted(21)));
    assert_eq!(then(b"\x17\x03\x03\x00\x01"), Answer::Wrong(Wrong::Interrupted(23)));
    assert_eq!(then(b"\x16\x02"), Answer::Wrong(Wrong::NotTls));
    assert_eq!(then(b"\x16\x03\x03\x00\x00"), Answer::Wrong(Wrong::Record(0)));
    assert_eq!(then(b"\x16\x03\x03\x40\x01"), Answer::Wrong(Wrong::Record(16385)));
    assert_eq!(answer(b"\x16\x03\x01\x00\x00"), Answer::Wrong(Wrong::Record(0)));
    assert_eq!(answer(b"\x16\x03\x01\xff\xff"), Answer::Wrong(Wrong::Record(65535)));
}

#[test]
fn a_hello_of_16_kib_is_read_and_a_longer_one_refused_by_what_it_says_of_itself() {
    let filled = |length: usize| {
        let without = hello_with(&[sni(b"example.org"), extension_of(21, &[])]).len();
        hello_with(&[sni(b"example.org"), extension_of(21, &vec![0; length - without])])
    };
    let longest = filled(MAX_LENGTH);
    assert_eq!(answer(&longest), done(Some("example.org"), &[], MAX_LENGTH));
    let longer = filled(MAX_LENGTH + 1);
    assert!(matches!(answer(&longer[..8]), Answer::More(_)));
    assert_eq!(answer(&longer[..9]), Answer::Wrong(Wrong::TooLong(MAX_LENGTH + 1)));
    assert_eq!(answer(b"\x16\x03\x01\x00\x20\x01\xff\xff\xff"), {
        Answer::Wrong(Wrong::TooLong(5 + 4 + 0x00ff_ffff + 5))
    });
    // The same in two records has one head more.
    let halves = in_records(&longest[5..], 9000);
    assert_eq!(answer(&halves), Answer::Wrong(Wrong::TooLong(MAX_LENGTH + 5)));
}

#[test]
fn a_hello_may_say_nothing_of_its_server() {
    let old = message_of(&beginning());
    assert_eq!(answer(&record_of(&old)), done(None, &[], old.len() + 5));
    let none = hello_with(&[]);
    assert_eq!(answer(&none), done(None, &[], none.len()));
    // A list of names none of which is a host's.
    let others = extension_of(SERVER_NAME, &vector(2, &name_entry(9, b"?")));
    let others = hello_with(&[others]);
    assert_eq!(answer(&others), done(None, &[], others.len()));
    // A host's is found behind another.
    let both = [name_entry(9, b"?"), name_entry(0, b"example.org")].concat();
    let both = hello_with(&[extension_of(SERVER_NAME, &vector(2, &both))]);
    assert_eq!(answer(&both), done(Some("example.org"), &[], both.len()));
}

#[test]
fn extensions_that_are_unknown_are_passed_over() {
    let bytes = hello_with(&[
        extension_of(0x1a1a, &[]),
        extension_of(0xfe0d, b"an encrypted hello"),
        sni(b"public.example"),
        extension_of(0x2a2a, &[0]),
        alpn(&[b"\x8a\x8a", b"h2"]),
        extension_of(0xffff, &[1; 300]),
    ]);
    let Outcome::Done { hello, length } = read(&bytes) else { panic!("it is a hello") };
    assert_eq!(length, bytes.len());
    assert_eq!(hello.name().map(ServerName::as_str), Some("public.example"));
    assert!(hello.offers(b"h2") && hello.offers(b"\x8a\x8a"));
    assert!(!hello.offers(b"h") && !hello.offers(b"http/1.1"));
    assert_eq!(format!("{:?}", hello.name()), "Some(\"public.example\")");
    let protocols: Vec<_> = hello.protocols().collect();
    assert_eq!(format!("{protocols:?}"), r#"["\x8a\x8a", "h2"]"#);
}

#[test]
fn one_extension_twice_is_refused() {
    for (kind, body) in
        [(SERVER_NAME, &sni(b"b.example")[4..]), (ALPN, b"\0\x02\x01x"), (0x1a1a, b"")]
    {
        let extension = extension_of(kind, body);
        let bytes = hello_with(&[extension.clone(), extension_of(10, &[]), extension]);
        assert_eq!(answer(&bytes), Answer::Wrong(Wrong::Duplicate(kind)));
    }
    // As many as there is room for, each once.
    let all: Vec<Vec<u8>> = (100..4100).map(|kind| extension_of(kind, &[])).collect();
    let bytes = hello_with(&all);
    assert_eq!(answer(&bytes), done(None, &[], bytes.len()));
}

#[test]
fn a_name_is_a_host_name_in_lower_case_without_its_last_dot() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    for (given, name) in [
        ("WWW.Example.ORG", "www.example.org"),
        ("example.org.", "example.org"),
        ("localhost", "localhost"),
        ("_dmarc.1.example", "_dmarc.1.example"),
        (longest.as_str(), longest.as_str()),
    ] {
        let bytes = hello_with(&[sni(given.as_bytes())]);
        assert_eq!(answer(&bytes), done(Some(name), &[], bytes.len()));
    }
    for address in ["192.0.2.1", "::1", "2001:DB8::1"] {
        let bytes = hello_with(&[sni(address.as_bytes())]);
        assert_eq!(answer(&bytes), done(None, &[], bytes.len()), "{address}");
    }
    let longer = format!("{longest}b");
    for given in [
        &b"."[..],
        b"a..b",
        b".a",
        b"a.b..",
        b"-a.example",
        b"a b",
        b"a\0b",
        b"*.example.org",
        b"[::1]",
        b"192.0.2.256",
        b"example.org:443",
        b"b\xc3\xbccher.example",
        b"\xff",
        &[b'a'; 64],
        longer.as_bytes(),
        &[b'a'; 5000],
    ] {
        let bytes = hello_with(&[sni(given)]);
        assert_eq!(answer(&bytes), Answer::Wrong(Wrong::Name), "{}", given.escape_ascii());
    }
}

#[test]
fn parts_that_do_not_fit_into_each_other_are_refused() {
    let wrong = |part| Answer::Wrong(Wrong::Malformed(part));
    let name = b"\0\x0e\0\0\x0bexample.org";
    for (body, part) in [
        (&b""[..], "server name"),
        (b"\0", "server name"),
        (b"\0\0", "server name"),
        (&name[..15], "server name"),
        (b"\0\x0e\0\0\x0bexample.org!", "server name"),
        (b"\0\x0e\0\0\x0cexample.org", "server name"),
        (b"\0\x0e\0\0\x0aexample.org", "server name"),
        (b"\0\x03\0\0\0", "server name"),
        (b"\0\x08\0\0\x01a\0\0\x01b", "server name"),
        (b"\0\x0d\0\0\x0a192.0.2.10\0\0\x01b", "server name"),
    ] {
        let answer = answer(&hello_with(&[extension_of(SERVER_NAME, body)]));
        assert_eq!(answer, wrong(part), "{body:x?}");
    }
    for body in [
        &b""[..],
        b"\0\0",
        b"\0\x01",
        b"\0\x03\x02h",
        b"\0\x03\x03h2",
        b"\0\x01\0",
        b"\0\x04\x02h2\0",
    ] {
        let answer = answer(&hello_with(&[extension_of(ALPN, body)]));
        assert_eq!(answer, wrong("ALPN"), "{body:x?}");
    }
    let list = [beginning(), b"\0\x04\0\x0a\0\x01".to_vec()].concat();
    assert_eq!(answer(&record_of(&message_of(&list))), wrong("list of extensions"));
    for tail in [&b"\0"[..], b"\0\x01", b"\0\0\0", b"\0\x03\0\x0a\0", b"\xff\xff"] {
        let bytes = record_of(&message_of(&[&beginning(), tail].concat()));
        assert_eq!(answer(&bytes), wrong("list of extensions"), "{tail:x?}");
    }
    for (at, byte) in [(34, 33), (34, 255), (68, 1), (67, 1), (68, 0), (71, 0), (71, 9)] {
        let mut hello = beginning();
        hello[at] = byte;
        let bytes = record_of(&message_of(&hello));
        assert_eq!(answer(&bytes), wrong("beginning"), "{byte} at {at}");
    }
    assert_eq!(answer(b"\x16\x03\x01\x00\x80\x01\x00\x00\x28"), wrong("length"));
}

#[test]
fn nothing_is_allocated() {
    let bytes = real(NEW, true, "www.example.org", &["h2", "http/1.1"], Some(100));
    let used = allocation_counter::measure(|| {
        for length in 0..bytes.len() {
            assert!(matches!(read(&bytes[..length]), Outcome::More { .. }));
        }
        let Outcome::Done { hello, .. } = read(&bytes) else { panic!("it is a hello") };
        assert_eq!(hello.name().map(ServerName::as_str), Some("www.example.org"));
        assert!(hello.offers(b"http/1.1"));
    });
    assert_eq!(used.count_total, 0);
}

/// Every way to cut `bytes` once gives the answer of the whole, or asks for what is missing.
fn same_however_it_arrives(bytes: &[u8]) {
    let whole = answer(bytes);
    for cut in 0..bytes.len() {
        match (answer(&bytes[..cut]), &whole) {
            (Answer::More(need), Answer::Done { length, .. }) => {
                assert!(cut < need && need <= *length, "{need} at {cut}");
            }
            (Answer::More(need), Answer::More(later)) => {
                assert!(cut < need && need <= *later, "{need} at {cut}");
            }
            (Answer::More(need), Answer::Wrong(_)) => assert!(cut < need && need <= MAX_LENGTH),
            (early, whole) => assert_eq!(early, *whole, "at {cut}"),
        }
    }
}

fn hellos() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![
        "[a-zA-Z0-9._-]{1,20}".prop_map(|name| sni(name.as_bytes())),
        "[a-z]{1,20}\\.[a-z]{1,9}".prop_map(|name| sni(name.as_bytes())),
        prop::collection::vec("[ -~]{1,9}", 1..4)
            .prop_map(|list| { alpn(&list.iter().map(String::as_bytes).collect::<Vec<_>>()) }),
        (any::<u16>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, body)| extension_of(kind, &body)),
    ];
    (prop::collection::vec(extension, 0..5), 1..400_usize)
        .prop_map(|(extensions, size)| in_records(&message_with(&extensions), size))
}

fn changed(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (bytes, changes).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn a_hello_is_read_the_same_however_it_arrives(bytes in changed(hellos())) {
        same_however_it_arrives(&bytes);
    }

    #[test]
    fn random_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        same_however_it_arrives(&bytes);
        same_however_it_arrives(&record_of(&[&[1, 0, 0, 180], &bytes[..]].concat()));
    }

    /// Nothing is asked of a changed hello but that whoever takes it reads the same in it.
    #[test]
    fn what_rustls_takes_is_read_as_rustls_reads_it(
        bytes in changed(prop_oneof![
            Just(real(NEW, false, "www.example.org", &["h2", "http/1.1"], None)),
            Just(real(NEW, true, "www.example.org", &["h2"], Some(64))),
            Just(real(OLD, false, "www.example.org", &["h2"], Some(32))),
        ]),
    ) {
        let Some((name, protocols)) = rustls_says(&bytes) else { return Ok(()) };
        match answer(&bytes) {
            Answer::Done { name: ours, protocols: offered, .. } => {
                prop_assert_eq!((ours, offered), (name, protocols));
            }
            // It goes by the extension that lists the versions, and does not mind SSL 3 before; nor
            // does it mind what follows a name of a type that it does not know.
            Answer::Wrong(Wrong::NotTls | Wrong::Malformed("server name")) => {}
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
