//! How connections end that have done nothing for it, and what is left of them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use rustix::process::Signal;

use super::peer::{Pop, TLS13, Tls, VERSIONS, connection, rest, say_end, to_send};
use crate::support::{Backend, Row, Site, eventually, noise, reset};

const TRANSFER: usize = 4 << 20;

/// Sends [`TRANSFER`] bytes to whoever asks for them.
fn library() -> Backend {
    Backend::serving(|mut stream| {
        let mut seed = [0];
        if stream.read_exact(&mut seed).is_ok() {
            let _ = stream.write_all(&noise(seed[0].into(), TRANSFER));
        }
    })
}

#[test]
fn a_drain_lets_transfers_come_to_their_end_in_tls() {
    let backend = library();
    let mut pop = Pop::before(&backend);
    let mut transfers: Vec<(u8, Tls, Vec<u8>)> = (0..6)
        .map(|seed| {
            let mut tls = pop.tls(VERSIONS[usize::from(seed % 2)]);
            tls.write_all(&[seed]).unwrap();
            let mut begun = vec![0; 64 << 10];
            tls.read_exact(&mut begun).unwrap();
            (seed, tls, begun)
        })
        .collect();
    // One that was let in before goes on with its handshake.
    let mut late = pop.comer(&Arc::new(pop.config(&TLS13)));
    late.sock.write_all(&to_send(&mut late.conn)).unwrap();
    late.conn.read_tls(&mut late.sock).unwrap();
    pop.edge.signal(Signal::TERM);
    pop.edge.wait_for_log("no longer accepting");
    late.conn.process_new_packets().unwrap();
    late.write_all(&[9]).unwrap();
    transfers.push((9, late, Vec::new()));
    for (seed, tls, bytes) in &mut transfers {
        bytes.extend(rest(tls).expect("TLS says that it ends"));
        assert!(*bytes == noise((*seed).into(), TRANSFER), "transfer {seed}: {}", bytes.len());
    }
    drop(transfers);
    let exit = pop.edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.logged("drained 7, forced 0"), "{:#?}", exit.log);
}

#[test]
fn an_idle_connection_is_told_that_it_ends() {
    let backend = Backend::named("a");
    let site =
        Site::new().env("EDGEPROXY_IDLE_TIMEOUT_SECS", "1").backend(Row::new("a", backend.addr()));
    let pop = Pop::of(site);
    for version in VERSIONS {
        let mut tls = pop.tls(version);
        let from = tls.sock.local_addr().unwrap();
        assert_eq!(rest(&mut tls).expect("TLS says that it ends"), b"a\n");
        assert_eq!(pop.reason_of(from), "idle");
    }
}

/// One of many ways in which a connection can come and go.
fn come_and_go(pop: &Pop, config: &Arc<rustls::ClientConfig>, number: usize) {
    let stopped = |length: usize| -> TcpStream {
        let mut client = pop.client();
        client.stream.write_all(&to_send(&mut connection(config))[..length]).unwrap();
        client.stream
    };
    match number % 8 {
        0 => drop(stopped(100)),
        1 => reset(stopped(120)),
        2 => {
            let mut stream = stopped(150);
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read(&mut [0]);
        }
        3 => {
            let mut client = pop.client();
            client.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let _ = client.rest();
        }
        4 => reset(pop.tls_with(config).sock),
        5 => drop(pop.tls_with(config)),
        _ => {
            let mut tls = pop.tls_with(config);
            tls.write_all(b"hello").unwrap();
            tls.read_exact(&mut [0; 5]).unwrap();
            say_end(&mut tls);
            let _ = rest(&mut tls);
        }
    }
}

#[test]
fn nothing_is_left_of_any_number_of_them() {
    const MANY: usize = 800;
    const ROOM_KIB: u64 = 2 << 10;
    let backend = Backend::echo();
    let mut pop = Pop::before(&backend);
    let configs = VERSIONS.map(|version| Arc::new(pop.config(version)));
    let go = |count: usize| {
        (0..count).for_each(|number| {
            come_and_go(&pop, &configs[number / 8 % 2], number);
        });
    };
    go(100);
    backend.wait_until_idle();
    let (before, memory) = (pop.edge.descriptors_at_rest(), pop.edge.memory_kib());
    go(MANY);
    backend.wait_until_idle();
    eventually("no descriptor is left", || (pop.edge.descriptors() <= before).then_some(()));
    let after = pop.edge.memory_kib();
    assert!(after < memory + ROOM_KIB, "memory went from {memory} to {after} KiB");
    let lines = eventually("a line for each", || {
        Some(pop.edge.access_lines()).filter(|lines| lines.len() == MANY + 100)
    });
    drop(lines);
    pop.is_unhurt();
}

#[test]
fn a_backend_that_ends_in_the_midst_of_an_answer_leaves_what_it_said_and_an_end() {
    let mut backend = Backend::named("a");
    let pop = Pop::before(&backend);
    let mut all: Vec<Tls> = VERSIONS.map(|version| pop.tls(version)).into();
    for tls in &mut all {
        tls.read_exact(&mut [0; 2]).unwrap();
    }
    backend.stop();
    for mut tls in all {
        assert_eq!(rest(&mut tls).expect("TLS says that it ends"), b"");
    }
}
