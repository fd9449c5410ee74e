//! Bodies of requests and answers, many at once on one connection.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue};

use super::client::{
    ask, connect, connect_with, fetch, get, post, read, request, running, send, until,
};
use crate::http::peers::{Origin, Then, before, ok, says};
use crate::http::streaming::growth_while;
use crate::support::{eventually, noise};

const MIB: usize = 1 << 20;
/// What a body may have that is longer than anything that may be held of it.
const LONG: usize = 64 * MIB;
const PIECE: usize = 256 << 10;
/// What the process may have more than before.
const SLACK_KIB: u64 = 6 << 10;

/// Answers with what it has been asked, and with `LONG` bytes at `/long`.
fn echo() -> Origin {
    Origin::new(|seen, reader| {
        if seen.message.path() == "/long" {
            says(reader, format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n"));
            let piece = noise(1, PIECE);
            for _ in 0..LONG / PIECE {
                if says(reader, &piece) == Then::Closes {
                    return Then::Closes;
                }
            }
            return Then::Goes;
        }
        let body = &seen.message.body;
        says(reader, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        says(reader, body)
    })
}

/// Reads a body on and on, and says how long it is.
fn sink() -> Origin {
    Origin::of_heads(|_, reader| {
        let mut length = 0;
        loop {
            let Ok(line) = reader.line() else { return Then::Closes };
            let chunk = usize::from_str_radix(&line, 16).unwrap();
            if chunk == 0 {
                let _ = reader.line();
                return says(reader, ok(&length.to_string()));
            }
            let Ok(_) = reader.exactly(chunk + 2) else { return Then::Closes };
            length += chunk;
        }
    })
}

#[test]
fn long_bodies_take_no_more_memory_than_short_ones() {
    let (down, up) = (echo(), sink());
    let [down, up] = [&down, &up].map(|origin| before(origin).start());
    running(async {
        let asks = connect(&down).await;
        get(&asks, "/").await;
        let growth = growth_while(&down, || {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    running(async {
                        let asks = connect(&down).await;
                        let (answer, _) = ask(&asks, request("GET", "/long"), true).await;
                        let mut body = answer.await.unwrap().into_body();
                        let (mut length, piece) = (0, noise(1, PIECE));
                        while let Some(data) = body.data().await {
                            let data = data.unwrap();
                            body.flow_control().release_capacity(data.len()).unwrap();
                            assert!(
                                data.iter()
                                    .zip(piece.iter().cycle().skip(length % PIECE))
                                    .all(|(a, b)| a == b)
                            );
                            length += data.len();
                        }
                        assert_eq!(length, LONG);
                    });
                });
            });
        });
        assert!(growth < SLACK_KIB, "{growth} KiB more while it went");
    });
    running(async { post(&connect(&up).await, "/", Bytes::from(noise(1, PIECE))).await.unwrap() });
    let growth = growth_while(&up, || {
        running(async {
            let (answer, mut stream) = ask(&connect(&up).await, request("POST", "/"), false).await;
            let piece = Bytes::from(noise(1, PIECE));
            for number in 1..=LONG / PIECE {
                send(&mut stream, piece.clone(), number == LONG / PIECE).await.unwrap();
            }
            let answer = read(answer.await.unwrap()).await.unwrap();
            assert_eq!(answer.text(), LONG.to_string());
        });
    });
    assert!(growth < SLACK_KIB, "{growth} KiB more while it came");
}

#[test]
fn many_at_once_do_not_mix() {
    const STREAMS: usize = 100;
    let origin = echo();
    let edge = before(&origin).env("EDGEPROXY_POOL_ENABLED", "true").start();
    running(async {
        let asks = connect(&edge).await;
        for _ in 0..2 {
            let all: Vec<_> = (0..STREAMS)
                .map(|number| {
                    let asks = asks.clone();
                    tokio::spawn(async move {
                        let body = noise(number as u64, 1_000 + number * 1_500);
                        let answer = post(&asks, "/", body.clone()).await.unwrap();
                        assert!(answer.body == body, "{number}");
                    })
                })
                .collect();
            for one in all {
                one.await.unwrap();
            }
        }
    });
}

