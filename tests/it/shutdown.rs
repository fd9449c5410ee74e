//! How the process ends.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Backend, Client, PATIENCE, Row, Site, eventually, noise};

const TRANSFER: usize = 8 << 20;

fn site(backend: &Backend) -> Site {
    Site::new().backend(Row::new("a", backend.addr()))
}

/// A backend that sends [`TRANSFER`] bytes of noise, seeded by the byte that it is asked with.
fn library() -> Backend {
    Backend::serving(|mut stream| {
        let mut seed = [0];
        if stream.read_exact(&mut seed).is_ok() {
            stream.write_all(&noise(seed[0].into(), TRANSFER)).unwrap();
        }
    })
}

#[test]
fn open_transfers_finish_byte_for_byte_nobody_new_comes_in_and_the_last_one_ends_it() {
    let backend = library();
    let mut edge = site(&backend).start();
    let mut transfers: Vec<(u8, Client, Vec<u8>)> = (0..8)
        .map(|seed| {
            let mut client = edge.client();
            client.stream.write_all(&[seed]).unwrap();
            let mut begun = vec![0; 64 << 10];
            client.stream.read_exact(&mut begun).unwrap();
            (seed, client, begun)
        })
        .collect();

    edge.signal(Signal::TERM);
    edge.wait_for_log("no longer accepting");
    eventually("nobody new comes in", || {
        let refused = TcpStream::connect_timeout(&edge.addr, PATIENCE).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    assert!(edge.lives(), "transfers are open");

    for (seed, client, bytes) in &mut transfers {
        bytes.extend(client.rest().unwrap());
        assert!(*bytes == noise((*seed).into(), TRANSFER), "transfer {seed}: {}", bytes.len());
    }
    drop(transfers);
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.took < Duration::from_secs(1), "{:?} after the last transfer", exit.took);
    assert!(exit.logged("drained 8, forced 0"), "{:#?}", exit.log);
}

#[test]
fn with_nothing_open_it_ends_at_once() {
    let backend = Backend::named("a");
    let edge = site(&backend).start();
    drop(edge.visit().unwrap());
    backend.wait_until_idle();
    let exit = edge.stop();
    assert_eq!(exit.code, Some(0));
    assert!(exit.took < Duration::from_secs(1), "{:?}", exit.took);
}

#[test]
fn the_line_of_the_last_connection_is_in_the_access_log() {
    let backend = Backend::named("a");
    // The last connection ends in the middle of the drain; it is a matter of moments, so often.
    for _ in 0..15 {
        let mut edge = site(&backend).start();
        let visit = edge.visit().unwrap();
        edge.signal(Signal::TERM);
        edge.wait_for_log("no longer accepting");
        drop(visit);
        let exit = edge.exit();
        assert_eq!((exit.code, exit.access_lines.len()), (Some(0), 1), "{:#?}", exit.log);
    }
}

#[test]
fn a_stuck_connection_is_closed_at_the_timeout_and_counted_as_forced() {
    let backend = Backend::named("a");
    let mut edge = site(&backend).env("EDGEPROXY_SHUTDOWN_TIMEOUT_SECS", "1").start();
    let mut stuck = edge.visit().unwrap().client;
    let polite = edge.visit().unwrap().client;

    edge.signal(Signal::TERM);
    edge.wait_for_log("no longer accepting");
    drop(polite);
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0), "a forced drain is no failure");
    assert!(exit.took < Duration::from_secs(2), "{:?}", exit.took);
    assert!(exit.logged("drained 1, forced 1"), "{:#?}", exit.log);
    assert_eq!(stuck.greeting().unwrap_err().kind(), ErrorKind::ConnectionReset);
    let addr = stuck.addr().to_string();
    let access = exit.access();
    let line = access.iter().find(|line| line["client"] == *addr).expect("its line");
    assert_eq!(&line["reason"], "drained");
}

#[test]
fn during_the_delay_it_still_accepts() {
    let backend = Backend::named("a");
    let mut edge = site(&backend).env("EDGEPROXY_SHUTDOWN_DELAY_SECS", "1").start();
    let signalled = Instant::now();
    edge.signal(Signal::TERM);
    edge.wait_for_log("draining after 1s");
    let mut late = edge.visit().expect("it accepts until the delay is over");
    late.client.echo("and serves").unwrap();
    edge.wait_for_log("no longer accepting");
    assert!(signalled.elapsed() >= Duration::from_secs(1));
    late.client.echo("and lets finish").unwrap();
    drop(late);
    assert_eq!(edge.exit().code, Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let backend = Backend::named("a");
    let mut edge = site(&backend).start();
    let _stuck = edge.visit().unwrap();
    edge.signal(Signal::TERM);
    edge.wait_for_log("no longer accepting");
    edge.signal(Signal::TERM);
    let exit = edge.exit();
    assert!(exit.took < Duration::from_secs(1), "{:?}", exit.took);
    assert!(exit.code.is_some(), "it ended by itself: {exit:?}");
    assert!(exit.logged("second signal"), "{:#?}", exit.log);
}

#[test]
fn a_second_signal_ends_it_at_once_during_the_delay_too() {
    let backend = Backend::named("a");
    let mut edge = site(&backend).env("EDGEPROXY_SHUTDOWN_DELAY_SECS", "60").start();
    edge.signal(Signal::TERM);
    edge.wait_for_log("draining after 60s");
    edge.signal(Signal::INT);
    let exit = edge.exit();
    assert!(exit.took < Duration::from_secs(1) && exit.code.is_some(), "{exit:?}");
}

#[test]
fn control_c_drains_as_sigterm_does() {
    let backend = Backend::named("a");
    let mut edge = site(&backend).start();
    let mut visit = edge.visit().unwrap();
    edge.signal(Signal::INT);
    edge.wait_for_log("no longer accepting");
    visit.client.echo("still served").unwrap();
    drop(visit);
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.logged("drained 1, forced 0"), "{:#?}", exit.log);
}

#[test]
fn a_signal_right_after_it_is_ready_is_a_drain_too() {
    let backend = Backend::named("a");
    for _ in 0..15 {
        let mut edge = site(&backend).start();
        edge.signal_at_once(Signal::TERM);
        assert_eq!(edge.exit().code, Some(0), "it says it is ready: then it handles signals");
    }
}
