//! How long anything may take.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::peers::{Asking, Message, Origin, Then, before, get, ok, request, says};
use crate::support::{Edge, PATIENCE, eventually};

const SECOND: Duration = Duration::from_secs(1);
/// What a busy machine may add.
const LATE: Duration = Duration::from_secs(2);

/// Says bytes one after the other, with a pause before each, until nobody listens. Whether anybody did not.
fn drips(client: &Asking, bytes: impl Iterator<Item = u8>, pause: Duration) {
    let mut stream = client.stream.try_clone().unwrap();
    for byte in bytes {
        thread::sleep(pause);
        if stream.write_all(&[byte]).is_err() {
            return;
        }
    }
}

fn in_time(begun: Instant, expected: Duration) {
    let took = begun.elapsed();
    assert!(took >= expected.mul_f32(0.9) && took < expected + LATE, "{took:?}, not {expected:?}");
}

fn reason(edge: &Edge, client: &Asking) -> String {
    edge.access_of_addr(client.addr())["reason"].to_owned()
}

fn is_last(mut client: Asking, answer: &Message, status: u16) {
    assert_eq!(answer.status(), status, "{answer:?}");
    assert_eq!(answer.field("connection"), Some("close"), "{answer:?}");
    let _ = client.rest();
}

#[test]
fn a_head_that_comes_byte_by_byte_is_cut_at_its_time_and_not_when_bytes_cease() {
    let origin = Origin::named("a");
    let edge = before(&origin).env("EDGEPROXY_HTTP_HEADER_TIMEOUT_SECS", "1").start();
    let mut first = Asking::to(&edge);
    let mut second = Asking::to(&edge);
    second.get("/");
    for (client, head) in [(&mut first, "first"), (&mut second, "second")] {
        let begun = Instant::now();
        let bytes = format!("GET /{head} HTTP/1.1\r\nHost: web\r\nX: ").into_bytes().into_iter();
        let bytes = bytes.chain(std::iter::repeat(b'x'));
        let answer = thread::scope(|scope| {
            let slow = Asking::new(client.stream.try_clone().unwrap());
            scope.spawn(move || drips(&slow, bytes, Duration::from_millis(50)));
            let answer = client.answer("GET").unwrap();
            in_time(begun, SECOND);
            let _ = client.rest();
            let _ = client.stream.shutdown(std::net::Shutdown::Both);
            answer
        });
        assert_eq!(answer.status(), 408);
        assert_eq!(answer.field("connection"), Some("close"));
    }
    assert_eq!(origin.seen().len(), 1, "no backend heard of it");
    assert_eq!(reason(&edge, &first), "request_timeout");
}

#[test]
fn who_says_nothing_at_all_is_closed_without_a_word() {
    let origin = Origin::named("a");
    let edge = before(&origin)
        .env("EDGEPROXY_HTTP_HEADER_TIMEOUT_SECS", "1")
        .env("EDGEPROXY_HTTP_KEEP_ALIVE_TIMEOUT_SECS", "2")
        .start();
    let begun = Instant::now();
    let [mut silent, mut idle] = [Asking::to(&edge), Asking::to(&edge)];
    idle.get("/");
    silent.ends();
    in_time(begun, SECOND);
    idle.ends();
    in_time(begun, 2 * SECOND);
}

#[test]
fn part_of_a_head_behind_another_request_has_no_more_time_than_any() {
    let origin = Origin::named("a");
    let edge = before(&origin).env("EDGEPROXY_HTTP_HEADER_TIMEOUT_SECS", "1").start();
    let mut client = Asking::to(&edge);
    let begun = Instant::now();
    client.say(get("/") + "GET / HTTP/1.1\r\nHo");
    assert_eq!(client.answer("GET").unwrap().status(), 200);
    let answer = client.answer("GET").unwrap();
    in_time(begun, SECOND);
    is_last(client, &answer, 408);
}

#[test]
fn a_body_that_ceases_is_a_408_and_its_pauses_are_what_counts() {
    let origin = Origin::new(|seen, reader| says(reader, ok(&seen.message.text())));
    let edge = before(&origin).env("EDGEPROXY_HTTP_BODY_TIMEOUT_SECS", "1").start();
    let mut slow = Asking::to(&edge);
    slow.say(request("POST", "/", "Content-Length: 15\r\n"));
    // Longer than the timeout in all.
    drips(&slow, (0..15).map(|_| b'x'), Duration::from_millis(100));
    assert_eq!(slow.answer("POST").unwrap().text(), "x".repeat(15));

    thread::scope(|scope| {
        for framing in ["Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"] {
            let edge = &edge;
            scope.spawn(move || {
                let mut client = Asking::to(edge);
                let begun = Instant::now();
                client.say(request("POST", "/", framing));
                client.say("5\r\nhel");
                let answer = client.answer("POST").unwrap();
                in_time(begun, SECOND);
                assert_eq!(reason(edge, &client), "request_timeout");
                is_last(client, &answer, 408);
            });
        }
    });
}

