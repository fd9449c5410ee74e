//! Backends that refuse, fall silent, go and come back, and a process without descriptors.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Backend, BlackHole, Refusing, Row, Site, connections_to, eventually};

#[test]
fn a_dead_backend_with_a_healthy_twin_loses_no_new_connection() {
    let dead = Refusing::new();
    let twin = Backend::named("twin");
    let edge = Site::new()
        .without_affinity()
        .backend(Row::new("dead", dead.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    for number in 1..=100 {
        let visit = edge.visit().unwrap_or_else(|error| panic!("connection {number}: {error}"));
        assert_eq!(visit.served_by, "twin");
    }
    edge.wait_for_log("dial failed");
}

#[test]
fn a_backend_that_dies_under_traffic_loses_no_new_connection_and_its_clients_move() {
    let mut one = Backend::named("one");
    let other = Backend::named("other");
    let edge = Site::new()
        .backend(Row::new("one", one.addr()))
        .backend(Row::new("other", other.addr()))
        .start();
    let bound = |name: &str| {
        (1..250)
            .map(|host| format!("127.0.5.{host}"))
            .find(|from| edge.visit_from(from).unwrap().served_by == name)
            .expect("among so many clients")
    };
    let client = bound("one");
    one.stop();
    for _ in 0..20 {
        assert_eq!(edge.visit_from(&client).unwrap().served_by, "other");
    }
    one.restart();
    edge.wait_for_log("answers again");
    assert_eq!(edge.visit_from(&client).unwrap().served_by, "other", "it stays where it went");
    eventually("the one that came back gets new clients", || {
        let from = format!("127.9.{}.{}", fastrand::u8(..), fastrand::u8(1..255));
        (edge.visit_from(&from).unwrap().served_by == "one").then_some(())
    });
}

/// 600 ms are promised; the rest is for a machine that is busy with other tests.
const HEDGED: Duration = Duration::from_millis(900);
/// What nobody who waits would call a delay, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_millis(200);

#[test]
fn a_silent_backend_with_a_healthy_twin_delays_the_first_client_a_little_and_then_none() {
    let silent = BlackHole::new();
    let twin = Backend::named("twin");
    let edge = Site::new()
        .without_affinity()
        .backend(Row::new("silent", silent.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    let mut delays = Vec::new();
    let begun = Instant::now();
    // Long enough for the backend to be tried again and again, which no client must feel.
    while begun.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        assert_eq!(edge.visit().unwrap().served_by, "twin");
        delays.push(asked.elapsed());
        // What a client does between two visits; nothing is waited for.
        thread::sleep(Duration::from_millis(5));
    }
    let longest = delays.iter().max().unwrap();
    assert!(*longest < HEDGED, "a client waited {longest:?}");
    assert!(*longest > AT_ONCE, "the silent backend was never tried: {longest:?}");
    let late: Vec<_> =
        delays.iter().enumerate().skip(20).filter(|(_, delay)| **delay > AT_ONCE).collect();
    assert!(late.is_empty(), "of {} clients these waited after all: {late:?}", delays.len());

    let _awake = silent.wake("awake");
    edge.wait_for_log("answers again");
    eventually("it gets clients again", || {
        (edge.visit().unwrap().served_by == "awake").then_some(())
    });
}

#[test]
fn a_rush_at_a_silent_backend_waits_no_longer_than_one_client_does() {
    let silent = BlackHole::new();
    let twin = Backend::named("twin");
    let edge = Site::new()
        .without_affinity()
        .backend(Row::new("silent", silent.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    let delays: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..40)
            .map(|_| {
                scope.spawn(|| {
                    let asked = Instant::now();
                    assert_eq!(edge.visit().unwrap().served_by, "twin");
                    asked.elapsed()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let longest = delays.iter().max().unwrap();
    assert!(*longest < HEDGED, "a client waited {longest:?}");
}

#[test]
fn a_silent_backend_gives_its_place_back() {
    let silent = BlackHole::new();
    let twin = Backend::named("twin");
    let edge = Site::new()
        .without_affinity()
        .env("EDGEPROXY_DB_RELOAD_SECS", "3600")
        .backend(Row::new("silent", silent.addr()).hard_limit(1))
        .backend(Row::new("twin", twin.addr()))
        .start();
    let descriptors = edge.descriptors_at_rest();
    for _ in 0..30 {
        assert_eq!(edge.visit().unwrap().served_by, "twin");
    }
    eventually("no dial is left behind", || (edge.descriptors() <= descriptors).then_some(()));
    let _awake = silent.wake("awake");
    edge.wait_for_log("answers again");
    eventually("its only place is free", || {
        (edge.visit().unwrap().served_by == "awake").then_some(())
    });
}

#[test]
fn a_client_is_told_when_no_backend_answers() {
    let dead = Refusing::new();
    let edge = Site::new().backend(Row::new("dead", dead.addr())).start();
    let line = edge.refusal_of("127.0.0.1");
    assert_eq!((&line["reason"], &line["backend"]), ("connect_failed", "dead"));

    let awake = dead.wake("awake");
    eventually("it is served once the backend is there", || edge.visit().ok());
    assert!(awake.accepted() > 0);
}

#[test]
fn sixty_four_clients_all_recover_when_their_backend_stops_and_comes_back() {
    const CLIENTS: usize = 64;
    let mut backend = Backend::named("a");
    let edge = Site::new().backend(Row::new("a", backend.addr())).start();
    let (back, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let before = AtomicUsize::new(0);
    let recovered: Vec<AtomicUsize> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for mine in &recovered {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let after = back.load(Ordering::SeqCst);
                    let served = edge
                        .visit()
                        .and_then(|mut visit| (0..3).try_for_each(|_| visit.client.echo("hello")));
                    match (served, after) {
                        (Ok(()), true) => mine.fetch_add(1, Ordering::SeqCst),
                        (Ok(()), false) => before.fetch_add(1, Ordering::SeqCst),
                        (Err(_), _) => 0,
                    };
                    // What a client does between two tries.
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
        let all_recover = || {
            eventually("all clients are served", || {
                (before.load(Ordering::SeqCst) >= CLIENTS).then_some(())
            });
            backend.stop();
            edge.wait_for_log("dial failed");
            backend.restart();
            back.store(true, Ordering::SeqCst);
            eventually("every client is served again", || {
                let all = recovered.iter().all(|mine| mine.load(Ordering::SeqCst) >= 3);
                all.then_some(())
            });
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(all_recover));
        done.store(true, Ordering::SeqCst);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

const CLIENTS: usize = 100;

/// What came of [`CLIENTS`] clients of a process with few descriptors.
struct Shortage {
    paused: bool,
    served: usize,
}

/// Many clients at once, more than `limit` descriptors are enough for; then those who were served
/// leave. Whatever came of them, the process lives, and has room again.
fn shortage(limit: u32) -> Shortage {
    let backend = Backend::named("a");
    let mut edge = Site::new()
        .env("EDGEPROXY_MAX_CONNECTIONS", "1000")
        .backend(Row::new("a", backend.addr()))
        .descriptors(limit)
        .start();
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (leave, leaving) = channel::<()>();
        let leaving = Arc::new(Mutex::new(leaving));
        for _ in 0..CLIENTS {
            let (leaving, served, edge) = (Arc::clone(&leaving), &served, &edge);
            scope.spawn(move || {
                // Those who are not let in wait in the queue, until others leave.
                let visit = edge.visit();
                served.fetch_add(usize::from(visit.is_ok()), Ordering::SeqCst);
                // Ends when the sender is dropped.
                let _ = leaving.lock().map(|leaving| leaving.recv());
            });
        }
        edge.wait_for_log("Too many open files");
        let at_first = eventually("some are served", || {
            Some(served.load(Ordering::SeqCst)).filter(|served| *served >= 5)
        });
        assert!(at_first < CLIENTS / 2, "{at_first} clients with {limit} descriptors");
        drop(leave);
    });
    assert!(edge.lives());
    let again: Vec<_> =
        (0..5).map(|_| eventually("new clients are served", || edge.visit().ok())).collect();
    drop(again);
    let paused = edge.log_so_far().iter().any(|line| line.contains("cannot accept: pausing"));
    assert_eq!(edge.stop().code, Some(0));
    Shortage { paused, served: served.into_inner() }
}

// A client takes two descriptors. With an even number of them free it is an accept that finds none,
// with an odd number it is a dial; so both are looked at.
#[test]
fn without_descriptors_the_process_lives_pauses_and_serves_again_when_they_free_up() {
    let shortages = [64, 65].map(shortage);
    assert!(shortages.iter().any(|shortage| shortage.paused), "accept never paused");
}

#[test]
fn without_descriptors_a_client_waits_in_the_queue_and_is_served_when_others_leave() {
    assert_eq!([64, 65].map(|limit| shortage(limit).served), [CLIENTS; 2]);
}

#[test]
fn without_any_backend_a_client_is_reset_and_the_log_says_why() {
    let edge = Site::new().start();
    edge.wait_for_log("the registry holds no backend yet");
    let line = edge.refusal_of("127.0.0.1");
    assert_eq!((&line["reason"], &line["backend"]), ("no_backend", "-"));
}

#[test]
fn the_last_try_goes_to_a_healthy_neighbour_before_another_region_known_to_be_dead() {
    let [a, b, x] = [(); 3].map(|()| Refusing::new());
    let c = Backend::named("c");
    let edge =
        Site::new().with_geography().backend(Row::new("x", x.addr()).place("ap", "JP")).start();
    // Nobody else is there yet, so that the first client finds out about x alone.
    assert_eq!(&edge.refusal_of("127.0.3.1")["backend"], "x");
    edge.site.sql(
        &[
            Row::new("a", a.addr()).place("sa", "CL"),
            Row::new("b", b.addr()).place("sa", "CL"),
            Row::new("c", c.addr()).place("sa", "BR"),
        ]
        .map(|row| row.insert())
        .join("; "),
    );
    edge.wait_for_log("registry changed added=3");

    let visit = edge.visit_from("127.0.1.1").unwrap();
    assert_eq!(visit.served_by, "c");
    let addr = visit.client.addr();
    drop(visit);
    let line = edge.access_of_addr(addr);
    assert_eq!((&line["backend"], &line["tries"]), ("c", "3"));
}

#[test]
fn the_last_try_goes_to_another_region_while_nothing_is_known_against_it() {
    let [a, b, c] = [(); 3].map(|()| Refusing::new());
    let x = Backend::named("x");
    let edge = Site::new()
        .with_geography()
        .backend(Row::new("a", a.addr()).place("sa", "CL"))
        .backend(Row::new("b", b.addr()).place("sa", "CL"))
        .backend(Row::new("c", c.addr()).place("sa", "BR"))
        .backend(Row::new("x", x.addr()).place("ap", "JP"))
        .start();
    assert_eq!(edge.visit_from("127.0.1.1").unwrap().served_by, "x");
}

/// States of a connection, as Linux numbers them.
const UNANSWERED: u8 = 2;
const ESTABLISHED: u8 = 1;
const CLOSED_BY_PEER: u8 = 8;

#[test]
fn of_two_dials_answered_at_once_the_loser_takes_nothing_from_the_winner() {
    let [winner, loser] = [BlackHole::new(), BlackHole::new()];
    let edge = Site::new()
        .with_geography()
        .env("EDGEPROXY_WORKERS", "1")
        .backend(Row::new("winner", winner.addr()).place("sa", "CL"))
        .backend(Row::new("loser", loser.addr()).place("sa", "BR"))
        .start();
    let mut client = edge.try_client_from("127.0.1.1").unwrap();
    let wait_for = |addr, state| {
        eventually("the dial gets so far", || connections_to(addr).contains(&state).then_some(()));
    };
    // First the one in the client's country is dialled, after a while the other beside it.
    wait_for(loser.addr(), UNANSWERED);
    assert!(connections_to(winner.addr()).contains(&UNANSWERED));
    edge.freeze();
    // Now both answer, one after the other; the proxy will be told of both at once, in this order.
    let winner = winner.wake("winner");
    wait_for(winner.addr(), ESTABLISHED);
    let loser = loser.wake_serving(|mut stream: TcpStream| {
        let _ = stream.write_all(b"loser\n");
    });
    wait_for(loser.addr(), CLOSED_BY_PEER);
    edge.signal_at_once(Signal::CONT);

    assert_eq!(client.greeting().unwrap(), "winner");
    for text in ["one", "two", "three"] {
        client.echo(text).unwrap();
    }
    client.finish();
    assert_eq!(client.rest().unwrap(), b"");
    let line = edge.access_of(&client);
    assert_eq!((&line["backend"], &line["tries"]), ("winner", "2"));
    assert_eq!((&line["received"], &line["reason"]), ("18", "client_closed"));
}
