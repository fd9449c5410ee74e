//! How the process ends while clients ask.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::peers::{Asking, Message, Origin, Reader, before, get, ok, request, says};
use crate::support::{Client, Edge, PATIENCE, eventually};

/// A backend that answers the path's own name, `/held` only when it is let go, and the sender that does.
fn holding() -> (Origin, std::sync::mpsc::Sender<()>) {
    let (lets_go, let_go) = channel::<()>();
    let let_go = Mutex::new(let_go);
    let origin = Origin::new(move |seen, reader| {
        if seen.message.path() == "/held" {
            let _ = let_go.lock().unwrap().recv();
        }
        says(reader, ok(seen.message.path()))
    });
    (origin, lets_go)
}

/// Has it end, and waits until nobody new comes in.
pub fn drains(edge: &Edge) {
    edge.signal(Signal::TERM);
    eventually("nobody new comes in", || {
        let refused = TcpStream::connect_timeout(&edge.addr, PATIENCE).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}

fn closes(answer: &Message) -> bool {
    answer.field("connection").is_some_and(|option| option == "close")
}

#[test]
fn a_request_that_a_backend_has_is_answered_and_the_connection_ends_behind_it() {
    let (origin, lets_go) = holding();
    let mut edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.get("/");
    client.say(get("/held"));
    eventually("the backend has it", || (origin.seen().len() == 2).then_some(()));
    drains(&edge);
    lets_go.send(()).unwrap();
    let answer = client.answer("GET").unwrap();
    assert_eq!((answer.status(), &*answer.text()), (200, "/held"));
    assert!(closes(&answer), "{answer:?}");
    client.ends();
    drop(client);
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.took < Duration::from_secs(1), "{exit:?}");
    assert!(exit.logged("drained 1, forced 0"), "{exit:?}");
}

#[test]
fn a_body_on_its_way_either_way_comes_to_its_end() {
    let (more, rest) = channel::<()>();
    let rest = Mutex::new(rest);
    let origin = Origin::of_heads(move |seen, reader| {
        if seen.message.method() == "POST" {
            let mut message = seen.message.clone();
            reader.chunks(&mut message).unwrap();
            return says(reader, ok(&message.text()));
        }
        says(reader, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        let _ = rest.lock().unwrap().recv();
        says(reader, "6\r\n world\r\n0\r\n\r\n")
    });
    let mut edge = before(&origin).start();
    let [mut up, mut down] = [Asking::to(&edge), Asking::to(&edge)];
    up.say(request("POST", "/", "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n");
    down.say(get("/"));
    let mut answer = down.head().unwrap();
    assert_eq!(down.exactly(10).unwrap(), b"5\r\nhello\r\n");
    eventually("the backend has both", || (origin.seen().len() == 2).then_some(()));

    drains(&edge);
    up.say("6\r\n world\r\n0\r\n\r\n");
    let echoed = up.answer("POST").unwrap();
    assert_eq!(echoed.text(), "hello world");
    assert!(closes(&echoed), "{echoed:?}");
    up.ends();
    more.send(()).unwrap();
    down.chunks(&mut answer).unwrap();
    assert_eq!(answer.text(), " world");
    // Its head was said before, so that it may think that it can go on: it cannot for long.
    down.ends();
    drop((up, down));
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.took < Duration::from_secs(3), "{:?}", exit.took);
    assert!(exit.logged("drained 2, forced 0"), "{:#?}", exit.log);
}

#[test]
fn idle_connections_are_closed_one_after_the_other_and_not_with_a_reset() {
    const IDLE: usize = 60;
    let origin = Origin::named("a");
    let mut edge = before(&origin).env("EDGEPROXY_SHUTDOWN_TIMEOUT_SECS", "3").start();
    let mut clients: Vec<Asking> = (0..IDLE).map(|_| Asking::to(&edge)).collect();
    for client in &mut clients {
        client.get("/");
    }
    drains(&edge);
    let begun = Instant::now();
    let mut ends: Vec<Duration> = thread::scope(|scope| {
        let waits: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(move || {
                    client.ends();
                    begun.elapsed()
                })
            })
            .collect();
        waits.into_iter().map(|wait| wait.join().unwrap()).collect()
    });
    ends.sort();
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.logged("forced 0"), "{:#?}", exit.log);
    let (first, last) = (ends[0], ends[IDLE - 1]);
    assert!(last.saturating_sub(first) > Duration::from_secs(1), "all at once: {ends:?}");
    assert!(last < Duration::from_millis(2_900), "{ends:?}");
}

#[test]
fn an_idle_connection_is_still_served_once_and_told_that_it_ends() {
    let origin = Origin::named("a");
    let mut edge = before(&origin).start();
    let [mut used, mut fresh] = [Asking::to(&edge), Asking::to(&edge)];
    used.get("/");
    fresh.say("GET / HTTP/1.1\r\n");
    drains(&edge);
    fresh.say("Host: web\r\n\r\n");
    for (name, answer) in [("used", used.get("/")), ("fresh", fresh.answer("GET").unwrap())] {
        assert_eq!(answer.text(), "a", "{name}");
        assert!(closes(&answer), "{name}: {answer:?}");
    }
    used.ends();
    fresh.ends();
    drop((used, fresh));
    let exit = edge.exit();
    assert!(exit.took < Duration::from_secs(1), "{:?}", exit.took);
}