#[test]
fn a_backend_that_does_not_begin_its_answer_is_a_504() {
    let origin = Origin::new(|seen, reader| {
        if seen.message.path() == "/hinted" {
            says(reader, "HTTP/1.1 103 Early Hints\r\n\r\n");
        }
        if seen.message.path() == "/begun" {
            says(reader, "HTTP/1.1 200 OK\r\nContent-");
        }
        if seen.message.path() == "/" {
            return says(reader, ok("a"));
        }
        let _ = reader.exactly(1);
        Then::Closes
    });
    let edge = before(&origin).env("EDGEPROXY_HTTP_RESPONSE_TIMEOUT_SECS", "1").start();
    thread::scope(|scope| {
        for (path, body) in [("/", ""), ("/silent", ""), ("/hinted", ""), ("/begun", "body")] {
            for used in [false, true] {
                let edge = &edge;
                scope.spawn(move || {
                    let mut client = Asking::to(edge);
                    if used {
                        client.get("/");
                    }
                    let begun = Instant::now();
                    let length = format!("Content-Length: {}\r\n", body.len());
                    client.say(request("PUT", path, &length) + body);
                    let mut answer = client.answer("PUT").unwrap();
                    if path == "/" {
                        return assert_eq!(answer.status(), 200);
                    }
                    if answer.status() == 103 {
                        answer = client.answer("PUT").unwrap();
                    }
                    in_time(begun, SECOND);
                    assert_eq!(answer.status(), 504, "{path}");
                    eventually("its line", || {
                        let lines = edge.access_lines();
                        lines.iter().any(|l| l.contains("reason=response_timeout")).then_some(())
                    });
                });
            }
        }
    });
    assert_eq!(origin.seen().len(), 12, "none is made once more");
}

#[test]
fn an_answer_that_ceases_is_cut_and_not_ended_as_if_it_were_whole() {
    let origin = Origin::new(|seen, reader| {
        let framing = match seen.message.path() {
            "/length" => "Content-Length: 100\r\n\r\nhello",
            "/chunked" => "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            _ => "Connection: close\r\n\r\nhello",
        };
        says(reader, format!("HTTP/1.1 200 OK\r\n{framing}"));
        let _ = reader.exactly(1);
        Then::Closes
    });
    let edge = before(&origin).env("EDGEPROXY_HTTP_BODY_TIMEOUT_SECS", "1").start();
    thread::scope(|scope| {
        for path in ["/length", "/chunked", "/close"] {
            for version in ["1.1", "1.0"] {
                let edge = &edge;
                scope.spawn(move || {
                    let mut client = Asking::to(edge);
                    let begun = Instant::now();
                    client.say(format!("GET {path} HTTP/{version}\r\nHost: web\r\n\r\n"));
                    let error = client.answer("GET").expect_err("it is not whole");
                    in_time(begun, SECOND);
                    assert_eq!(reason(edge, &client), "response_timeout", "{path}: {error}");
                });
            }
        }
    });
}

#[test]
fn a_reader_that_ceases_is_cut_and_not_ended_as_if_it_had_everything() {
    const LENGTH: usize = 64 << 20;
    let origin = Origin::new(|_, reader| {
        says(reader, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..LENGTH >> 16 {
            if says(reader, &piece) == Then::Closes {
                break;
            }
        }
        Then::Closes
    });
    let edge = before(&origin).env("EDGEPROXY_HTTP_BODY_TIMEOUT_SECS", "1").start();
    let mut client = Asking::to(&edge);
    client.say("GET / HTTP/1.0\r\nHost: web\r\n\r\n");
    client.head().unwrap();
    assert_eq!(reason(&edge, &client), "idle");
    // The answer goes on until the connection ends: an end would say that this is all.
    let rest = client.rest();
    assert!(rest.is_err(), "{} bytes, and an end", rest.unwrap().len());
}

#[test]
fn all_of_a_request_has_its_time() {
    let origin = Origin::of_heads(|seen, reader| {
        if seen.message.path() == "/begun" {
            says(reader, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while says(reader, "1\r\nx\r\n") == Then::Goes {
                thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = reader.rest();
        Then::Closes
    });
    let edge = before(&origin).env("EDGEPROXY_HTTP_REQUEST_TIMEOUT_SECS", "1").start();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, begun) = (Asking::to(&edge), Instant::now());
            assert_eq!(client.get("/silent").status(), 504);
            in_time(begun, SECOND);
        });
        scope.spawn(|| {
            let (mut client, begun) = (Asking::to(&edge), Instant::now());
            client.say(get("/begun"));
            client.answer("GET").expect_err("it is cut");
            in_time(begun, SECOND);
        });
        scope.spawn(|| {
            // Without a pause in its body.
            let (mut client, begun) = (Asking::to(&edge), Instant::now());
            client.say(request("POST", "/slow", "Transfer-Encoding: chunked\r\n"));
            let slow = Asking::new(client.stream.try_clone().unwrap());
            let bytes = b"1\r\nx\r\n".iter().copied().cycle();
            scope.spawn(move || drips(&slow, bytes, Duration::from_millis(20)));
            let answer = client.answer("POST").unwrap();
            in_time(begun, SECOND);
            assert!(matches!(answer.status(), 408 | 504), "{answer:?}");
            let _ = client.stream.shutdown(std::net::Shutdown::Both);
        });
    });
}

#[test]
fn hundreds_that_drip_do_not_keep_others_out() {
    let origin = Origin::named("a");
    let edge = before(&origin)
        .env("EDGEPROXY_HTTP_HEADER_TIMEOUT_SECS", "1")
        .env("EDGEPROXY_WORKERS", "1")
        .start();
    let mut slow: Vec<Asking> = (0..300).map(|_| Asking::to(&edge)).collect();
    for client in &mut slow {
        client.say("GET / HTTP/1.1\r\nHost");
    }
    let begun = Instant::now();
    let mut good = Asking::to(&edge);
    for _ in 0..50 {
        good.get("/");
    }
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    for client in &mut slow {
        assert_eq!(client.answer("GET").unwrap().status(), 408);
        client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        client.ends();
    }
}
