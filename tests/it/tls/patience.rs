//! Handshakes that take their time.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::peer::{Pop, TLS12, TLS13, connection, last_flight, to_send};
use crate::support::{Backend, Client, Row, Site, eventually, raise_descriptor_limit};

/// How long a handshake may take.
const LONGEST: Duration = Duration::from_secs(10);
/// How much longer a busy machine may take to say so.
const LATE: Duration = Duration::from_secs(4);
/// How many one worker waits for.
const MOST: usize = 8_192;

/// Reads to the end, whatever it is.
fn end(mut stream: TcpStream) {
    stream.set_read_timeout(Some(LONGEST + LATE)).unwrap();
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// Sends a hello a byte at a time, for longer than the deadline.
fn drips(mut stream: TcpStream, hello: &[u8]) {
    for byte in hello {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("it may go on for ever");
}

#[test]
fn a_handshake_that_stands_still_anywhere_ends_ten_seconds_after_it_began() {
    let backend = Backend::named("a");
    let mut pop = Pop::of(Site::new().backend(Row::new("a", backend.addr())));
    let config = Arc::new(pop.config(&TLS13));
    pop.tls_with(&config).read_exact(&mut [0; 2]).unwrap();
    backend.wait_until_idle();
    let before = pop.edge.descriptors_at_rest();
    let hello = to_send(&mut connection(&config));
    let begun = Instant::now();
    let mut streams = Vec::new();
    for length in [0, 1, 5, 9, 300, hello.len()] {
        let mut client = pop.client();
        client.stream.write_all(&hello[..length]).unwrap();
        streams.push(client.stream);
    }
    // The last flight without its last byte.
    for version in [&TLS13, &TLS12] {
        let mut tls = pop.comer(&Arc::new(pop.config(version)));
        let flight = if *version == TLS13 {
            last_flight(&mut tls)
        } else {
            let hello = to_send(&mut tls.conn);
            tls.sock.write_all(&hello).unwrap();
            while !tls.conn.wants_write() {
                tls.conn.read_tls(&mut tls.sock).unwrap();
                tls.conn.process_new_packets().unwrap();
            }
            to_send(&mut tls.conn)
        };
        tls.sock.write_all(&flight[..flight.len() - 1]).unwrap();
        streams.push(tls.sock);
    }
    let slow = pop.client();
    let mut froms: Vec<_> = streams.iter().map(|stream| stream.local_addr().unwrap()).collect();
    froms.push(slow.addr());
    thread::scope(|scope| {
        scope.spawn(|| drips(slow.stream, &hello));
        for stream in streams {
            scope.spawn(|| end(stream));
        }
        pop.tls(&TLS13).read_exact(&mut [0; 2]).unwrap();
    });
    assert!(begun.elapsed() >= LONGEST);
    for from in froms {
        let line = pop.edge.access_of_addr(from);
        assert_eq!(&line["reason"], "tls_failed");
        let took = Duration::from_secs_f64(line.number("duration_ms") / 1e3);
        assert!((LONGEST..LONGEST + LATE).contains(&took), "{line:?}");
    }
    assert_eq!(backend.accepted(), 2);
    backend.wait_until_idle();
    eventually("no descriptor is left", || (pop.edge.descriptors() <= before).then_some(()));
    assert!(pop.edge.lives());
}

#[test]
fn thousands_that_say_nothing_do_not_keep_anybody_out_and_the_oldest_goes() {
    const MORE: usize = 100;
    const SPEAK: usize = 500;
    const EACH_KIB: u64 = 24;
    // Two descriptors for each here, and one there.
    let descriptors = raise_descriptor_limit();
    assert!(descriptors >= MOST + 2_000, "needs 10,192 descriptors; the limit is {descriptors}");
    let backend = Backend::named("a");
    let site = Site::new()
        .env("EDGEPROXY_WORKERS", "1")
        .env("EDGEPROXY_MAX_CONNECTIONS", "20000")
        .backend(Row::new("a", backend.addr()));
    let pop = Pop::of(site);
    let config = Arc::new(pop.config(&TLS13));
    let memory = pop.edge.memory_kib();
    let begun = Instant::now();
    let mut oldest: Vec<Client> = (0..MORE).map(|_| pop.client()).collect();
    let hello = to_send(&mut connection(&config));
    let waiting: Vec<Client> = (MORE..MOST + MORE)
        .map(|number| {
            let mut client = pop.client();
            if number.is_multiple_of(MOST / SPEAK) {
                client.stream.write_all(&hello).unwrap();
            }
            client
        })
        .collect();
    for client in &mut oldest {
        let error = client.greeting().expect_err("it has waited longest");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let took = begun.elapsed();
    let mut tls = pop.tls_with(&config);
    tls.read_exact(&mut [0; 2]).unwrap();
    assert!(took < LONGEST, "{took:?}: it was not for them that they went");
    let most = pop.edge.memory_kib();
    let silent = u64::try_from(MOST).unwrap();
    let room = silent + EACH_KIB * u64::try_from(SPEAK).unwrap() + 4_096;
    assert!(most < memory + room, "memory went from {memory} to {most} KiB");
    drop(waiting);
    eventually("all have gone", || (pop.edge.access_lines().len() >= MOST + MORE).then_some(()));
}
