//! Clients that keep to nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::peer::{
    ALERT, CHANGE_CIPHER_SPEC, DATA, Forger, HANDSHAKE, Pop, TLS12, TLS13, VERSIONS, connection,
    step, to_send,
};
use crate::support::{Backend, PATIENCE, eventually, noise};

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

/// The types of the records in `bytes`.
fn types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [typ, _, _, high, low, rest @ ..] = bytes {
        types.push(*typ);
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        bytes = &rest[length.min(rest.len())..];
    }
    types
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
    let begun = record(HANDSHAKE, &handshake[..9]);
    // What the library says of one record between the parts of a message: nothing.
    let cases: Vec<(&str, bool, Vec<u8>)> = vec![
        ("HTTP", true, b"GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n".into()),
        ("SSL 2", true, ssl2),
        ("SSL 3", true, ssl3),
        ("zeroes", true, vec![0; 1_000]),
        ("an alert in a hello", false, [&begun[..], &record(ALERT, &[1, 0])].concat()),
        ("data in a hello", false, [&begun[..], &record(DATA, b"data")].concat()),
        ("ciphers in a hello", false, [&begun[..], &record(CHANGE_CIPHER_SPEC, &[1])].concat()),
        ("nothing known in a hello", false, [&begun[..], &record(99, &[1])].concat()),
        (
            "an alert in the next message",
            true,
            [&hello[..], &record(HANDSHAKE, &[16, 0]), &record(ALERT, &[1, 0])].concat(),
        ),
        ("another message", true, record(HANDSHAKE, &[16, 0, 0, 1, 0])),
        ("too long a record", true, vec![22, 3, 1, 255, 255, 1, 0, 255, 255]),
        ("data", true, record(DATA, b"data")),
        ("two hellos", true, [&hello[..], &hello].concat()),
        ("empty records", false, record(HANDSHAKE, &[]).repeat(100)),
        (
            "a hello and empty ones",
            true,
            [&hello[..], &record(HANDSHAKE, &[]).repeat(100)].concat(),
        ),
    ];
    for (what, says_why, bytes) in cases {
        let (heard, from) = answer(&pop, &bytes);
        assert_eq!(pop.reason_of(from), "tls_failed", "{what}");
        // Behind the hello it is sealed.
        let last = types(&heard).pop();
        let said = matches!(last, Some(ALERT | DATA));
        assert!(said || !says_why, "{what}: {}", heard.escape_ascii());
        pop.has_no_bug();
    }
    assert_eq!(backend.accepted(), 0);
    pop.is_unhurt();
}

#[test]
fn a_message_that_grows_and_grows_is_not_kept() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    // What follows the hello of TLS 1.2 is not sealed: 55 KiB of a message of 64 KiB.
    let hello = to_send(&mut connection(&Arc::new(pop.config(&TLS12))));
    let message = [&[16, 0, 255, 255][..], &vec![0; 55 << 10]].concat();
    let records: Vec<u8> =
        message.chunks(16 << 10).flat_map(|piece| record(HANDSHAKE, piece)).collect();
    let mut client = pop.client();
    let from = client.addr();
    client.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.stream.write_all(&hello).unwrap();
    client.stream.read_exact(&mut [0]).unwrap();
    let _ = client.stream.write_all(&records);
    // Long before its time has come.
    if let Err(error) = client.rest() {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(pop.reason_of(from), "tls_failed");
    pop.is_unhurt();
}

#[test]
fn a_fatal_alert_before_a_hello_is_an_end() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    for alert in [[FATAL, 40], [FATAL, 80]] {
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

/// What is done to a client, whose records are its own, after it has said something.
fn met(pop: &Pop, forger: &mut Forger) -> (Option<Vec<u8>>, String) {
    let from = forger.stream.local_addr().unwrap();
    let mut alert = None;
    loop {
        match forger.hear() {
            Ok((ALERT, said)) => alert = Some(said),
            Ok((DATA, _)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
                assert!(kinds.contains(&error.kind()), "{error}");
                break;
            }
        }
    }
    (alert, pop.reason_of(from))
}

#[test]
fn records_that_must_not_be_end_the_connection_with_an_alert() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    for version in VERSIONS {
        let too_long = vec![0; (16 << 10) + 1];
        let cases: [(&str, u8, &[u8], usize); 6] = [
            ("a heartbeat", 24, &[1, 0x40, 0, 7], 1),
            ("what nobody knows", 99, b"hello", 1),
            ("nothing, again and again", DATA, b"", 1_000),
            ("a record that is too long", DATA, &too_long, 1),
            ("a message that nobody knows", HANDSHAKE, &[99, 0, 0, 1, 7], 1),
            ("warnings without an end", ALERT, &[1, 90], 1_000),
        ];
        for (what, typ, payload, times) in cases {
            let mut forger = Forger::new(&pop, version);
            forger.say(DATA, b"hello");
            assert_eq!(forger.hear().unwrap(), (DATA, b"hello".into()));
            let bytes: Vec<u8> = (0..times).flat_map(|_| forger.record(typ, payload)).collect();
            // It may be cut off in the middle.
            let _ = forger.stream.write_all(&bytes);
            let (alert, reason) = met(&pop, &mut forger);
            assert_eq!(reason, "client_reset", "{what}, {version:?}");
            // With more on its way, a reset may overtake it.
            if times == 1 {
                assert_eq!(alert.unwrap()[0], FATAL, "{what}, {version:?}");
            }
            pop.has_no_bug();
        }
        // A record that is not the client's: its seal is broken.
        let mut forger = Forger::new(&pop, version);
        let mut bytes = forger.record(DATA, b"hello");
        *bytes.last_mut().unwrap() ^= 1;
        forger.stream.write_all(&bytes).unwrap();
        assert_eq!(met(&pop, &mut forger), (Some(vec![FATAL, 20]), "client_reset".into()));
    }
    pop.is_unhurt();
}

