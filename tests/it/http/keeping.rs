//! Connections to backends: whose requests they carry, how many are kept, and for how long.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::peers::{Asking, Origin, Then, before, get, ok, once, request, says, site};
use crate::support::{Row, connections_to, eventually};

const ESTABLISHED: u8 = 1;
/// The other side has closed, this one has not.
const CLOSE_WAIT: u8 = 8;

/// Connections that are open to a backend.
fn open(origin: &Origin) -> usize {
    connections_to(origin.addr()).into_iter().filter(|state| *state == ESTABLISHED).count()
}

#[test]
fn with_a_pool_clients_share_connections_whether_or_not_they_close_their_own() {
    let origin = Origin::named("a");
    let edge = before(&origin)
        .env("EDGEPROXY_POOL_ENABLED", "true")
        // A worker keeps its own.
        .env("EDGEPROXY_WORKERS", "1")
        .start();
    for number in 0..100 {
        let how = if number % 2 == 0 { "Connection: close\r\n" } else { "" };
        assert_eq!(once(&edge, &request("GET", "/", how)).text(), "a");
    }
    // A client has its answer a moment before the connection is kept.
    assert!(origin.accepted() <= 3, "{} connections for 100 clients", origin.accepted());
    assert_eq!(origin.seen().len(), 100);
    assert!(origin.seen().iter().all(|seen| seen.message.all("connection").is_empty()));
}

#[test]
fn clients_of_http_1_0_share_connections_too() {
    let origin = Origin::named("a");
    let edge =
        before(&origin).env("EDGEPROXY_POOL_ENABLED", "true").env("EDGEPROXY_WORKERS", "1").start();
    for _ in 0..50 {
        let mut client = Asking::to(&edge);
        assert_eq!(client.ask("GET / HTTP/1.0\r\nHost: web\r\n\r\n").text(), "a");
        client.ends();
    }
    assert!(origin.accepted() <= 3, "{} connections for 50 clients", origin.accepted());
}

#[test]
fn without_a_pool_a_connection_is_its_clients_alone_and_ends_with_it() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    let mut clients: Vec<Asking> = (0..5).map(|_| Asking::to(&edge)).collect();
    for round in 0..4 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.get(&format!("/{number}/{round}"));
        }
    }
    assert_eq!(origin.accepted(), 5);
    let mut of: HashSet<(usize, String)> = HashSet::new();
    for seen in origin.seen() {
        let whose = seen.message.path().split('/').nth(1).unwrap().to_owned();
        of.insert((seen.connection, whose));
    }
    assert_eq!(of.len(), 5, "one client for each connection: {of:?}");
    drop(clients);
    eventually("they end with their clients", || (open(&origin) == 0).then_some(()));
}

#[test]
fn no_more_are_kept_than_the_pool_may_hold_over_all_workers() {
    let gate: &'static Barrier = Box::leak(Box::new(Barrier::new(24)));
    let origin = Origin::new(move |_, reader| {
        gate.wait();
        says(reader, ok("a"))
    });
    let edge = before(&origin)
        .env("EDGEPROXY_WORKERS", "4")
        .env("EDGEPROXY_POOL_ENABLED", "true")
        .env("EDGEPROXY_POOL_MAX_PER_BACKEND", "5")
        .start();
    for _ in 0..3 {
        // All of them have a request at once, and none before.
        thread::scope(|scope| {
            for _ in 0..24 {
                scope.spawn(|| once(&edge, &get("/")));
            }
        });
        eventually("what is too many is closed", || (open(&origin) <= 5).then_some(()));
    }
    assert_eq!(open(&origin), 5, "as many as it may");
}

