//! Circuit breakers: what opens one, what passes while it is open, and what closes it again.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::support::{
    Backend, BlackHole, Client, Edge, Metrics, Refusing, Row, Site, eventually, reset,
};

const CLOSED: u64 = 0;
const HALF_OPEN: u64 = 1;
const OPEN: u64 = 2;

/// With breakers as they are by default: 5 failures open one, 3 successes close it, after 30 s.
fn site() -> Site {
    Site::new()
        .without_affinity()
        .with_metrics()
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
        .env("EDGEPROXY_SLOW_START_SECS", "0")
}

fn state(metrics: &Metrics, backend: &str) -> u64 {
    metrics.value("edgeproxy_breaker_state", &[("backend", backend)])
}

/// Waits until the breaker of a backend stands like this.
fn wait_for(edge: &Edge, backend: &str, wanted: u64) {
    edge.metrics_when("the breaker's state", |metrics| state(metrics, backend) == wanted);
}

/// A backend that does one of several things to whoever connects.
struct Moody {
    backend: Backend,
    mood: Arc<AtomicU8>,
}

/// Says a name, then echoes.
const GREETS: u8 = 0;
/// Accepts and resets.
const RESETS: u8 = 1;
/// Accepts and says nothing; when it is to reset, it resets these as well.
const SILENT: u8 = 2;
/// Reads, and then resets.
const RESETS_THE_RUDE: u8 = 3;

impl Moody {
    fn new(mood: u8) -> Self {
        let mood = Arc::new(AtomicU8::new(mood));
        let now = Arc::clone(&mood);
        let backend = Backend::serving(move |mut stream| match now.load(Ordering::SeqCst) {
            RESETS => reset(stream),
            RESETS_THE_RUDE => {
                let _ = stream.read(&mut [0; 64]);
                reset(stream);
            }
            mood => {
                if mood == GREETS {
                    let _ = stream.write_all(b"moody\n");
                }
                stream.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
                loop {
                    match stream.read(&mut [0; 64]) {
                        Ok(1..) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            if now.load(Ordering::SeqCst) == RESETS {
                                return reset(stream);
                            }
                        }
                        _ => return,
                    }
                }
            }
        });
        Self { backend, mood }
    }

    fn becomes(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }

    /// Accepts a client's connection, and resets it once the proxy knows that it came about. One that
    /// is reset at once may be a failed dial to the proxy, after which it tries another backend.
    fn resets_one(&self, edge: &Edge) {
        const CARRIED: &str = "edgeproxy_backend_connections_total";
        const ENDED: &str = "edgeproxy_connections_ended_total";
        let resets = |metrics: &Metrics| metrics.value(ENDED, &[("reason", "backend_reset")]);
        self.becomes(SILENT);
        let before = edge.metrics();
        let mut clients = Vec::new();
        loop {
            clients.push(edge.client());
            let carried = before.value(CARRIED, &[]) + clients.len() as u64;
            let now = edge.metrics_when("it is carried", |m| m.value(CARRIED, &[]) == carried);
            // Others may be served by another backend.
            let to_this = [("backend", "moody")];
            if now.value(CARRIED, &to_this) > before.value(CARRIED, &to_this) {
                break;
            }
        }
        self.becomes(RESETS);
        edge.metrics_when("the reset arrives", |metrics| resets(metrics) > resets(&before));
    }
}

