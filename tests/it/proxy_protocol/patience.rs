//! How long a header is waited for, and what ends the waiting.

use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::{assert_reset, greeted, refusals, sends, site, speaks_for, visits};
use crate::support::{Backend, Client, Edge, Row};

/// How long a header may take to be whole.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer a busy machine may take to say so.
const LATE: Duration = Duration::from_secs(4);

/// Sends the longest line of version 1, a byte at a time, for longer than the deadline.
fn drips(mut client: Client) {
    let line = [b"PROXY UNKNOWN ", &[b'x'; 90][..]].concat();
    for byte in line {
        if client.stream.write_all(&[byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("it may go on for ever");
}

#[test]
fn who_has_not_sent_a_whole_header_in_five_seconds_is_cut_off_however_busy_it_is() {
    let (backend, edge) = greeted();
    let silent = edge.client();
    let half = sends(&edge, b"PROXY TCP4 192.0.2.1 ");
    let slow = edge.client();
    let peers: [SocketAddr; 3] = [&silent, &half, &slow].map(Client::addr);
    thread::scope(|scope| {
        scope.spawn(|| drips(slow));
        // Nobody else waits for them.
        for port in 1..=20 {
            assert_eq!(visits(&edge, &format!("192.0.2.1:{port}")).1, "a");
        }
        assert_reset(silent);
        assert_reset(half);
    });
    for peer in peers {
        let line = edge.access_of_addr(peer);
        assert_eq!((&line["reason"], &line["sent"]), ("proxy_header", "0"));
        let took = Duration::from_secs_f64(line.number("duration_ms") / 1e3);
        assert!((HEADER_TIMEOUT..HEADER_TIMEOUT + LATE).contains(&took), "{line:?}");
    }
    refusals(&edge, "proxy_header", 3);
    assert_eq!(backend.accepted(), 20);
}

#[test]
fn nobody_whose_header_came_in_time_is_cut_off_because_the_edge_was_late_to_see_it() {
    // More than the edge takes up at once.
    const MANY: u16 = 400;
    let backend = Backend::holding();
    let edge = site().env("EDGEPROXY_WORKERS", "1").backend(Row::new("a", backend.addr())).start();
    let mut waiting: Vec<Client> = (0..MANY).map(|_| edge.client()).collect();
    wait_until_open(&edge, MANY.into());
    edge.freeze();
    for (client, port) in waiting.iter_mut().zip(1..) {
        let header = speaks_for(&format!("192.0.2.1:{port}"));
        client.stream.write_all(&header).unwrap();
    }
    // It is the edge that lets the time pass.
    thread::sleep(HEADER_TIMEOUT);
    edge.thaw();
    for client in &mut waiting {
        assert_eq!(client.greeting().unwrap(), "held");
    }
}

/// Waits until so many connections have been accepted and have not ended.
fn wait_until_open(edge: &Edge, count: u64) {
    edge.metrics_when("they have been accepted", |metrics| {
        metrics.value("edgeproxy_connections_active", &[]) == count
    });
}

#[test]
fn a_drain_serves_whoever_sends_the_header_in_time_and_does_not_wait_for_the_others() {
    let backend = Backend::named("a");
    let mut edge = site()
        .env("EDGEPROXY_SHUTDOWN_TIMEOUT_SECS", "3")
        .backend(Row::new("a", backend.addr()))
        .start();
    let header = speaks_for("192.0.2.1:1");
    let (begun, rest) = header.split_at(10);
    let mut late = sends(&edge, begun);
    let silent = edge.client();
    let peer = silent.addr();
    wait_until_open(&edge, 2);
    edge.signal(Signal::TERM);
    edge.wait_for_log("no longer accepting");
    late.stream.write_all(rest).unwrap();
    assert_eq!(late.greeting().unwrap(), "a");
    late.echo("hello").unwrap();
    drop(late);
    assert_reset(silent);
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.logged("drained 1, forced 1"), "{:#?}", exit.log);
    let reason = |client: String| {
        let lines = exit.access();
        let line = lines.iter().find(|line| line["client"] == client);
        line.map(|line| line["reason"].to_owned())
    };
    assert_eq!(reason("192.0.2.1:1".into()).unwrap(), "client_closed");
    assert_eq!(reason(peer.to_string()).unwrap(), "drained");
}

#[test]
fn a_drain_ends_as_soon_as_the_last_one_who_waits_has_gone() {
    let (_backend, mut edge) = greeted();
    let waits = sends(&edge, b"PROXY");
    wait_until_open(&edge, 1);
    edge.signal(Signal::TERM);
    edge.wait_for_log("no longer accepting");
    drop(waits);
    let exit = edge.exit();
    assert!(exit.took < Duration::from_secs(4), "{:?}", exit.took);
    assert!(exit.logged("drained 1, forced 0"), "{:#?}", exit.log);
}
