//! How often a client may come.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Backend, Client, Edge, Row, Site};

/// 100 a second and 10 at once, unless told otherwise.
fn site(backend: &Backend) -> Site {
    Site::new()
        .with_metrics()
        .env("EDGEPROXY_RATE_LIMIT_ENABLED", "true")
        .backend(Row::new("a", backend.addr()))
}

/// Ten at once, and then none for as long as a test lasts.
fn ten_only(backend: &Backend) -> Site {
    site(backend)
        .env("EDGEPROXY_RATE_LIMIT_MAX_REQUESTS", "1")
        .env("EDGEPROXY_RATE_LIMIT_WINDOW_SECS", "86400")
}

/// Whether a client is let in. One that is not is reset.
fn comes(edge: &Edge, ip: &str) -> bool {
    let came = edge.visit_from(ip);
    if let Err(error) = &came {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    came.is_ok()
}

/// Of so many clients in a row those that are let in.
fn admitted(edge: &Edge, ip: &str, of: usize) -> usize {
    (0..of).filter(|_| comes(edge, ip)).count()
}

fn refused(edge: &Edge) -> u64 {
    edge.metrics().value("edgeproxy_refused_total", &[("reason", "rate_limited")])
}

/// Waits until so many refusals are counted. That is after the client has been told.
fn wait_for_refused(edge: &Edge, count: usize) {
    edge.metrics_when("every refusal is counted", |metrics| {
        metrics.value("edgeproxy_refused_total", &[("reason", "rate_limited")]) == count as u64
    });
}

/// One client's try: it was decided at a moment between the two.
struct Try {
    asked: Duration,
    answered: Duration,
    admitted: bool,
}

/// When a client comes that waits for each answer before the next try.
#[derive(Clone, Copy)]
enum Pace {
    /// Never sooner after its last try than this.
    AtLeast(Duration),
    /// At every so many of these; when it is late it hurries.
    Every(Duration),
}

/// A client that comes for so long.
fn comes_at(edge: &Edge, ip: &str, pace: Pace, span: Duration) -> Vec<Try> {
    let begun = Instant::now();
    let mut tries: Vec<Try> = Vec::new();
    let mut due = Duration::ZERO;
    while due < span && begun.elapsed() < span {
        thread::sleep(due.saturating_sub(begun.elapsed()));
        let asked = begun.elapsed();
        let admitted = comes(edge, ip);
        tries.push(Try { asked, answered: begun.elapsed(), admitted });
        due = match pace {
            Pace::AtLeast(interval) => asked + interval,
            Pace::Every(interval) => due + interval,
        };
    }
    tries
}

/// Two clients at once, each alone with a proxy: what that sees of it is not older than its try.
fn two_at(backend: &Backend, paces: [Pace; 2]) -> [(Edge, Vec<Try>); 2] {
    thread::scope(|scope| {
        let client = |pace| {
            scope.spawn(move || {
                let edge = site(backend).start();
                let tries = comes_at(&edge, "127.0.7.1", pace, SPAN);
                (edge, tries)
            })
        };
        paces.map(client).map(|client| client.join().unwrap())
    })
}

const SPAN: Duration = Duration::from_millis(3_000);
const A_SECOND: f64 = 100.0;
const BURST: f64 = 10.0;
/// Tokens by which the proxy's view of the time may differ, on a machine that is busy with other
/// tests: 10 ms.
const JITTER: f64 = 1.0;

#[test]
fn clients_that_come_a_little_less_often_than_allowed_are_never_refused() {
    let backend = Backend::named("a");
    // Whoever waits for each answer before the next try cannot come more often than that to the
    // proxy either, however busy this machine is.
    for (edge, tries) in two_at(&backend, [11, 13].map(Duration::from_millis).map(Pace::AtLeast)) {
        assert!(tries.len() > 100, "{} tries", tries.len());
        let turned_away = tries.iter().filter(|one| !one.admitted).count();
        assert_eq!(turned_away, 0, "of {} tries", tries.len());
        assert_eq!(refused(&edge), 0);
    }
}

#[test]
fn clients_that_come_a_little_more_often_get_the_burst_and_then_just_what_is_allowed() {
    let backend = Backend::named("a");
    let mut admitted = 0;
    for (edge, tries) in two_at(&backend, [7, 9].map(Duration::from_millis).map(Pace::Every)) {
        let lost = assert_every_decision_follows(&tries);
        assert_gets_the_rate(&tries, &lost);
        let of = |admitted| tries.iter().filter(|one| one.admitted == admitted).count();
        wait_for_refused(&edge, of(false));
        admitted += of(true);
    }
    assert_eq!(backend.accepted(), admitted, "no refusal costs a dial");
}

/// Goes along with a bucket whose level is known within bounds, as is the moment of each try: one
/// that is let in had a token, one that is refused had none. Says how many tokens at most the bucket
/// was too full to take before each try, because this machine had no time for the client.
fn assert_every_decision_follows(tries: &[Try]) -> Vec<f64> {
    let (mut least, mut most) = (BURST, BURST);
    let mut lost = Vec::new();
    let mut last: Option<&Try> = None;
    for (number, one) in tries.iter().enumerate() {
        if let Some(last) = last {
            let passed = one.asked.saturating_sub(last.answered).as_secs_f64();
            least = (least + passed * A_SECOND).min(BURST);
            let passed = one.answered.saturating_sub(last.asked).as_secs_f64();
            most += passed * A_SECOND;
        }
        lost.push((most - BURST).max(0.0));
        most = most.min(BURST);
        if one.admitted {
            assert!(most + JITTER >= 1.0, "try {number} was let in with {most} tokens at most");
            (least, most) = ((least - 1.0).max(0.0), (most - 1.0).max(0.0));
        } else {
            assert!(least - JITTER < 1.0, "try {number} was refused with {least} tokens at least");
            most = most.min(1.0);
        }
        last = Some(one);
    }
    lost
}

/// Between its first and its last refusal, at both of which it had less than a token, a client is let
/// in as often as tokens came, give or take one.
fn assert_gets_the_rate(tries: &[Try], lost: &[f64]) {
    let first = tries.iter().position(|one| !one.admitted).expect("the burst does not last");
    let last = tries.iter().rposition(|one| !one.admitted).expect("as above");
    assert!(first >= 10, "the burst is {first}");
    let admitted = tries[first..last].iter().filter(|one| one.admitted).count();
    let admitted = f64::from(u32::try_from(admitted).unwrap());
    let lost: f64 = lost[first + 1..=last].iter().sum();
    let (first, last) = (&tries[first], &tries[last]);
    let shortest = last.asked.saturating_sub(first.answered).as_secs_f64();
    let longest = last.answered.saturating_sub(first.asked).as_secs_f64();
    assert!(longest > 1.0, "it was refused for {longest} s only");
    let off = 1.0 + JITTER;
    assert!(admitted <= longest * A_SECOND + off, "{admitted} in {longest} s");
    assert!(
        admitted >= shortest * A_SECOND - off - lost,
        "{admitted} in {shortest} s, {lost} lost at most"
    );
}

#[test]
fn a_refusal_is_a_reset_before_any_dial_and_concerns_nobody_else() {
    let backend = Backend::named("a");
    let edge = ten_only(&backend).start();
    assert_eq!(admitted(&edge, "127.0.7.1", 100), 10);
    Client::refused("127.0.7.1", edge.addr);
    assert_eq!(backend.accepted(), 10, "no refusal costs a dial");
    for other in 2..=20 {
        assert_eq!(admitted(&edge, &format!("127.0.7.{other}"), 1), 1);
    }
    assert_eq!(admitted(&edge, "127.0.7.2", 20), 9);
    wait_for_refused(&edge, 91 + 11);
    assert_eq!(edge.metrics().value("edgeproxy_connections_active", &[]), 0);
    let exit = edge.stop();
    assert_eq!(exit.access_lines.len(), 10 + 19 + 9, "no line for a refusal");
}

#[test]
fn a_rush_from_one_client_over_all_workers_gets_the_burst_and_not_one_more() {
    let backend = Backend::named("a");
    let edge = ten_only(&backend).env("EDGEPROXY_RATE_LIMIT_BURST", "25").start();
    let (mut let_in, mut turned_away) = (0, 0);
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..8).map(|_| scope.spawn(|| admitted(&edge, "127.0.7.1", 50))).collect();
        for client in clients {
            let count = client.join().unwrap();
            let_in += count;
            turned_away += 50 - count;
        }
    });
    assert_eq!((let_in, turned_away), (25, 375));
    wait_for_refused(&edge, 375);
    assert_eq!(backend.accepted(), 25);
}

