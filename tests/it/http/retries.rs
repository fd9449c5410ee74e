//! What is made once more, and what never is.

use super::peers::{Asking, Origin, Then, before, get, ok, once, request, says, site};
use crate::support::{BlackHole, Refusing, Row, eventually};

/// Answers the first request of each connection, and closes at the next without a byte.
fn once_each(then: Then) -> Origin {
    Origin::new(move |seen, reader| match seen.before {
        0 => says(reader, ok("a")),
        _ => then,
    })
}

#[test]
fn a_dial_that_fails_goes_elsewhere_whatever_is_asked() {
    let (dead, alive) = (Refusing::new(), Origin::named("alive"));
    let site = || {
        site()
            .backend(Row::new("dead", dead.addr()).weight(100))
            .backend(Row::new("alive", alive.addr()))
    };
    for (method, body) in [("GET", ""), ("POST", "hello"), ("PUT", "hello"), ("DELETE", "")] {
        let edge = site().start();
        let length = format!("Content-Length: {}\r\n", body.len());
        let answer = once(&edge, &(request(method, "/", &length) + body));
        assert_eq!(answer.text(), "alive", "{method}");
        assert_eq!(alive.last().text(), body, "{method}");
    }
}

#[test]
fn a_dial_that_nobody_answers_goes_elsewhere_too() {
    let (dead, alive) = (BlackHole::new(), Origin::named("alive"));
    let edge = site()
        .backend(Row::new("dead", dead.addr()).weight(100))
        .backend(Row::new("alive", alive.addr()))
        .start();
    let mut client = Asking::to(&edge);
    for _ in 0..5 {
        assert_eq!(
            client.ask(&(request("POST", "/", "Content-Length: 2\r\n") + "hi")).text(),
            "alive"
        );
    }
    assert_eq!(alive.seen().len(), 5);
}

#[test]
fn a_repeatable_request_on_a_used_connection_that_closes_is_made_once_more() {
    for then in [Then::Closes, Then::Resets] {
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
            let pools: &[&str] = if method == "GET" { &["false", "true"] } else { &["false"] };
            for pool in pools {
                let origin = once_each(then);
                let edge = before(&origin)
                    .env("EDGEPROXY_POOL_ENABLED", pool)
                    .env("EDGEPROXY_WORKERS", "1")
                    .start();
                let mut client = Asking::to(&edge);
                client.get("/first");
                let answer = client.ask(&request(method, "/second", ""));
                assert_eq!(answer.status(), 200, "{method}, {then:?}");
                let seen = origin.seen();
                let paths: Vec<&str> = seen.iter().map(|seen| seen.message.path()).collect();
                assert_eq!(paths, ["/first", "/second", "/second"], "{method}, {then:?}, {pool}");
                assert_eq!(seen[1].message.fields, seen[2].message.fields, "it is the same");
                assert_ne!(seen[1].connection, seen[2].connection);
            }
        }
    }
}

#[test]
fn what_may_not_be_done_twice_is_not_made_once_more() {
    for (method, body) in
        [("POST", ""), ("PATCH", ""), ("POST", "hello"), ("PUT", "hello"), ("LOCK", "")]
    {
        let origin = once_each(Then::Closes);
        let edge = before(&origin).start();
        let mut client = Asking::to(&edge);
        client.get("/first");
        let length = format!("Content-Length: {}\r\n", body.len());
        let answer = client.ask(&(request(method, "/second", &length) + body));
        assert_eq!(answer.status(), 502, "{method} {body:?}");
        assert_eq!(origin.seen().len(), 2, "{method} {body:?}");
    }
}

#[test]
fn after_a_byte_of_an_answer_nothing_is_made_once_more() {
    for begun in ["H", "HTTP/1.1 200", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"] {
        let origin = Origin::new(move |seen, reader| {
            if seen.before == 0 {
                return says(reader, ok("a"));
            }
            says(reader, begun);
            Then::Closes
        });
        let edge = before(&origin).start();
        let mut client = Asking::to(&edge);
        client.get("/");
        let mut answer = client.get("/");
        if answer.status() == 103 {
            answer = client.answer("GET").unwrap();
        }
        assert_eq!(answer.status(), 502, "{begun:?}");
        assert_eq!(origin.seen().len(), 2, "{begun:?}");
    }
}