#[test]
fn one_that_is_idle_for_too_long_and_one_that_is_too_old_are_closed() {
    for (setting, uses) in
        [("EDGEPROXY_POOL_IDLE_TIMEOUT_SECS", false), ("EDGEPROXY_POOL_MAX_LIFETIME_SECS", true)]
    {
        let origin = Origin::named("a");
        let edge = before(&origin)
            .env("EDGEPROXY_POOL_ENABLED", "true")
            .env("EDGEPROXY_WORKERS", "1")
            .env(setting, "1")
            .start();
        let begun = Instant::now();
        once(&edge, &get("/"));
        if uses {
            // Used all the time, it is never idle.
            eventually("another takes its place", || {
                once(&edge, &get("/"));
                (origin.accepted() > 1).then_some(())
            });
            assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
        } else {
            eventually("it is kept", || (open(&origin) == 1).then_some(()));
            eventually("it is closed", || (open(&origin) == 0).then_some(()));
            assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{setting}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_backend_that_closes_idle_ones_costs_no_request_of_any_kind() {
    // It closes each right behind its answer, without having said that it would.
    let origin = Origin::new(|_, reader| {
        says(reader, ok("a"));
        Then::Closes
    });
    for pool in ["true", "false"] {
        let edge = before(&origin).env("EDGEPROXY_POOL_ENABLED", pool).start();
        let mut client = Asking::to(&edge);
        for number in 0..200 {
            let method = ["GET", "PUT", "DELETE"][number % 3];
            assert_eq!(client.ask(&request(method, "/", "")).status(), 200, "{method}, {number}");
        }
        for number in 0..5 {
            // Nothing is open any more when it comes: there is nothing to choose wrongly.
            eventually("it is known to be closed", || (open(&origin) == 0).then_some(()));
            let answer = client.ask(&request("POST", "/", "Content-Length: 0\r\n"));
            assert_eq!(answer.status(), 200, "POST {number}, pool {pool}");
        }
    }
}

#[test]
fn one_whose_client_was_slow_is_watched_again_while_it_rests() {
    // The client's buffers are full for a while: nothing is read of the backend until they are not.
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 512;
    let written: &'static AtomicUsize = Box::leak(Box::default());
    let (closes, may_close) = channel::<()>();
    let may_close = Mutex::new(may_close);
    let origin = Origin::new(move |_, reader| {
        says(reader, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PIECE * PIECES));
        let piece = vec![b'x'; PIECE];
        for _ in 0..PIECES {
            says(reader, &piece);
            written.fetch_add(PIECE, Ordering::SeqCst);
        }
        let _ = may_close.lock().unwrap().recv();
        Then::Closes
    });
    let edge = before(&origin).env("EDGEPROXY_POOL_ENABLED", "true").start();
    let mut slow = Asking::to(&edge);
    slow.say(get("/"));
    slow.head().unwrap();
    let (mut last, mut times) = (0, 0);
    eventually("the answer is stuck", || {
        let now = written.load(Ordering::SeqCst);
        times = if now > 0 && now == last { times + 1 } else { 0 };
        last = now;
        (times > 20).then_some(())
    });
    assert!(last < PIECE * PIECES, "nobody was held up");
    slow.exactly(PIECE * PIECES).unwrap();
    closes.send(()).unwrap();
    eventually("the end of one that rests is seen", || (open(&origin) == 0).then_some(()));
    eventually("it is closed as well", || {
        let closing = connections_to(origin.addr()).into_iter().any(|state| state == CLOSE_WAIT);
        (!closing).then_some(())
    });
}

#[test]
fn what_a_backend_says_to_nobody_is_nobodys_answer() {
    // A second answer comes right behind the first, or a while later.
    let origin = Origin::new(|seen, reader| {
        let whose = seen.message.path().to_owned();
        let forged = if seen.before == 0 { ok("forged") } else { String::new() };
        says(reader, ok(&whose) + &forged)
    });
    for pool in ["true", "false"] {
        let edge = before(&origin).env("EDGEPROXY_POOL_ENABLED", pool).start();
        let mut client = Asking::to(&edge);
        for number in 0..100 {
            let path = format!("/{number}");
            assert_eq!(client.get(&path).text(), path);
            assert_eq!(once(&edge, &get(&path)).text(), path);
        }
    }
}

#[test]
fn a_backend_that_says_it_closes_is_believed() {
    let origin = Origin::new(|_, reader| {
        // It goes on reading all the same.
        says(reader, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na")
    });
    let edge = before(&origin).env("EDGEPROXY_POOL_ENABLED", "true").start();
    let mut client = Asking::to(&edge);
    for _ in 0..10 {
        let answer = client.get("/");
        assert!(answer.all("connection").is_empty(), "the client's goes on: {answer:?}");
    }
    assert_eq!(origin.accepted(), 10);
}

#[test]
fn behind_a_header_a_connection_is_never_anothers_with_a_pool_or_without() {
    for pool in ["true", "false"] {
        let origin = Origin::headed(|seen, reader| says(reader, ok(&seen.header)));
        let edge = before(&origin)
            .toml("[app.web]\nproxy_protocol = \"v1\"")
            .env("EDGEPROXY_POOL_ENABLED", pool)
            .env("EDGEPROXY_WORKERS", "1")
            .start();
        let mut clients: Vec<Asking> =
            ["127.0.0.2", "127.0.0.3", "127.0.0.2"].map(|ip| Asking::from(ip, &edge)).into();
        for _ in 0..5 {
            for client in &mut clients {
                let addr = client.addr();
                let header = format!("PROXY TCP4 {} {} {}", addr.ip(), edge.addr.ip(), addr.port());
                let answer = client.get("/").text();
                assert!(answer.starts_with(&header), "{answer}, for {header}");
            }
        }
        assert_eq!(origin.accepted(), 3, "each keeps its own");
    }
}

#[test]
fn behind_a_header_requests_that_a_trusted_peer_passes_on_are_their_clients() {
    let origin = Origin::headed(|seen, reader| says(reader, ok(&seen.header)));
    let edge = before(&origin)
        .toml("[app.web]\nproxy_protocol = \"v1\"")
        .env("EDGEPROXY_HTTP_TRUSTED", "127.0.0.0/8")
        .start();
    let mut balancer = Asking::to(&edge);
    let own = balancer.addr().ip().to_string();
    for client in [None, Some("203.0.113.1"), Some("203.0.113.2"), None, Some("203.0.113.1"), None]
    {
        let said = client.map(|ip| format!("X-Forwarded-For: {ip}\r\n")).unwrap_or_default();
        let header = balancer.ask(&request("GET", "/", &said)).text();
        let named = header.split(' ').nth(2).unwrap();
        assert_eq!(named, client.unwrap_or(&own), "{header}");
    }
}

#[test]
fn a_backend_that_leaves_the_registry_gets_no_request_on_a_connection_that_was_kept() {
    let [old, new] = ["old", "new"].map(Origin::named);
    let edge = before(&old).env("EDGEPROXY_POOL_ENABLED", "true").start();
    let mut client = Asking::to(&edge);
    assert_eq!(client.get("/").text(), "old");
    edge.site.sql(&format!("DELETE FROM backends; {}", Row::new("b", new.addr()).insert()));
    eventually("the next request is the other's", || {
        (client.get("/").text() == "new").then_some(())
    });
    eventually("what was kept is closed", || (open(&old) == 0).then_some(()));
    for _ in 0..20 {
        assert_eq!(once(&edge, &get("/")).text(), "new");
    }
}

#[test]
fn each_request_of_a_connection_is_a_choice_of_its_own() {
    let origins = ["a", "b", "c"].map(Origin::named);
    let mut edge = site().env("EDGEPROXY_POOL_ENABLED", "true");
    for (id, origin) in ["a", "b", "c"].into_iter().zip(&origins) {
        edge = edge.backend(Row::new(id, origin.addr()));
    }
    let edge = edge.start();
    let mut client = Asking::to(&edge);
    let served: HashSet<String> = (0..60).map(|_| client.get("/").text()).collect();
    assert_eq!(served.len(), 3, "{served:?}");
    assert_eq!(origins.iter().map(|origin| origin.seen().len()).sum::<usize>(), 60);
}