#[test]
fn requests_that_came_in_one_piece_are_answered_up_to_the_one_that_ends_it() {
    let (origin, lets_go) = holding();
    let mut edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.say(get("/held") + &get("/never"));
    eventually("the backend has it", || (origin.seen().len() == 1).then_some(()));
    drains(&edge);
    lets_go.send(()).unwrap();
    let answer = client.answer("GET").unwrap();
    assert!(closes(&answer), "{answer:?}");
    // What it did not answer may safely be asked elsewhere: it was not given to anybody.
    assert_eq!(client.rest().unwrap(), b"");
    drop(client);
    assert_eq!(edge.exit().code, Some(0));
    assert_eq!(origin.seen().len(), 1);
}

/// What a client does until it is told that the connection ends: how many answers it had.
fn asks_until_told(reader: &mut Reader<TcpStream>, asked: &AtomicUsize, number: usize) -> bool {
    for time in 0.. {
        let path = format!("/{number}/{time}");
        let answer = match reader.try_ask(&get(&path)) {
            Ok(answer) => answer,
            // Closed while it was idle, between an answer and this: it was never asked.
            Err(error) => panic!("request {time} of client {number}: {error}"),
        };
        assert_eq!(answer.text(), path);
        asked.fetch_add(1, Ordering::SeqCst);
        if closes(&answer) {
            reader.ends();
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn no_request_is_lost_under_load() {
    const CLIENTS: usize = 40;
    let origin = Origin::new(|seen, reader| says(reader, ok(seen.message.path())));
    let mut edge = before(&origin).env("EDGEPROXY_POOL_ENABLED", "true").start();
    let (addr, asked) = (edge.addr, AtomicUsize::new(0));
    let stops = AtomicBool::new(false);
    let (new, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let asked = &asked;
                scope.spawn(move || {
                    asks_until_told(&mut Asking::at("127.0.0.1", addr), asked, number)
                })
            })
            .collect();
        let comers: Vec<_> = (0..4)
            .map(|number| {
                let (new, refused, stops) = (&new, &refused, &stops);
                scope.spawn(move || {
                    while !stops.load(Ordering::SeqCst) {
                        let client = match Client::connect("127.0.0.1", addr) {
                            Ok(client) => client,
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                                refused.fetch_add(1, Ordering::SeqCst);
                                return;
                            }
                        };
                        let path = format!("/new/{number}");
                        let answer = Asking::new(client.stream).try_ask(&get(&path));
                        let answer = answer.expect("who is accepted is answered");
                        assert_eq!(answer.text(), path);
                        new.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .collect();
        eventually("there is load", || (asked.load(Ordering::SeqCst) > 1_000).then_some(()));
        edge.signal(Signal::TERM);
        assert!(clients.into_iter().all(|client| client.join().unwrap()), "all are told");
        for comer in comers {
            comer.join().unwrap();
        }
        stops.store(true, Ordering::SeqCst);
    });
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.logged("forced 0"), "{:#?}", exit.log);
    let all = asked.load(Ordering::SeqCst) + new.load(Ordering::SeqCst);
    assert_eq!(exit.access_lines.len(), all, "a line for each, and no other");
    assert!(exit.access().iter().all(|line| &line["status"] == "200"));
    assert!(refused.load(Ordering::SeqCst) > 0 && new.load(Ordering::SeqCst) > 50);
}

#[test]
fn who_waits_in_the_queue_when_the_signal_comes_is_answered() {
    const WAITING: usize = 100;
    for _ in 0..3 {
        let origin = Origin::named("a");
        let mut edge = before(&origin).start();
        Asking::to(&edge).get("/");
        edge.freeze();
        let mut clients: Vec<Asking> = (0..WAITING).map(|_| Asking::to(&edge)).collect();
        for client in &mut clients {
            client.say(get("/"));
        }
        edge.signal_at_once(Signal::TERM);
        edge.thaw();
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.answer("GET");
            let answer = answer.unwrap_or_else(|error| panic!("client {number}: {error}"));
            assert_eq!(answer.text(), "a");
        }
        drop(clients);
        assert_eq!(edge.exit().code, Some(0));
    }
}

#[test]
fn what_does_not_end_in_time_is_forced_and_said() {
    let (origin, lets_go) = holding();
    let mut edge = before(&origin).env("EDGEPROXY_SHUTDOWN_TIMEOUT_SECS", "1").start();
    let mut client = Asking::to(&edge);
    client.say(get("/held"));
    eventually("the backend has it", || (origin.seen().len() == 1).then_some(()));
    edge.signal(Signal::TERM);
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.took < Duration::from_secs(2), "{:?}", exit.took);
    assert!(exit.logged("forced 1"), "{:#?}", exit.log);
    assert_eq!(&exit.access()[0]["reason"], "drained");
    assert_eq!(client.answer("GET").unwrap_err().kind(), ErrorKind::ConnectionReset);
    lets_go.send(()).unwrap();
}

#[test]
fn the_line_of_the_last_request_is_in_the_access_log() {
    let origin = Origin::named("a");
    for _ in 0..10 {
        let mut edge = before(&origin).start();
        let mut client = Asking::to(&edge);
        client.say(get("/"));
        edge.signal(Signal::TERM);
        client.answer("GET").unwrap();
        drop(client);
        let exit = edge.exit();
        assert_eq!((exit.code, exit.access_lines.len()), (Some(0), 1), "{:#?}", exit.log);
    }
}