#[test]
fn nothing_is_made_more_than_twice() {
    // After its first request a connection closes at each; then all do, at once.
    let origin = Origin::new(|seen, reader| match seen.connection + seen.before {
        0 => says(reader, ok("a")),
        _ => Then::Closes,
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.get("/first");
    assert_eq!(client.get("/second").status(), 502);
    let seconds = origin.seen().iter().filter(|seen| seen.message.path() == "/second").count();
    assert_eq!(seconds, 2);
}

#[test]
fn a_fresh_connection_that_closes_is_a_502_and_nothing_is_made_once_more() {
    for then in [Then::Closes, Then::Resets] {
        let [bad, other] = [Origin::new(move |_, _| then), Origin::new(move |_, _| then)];
        let edge =
            site().backend(Row::new("a", bad.addr())).backend(Row::new("b", other.addr())).start();
        let mut client = Asking::to(&edge);
        for number in 1..=5 {
            let answer = client.get("/");
            assert_eq!(answer.status(), 502, "{then:?}");
            assert_eq!(bad.seen().len() + other.seen().len(), number);
        }
    }
}

#[test]
fn a_repeated_request_finds_another_backend_when_its_own_is_gone() {
    let other = Origin::named("b");
    let (closes, may_close) = std::sync::mpsc::channel::<()>();
    let may_close = std::sync::Mutex::new(may_close);
    let mut origin = Origin::new(move |seen, reader| {
        if seen.before == 0 {
            return says(reader, ok("a"));
        }
        let _ = may_close.lock().unwrap().recv();
        Then::Closes
    });
    let edge = site()
        .backend(Row::new("a", origin.addr()).weight(1_000))
        .backend(Row::new("b", other.addr()))
        .start();
    let mut client = Asking::to(&edge);
    eventually("it is served by the first", || (client.get("/").text() == "a").then_some(()));
    client.say(get("/again"));
    eventually("the request is there", || {
        let seen = origin.seen();
        seen.iter().any(|seen| seen.message.path() == "/again").then_some(())
    });
    // The listener goes first, then the connection.
    closes.send(()).unwrap();
    origin.backend().stop();
    let answer = client.answer("GET").unwrap();
    // Either the dial was refused and went elsewhere, or it was just in time and the connection was closed.
    assert!(answer.status() == 502 || answer.text() == "b", "{answer:?}");
    eventually("later ones go elsewhere", || (client.get("/").text() == "b").then_some(()));
}

#[test]
fn a_backend_that_restarts_costs_clients_that_only_ask_nothing() {
    let mut origin = Origin::named("a");
    let other = Origin::named("b");
    let edge = site()
        .env("EDGEPROXY_POOL_ENABLED", "true")
        .backend(Row::new("a", origin.addr()))
        .backend(Row::new("b", other.addr()))
        .start();
    let addr = edge.addr;
    let ends = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Asking::at("127.0.0.1", addr);
                    let mut asked = 0;
                    while !ends.load(std::sync::atomic::Ordering::SeqCst) {
                        let answer = client.get("/");
                        assert!(
                            answer.status() == 200 || answer.status() == 502,
                            "{answer:?} after {asked}"
                        );
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        for _ in 0..3 {
            let before = other.seen().len();
            origin.backend().stop();
            eventually("the other serves meanwhile", || {
                (other.seen().len() > before + 20).then_some(())
            });
            origin.backend().restart();
            let before = origin.seen().len();
            eventually("it is back", || (origin.seen().len() > before + 20).then_some(()));
        }
        ends.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(askers.into_iter().map(|asker| asker.join().unwrap()).sum::<usize>() > 100);
    });
}