#[test]
fn a_reader_that_takes_nothing_slows_its_backends_and_is_broken_off() {
    const STREAMS: usize = 30;
    let written: &'static AtomicUsize = Box::leak(Box::default());
    let origin = Origin::new(move |seen, reader| {
        if seen.message.path() == "/" {
            return says(reader, ok("a"));
        }
        says(reader, format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n"));
        let piece = noise(1, PIECE);
        for _ in 0..LONG / PIECE {
            if reader.stream.write_all(&piece).is_err() {
                return Then::Closes;
            }
            written.fetch_add(PIECE, Ordering::SeqCst);
        }
        Then::Goes
    });
    let edge = before(&origin).env("EDGEPROXY_HTTP_BODY_TIMEOUT_SECS", "1").start();
    running(async { get(&connect(&edge).await, "/").await });
    let growth = growth_while(&edge, || {
        running(async {
            let asks = connect(&edge).await;
            let mut bodies = Vec::new();
            for _ in 0..STREAMS {
                let (answer, stream) = ask(&asks, request("GET", "/long"), true).await;
                bodies.push((answer.await.unwrap().into_body(), stream));
            }
            // Its windows are full, and those of the connection: another is not.
            let other = connect(&edge).await;
            let begun = Instant::now();
            get(&other, "/").await;
            assert!(begun.elapsed() < Duration::from_secs(1));
            for (mut body, _stream) in bodies {
                let ended = loop {
                    match body.data().await {
                        Some(Ok(_)) => {}
                        ended => break ended,
                    }
                };
                let error = ended.expect("no end as if it were whole").unwrap_err();
                assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{error}");
            }
            until("each is told of", || {
                edge.access_lines().iter().filter(|line| line.contains("=idle")).count() == STREAMS
            })
            .await;
            get(&other, "/").await;
        });
    });
    assert!(growth < 2 * SLACK_KIB, "{growth} KiB more");
    let written = written.load(Ordering::SeqCst);
    assert!(written < STREAMS * LONG / 4, "{} MiB", written / MIB);
}

#[test]
fn one_that_is_taken_back_is_given_up_and_the_others_go_on() {
    let (gone, goes) = channel::<usize>();
    let gone = Mutex::new(gone);
    let (more, rest) = channel::<()>();
    let rest = Mutex::new(rest);
    let origin = Origin::new(move |seen, reader| match seen.message.path() {
        "/endless" => {
            says(reader, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            // Not in small pieces: of those the client's library takes only so many.
            let piece = format!("1000\r\n{}\r\n", "x".repeat(4_096));
            while says(reader, &piece) == Then::Goes {}
            gone.lock().unwrap().send(seen.connection).unwrap();
            Then::Closes
        }
        "/silent" => {
            let _ = reader.exactly(1);
            gone.lock().unwrap().send(seen.connection).unwrap();
            Then::Closes
        }
        _ => {
            says(reader, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            let _ = rest.lock().unwrap().recv();
            says(reader, "world")
        }
    });
    let edge = before(&origin).start();
    running(async {
        let asks = connect(&edge).await;
        let (other, _) = ask(&asks, request("GET", "/other"), true).await;
        let other = other.await.unwrap();
        let (endless, mut endless_stream) = ask(&asks, request("GET", "/endless"), true).await;
        let mut body = endless.await.unwrap().into_body();
        body.data().await.unwrap().unwrap();
        let (silent, mut silent_stream) = ask(&asks, request("GET", "/silent"), true).await;
        until("the backend has all", || origin.seen().len() == 3).await;
        endless_stream.send_reset(Reason::CANCEL);
        silent_stream.send_reset(Reason::CANCEL);
        let (_body, _silent) = (body, silent);
        let mut over = 0;
        until("both backends are told", || {
            over += goes.try_iter().count();
            over == 2
        })
        .await;
        more.send(()).unwrap();
        assert_eq!(read(other).await.unwrap().text(), "helloworld");
    });
    for path in ["/endless", "/silent"] {
        let line = edge.access_line(&format!("path={path}"));
        assert!(line.contains("reason=client_reset") && line.contains("version=HTTP/2"), "{line}");
    }
    edge.access_line("path=/other");
    assert_eq!(edge.access_lines().len(), 3);
}

#[test]
fn an_upload_that_is_taken_back_never_looks_whole() {
    let origin = Origin::new(|_, reader| says(reader, ok("whole")));
    let edge = before(&origin).start();
    running(async {
        let asks = connect(&edge).await;
        for length in [None, Some("10")] {
            let mut asked = request("POST", "/");
            if let Some(length) = length {
                asked.headers_mut().insert("content-length", HeaderValue::from_static(length));
            }
            let accepted = origin.accepted();
            let (answer, mut stream) = ask(&asks, asked, false).await;
            send(&mut stream, Bytes::from_static(b"hello"), false).await.unwrap();
            until("it is on its way", || origin.accepted() > accepted).await;
            stream.send_reset(Reason::CANCEL);
            assert!(answer.await.is_err());
        }
        let (_, mut stream) = ask(&asks, request("POST", "/"), false).await;
        send(&mut stream, Bytes::from_static(b"hello"), false).await.unwrap();
    });
    let is_one = |line: &&String| line.contains("reason=client_reset");
    eventually("each is told of", || {
        (edge.access_lines().iter().filter(is_one).count() == 3).then_some(())
    });
    assert!(origin.seen().is_empty());
}

#[test]
fn an_answer_that_comes_early_ends_the_upload_and_nothing_else() {
    let origin = Origin::of_heads(|seen, reader| {
        if seen.message.method() == "GET" {
            return says(reader, ok("a"));
        }
        says(reader, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlong");
        let _ = reader.rest();
        Then::Closes
    });
    let edge = before(&origin).start();
    running(async {
        let asks = connect(&edge).await;
        for _ in 0..20 {
            let (answer, mut stream) = ask(&asks, request("POST", "/"), false).await;
            let piece = Bytes::from(noise(1, 100_000));
            let sends = async {
                // Until it is told that nobody wants it.
                while send(&mut stream, piece.clone(), false).await.is_ok() {}
                std::future::poll_fn(|context| stream.poll_reset(context)).await
            };
            let reads = async { read(answer.await.unwrap()).await.unwrap() };
            let (reset, answer) = tokio::join!(sends, reads);
            assert_eq!(reset.unwrap(), Reason::NO_ERROR);
            assert_eq!((answer.status, &*answer.text()), (413, "long"));
            assert_eq!(get(&asks, "/").await.text(), "a");
        }
    });
}

#[test]
fn trailers_go_both_ways() {
    let origin = Origin::new(|seen, reader| {
        assert_eq!(seen.message.trailers, [("x-sum".to_owned(), "5".to_owned())]);
        let trailers = "X-Sum: 7\r\nX-Two: a\r\nx-two: b\r\nContent-Length: 9\r\n";
        says(reader, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        says(reader, format!("5\r\nhello\r\n0\r\n{trailers}\r\n"))
    });
    let edge = before(&origin).start();
    running(async {
        let asks = connect(&edge).await;
        let mut asked = request("POST", "/");
        asked.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let (answer, mut stream) = ask(&asks, asked, false).await;
        send(&mut stream, Bytes::from_static(b"hello"), false).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("5"));
        stream.send_trailers(trailers).unwrap();
        let answer = read(answer.await.unwrap()).await.unwrap();
        assert_eq!(answer.text(), "hello");
        let trailers = answer.trailers.expect("trailers");
        let all: Vec<_> = trailers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(all, [("x-sum", "7"), ("x-two", "a"), ("x-two", "b")]);
        assert_eq!(origin.last().field("te"), Some("trailers"));
    });
}

#[test]
fn answers_without_a_body_have_none() {
    let origin = Origin::new(|seen, reader| match seen.message.path() {
        "/204" => says(reader, "HTTP/1.1 204 No Content\r\nETag: x\r\n\r\n"),
        "/304" => says(reader, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
        "/empty" => says(reader, ok("")),
        "/chunks" => says(reader, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "/close" => {
            says(reader, "HTTP/1.1 200 OK\r\nConnection: close, x-hop\r\nX-Hop: y\r\n\r\nall");
            Then::Closes
        }
        _ => says(reader, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nKeep-Alive: x\r\n\r\n"),
    });
    let edge = before(&origin).start();
    running(async {
        let asks = connect(&edge).await;
        for _ in 0..3 {
            for (method, path, status, length, body) in [
                ("HEAD", "/", 200, Some("7"), ""),
                ("GET", "/204", 204, None, ""),
                ("GET", "/304", 304, Some("7"), ""),
                ("GET", "/empty", 200, Some("0"), ""),
                ("GET", "/chunks", 200, None, ""),
                ("GET", "/close", 200, None, "all"),
            ] {
                let answer = fetch(&asks, request(method, path)).await.unwrap();
                assert_eq!((answer.status, &*answer.text()), (status, body), "{path}");
                assert_eq!(answer.field("content-length"), length, "{path}");
                for name in ["connection", "keep-alive", "transfer-encoding", "x-hop"] {
                    assert!(!answer.fields.contains_key(name), "{name} of {path}");
                }
            }
        }
    });
}

#[test]
fn answers_that_go_before_the_answer_are_passed_on() {
    let origin = Origin::of_heads(|seen, reader| {
        if seen.message.method() == "POST" {
            assert_eq!(seen.message.field("expect"), Some("100-continue"));
            says(reader, "HTTP/1.1 100 Continue\r\n\r\n");
            let mut message = seen.message.clone();
            reader.chunks(&mut message).unwrap();
            return says(reader, ok(&message.text()));
        }
        for link in ["</a.css>", "</b.css>"] {
            says(reader, format!("HTTP/1.1 103 Early Hints\r\nLink: {link}\r\n\r\n"));
        }
        says(reader, ok("hinted"))
    });
    let edge = before(&origin).start();
    running(async {
        let asks = connect(&edge).await;
        let (mut answer, _) = ask(&asks, request("GET", "/"), true).await;
        let mut hints = Vec::new();
        for _ in 0..2 {
            let hint = std::future::poll_fn(|context| answer.poll_informational(context)).await;
            let hint = hint.unwrap().unwrap();
            assert_eq!(hint.status(), 103);
            hints.push(hint.headers()["link"].to_str().unwrap().to_owned());
        }
        assert_eq!(hints, ["</a.css>", "</b.css>"]);
        assert_eq!(read(answer.await.unwrap()).await.unwrap().text(), "hinted");

        let mut asked = request("POST", "/");
        asked.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
        let (mut answer, mut stream) = ask(&asks, asked, false).await;
        let goes = std::future::poll_fn(|context| answer.poll_informational(context)).await;
        assert_eq!(goes.unwrap().unwrap().status(), 100);
        send(&mut stream, Bytes::from_static(b"hello"), true).await.unwrap();
        assert_eq!(read(answer.await.unwrap()).await.unwrap().text(), "hello");
    });
}

#[test]
fn windows_of_any_size_will_do() {
    let origin = echo();
    let edge = before(&origin).start();
    let body = Arc::new(noise(5, 300_000));
    running(async {
        for window in [1_000, 16_384, 65_535, 8 << 20] {
            let asks = connect_with(&edge, |builder| {
                builder
                    .initial_window_size(window)
                    .initial_connection_window_size(window.max(65_535));
            })
            .await;
            for _ in 0..2 {
                let answer = post(&asks, "/", body.to_vec()).await.unwrap();
                assert!(answer.body == *body, "{window}");
            }
        }
    });
}

#[test]
fn what_is_refused_is_said_in_the_form_that_its_client_takes() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    running(async {
        let asks = connect(&edge).await;
        for (method, length) in [("GET", true), ("HEAD", false)] {
            let mut request = request(method, "/");
            let fields = request.headers_mut();
            fields.insert("accept", "application/json".parse().unwrap());
            fields.insert("expect", "z".parse().unwrap());
            let answer = fetch(&asks, request).await.unwrap();
            assert_eq!(
                (answer.status, answer.field("content-type")),
                (417, Some("application/json"))
            );
            assert_eq!(!answer.body.is_empty(), length, "{method}");
        }
    });
}
