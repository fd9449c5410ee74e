//! Fresh connections kept ready: a client saves the handshake, and never gets what another has used.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Backend, Client, Row, Site, connections_to, eventually};

const ESTABLISHED: u8 = 1;

/// A site with a pool, where each connection is a choice of its own.
pub fn pooled() -> Site {
    Site::new().without_affinity().env("EDGEPROXY_POOL_ENABLED", "true")
}

/// Connections that the proxy has open to a backend.
fn open(backend: &Backend) -> usize {
    connections_to(backend.addr()).into_iter().filter(|state| [ESTABLISHED].contains(state)).count()
}

/// Greets each connection with its number, and echoes.
pub fn numbering() -> Backend {
    let sessions = Arc::new(AtomicUsize::new(0));
    Backend::serving(move |mut stream: TcpStream| {
        let number = sessions.fetch_add(1, Ordering::SeqCst);
        let mut bytes = [0; 1_024];
        if stream.write_all(format!("{number}\n").as_bytes()).is_ok() {
            while let Ok(read @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..read]).is_err() {
                    return;
                }
            }
        }
    })
}

#[test]
fn no_two_clients_ever_share_a_session_and_a_greeting_that_waited_is_passed_on() {
    let backend = numbering();
    let edge = pooled().backend(Row::new("a", backend.addr())).start();
    let mut sessions = HashSet::new();
    let mut ready = 0;
    for number in 0..200 {
        let before = backend.accepted();
        let mut client = edge.client();
        let session: usize = client.greeting().unwrap().parse().unwrap();
        assert!(sessions.insert(session), "session {session} was used before");
        ready += usize::from(session < before);
        client.echo(&format!("this is client {number}")).unwrap();
    }
    assert!(ready > 100, "only {ready} of 200 clients found a connection that was ready");
    assert!(backend.accepted() > 200);
}

#[test]
fn clients_at_once_from_many_threads_get_sessions_of_their_own() {
    let backend = numbering();
    let edge = pooled().backend(Row::new("a", backend.addr())).start();
    let sessions: Vec<usize> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let visit = |_| {
                        let mut client = edge.client();
                        let session: usize = client.greeting().unwrap().parse().unwrap();
                        client.echo("hello").unwrap();
                        session
                    };
                    (0..50).map(visit).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: HashSet<_> = sessions.iter().collect();
    assert_eq!(distinct.len(), 400);
}

#[test]
fn a_pool_of_ten_holds_no_traffic_to_ten_and_the_hard_limit_stays_exact() {
    let backend = Backend::holding();
    let edge = pooled()
        .env("EDGEPROXY_POOL_MAX_PER_BACKEND", "10")
        .backend(Row::new("a", backend.addr()).hard_limit(150))
        .start();
    let outcomes: Vec<Option<Client>> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..200).map(|_| scope.spawn(|| edge.visit().ok().map(|visit| visit.client))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let served = outcomes.iter().flatten().count();
    assert_eq!(served, 150);
    edge.wait_for_ends(50, "at_hard_limit");
    eventually("the backend has as many as its limit", || (open(&backend) == 150).then_some(()));
}

#[test]
fn the_only_place_is_a_clients_whether_or_not_a_warm_connection_has_it() {
    let backend = numbering();
    let edge = pooled().backend(Row::new("a", backend.addr()).hard_limit(1)).start();
    for _ in 0..30 {
        let visit = edge.visit().unwrap();
        let addr = visit.client.addr();
        drop(visit);
        edge.access_of_addr(addr);
    }
    let busy = edge.visit().unwrap();
    assert_eq!(&edge.refusal_of("127.0.0.1")["reason"], "at_hard_limit");
    drop(busy);
}

