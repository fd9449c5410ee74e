//! The pump against what a direct connection does: every byte, in order, then the end or the reset.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown as Half, TcpListener, TcpStream};
use std::thread;

use proptest::prelude::*;

use std::time::Duration;

use rustix::net::sockopt;

use super::*;
use crate::infrastructure::reactor::{Events, Reactor, Token};

const BOTH: Interest = Interest { reads: true, writes: true };
/// A test that hangs fails instead.
const LIMIT: Duration = Duration::from_secs(20);

/// What one side does: writes its chunks, then closes its half, and reads all the while.
#[derive(Clone, Debug)]
struct Script {
    chunks: Vec<usize>,
    /// How much it reads at a time.
    sip: usize,
}

/// What one side saw.
#[derive(Debug)]
struct Seen {
    bytes: Vec<u8>,
    reset: bool,
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

fn content(script: &Script, salt: usize) -> Vec<u8> {
    let total: usize = script.chunks.iter().sum();
    (0..total).map(|i| u8::try_from((i * 31 + i / 251 + salt) % 256).unwrap()).collect()
}

/// Plays a script on a socket: writes and reads at once, as a real peer does.
fn play(stream: TcpStream, script: &Script, salt: usize) -> Seen {
    let bytes = content(script, salt);
    let mut writer = stream.try_clone().unwrap();
    let chunks = script.chunks.clone();
    let writing = thread::spawn(move || {
        let mut from = 0;
        for chunk in chunks {
            if writer.write_all(&bytes[from..from + chunk]).is_err() {
                return;
            }
            from += chunk;
        }
        drop(writer.shutdown(Half::Write));
    });
    let seen = read_to_end(stream, script.sip);
    writing.join().unwrap();
    seen
}

fn read_to_end(mut stream: TcpStream, sip: usize) -> Seen {
    let mut seen = Seen { bytes: Vec::new(), reset: false };
    let mut buffer = vec![0; sip];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return seen,
            Ok(read) => seen.bytes.extend_from_slice(&buffer[..read]),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                seen.reset = true;
                return seen;
            }
        }
    }
}

/// Runs a relay as a worker does, until it ends.
fn run(mut relay: Relay) -> (Ending, u64, u64) {
    let reactor = Reactor::new().unwrap();
    reactor.watch_both(relay.client.socket(), Token(0)).unwrap();
    reactor.watch_both(relay.backend.socket(), Token(1)).unwrap();
    let (mut tools, mut events) = (Tools::default(), Events::default());
    let mut more = false;
    loop {
        let timeout = if more { Duration::ZERO } else { LIMIT };
        reactor.wait(&mut events, Some(timeout)).unwrap();
        assert!(more || events.iter().next().is_some(), "nothing happens any more: {relay:?}");
        let mut failed = None;
        for event in events.iter() {
            let side = if event.token == Token(0) { Side::Client } else { Side::Backend };
            match side {
                Side::Client => relay.client.note(event),
                Side::Backend => relay.backend.note(event),
            }
            if event.failed() {
                failed = failed.or(relay.failed(side));
            }
        }
        let turn = failed.map_or_else(|| relay.turn(&mut tools), Turn::Ended);
        for (side, token) in [(Side::Client, Token(0)), (Side::Backend, Token(1))] {
            if let Some((socket, interest)) = relay.rewatch(side) {
                reactor.rewatch(socket, token, interest).unwrap();
            }
        }
        match turn {
            Turn::Ended(ending) => {
                let moved = (relay.sent(), relay.received());
                relay.give_back(&mut tools);
                relay.reset(ending);
                return (ending, moved.0, moved.1);
            }
            turn => more = turn == Turn::More,
        }
    }
}

/// A relay, and the peers at its two ends: the client's and the backend's.
fn joined() -> (Relay, TcpStream, TcpStream) {
    let (client_peer, client_end) = connected();
    let (backend_peer, backend_end) = connected();
    for end in [&client_end, &backend_end] {
        end.set_nonblocking(true).unwrap();
    }
    for peer in [&client_peer, &backend_peer] {
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        peer.set_write_timeout(Some(LIMIT)).unwrap();
    }
    let client = End::new(client_end.into(), true, BOTH);
    let backend = End::new(backend_end.into(), false, BOTH);
    (Relay::new(client, backend), client_peer, backend_peer)
}