#[test]
fn a_flood_from_one_client_takes_nothing_from_one_that_keeps_to_its_rate() {
    let backend = Backend::named("a");
    let edge = site(&backend).start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut refused = 0;
            while !done.load(Ordering::SeqCst) {
                refused += usize::from(!comes(&edge, "127.0.7.66"));
            }
            refused
        });
        let span = Duration::from_secs(1);
        let pace = Pace::AtLeast(Duration::from_millis(11));
        let tries = comes_at(&edge, "127.0.7.1", pace, span);
        done.store(true, Ordering::SeqCst);
        assert!(tries.iter().all(|one| one.admitted), "of {} tries", tries.len());
        let refused = flood.join().unwrap();
        assert!(refused > 0);
        wait_for_refused(&edge, refused);
    });
}

#[test]
fn exempt_clients_come_as_often_as_they_like() {
    let backend = Backend::named("a");
    let edge = ten_only(&backend)
        .env("EDGEPROXY_RATE_LIMIT_EXEMPT", "127.0.8.0/24, 2001:db8::/32")
        .start();
    assert_eq!(admitted(&edge, "127.0.8.1", 200), 200);
    assert_eq!(admitted(&edge, "127.0.8.255", 50), 50);
    assert_eq!(admitted(&edge, "127.0.9.0", 50), 10);
    wait_for_refused(&edge, 40);
}

