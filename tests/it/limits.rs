//! What is never exceeded, and that nothing is left behind.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Barrier;
use std::thread;

use crate::support::{Backend, Edge, Row, Site, Visit, eventually, raise_descriptor_limit};

/// `count` clients that come at the same moment: those that were served, the rest was reset.
fn rush(edge: &Edge, count: usize) -> Vec<Visit> {
    let gate = Barrier::new(count);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..count)
            .map(|_| {
                let come = || {
                    gate.wait();
                    edge.visit()
                };
                thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, come).unwrap()
            })
            .collect();
        clients
            .into_iter()
            .filter_map(|client| match client.join().unwrap() {
                Ok(visit) => Some(visit),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    None
                }
            })
            .collect()
    })
}

fn assert_refused(edge: &Edge, from: &str) {
    let error = edge.visit_from(from).map(|visit| visit.served_by).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn admitted_again(edge: &Edge, from: &str) -> Visit {
    eventually("a place is free again", || edge.visit_from(from).ok())
}

#[test]
fn under_a_rush_of_200_a_hard_limit_of_5_is_5_at_the_backend_and_never_6() {
    let backend = Backend::named("a");
    let edge =
        Site::new().without_affinity().backend(Row::new("a", backend.addr()).hard_limit(5)).start();
    for wave in 1..=3 {
        let served = rush(&edge, 200);
        assert_eq!(served.len(), 5, "in wave {wave}");
        edge.wait_for_ends(195 * wave, "at_hard_limit");
        drop(served);
        edge.wait_for_ends(5 * wave, "client_closed");
        backend.wait_until_idle();
    }
    assert_eq!(backend.most_at_once(), 5);
    assert_eq!(backend.accepted(), 15, "no refusal costs a dial");
}

#[test]
fn what_is_over_a_hard_limit_goes_elsewhere_while_there_is_room() {
    let [near, far] = ["near", "far"].map(Backend::named);
    let edge = Site::new()
        .backend(Row::new("near", near.addr()).hard_limit(5))
        .backend(Row::new("far", far.addr()).place("ap", "JP").hard_limit(100))
        .start();
    let served = rush(&edge, 200);
    let of = |name: &str| served.iter().filter(|visit| visit.served_by == name).count();
    assert_eq!((of("near"), of("far")), (5, 100));
    assert_eq!((near.most_at_once(), far.most_at_once()), (5, 100));
}

#[test]
fn the_caps_and_the_deny_list_refuse_the_surplus_admit_again_and_are_summed_up_in_the_log() {
    let backend = Backend::named("a");
    let edge = Site::new()
        .env("EDGEPROXY_MAX_CONNECTIONS", "3")
        .env("EDGEPROXY_MAX_CONNECTIONS_PER_CLIENT", "2")
        .env("EDGEPROXY_DENY", "127.0.9.0/24, 2001:db8::/32")
        .backend(Row::new("a", backend.addr()))
        .start();

    assert_refused(&edge, "127.0.9.1");
    let first = edge.visit_from("127.0.2.1").unwrap();
    let _second = edge.visit_from("127.0.2.1").unwrap();
    assert_refused(&edge, "127.0.2.1");
    let third = edge.visit_from("127.0.2.2").unwrap();
    assert_refused(&edge, "127.0.2.3");
    assert_eq!(backend.accepted(), 3, "no refusal costs a dial");

    drop(third);
    let _third = admitted_again(&edge, "127.0.2.3");
    drop(first);
    let _first = admitted_again(&edge, "127.0.2.1");
    assert_refused(&edge, "127.0.2.4");

    // One line for each reason, not one for each client.
    for reason in ["denied", "client_cap", "global_cap"] {
        let summary = edge.wait_for_log(&format!("reason=\"{reason}\""));
        assert!(summary.contains("connections="), "{summary}");
    }
    assert!(!edge.access_lines().iter().any(|line| line.contains("_cap")));
}

#[test]
fn a_cap_is_exact_under_a_rush() {
    let backend = Backend::named("a");
    let edge = Site::new()
        .env("EDGEPROXY_MAX_CONNECTIONS", "7")
        .backend(Row::new("a", backend.addr()))
        .start();
    for _ in 0..3 {
        // A refused one may count for a moment while it is refused, so less is no fault.
        let served = rush(&edge, 100);
        assert!((1..=7).contains(&served.len()), "{} were served", served.len());
        drop(served);
        backend.wait_until_idle();
    }
    assert!(backend.most_at_once() <= 7);
    let all: Vec<Visit> = (0..7).map(|_| admitted_again(&edge, "127.0.0.1")).collect();
    assert_refused(&edge, "127.0.0.1");
    drop(all);
}

/// Opens `count` connections, has them all open at once, and closes them.
fn open_and_close(edge: &Edge, backend: &Backend, count: usize) {
    let visits: Vec<Visit> = (0..count).map(|_| edge.visit().expect("a place")).collect();
    drop(visits);
    backend.let_go();
}

/// Growth that is no leak: what an allocator keeps back.
const SLACK_KIB: u64 = 1 << 10;

#[test]
fn two_thousand_connections_leave_descriptors_memory_and_counts_where_they_were() {
    // A client's and a backend's end of each are in this process, and others' tests.
    let at_once = 2_000.min(raise_descriptor_limit().saturating_sub(500) / 3);
    let backend = Backend::holding();
    let edge = Site::new()
        // Every count at its limit: one place not given back refuses a client of the next round.
        .env("EDGEPROXY_MAX_CONNECTIONS", &at_once.to_string())
        .env("EDGEPROXY_MAX_CONNECTIONS_PER_CLIENT", &at_once.to_string())
        // The registry is a descriptor for a moment, each time it is looked at.
        .env("EDGEPROXY_DB_RELOAD_SECS", "3600")
        .backend(Row::new("a", backend.addr()).hard_limit(u32::try_from(at_once).unwrap()))
        .start();
    let descriptors = edge.descriptors_at_rest();
    let rounds = 2_000_usize.div_ceil(at_once);
    let mut memory = Vec::new();
    let mut ended = 0;
    for _ in 1..=3 {
        for _ in 0..rounds {
            open_and_close(&edge, &backend, at_once);
            ended += at_once;
            // Both sides close at about the same time.
            edge.wait_for_ends(ended, "_closed");
            eventually("all its descriptors are closed", || {
                (edge.descriptors() == descriptors).then_some(())
            });
        }
        memory.push(edge.memory_kib());
    }
    // The first round is the warm-up.
    assert!(memory[1] <= memory[0] + SLACK_KIB, "{memory:?} KiB after each round");
    assert!(memory[2] <= memory[1] + SLACK_KIB, "{memory:?} KiB after each round");
}

#[test]
fn ten_thousand_connections_one_wave_after_the_other_leave_only_their_lines_behind() {
    const WAVE: usize = 500;
    const WAVES: usize = 20;
    // A client's and a backend's end of each are in this process, and others' tests.
    assert!(raise_descriptor_limit() >= 4 * WAVE, "this machine allows too few descriptors");
    let backend = Backend::holding();
    let edge = Site::new()
        // The registry is a descriptor for a moment, each time it is looked at.
        .env("EDGEPROXY_DB_RELOAD_SECS", "3600")
        .backend(Row::new("a", backend.addr()))
        .start();
    let descriptors = edge.descriptors_at_rest();
    let mut memory = Vec::new();
    for wave in 1..=WAVES {
        open_and_close(&edge, &backend, WAVE);
        // Both sides close at about the same time.
        edge.wait_for_ends(WAVE * wave, "_closed");
        eventually("all its descriptors are closed", || {
            (edge.descriptors() == descriptors).then_some(())
        });
        memory.push(edge.memory_kib());
    }
    // The first wave is the warm-up.
    assert!(memory[WAVES - 1] <= memory[0] + SLACK_KIB, "{memory:?} KiB after each wave");
    assert_eq!(backend.accepted(), WAVE * WAVES);
    let exit = edge.stop();
    assert_eq!(exit.code, Some(0));
    let lines: HashSet<&str> = exit.access_lines.iter().map(String::as_str).collect();
    assert_eq!((exit.access_lines.len(), lines.len()), (WAVE * WAVES, WAVE * WAVES));
}
