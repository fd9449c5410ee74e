//! Bytes, ends and resets, both ways.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::support::{
    Backend, Client, Edge, PATIENCE, Row, Site, eventually, noise, reset, within,
};

const MIB: usize = 1 << 20;

fn edge_before(backend: &Backend) -> Edge {
    Site::new().backend(Row::new("a", backend.addr())).start()
}

/// Writes in pieces of every size, as programs do.
fn write_in_pieces(stream: &mut TcpStream, bytes: &[u8], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(random.usize(1..=100_000).min(rest.len()));
        stream.write_all(piece).expect("the connection carries it");
        rest = later;
    }
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the stream ends as it should");
    bytes
}

/// A backend that sends what it is given for each connection, and hands over what it receives.
fn sending_and_receiving() -> (Backend, Sender<Vec<u8>>, Receiver<Vec<u8>>) {
    let (to_send, sends) = channel::<Vec<u8>>();
    let (received, receipts) = channel();
    let sends = Mutex::new(sends);
    let backend = Backend::serving(move |mut stream| {
        let bytes = sends.lock().unwrap().recv().unwrap();
        let mut writing = stream.try_clone().unwrap();
        let sender = thread::spawn(move || {
            write_in_pieces(&mut writing, &bytes, 1);
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let _ = received.send(read_to_end(&mut stream));
        sender.join().unwrap();
    });
    (backend, to_send, receipts)
}

#[test]
fn bytes_arrive_exactly_in_both_directions_at_once_whatever_their_number() {
    let (backend, to_send, receipts) = sending_and_receiving();
    let edge = edge_before(&backend);
    let mut random = fastrand::Rng::with_seed(7);
    let mut sizes = vec![(0, 0), (1, 0), (0, 1), (65_536, 65_537), (8 * MIB, 8 * MIB)];
    sizes.extend((0..12).map(|_| (random.usize(..2 * MIB), random.usize(..300_000))));

    for (number, (up, down)) in (100..).zip(sizes) {
        let (sent, answered) = (noise(number, up), noise(number + 1_000, down));
        to_send.send(answered.clone()).unwrap();
        let mut client = edge.client();
        let mut writing = client.stream.try_clone().unwrap();
        let expected = sent.clone();
        let sender = thread::spawn(move || {
            write_in_pieces(&mut writing, &sent, number);
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let received = client.rest().unwrap();
        sender.join().unwrap();
        let arrived = receipts.recv_timeout(PATIENCE).unwrap();
        assert!(received == answered, "{} of {down} bytes down, or others", received.len());
        assert!(arrived == expected, "{} of {up} bytes up, or others", arrived.len());

        let line = edge.access_of(&client);
        assert_eq!((&line["sent"], &line["received"]), (&*up.to_string(), &*down.to_string()));
    }
}

#[test]
fn many_conversations_at_once_do_not_mix() {
    let backend = Backend::echo();
    let edge = edge_before(&backend);
    thread::scope(|scope| {
        for number in 0..24 {
            let edge = &edge;
            scope.spawn(move || {
                let bytes = noise(number, 300_000 + usize::try_from(number).unwrap());
                let mut client = edge.client();
                let mut writing = client.stream.try_clone().unwrap();
                let expected = bytes.clone();
                let sender = thread::spawn(move || {
                    write_in_pieces(&mut writing, &bytes, number);
                    writing.shutdown(Shutdown::Write).unwrap();
                });
                let received = client.rest().unwrap();
                sender.join().unwrap();
                assert!(received == expected, "client {number} got another's bytes");
            });
        }
    });
}

#[test]
fn a_client_that_has_finished_sending_still_receives() {
    let backend = Backend::serving(|mut stream| {
        let question = read_to_end(&mut stream);
        let answer = format!("{} bytes: ", question.len());
        stream.write_all(answer.as_bytes()).unwrap();
        stream.write_all(&noise(3, 200_000)).unwrap();
    });
    let edge = edge_before(&backend);
    let mut client = edge.client();
    client.stream.write_all(&noise(2, 100_000)).unwrap();
    client.finish();
    let answer = client.rest().unwrap();
    assert!(answer == [b"100000 bytes: ", &*noise(3, 200_000)].concat());
    assert_eq!(&edge.access_of(&client)["reason"], "client_closed");
}

#[test]
fn a_backend_that_has_finished_sending_still_receives() {
    let (received, receipts) = channel();
    let backend = Backend::serving(move |mut stream| {
        stream.write_all(b"that is all\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = received.send(read_to_end(&mut stream));
    });
    let edge = edge_before(&backend);
    let mut client = edge.client();
    assert_eq!(client.rest().unwrap(), b"that is all\n");
    client.stream.write_all(&noise(4, 300_000)).unwrap();
    client.finish();
    assert!(receipts.recv_timeout(PATIENCE).unwrap() == noise(4, 300_000));
    assert_eq!(&edge.access_of(&client)["reason"], "backend_closed");
}

#[test]
fn a_backend_that_speaks_first_is_heard_by_a_client_that_says_nothing() {
    let backend = Backend::named("smtp.example 220 ready");
    let edge = edge_before(&backend);
    let mut visit = edge.visit().unwrap();
    assert_eq!(visit.served_by, "smtp.example 220 ready");
    visit.client.echo("HELO\n").unwrap();
}

#[test]
fn a_reset_by_the_backend_reaches_the_client_as_a_reset() {
    let backend = Backend::serving(|mut stream| {
        stream.read_exact(&mut [0; 4]).unwrap();
        reset(stream);
    });
    let edge = edge_before(&backend);
    let mut client = edge.client();
    client.stream.write_all(b"ping").unwrap();
    let error = client.rest().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(&edge.access_of(&client)["reason"], "backend_reset");
}

#[test]
fn a_reset_by_the_client_reaches_the_backend_as_a_reset() {
    let (seen, sights) = channel();
    let backend = Backend::serving(move |mut stream| {
        stream.write_all(b"hello\n").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = seen.send(stream.read(&mut [0; 1]).map_err(|error| error.kind()));
    });
    let edge = edge_before(&backend);
    let visit = edge.visit().unwrap();
    let addr = visit.client.addr();
    visit.client.reset();
    assert_eq!(sights.recv_timeout(PATIENCE), Ok(Err(ErrorKind::ConnectionReset)));
    assert_eq!(&edge.access_of_addr(addr)["reason"], "client_reset");
}

#[test]
fn a_close_is_not_made_a_reset() {
    let (seen, sights) = channel();
    let backend = Backend::serving(move |mut stream| {
        stream.write_all(b"hello\n").unwrap();
        let _ = seen.send(stream.read(&mut [0; 1]).map_err(|error| error.kind()));
    });
    let edge = edge_before(&backend);
    drop(edge.visit().unwrap());
    assert_eq!(sights.recv_timeout(PATIENCE), Ok(Ok(0)));
}

#[test]
fn a_silent_connection_is_closed_at_the_idle_timeout_and_a_talking_one_is_not() {
    let backend = Backend::named("a");
    let edge = Site::new()
        .backend(Row::new("a", backend.addr()))
        .env("EDGEPROXY_IDLE_TIMEOUT_SECS", "1")
        .start();
    let mut talking = edge.visit().unwrap().client;
    let mut silent = edge.visit().unwrap().client;
    let mut looks = 0;
    while !silent.has_ended(Duration::from_millis(200)) {
        talking.echo("still here").unwrap();
        looks += 1;
        assert!(looks < 25, "an idle second has long passed");
    }
    assert!(looks >= 3, "closed after {looks} looks of 200 ms: before its time");
    talking.echo("I outlived it").unwrap();

    let line = edge.access_of(&silent);
    assert_eq!(&line["reason"], "idle");
    assert!((1_000.0..3_000.0).contains(&line.number("duration_ms")), "{line:?}");
}

const BULK: usize = 32 * MIB;
/// A proxy that keeps what its peer does not take would hold the whole of [`BULK`].
const ROOM_KIB: u64 = 4 << 10;

/// Writes all of `bytes`; says so on `stuck` when the other side takes no more for a while, or the
/// system's own buffers have taken it all.
fn write_until_stuck(stream: &TcpStream, bytes: &[u8], stuck: &Sender<()>) {
    write_to_the_last(stream, bytes, stuck);
    let _ = stuck.send(());
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Writes all of `bytes`; says so on `stuck` whenever the other side takes no more for a while.
fn write_to_the_last(mut stream: &TcpStream, bytes: &[u8], stuck: &Sender<()>) {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(more) => written += more,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
                let _ = stuck.send(());
            }
        }
    }
}

/// Reads to the end in small pieces, and calls `look` now and then.
fn read_slowly(stream: &mut TcpStream, mut look: impl FnMut()) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BULK);
    let mut piece = vec![0; 32 << 10];
    for number in 0_u64.. {
        let read = stream.read(&mut piece).expect("the stream goes on to its end");
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(&piece[..read]);
        if number.is_multiple_of(16) {
            // What makes this reader slow; nothing is waited for.
            thread::sleep(Duration::from_millis(2));
            look();
        }
    }
    bytes
}

#[test]
fn a_slow_client_gets_every_byte_and_the_proxy_holds_next_to_none_of_them() {
    let bytes = Arc::new(noise(5, BULK));
    let (stuck, gets_stuck) = channel();
    let sent = Arc::clone(&bytes);
    let backend = Backend::serving(move |stream| {
        write_until_stuck(&stream, &sent, &stuck);
        let _ = (&stream).read(&mut [0; 1]);
    });
    let edge = edge_before(&backend);
    let before = edge.memory_kib();
    let mut client = edge.client();
    gets_stuck.recv_timeout(PATIENCE).expect("the backend's writes come to a halt");
    let mut most = edge.memory_kib();
    let received = read_slowly(&mut client.stream, || most = most.max(edge.memory_kib()));
    assert!(received == **bytes, "{} of {BULK} bytes, or others", received.len());
    assert!(most < before + ROOM_KIB, "memory went from {before} to {most} KiB");
}

#[test]
fn a_slow_backend_gets_every_byte_and_the_proxy_holds_next_to_none_of_them() {
    let bytes = Arc::new(noise(6, BULK));
    let (received, receipts) = channel();
    let (go, may_read) = channel::<()>();
    let may_read = Mutex::new(may_read);
    let backend = Backend::serving(move |mut stream| {
        let _ = may_read.lock().unwrap().recv();
        let _ = received.send(read_slowly(&mut stream, || {}));
    });
    let edge = edge_before(&backend);
    let before = edge.memory_kib();
    let client: Client = edge.client();
    let (stuck, gets_stuck) = channel();
    let sent = Arc::clone(&bytes);
    let stream = client.stream.try_clone().unwrap();
    let sender = thread::spawn(move || write_until_stuck(&stream, &sent, &stuck));
    gets_stuck.recv_timeout(PATIENCE).expect("the client's writes come to a halt");
    let mut most = edge.memory_kib();
    go.send(()).unwrap();
    let arrived = eventually("the backend has read it all", || {
        most = most.max(edge.memory_kib());
        receipts.try_recv().ok()
    });
    sender.join().unwrap();
    assert!(arrived == **bytes, "{} of {BULK} bytes, or others", arrived.len());
    assert!(most < before + ROOM_KIB, "memory went from {before} to {most} KiB");
}

/// Eight MiB, an urgent byte, one MiB, the end; to a backend that begins to read at once, or when
/// nothing moves any more.
fn urgent_byte_in_bulk(reads_at_once: bool) {
    let bytes = noise(8, 9 * MIB);
    let (received, receipts) = channel();
    let (go, may_read) = channel::<()>();
    let may_read = Mutex::new(may_read);
    let backend = Backend::serving(move |mut stream| {
        let _ = may_read.lock().unwrap().recv();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = received.send(read_to_end(&mut stream));
    });
    let edge = edge_before(&backend);
    let mut client = edge.client();
    if reads_at_once {
        go.send(()).unwrap();
    }
    let stream = client.stream.try_clone().unwrap();
    let sent = bytes.clone();
    let (stuck, gets_stuck) = channel();
    let sender = thread::spawn(move || {
        let (bulk, rest) = sent.split_at(8 * MIB);
        write_to_the_last(&stream, bulk, &stuck);
        // The byte itself is out of the order of the others.
        while let Err(error) = SockRef::from(&stream).send_out_of_band(b"!") {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        write_to_the_last(&stream, rest, &stuck);
        let _ = stuck.send(());
        stream.shutdown(Shutdown::Write).unwrap();
    });
    if !reads_at_once {
        gets_stuck.recv_timeout(PATIENCE).expect("the client's writes come to a halt");
        go.send(()).unwrap();
    }
    let arrived = receipts.recv_timeout(PATIENCE).expect("the backend reads the end");
    sender.join().unwrap();
    assert!(arrived == bytes, "{} of {} bytes, or others", arrived.len(), bytes.len());
    assert_eq!(client.rest().unwrap(), b"");
    assert_eq!(&edge.access_of(&client)["reason"], "client_closed");
}

#[test]
fn urgent_data_in_a_bulk_upload_costs_no_other_byte() {
    urgent_byte_in_bulk(true);
}

#[test]
fn urgent_data_in_a_bulk_upload_that_was_stuck_costs_no_other_byte() {
    urgent_byte_in_bulk(false);
}

#[test]
fn a_clients_reset_is_noticed_while_its_bytes_wait_for_a_backend_that_reads_nothing() {
    let backend = Backend::holding();
    let edge = Site::new().backend(Row::new("a", backend.addr()).hard_limit(1)).start();
    let visit = edge.visit().unwrap();
    let mut stream = &visit.client.stream;
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let bytes = noise(9, MIB);
    let mut written = 0;
    let error = loop {
        match stream.write(&bytes) {
            Ok(more) => written += more,
            Err(error) => break error,
        }
        assert!(written < 64 * MIB, "somebody takes it all");
    };
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    assert_eq!(&edge.refusal_of("127.0.0.2")["reason"], "at_hard_limit");

    let addr = visit.client.addr();
    visit.client.reset();
    let line = within(Duration::from_secs(5), "the reset is in the access log", || {
        let about = format!(" client={addr} ");
        edge.access_lines().into_iter().find(|line| line.contains(&about))
    });
    assert!(line.ends_with("reason=client_reset"), "{line}");
    let next = edge.visit_from("127.0.0.2").expect("the only place is free again");
    assert_eq!(next.served_by, "held");
}