#[test]
fn an_ipv4_client_is_one_client_on_listeners_of_either_family_and_an_ipv6_client_another() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let backend = Backend::named("a");
    let dual = ten_only(&backend).env("EDGEPROXY_LISTEN_ADDR", "[::]:0");
    let edge = dual.toml("[[listener]]\naddr = [\"127.0.0.1:0\"]").start();
    let all = edge.wait_for_log("edge-proxy is ready");
    let (_, listening) = all.split_once("listening=\"").unwrap();
    let (listening, _) = listening.split_once('"').unwrap();
    let ports: Vec<u16> =
        listening.split(',').map(|addr| addr.parse::<SocketAddr>().unwrap().port()).collect();
    let [dual, plain] = ports[..] else { panic!("{listening}") };
    let come = |ip: &str, host: &str, port: u16, of: usize| {
        let to = SocketAddr::new(host.parse().unwrap(), port);
        let tries = (0..of).map(|_| Client::connect(ip, to).and_then(|mut c| c.greeting()));
        tries.flatten().count()
    };
    assert_eq!(come("127.0.0.1", "127.0.0.1", dual, 6), 6, "as ::ffff:127.0.0.1");
    assert_eq!(come("127.0.0.1", "127.0.0.1", plain, 20), 4);
    assert_eq!(come("127.0.0.1", "127.0.0.1", dual, 20), 0);
    assert_eq!(come("::1", "::1", dual, 20), 10);
    wait_for_refused(&edge, 16 + 20 + 10);
}

#[test]
fn without_a_limit_a_client_comes_as_often_as_it_likes() {
    let backend = Backend::named("a");
    let edge = ten_only(&backend).env("EDGEPROXY_RATE_LIMIT_ENABLED", "false").start();
    assert_eq!(admitted(&edge, "127.0.7.1", 100), 100);
    let metrics = edge.metrics();
    assert_eq!(metrics.value("edgeproxy_rate_limit_dry_run_total", &[]), 0);
    assert_eq!(refused(&edge), 0);
}

#[test]
fn a_dry_run_refuses_nobody_and_counts_whom_it_would_have() {
    let backend = Backend::named("a");
    let edge = ten_only(&backend).env("EDGEPROXY_RATE_LIMIT_DRY_RUN", "true").start();
    assert_eq!(admitted(&edge, "127.0.7.1", 100), 100);
    assert_eq!(admitted(&edge, "127.0.7.2", 15), 15);
    let metrics = edge.metrics();
    assert_eq!(metrics.value("edgeproxy_rate_limit_dry_run_total", &[]), 90 + 5);
    assert_eq!(metrics.value("edgeproxy_refused_total", &[("reason", "rate_limited")]), 0);
}

#[test]
fn the_log_sums_refusals_up_with_those_refused_most_and_has_no_line_for_each() {
    let backend = Backend::named("a");
    let edge = ten_only(&backend).start();
    let dry = ten_only(&backend).env("EDGEPROXY_RATE_LIMIT_DRY_RUN", "true").start();
    assert_eq!((admitted(&dry, "127.0.7.1", 100), admitted(&dry, "127.0.7.2", 15)), (100, 15));
    for client in 1..=8 {
        assert_eq!(admitted(&edge, &format!("127.0.7.{client}"), 10 + client), 10);
    }
    let total = (1..=8).sum::<usize>();
    wait_for_refused(&edge, total);
    let summary = edge.wait_for_log("refused in the last 10s");
    assert!(summary.contains("reason=\"rate_limited\""), "{summary}");
    assert!(summary.contains(&format!("connections={total}")), "{summary}");
    let most = "most=\"127.0.7.8:8 127.0.7.7:7 127.0.7.6:6 127.0.7.5:5 127.0.7.4:4\"";
    assert!(summary.contains(most), "{summary}");
    let summary = dry.wait_for_log("would have been refused in the last 10s");
    assert!(summary.contains("connections=95"), "{summary}");
    assert!(summary.contains("most=\"127.0.7.1:90 127.0.7.2:5\""), "{summary}");

    let exit = edge.stop();
    let about = exit.log.iter().filter(|line| line.contains("127.0.7.")).count();
    assert_eq!(about, 1, "{:#?}", exit.log);
    assert_eq!(exit.access_lines.len(), 80);
}