#[test]
fn a_backend_that_closes_unused_connections_is_not_warmed_any_more() {
    // It hangs up on whoever says nothing for a while, as some servers do.
    let backend = Backend::serving(|mut stream: TcpStream| {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
        let mut bytes = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            let _ = stream.write_all(&bytes[..read]);
        }
    });
    let edge = pooled().backend(Row::new("a", backend.addr())).start();
    let visit = || edge.client().echo("hello").is_ok();
    eventually("it is found out", || {
        visit();
        eventually("what was warm is gone", || (open(&backend) == 0).then_some(()));
        let log = edge.log_so_far();
        log.iter().any(|line| line.contains("gets no more of them")).then_some(())
    });
    let before = backend.accepted();
    for _ in 0..20 {
        assert!(visit());
    }
    assert_eq!(backend.accepted() - before, 20, "one each, and none ahead");
}

#[test]
fn a_backend_that_restarts_is_warmed_again() {
    let mut backend = Backend::named("a");
    let edge =
        pooled().env("EDGEPROXY_WORKERS", "1").backend(Row::new("a", backend.addr())).start();
    eventually("several wait", || {
        let at_once: Vec<_> = (0..4).map(|_| edge.visit()).collect();
        drop(at_once);
        (open(&backend) >= 4).then_some(())
    });
    backend.stop();
    eventually("they are gone", || (open(&backend) == 0).then_some(()));
    backend.restart();
    eventually("it serves, and some wait again", || {
        let served = edge.visit().is_ok();
        (served && open(&backend) > 0).then_some(())
    });
    assert!(!edge.log_so_far().iter().any(|line| line.contains("gets no more of them")));
}

#[test]
fn warm_connections_leave_the_descriptors_to_clients_when_they_get_short() {
    let backends: Vec<Backend> = (0..40).map(|_| Backend::named("one of many")).collect();
    let site = backends.iter().enumerate().fold(pooled(), |site, (n, backend)| {
        site.backend(Row::new(&n.to_string(), backend.addr()))
    });
    let edge = site.descriptors(200).start();
    // Each is used once, so that connections wait for all of them.
    for _ in 0..80 {
        drop(edge.visit());
    }
    let clients: Vec<_> =
        (0..70).map(|_| edge.visit().expect("there is one for everybody")).collect();
    drop(clients);
}

#[test]
fn warm_connections_end_with_their_idle_timeout_their_row_and_the_process() {
    let [short, removed] = [numbering(), numbering()];
    let edge = pooled()
        .env("EDGEPROXY_POOL_IDLE_TIMEOUT_SECS", "1")
        .backend(Row::new("a", short.addr()))
        .start();
    drop(edge.visit().unwrap());
    eventually("some wait", || (open(&short) > 0).then_some(()));
    eventually("and end", || (open(&short) == 0).then_some(()));

    let edge = pooled().backend(Row::new("b", removed.addr())).start();
    drop(edge.visit().unwrap());
    eventually("some wait", || (open(&removed) > 0).then_some(()));
    edge.site.sql("UPDATE backends SET healthy = 0");
    eventually("and end", || (open(&removed) == 0).then_some(()));

    edge.site.sql("UPDATE backends SET healthy = 1");
    eventually("it serves again", || edge.visit().ok());
    eventually("some wait", || (open(&removed) > 0).then_some(()));
    let exit = edge.stop();
    assert_eq!(exit.code, Some(0));
    assert!(exit.took < Duration::from_secs(2), "{:?}", exit.took);
    assert_eq!(open(&removed), 0);
}

#[test]
fn a_backend_that_goes_takes_no_client_with_it_while_it_has_a_twin() {
    let mut one = Backend::named("one");
    let twin = Backend::named("twin");
    let edge = pooled()
        .backend(Row::new("one", one.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    for _ in 0..20 {
        edge.visit().unwrap();
    }
    one.stop();
    eventually("its warm connections are gone", || (open(&one) == 0).then_some(()));
    for _ in 0..50 {
        assert_eq!(edge.visit().unwrap().served_by, "twin");
    }
}