#[test]
fn alerts_of_the_client_are_what_they_are() {
    let backend = Backend::echo();
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        // A warning is none of an end.
        let mut forger = Forger::new(&pop, version);
        forger.say(ALERT, &[1, 90]);
        forger.say(DATA, b"hello");
        assert_eq!(forger.hear().unwrap(), (DATA, b"hello".into()), "{version:?}");
        forger.say(ALERT, &[1, 0]);
        forger.stream.shutdown(Shutdown::Write).unwrap();
        let closed = (Some(vec![1, 0]), "client_closed".into());
        assert_eq!(met(&pop, &mut forger), closed, "{version:?}");
        // A fatal one ends everything.
        let mut forger = Forger::new(&pop, version);
        forger.say(ALERT, &[FATAL, 40]);
        assert_eq!(met(&pop, &mut forger), (None, "client_reset".into()), "{version:?}");
    }
    backend.wait_until_idle();
}

#[test]
fn nobody_negotiates_again() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    let hello = to_send(&mut connection(&Arc::new(pop.config(&TLS12))));
    let mut forger = Forger::new(&pop, &TLS12);
    forger.say(HANDSHAKE, &hello[5..]);
    assert_eq!(forger.hear().unwrap(), (ALERT, vec![1, 100]), "no_renegotiation");
    forger.say(DATA, b"then not");
    assert_eq!(forger.hear().unwrap(), (DATA, b"then not".into()));
    let again: Vec<u8> = (0..100).flat_map(|_| forger.record(HANDSHAKE, &hello[5..])).collect();
    let _ = forger.stream.write_all(&again);
    assert_eq!(met(&pop, &mut forger).1, "client_reset");

    // "R" is how it is asked to.
    let mut asking = pop.openssl_command(&["-tls1_2"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = asking.stdin.take().unwrap();
    backend_has(&backend, 2);
    stdin.write_all(b"R\n").unwrap();
    let done = asking.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("no renegotiation"), "{said}");
    drop(stdin);
    pop.is_unhurt();
}

fn backend_has(backend: &Backend, count: usize) {
    eventually("they are with the backend", || (backend.accepted() >= count).then_some(()));
}

#[test]
fn keys_change_in_the_midst_of_everything() {
    let (up, down) = (noise(1, 1 << 20), noise(2, 1 << 20));
    let (sends, expects) = (down.clone(), up.clone());
    let backend = Backend::serving(move |mut stream| {
        let mut writing = stream.try_clone().unwrap();
        let sends = sends.clone();
        let sender = thread::spawn(move || {
            for piece in sends.chunks(700) {
                writing.write_all(piece).unwrap();
            }
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert!(heard == expects);
        sender.join().unwrap();
    });
    let pop = Pop::before(&backend);
    let mut tls = pop.tls(&TLS13);
    let from = tls.sock.local_addr().unwrap();
    let (mut left, mut changes) = (&up[..], 0);
    let mut heard = Vec::new();
    tls.sock.set_nonblocking(true).unwrap();
    // One change with each kilobyte, of both sides' keys.
    while !(left.is_empty() && heard.len() == down.len()) {
        if !tls.conn.wants_write() && !left.is_empty() {
            let (piece, later) = left.split_at(1_000.min(left.len()));
            tls.conn.refresh_traffic_keys().unwrap();
            tls.conn.writer().write_all(piece).unwrap();
            left = later;
            changes += 1;
        }
        step(&mut tls, &mut heard);
    }
    assert!(changes > 1_000 && heard == down);
    tls.sock.set_nonblocking(false).unwrap();
    super::peer::say_end(&mut tls);
    let line = pop.edge.access_of_addr(from);
    assert_eq!((&line["sent"], &line["received"]), ("1048576", "1048576"));
    backend.wait_until_idle();
}

/// Changes of keys that nobody follows with a word are a flood.
#[test]
fn changes_of_keys_alone_end_the_connection() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    let mut forger = Forger::new(&pop, &TLS13);
    // The second would have to be sealed with the next key: all of them in one record.
    forger.say(HANDSHAKE, &[24, 0, 0, 1, 1].repeat(2_000));
    assert_eq!(met(&pop, &mut forger).1, "client_reset");
    pop.is_unhurt();
}

#[test]
fn old_versions_are_refused_with_an_alert() {
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    for version in ["-tls1", "-tls1_1"] {
        let done = pop.openssl(&[version, "-cipher", "ALL:@SECLEVEL=0"]);
        let said = String::from_utf8_lossy(&done.stderr);
        let why = ["alert protocol version", "alert handshake failure"];
        assert!(why.iter().any(|why| said.contains(why)), "{version}: {said}");
    }
    pop.edge.wait_for_ends(2, "tls_failed");
    assert_eq!(backend.accepted(), 0);
    pop.is_unhurt();
}
