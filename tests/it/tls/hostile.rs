//! Clients that keep to nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::peer::{
    ALERT, CHANGE_CIPHER_SPEC, DATA, Forger, HANDSHAKE, Pop, TLS12, TLS13, VERSIONS, connection,
    to_send,
};
use crate::support::{Backend, PATIENCE};

/// Alerts (RFC 8446, B.2): their level, and what they say.
const FATAL: u8 = 2;

/// All that a connection answers that begins with these bytes, and from where it came.
fn answer(pop: &Pop, bytes: &[u8]) -> (Vec<u8>, SocketAddr) {
    let mut client = pop.client();
    let from = client.addr();
    let mut heard = Vec::new();
    let mut buffer = [0; 4_096];
    // It may be cut off in the middle.
    let _ = client.stream.write_all(bytes);
    loop {
        match client.stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => heard.extend_from_slice(&buffer[..read]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}", bytes.escape_ascii());
                break;
            }
        }
    }
    (heard, from)
}

fn record(typ: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[typ, 3, 1], &length[..], payload].concat()
}

#[test]
fn what_is_no_handshake_is_told_so_and_hurts_nobody() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    let hello = to_send(&mut connection(&Arc::new(pop.config(&TLS13))));
    let handshake = &hello[5..];
    let ssl3 = [&[3, 0][..], &[7; 32], &[0, 0, 2, 0, 47, 1, 0]].concat();
    let length = [0, 0, u8::try_from(ssl3.len()).unwrap()];
    let ssl3 = [&[22, 3, 0, 0, length[2] + 4, 1][..], &length, &ssl3].concat();
    let ssl2 =
        [&[0x80, 31, 1, 0, 2, 0, 6, 0, 0, 0, 16, 7, 0, 192, 3, 0, 128][..], &[9; 16]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n".into()),
        ("SSL 2", ssl2),
        ("SSL 3", ssl3),
        ("zeroes", vec![0; 1_000]),
        (
            "a hello cut short by an alert",
            [record(HANDSHAKE, &handshake[..9]), record(ALERT, &[1, 0])].concat(),
        ),
        (
            "a hello cut short by data",
            [record(HANDSHAKE, &handshake[..9]), record(DATA, b"data")].concat(),
        ),
        (
            "a hello cut short by a change of ciphers",
            [record(HANDSHAKE, &handshake[..100]), record(CHANGE_CIPHER_SPEC, &[1])].concat(),
        ),
        (
            "a hello cut short by what nobody knows",
            [record(HANDSHAKE, &handshake[..100]), record(99, &[1])].concat(),
        ),
        (
            "a beginning of a message behind the hello, and an alert",
            [&hello[..], &record(HANDSHAKE, &[16, 0]), &record(ALERT, &[1, 0])].concat(),
        ),
        ("another message than a hello", record(HANDSHAKE, &[16, 0, 0, 1, 0])),
        ("a record without an end", vec![22, 3, 1, 255, 255, 1, 0, 255, 255]),
        ("data", record(DATA, b"data")),
        ("two hellos", [&hello[..], &hello].concat()),
        ("many empty records", record(HANDSHAKE, &[]).repeat(100)),
        ("a hello, and empty records", [&hello[..], &record(HANDSHAKE, &[]).repeat(100)].concat()),
    ];
    for (what, bytes) in cases {
        let (heard, from) = answer(&pop, &bytes);
        assert_eq!(pop.reason_of(from), "tls_failed", "{what}");
        // The last that is said is why. Behind a hello it is sealed.
        let mut last = &heard[..];
        let mut types = Vec::new();
        while let [typ, _, _, high, low, rest @ ..] = last {
            types.push(*typ);
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            last = &rest[length.min(rest.len())..];
        }
        assert!(matches!(types.last(), Some(&ALERT | &DATA)), "{what}: {}", heard.escape_ascii());
        pop.has_no_bug();
    }
    assert_eq!(backend.accepted(), 0);
    pop.is_unhurt();
}

#[test]
fn an_alert_before_a_hello_is_an_end() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    for alert in [[1, 0], [FATAL, 40], [FATAL, 80]] {
        let (_, from) = answer(&pop, &record(ALERT, &alert));
        assert_eq!(pop.reason_of(from), "tls_failed");
    }
    assert_eq!(backend.accepted(), 0);
    pop.is_unhurt();
}

#[test]
fn no_garbage_of_any_kind_breaks_anything() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    let mut random = fastrand::Rng::with_seed(11);
    let hellos = VERSIONS.map(|version| to_send(&mut connection(&Arc::new(pop.config(version)))));
    for number in 0..600 {
        let mut bytes = hellos[number % 2].clone();
        match number % 3 {
            0 => (0..random.usize(1..8)).for_each(|_| {
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u8(..8);
            }),
            1 => bytes.truncate(random.usize(1..bytes.len())),
            _ => (0..random.usize(1..200)).for_each(|_| {
                let at = random.usize(..=bytes.len());
                bytes.insert(at, random.u8(..));
            }),
        }
        bytes.extend((0..random.usize(..100)).map(|_| random.u8(..)));
        let mut client = pop.client();
        // What is answered is the library's business. Here it is whether anything breaks.
        let _ = client.stream.write_all(&bytes);
        let _ = client.stream.shutdown(Shutdown::Write);
        let mut heard = Vec::new();
        let _ = client.stream.read_to_end(&mut heard);
        drop(client);
    }
    assert_eq!(backend.accepted(), 0);
    pop.is_unhurt();
}

#[test]
fn half_a_message_from_the_client_does_not_keep_the_backend_from_answering() {
    for version in VERSIONS {
        let (go, may_answer) = channel::<()>();
        let may_answer = std::sync::Mutex::new(may_answer);
        let (heard, has_heard) = channel();
        let backend = Backend::serving(move |mut stream| {
            stream.read_exact(&mut [0; 4]).unwrap();
            let _ = heard.send(());
            may_answer.lock().unwrap().recv().unwrap();
            stream.write_all(b"answer").unwrap();
            let _ = stream.read(&mut [0; 4]);
        });
        let pop = Pop::before(&backend);
        let mut client = Forger::new(&pop, version);
        // The first of a change of keys, or of a hello; then half a record. They are there before the
        // answer because the data before them is.
        let first: &[u8] = if *version == TLS13 { &[24, 0] } else { &[1, 0] };
        let bytes =
            [client.record(DATA, b"data"), client.record(HANDSHAKE, first), vec![23, 3]].concat();
        client.stream.write_all(&bytes).unwrap();
        has_heard.recv_timeout(PATIENCE).unwrap();
        go.send(()).unwrap();
        assert_eq!(client.hear().unwrap(), (DATA, b"answer".into()), "{version:?}");
        pop.has_no_bug();
    }
}