/// A client that is reset, by the proxy or by the backend behind it.
fn assert_reset(edge: &Edge) {
    let error = edge.visit().map(|visit| visit.served_by).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Has a backend's breaker opened, without a failed dial that would have it rank last as well.
fn open(moody: &Moody, edge: &Edge) {
    while state(&edge.metrics(), "moody") != OPEN {
        moody.resets_one(edge);
    }
}

#[test]
fn the_fifth_failed_dial_in_a_row_opens_it_and_not_the_fourth() {
    let dead = Refusing::new();
    let edge = site().backend(Row::new("dead", dead.addr())).start();
    assert_eq!(state(&edge.metrics(), "dead"), CLOSED);
    let mut failures = 0;
    for client in 1..=5 {
        assert_eq!(&edge.refusal_of("127.0.0.1")["reason"], "connect_failed");
        let metrics = edge.metrics();
        // On a slow machine the control plane's own dials, which count too, come between.
        failures = metrics.value("edgeproxy_dial_failures_total", &[("backend", "dead")]);
        assert!(failures >= client, "{failures} after {client} clients");
        let expected = if failures < 5 { CLOSED } else { OPEN };
        assert_eq!(state(&metrics, "dead"), expected, "after {failures} failures");
    }
    assert!((5..8).contains(&failures), "{failures} failures of 5 clients");
    edge.wait_for_log("circuit breaker opens");
}

#[test]
fn with_a_healthy_twin_no_connection_fails_while_it_opens_and_the_backend_is_left_alone_once_it_is()
{
    let dead = Refusing::new();
    let twin = Backend::named("twin");
    let edge = site()
        // A client's dial and one of the control plane's.
        .env("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "2")
        .backend(Row::new("dead", dead.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    let mut opening = 0;
    while state(&edge.metrics(), "dead") != OPEN {
        assert_eq!(edge.visit().unwrap().served_by, "twin");
        opening += 1;
    }
    assert!(opening > 1);
    let back = dead.wake("back");
    for _ in 0..300 {
        assert_eq!(edge.visit().unwrap().served_by, "twin");
    }
    assert_eq!(back.accepted(), 0, "nobody dials it before the timeout");
    let metrics = edge.metrics();
    assert_eq!(state(&metrics, "dead"), OPEN);
    let why = [("backend", "dead"), ("reason", "breaker_open")];
    assert_eq!(metrics.value("edgeproxy_backend_ineligible", &why), 1);
    assert_eq!(metrics.value("edgeproxy_backend_eligible", &[("backend", "dead")]), 0);
    assert_eq!(metrics.value("edgeproxy_backend_eligible", &[("backend", "twin")]), 1);
}

#[test]
fn a_backend_that_accepts_and_resets_before_a_byte_of_the_clients_opens_it_after_five() {
    let moody = Moody::new(SILENT);
    let edge = site().backend(Row::new("moody", moody.backend.addr())).start();
    for client in 1..=5 {
        moody.resets_one(&edge);
        let expected = if client < 5 { CLOSED } else { OPEN };
        assert_eq!(state(&edge.metrics(), "moody"), expected, "after {client} resets");
    }
}

#[test]
fn a_reset_so_early_that_it_is_a_failed_dial_counts_once_as_well() {
    let moody = Moody::new(RESETS);
    let edge = site().backend(Row::new("moody", moody.backend.addr())).start();
    let mut errors = 0;
    while errors < 5 {
        assert_reset(&edge);
        let metrics = edge.metrics();
        errors = metrics.value("edgeproxy_backend_errors_total", &[("backend", "moody")]);
        let expected = if errors < 5 { CLOSED } else { OPEN };
        assert_eq!(state(&metrics, "moody"), expected, "after {errors} errors");
    }
}

#[test]
fn connections_that_only_send_and_end_in_order_are_successes() {
    let sink = Backend::serving(|mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let addr = sink.addr();
    let edge =
        site().env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "1").backend(Row::new("sink", addr)).start();
    let send = || {
        let mut client = edge.client();
        client.stream.write_all(b"a line of a log\n").unwrap();
        client.finish();
        client.rest().is_ok_and(|rest| rest.is_empty())
    };
    let mut sink = sink;
    sink.stop();
    for _ in 0..5 {
        assert_eq!(&edge.refusal_of("127.0.0.1")["reason"], "connect_failed");
    }
    wait_for(&edge, "sink", OPEN);
    sink.restart();
    for _ in 0..3 {
        assert!(send());
    }
    wait_for(&edge, "sink", CLOSED);
}

#[test]
fn five_connections_of_garbage_from_one_client_do_not_open_it() {
    let moody = Moody::new(RESETS_THE_RUDE);
    let edge = site().backend(Row::new("moody", moody.backend.addr())).start();
    for client in 1..=20 {
        let mut rude = edge.client();
        rude.stream.write_all(b"\x16\x03\x01garbage").unwrap();
        assert_eq!(rude.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
        edge.wait_for_ends(client, "backend_reset");
        assert_eq!(state(&edge.metrics(), "moody"), CLOSED);
    }
    let metrics = edge.metrics();
    let errors = metrics.value("edgeproxy_backend_errors_total", &[("backend", "moody")]);
    assert_eq!(errors, 20, "the backend's resets are counted all the same");
    moody.becomes(GREETS);
    assert_eq!(edge.visit().unwrap().served_by, "moody");
}

#[test]
fn a_client_that_goes_away_is_no_failure_of_the_backend() {
    let moody = Moody::new(SILENT);
    let edge = site().backend(Row::new("moody", moody.backend.addr())).start();
    for number in 0..10 {
        let mut client = edge.client();
        match number % 3 {
            0 => client.reset(),
            1 => drop(client),
            _ => {
                client.stream.write_all(b"half a que").unwrap();
                client.reset();
            }
        }
    }
    edge.metrics_when("all are counted", |metrics| {
        metrics.sum("edgeproxy_connections_ended_total", &[]) == 10
    });
    let metrics = edge.metrics();
    assert_eq!(state(&metrics, "moody"), CLOSED);
    assert_eq!(metrics.value("edgeproxy_backend_errors_total", &[("backend", "moody")]), 0);
}

#[test]
fn a_client_that_goes_away_while_its_backend_is_dialled_is_no_failure_of_the_backend() {
    let silent = BlackHole::new();
    let edge = site().backend(Row::new("silent", silent.addr())).start();
    for client in 1..=10 {
        edge.client().reset();
        edge.wait_for_ends(client, "client_reset");
    }
    let metrics = edge.metrics();
    assert_eq!(state(&metrics, "silent"), CLOSED);
    assert!(!metrics.has("edgeproxy_dial_failures_total", &[("backend", "silent")]));
    let active = [("backend", "silent")];
    assert_eq!(metrics.value("edgeproxy_backend_connections_active", &active), 0);
}

#[test]
fn after_the_timeout_three_trials_are_made_at_most_and_three_successes_close_it() {
    let moody = Moody::new(RESETS);
    let twin = Backend::named("twin");
    let edge = site()
        .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "2")
        .backend(Row::new("moody", moody.backend.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    open(&moody, &edge);
    moody.becomes(SILENT);
    let before = moody.backend.accepted();
    let trials = || moody.backend.accepted() - before;
    assert_eq!(edge.visit().unwrap().served_by, "twin");
    assert_eq!(trials(), 0, "the timeout is not over");
    wait_for(&edge, "moody", HALF_OPEN);

    // Trials stay undecided for a second, as the backend neither serves nor resets.
    let mut clients: Vec<Client> = Vec::new();
    eventually("three trials are made", || {
        clients.push(edge.client());
        (trials() >= 3).then_some(())
    });
    for _ in 0..30 {
        clients.push(edge.client());
    }
    let mut on_trial = 0;
    eventually("it closes", || {
        // First how many there were, then what that was in.
        let (made, metrics) = (trials(), edge.metrics());
        if state(&metrics, "moody") == CLOSED {
            return Some(());
        }
        assert_eq!(state(&metrics, "moody"), HALF_OPEN);
        assert!(made <= 3, "{made} trials");
        on_trial += 1;
        None
    });
    assert!(on_trial > 1, "three trials under way are not three successes");
    edge.wait_for_log("circuit breaker closes");
}

#[test]
fn a_greeting_is_a_success_and_the_third_closes_it() {
    let moody = Moody::new(RESETS);
    let twin = Backend::named("twin");
    let edge = site()
        .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "1")
        .backend(Row::new("moody", moody.backend.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    open(&moody, &edge);
    moody.becomes(GREETS);
    wait_for(&edge, "moody", HALF_OPEN);
    for success in 1..=3 {
        eventually("it is tried", || (edge.visit().unwrap().served_by == "moody").then_some(()));
        if success < 3 {
            assert_eq!(state(&edge.metrics(), "moody"), HALF_OPEN, "after {success}");
        }
    }
    wait_for(&edge, "moody", CLOSED);
    edge.wait_for_log("circuit breaker closes");
}

#[test]
fn a_trial_whose_client_goes_away_leaves_its_place_to_another() {
    let moody = Moody::new(RESETS);
    let edge = site()
        // Longer than the test: no place is freed because its trial has taken too long.
        .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "600")
        .backend(Row::new("moody", moody.backend.addr()))
        .start();
    open(&moody, &edge);
    moody.becomes(SILENT);
    let before = moody.backend.accepted();
    for client in 1..=10 {
        let trial = edge.client();
        edge.metrics_when("the trial is under way", |metrics| {
            metrics.value("edgeproxy_backend_connections_total", &[("backend", "moody")])
                == (before + client) as u64
        });
        trial.reset();
        edge.wait_for_ends(client, "client_reset");
    }
    assert_eq!(state(&edge.metrics(), "moody"), HALF_OPEN);
    moody.becomes(GREETS);
    for _ in 0..3 {
        assert_eq!(edge.visit().unwrap().served_by, "moody");
    }
    wait_for(&edge, "moody", CLOSED);
}

#[test]
fn a_trial_that_fails_opens_it_again() {
    let moody = Moody::new(RESETS);
    let twin = Backend::named("twin");
    let edge = site()
        .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "2")
        .backend(Row::new("moody", moody.backend.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    open(&moody, &edge);
    for times in 1..=2 {
        wait_for(&edge, "moody", HALF_OPEN);
        moody.resets_one(&edge);
        wait_for(&edge, "moody", OPEN);
        let before = moody.backend.accepted();
        for _ in 0..20 {
            assert_eq!(edge.visit().unwrap().served_by, "twin");
        }
        assert_eq!(moody.backend.accepted(), before, "it is open");
        assert_eq!(edge.times_logged("circuit breaker opens again"), times);
    }
}

#[test]
fn when_every_breaker_is_open_trials_are_made_at_once_so_that_clients_are_back_with_the_backend() {
    let dead = [Refusing::new(), Refusing::new()];
    let edge = site()
        .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "600")
        .backend(Row::new("one", dead[0].addr()))
        .backend(Row::new("other", dead[1].addr()))
        .start();
    let both_open =
        |metrics: &Metrics| ["one", "other"].iter().all(|backend| state(metrics, backend) == OPEN);
    while !both_open(&edge.metrics()) {
        assert_reset(&edge);
    }
    // Early trials do not become more for that.
    assert_reset(&edge);
    assert!(both_open(&edge.metrics()));

    let [one, other] = dead;
    let back = one.wake("back");
    for _ in 0..3 {
        assert_eq!(edge.visit().unwrap().served_by, "back");
    }
    wait_for(&edge, "one", CLOSED);
    assert_eq!(state(&edge.metrics(), "other"), OPEN);
    for _ in 0..20 {
        assert_eq!(edge.visit().unwrap().served_by, "back");
    }
    assert_eq!(back.accepted(), 23);
    drop(other);
}

#[test]
fn with_a_single_backend_its_return_is_not_waited_for_either() {
    let dead = Refusing::new();
    let edge = site()
        .env("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "600")
        .backend(Row::new("a", dead.addr()))
        .start();
    while state(&edge.metrics(), "a") != OPEN {
        assert_reset(&edge);
    }
    let _back = dead.wake("back");
    for _ in 0..3 {
        assert_eq!(edge.visit().unwrap().served_by, "back");
    }
    wait_for(&edge, "a", CLOSED);
}

#[test]
fn without_breakers_a_backend_that_fails_is_dialled_for_every_client() {
    let dead = Refusing::new();
    let edge = site()
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "false")
        .backend(Row::new("dead", dead.addr()))
        .start();
    for _ in 0..20 {
        assert_reset(&edge);
    }
    let metrics = edge.metrics();
    let failures = metrics.value("edgeproxy_dial_failures_total", &[("backend", "dead")]);
    assert!(failures >= 20, "{failures} failed dials of 20 clients");
    assert!(!metrics.has("edgeproxy_breaker_state", &[]));
    assert!(!metrics.has("edgeproxy_backend_ineligible", &[]));
    assert_eq!(edge.times_logged("circuit breaker"), 0);
    let _back = dead.wake("back");
    assert_eq!(edge.visit().unwrap().served_by, "back");
}