fn relayed(client: &Script, backend: &Script) -> (Seen, Seen, (Ending, u64, u64)) {
    let (relay, client_peer, backend_peer) = joined();
    thread::scope(|scope| {
        let client_seen = scope.spawn(|| play(client_peer, client, 1));
        let backend_seen = scope.spawn(|| play(backend_peer, backend, 2));
        let ending = run(relay);
        (client_seen.join().unwrap(), backend_seen.join().unwrap(), ending)
    })
}

fn script() -> impl Strategy<Value = Script> {
    let small = proptest::collection::vec(0..3_000_usize, 0..20);
    let edges = proptest::collection::vec(SCRATCH - 1..SCRATCH + 2, 0..4);
    let large = proptest::collection::vec(0..3_000_000_usize, 0..3);
    let chunks = prop_oneof![small, edges, large];
    let sip = prop_oneof![Just(1_000_usize), Just(65_536), Just(1 << 20)];
    (chunks, sip).prop_map(|(chunks, sip)| Script { chunks, sip })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_get_every_byte_and_the_end(
        client in script(),
        backend in script(),
    ) {
        let (client_seen, backend_seen, (ending, sent, received)) = relayed(&client, &backend);
        prop_assert!(backend_seen.bytes == content(&client, 1), "up differs");
        prop_assert!(client_seen.bytes == content(&backend, 2), "down differs");
        prop_assert!(!client_seen.reset && !backend_seen.reset);
        prop_assert_eq!(sent, client.chunks.iter().sum::<usize>() as u64);
        prop_assert_eq!(received, backend.chunks.iter().sum::<usize>() as u64);
        prop_assert!(matches!(ending, Ending::Closed(_)));
    }
}

#[test]
fn a_reset_is_passed_on_as_a_reset_both_ways() {
    for side in [Side::Client, Side::Backend] {
        for said in [0, 10, 100_000, 3_000_000] {
            let script = Script { chunks: vec![said], sip: 65_536 };
            let (relay, client_peer, backend_peer) = joined();
            let (resets, stays) = match side {
                Side::Client => (client_peer, backend_peer),
                Side::Backend => (backend_peer, client_peer),
            };
            let (seen, ending) = thread::scope(|scope| {
                let other = scope.spawn(|| read_to_end(stays, script.sip));
                scope.spawn(|| {
                    let mut resets = resets;
                    resets.write_all(&content(&script, 3)).unwrap();
                    sockopt::set_socket_linger(&resets, Some(Duration::ZERO)).unwrap();
                });
                let (ending, ..) = run(relay);
                (other.join().unwrap(), ending)
            });
            assert_eq!(ending, Ending::Reset(side));
            assert!(seen.reset, "{side:?} said {said} and the other saw a clean end");
            assert!(content(&script, 3).starts_with(&seen.bytes));
        }
    }
}

#[test]
fn nothing_is_held_while_no_byte_is_in_flight() {
    let (mut relay, mut client_peer, mut backend_peer) = joined();
    let reactor = Reactor::new().unwrap();
    reactor.watch_reads(relay.client.socket(), Token(0)).unwrap();
    let (mut tools, mut events) = (Tools::default(), Events::default());
    client_peer.write_all(b"hello").unwrap();
    reactor.wait(&mut events, Some(LIMIT)).unwrap();
    events.iter().for_each(|event| relay.client.note(event));
    assert_eq!(relay.turn(&mut tools), Turn::Waits);
    let mut heard = [0; 5];
    backend_peer.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    assert!(matches!(relay.up.held, Held::Nothing) && matches!(relay.down.held, Held::Nothing));
    // Two sockets, two flows and no buffer: an idle connection is small.
    assert!(size_of::<Relay>() <= 160, "{}", size_of::<Relay>());
}

#[test]
fn the_clients_first_bytes_do_not_wait_until_the_header_before_them_is_acknowledged() {
    let (relay, mut client_peer, mut backend_peer) = joined();
    let mut relay = relay.preceded_by((*b"header ").into());
    let mut tools = Tools::default();
    relay.turn(&mut tools);
    assert!(!sockopt::tcp_nodelay(relay.backend.socket()).unwrap(), "it may be all there is");
    client_peer.write_all(b"hello").unwrap();
    relay.client.readable = true;
    relay.turn(&mut tools);
    assert!(sockopt::tcp_nodelay(relay.backend.socket()).unwrap());
    let mut heard = [0; 12];
    backend_peer.read_exact(&mut heard).unwrap();
    assert_eq!((&heard, relay.sent()), (b"header hello", 5));
}
