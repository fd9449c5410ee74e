//! Requests and answers of every shape.

use std::process::Command;

use super::peers::{Asking, Origin, Then, before, get, ok, once, request, says};
use crate::support::eventually;

#[test]
fn a_connection_of_http_1_1_goes_on_and_one_of_1_0_only_if_it_is_asked_to() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    for _ in 0..50 {
        let answer = client.get("/");
        assert!(answer.all("connection").is_empty(), "{answer:?}");
    }
    let answer = client.ask(&request("GET", "/", "Connection: close\r\n"));
    assert_eq!(answer.field("connection"), Some("close"));
    client.ends();

    let mut old = Asking::to(&edge);
    for _ in 0..3 {
        let answer = old.ask("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        assert_eq!(answer.field("connection"), Some("keep-alive"));
        assert!(answer.line.starts_with("HTTP/1.1 200"));
    }
    let answer = old.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer.field("connection"), Some("close"));
    old.ends();
}

#[test]
fn requests_in_one_piece_are_answered_in_their_order() {
    let origin = Origin::new(|seen, reader| {
        let body = if seen.message.method() == "HEAD" { "" } else { seen.message.path() };
        if seen.message.method() == "HEAD" {
            return says(reader, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
        }
        says(reader, ok(&format!("{body} {}", seen.message.text())))
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    let mut all = String::new();
    for number in 0..100 {
        all += &match number % 4 {
            0 => get(&format!("/{number}")),
            1 => request("POST", &format!("/{number}"), "Content-Length: 4\r\n") + "GET ",
            2 => request("HEAD", &format!("/{number}"), ""),
            _ => {
                request("POST", &format!("/{number}"), "Transfer-Encoding: chunked\r\n")
                    + "3\r\nabc\r\n0\r\nX: y\r\n\r\n"
            }
        };
    }
    client.say(all);
    for number in 0..100 {
        let method = ["GET", "POST", "HEAD", "POST"][number % 4];
        let answer = client.answer(method).unwrap();
        let body = ["", "GET ", "", "abc"][number % 4];
        match method {
            "HEAD" => assert_eq!(answer.field("content-length"), Some("100")),
            _ => assert_eq!(answer.text(), format!("/{number} {body}")),
        }
    }
}

#[test]
fn who_has_asked_and_says_no_more_is_answered_all_the_same() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.say(get("/1") + &get("/2"));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..2 {
        assert_eq!(client.answer("GET").unwrap().text(), "a");
    }
    client.ends();
}

#[test]
fn what_has_no_body_has_none_whatever_its_fields_say() {
    for (method, status, fields) in [
        ("HEAD", 200, "Content-Length: 1000\r\n"),
        ("HEAD", 200, "Transfer-Encoding: chunked\r\n"),
        ("HEAD", 404, ""),
        ("GET", 204, ""),
        ("DELETE", 204, ""),
        ("GET", 304, "Content-Length: 1000\r\nETag: \"x\"\r\n"),
        ("GET", 304, ""),
    ] {
        let answer = format!("HTTP/1.1 {status} -\r\n{fields}\r\n");
        let origin = Origin::saying(&answer);
        let edge = before(&origin).start();
        let mut client = Asking::to(&edge);
        for _ in 0..3 {
            let answer = client.ask(&request(method, "/", ""));
            assert_eq!(answer.status(), status, "{method} {status} {fields:?}");
            assert!(answer.all("connection").is_empty(), "{answer:?}");
            if fields.starts_with("Content") {
                assert_eq!(answer.field("content-length"), Some("1000"));
            }
        }
        assert_eq!(origin.accepted(), 1, "{method} {status} {fields:?}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_reaches_clients_of_each_version_as_they_can_take_it() {
    let origin = Origin::new(|_, reader| {
        says(reader, "HTTP/1.1 200 OK\r\n\r\nhello ");
        says(reader, "world");
        Then::Closes
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    for _ in 0..3 {
        let answer = client.get("/");
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.text(), "hello world");
    }
    let mut old = Asking::to(&edge);
    let answer = old.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((&*answer.text(), answer.field("connection")), ("hello world", Some("close")));
    assert!(answer.all("transfer-encoding").is_empty(), "{answer:?}");
}

#[test]
fn an_answer_in_chunks_reaches_clients_of_1_0_without_them() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n\
         0\r\nX-Sum: 1\r\n\r\n",
    );
    let edge = before(&origin).start();
    let answer = once(&edge, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((&*answer.text(), answer.field("connection")), ("hello world", Some("close")));
    assert!(answer.all("transfer-encoding").is_empty() && answer.all("content-length").is_empty());
}

#[test]
fn fields_behind_a_body_are_passed_on_both_ways_but_those_that_must_not_be_there() {
    const BEHIND: &str = "X-Sum: 17\r\nContent-Length: 3\r\nHost: evil\r\nX-Forwarded-For: 1.1.1.1\r\n\
                          Transfer-Encoding: chunked\r\nConnection: close\r\nSet-Cookie: a=b\r\n\
                          authorization: Basic x\r\nServer-Timing: x;dur=1\r\n";
    let origin = Origin::new(|_, reader| {
        says(
            reader,
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{BEHIND}\r\n"
            ),
        )
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    let fields = "TE: trailers, gzip\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n";
    for _ in 0..2 {
        let answer =
            client.ask(&(request("POST", "/", fields) + &format!("2\r\nyo\r\n0\r\n{BEHIND}\r\n")));
        let expected =
            [("X-Sum".to_owned(), "17".to_owned()), ("Server-Timing".into(), "x;dur=1".into())];
        assert_eq!(answer.trailers, expected);
        let asked = origin.last();
        assert_eq!(asked.trailers, expected);
        assert_eq!((asked.field("te"), asked.field("connection")), (Some("trailers"), Some("te")));
    }
}

#[test]
fn what_goes_before_an_answer_is_passed_on_to_who_understands_it() {
    let origin = Origin::saying(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\n\
         X-Hop: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
    );
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    for _ in 0..2 {
        let hints = client.get("/");
        assert_eq!((hints.status(), hints.field("link")), (103, Some("</a.css>; rel=preload")));
        assert!(hints.all("x-hop").is_empty() && hints.all("content-length").is_empty());
        assert_eq!(client.answer("GET").unwrap().status(), 102);
        assert_eq!(client.answer("GET").unwrap().text(), "a");
    }
    let old = once(&edge, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.status(), 200);
}

#[test]
fn who_waits_to_be_told_to_go_on_is_told_by_the_backend() {
    let origin = Origin::of_heads(|seen, reader| {
        if seen.message.path() == "/no" {
            return says(reader, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
        }
        assert_eq!(seen.message.field("expect"), Some("100-continue"));
        says(reader, "HTTP/1.1 100 Continue\r\n\r\n");
        let body = reader.exactly(5).unwrap();
        says(reader, ok(&String::from_utf8(body).unwrap()))
    });
    let edge = before(&origin).start();
    let fields = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    let mut client = Asking::to(&edge);
    for _ in 0..2 {
        let go_on = client.ask(&request("POST", "/", fields));
        assert_eq!((&*go_on.line, go_on.all("connection").len()), ("HTTP/1.1 100 Continue", 0));
        client.say("hello");
        assert_eq!(client.answer("POST").unwrap().text(), "hello");
    }
    let refused = client.ask(&request("POST", "/no", fields));
    assert_eq!((refused.status(), &*refused.text()), (413, "no"));
    assert_eq!(refused.field("connection"), Some("close"), "what it would say now is no request");
    client.ends();
}

#[test]
fn curl_waits_to_be_told_to_go_on_and_is() {
    let origin = Origin::of_heads(|seen, reader| {
        if seen.message.field("expect").is_some() {
            says(reader, "HTTP/1.1 100 Continue\r\n\r\n");
        }
        let mut message = seen.message.clone();
        match seen.message.field("content-length") {
            Some(length) => message.body = reader.exactly(length.parse().unwrap()).unwrap(),
            None => reader.chunks(&mut message).unwrap(),
        }
        says(reader, ok(&message.body.len().to_string()))
    });
    let edge = before(&origin).start();
    let file = edge.site.path("body");
    std::fs::write(&file, vec![b'x'; 2 << 20]).unwrap();
    let url = format!("http://{}/", edge.addr);
    let data = format!("@{}", file.display());
    for more in [&["-H", "Content-Type: x"][..], &["-H", "Transfer-Encoding: chunked"]] {
        // Without an answer to its expectation, it would wait for a minute.
        let output = Command::new("curl")
            .args(["-sSv", "--max-time", "10", "--expect100-timeout", "60"])
            .args(["-H", "Expect: 100-continue", "--data-binary", &data])
            .args(more)
            .args([&url, &url])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "20971522097152", "{said}");
        assert!(said.contains("100 Continue"), "{said}");
    }
}

#[test]
fn a_backend_that_answers_before_it_has_heard_everything_is_heard() {
    // It refuses, and closes without reading more.
    let origin = Origin::of_heads(|_, reader| {
        says(reader, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
        Then::Closes
    });
    let edge = before(&origin).start();
    for _ in 0..20 {
        let mut client = Asking::to(&edge);
        client.say(request("POST", "/", "Content-Length: 1000000\r\n"));
        let _ = std::io::Write::write_all(&mut client.stream, &vec![b'x'; 200_000]);
        let answer = client
            .answer("POST")
            .unwrap_or_else(|error| panic!("{error}: {:#?}", edge.access_of_addr(client.addr())));
        assert_eq!((answer.status(), &*answer.text()), (413, "big"));
        assert_eq!(answer.field("connection"), Some("close"));
    }
    eventually("each has its line", || {
        let lines = edge.access_lines();
        (lines.iter().filter(|line| line.contains("status=413")).count() == 20).then_some(())
    });
}

#[test]
fn a_head_in_any_pieces_is_the_same_head() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.stream.set_nodelay(true).unwrap();
    let text =
        request("POST", "/x", "Transfer-Encoding: chunked\r\n") + "3\r\nabc\r\n0\r\nX: y\r\n\r\n";
    for split in 1..text.len() {
        let (first, second) = text.split_at(split);
        client.say(first);
        client.say(second);
        assert_eq!(client.answer("POST").unwrap().text(), "a");
        let asked = origin.last();
        assert_eq!(
            (asked.path(), &*asked.text(), asked.trailers.len()),
            ("/x", "abc", 1),
            "{split}"
        );
    }
}

#[test]
fn an_empty_line_before_a_request_is_left_aside_and_many_are_not() {
    let origin = Origin::named("a");
    let edge = before(&origin).env("EDGEPROXY_HTTP_KEEP_ALIVE_TIMEOUT_SECS", "600").start();
    let mut client = Asking::to(&edge);
    // Before the first, behind a body, and in pieces.
    client.say(format!("\r\n{}", get("/1")));
    assert_eq!(client.answer("GET").unwrap().status(), 200);
    client.say(request("POST", "/2", "Content-Length: 1\r\n") + "x\r\n" + &get("/3"));
    assert_eq!(client.answer("POST").unwrap().status(), 200);
    assert_eq!(client.answer("GET").unwrap().status(), 200);
    for piece in ["\r", "\n\r", "\nGET /4 HT"] {
        client.say(piece);
    }
    client.say("TP/1.1\r\nHost: web\r\n\r\n");
    assert_eq!(client.answer("GET").unwrap().status(), 200);
    let paths: Vec<String> =
        origin.seen().iter().map(|seen| seen.message.path().to_owned()).collect();
    assert_eq!(paths, ["/1", "/2", "/3", "/4"]);
    client.say(format!("\r\n\r\n\r\n{}", get("/5")));
    assert_eq!(client.answer("GET").unwrap().status(), 400);
    client.ends();

    // Nothing else goes before one.
    for before in ["\n", "\r", " \r\n", "\r\n ", "\r\n\n", "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = Asking::to(&edge);
        client.say(format!("{before}{}", get("/6")));
        let status = client.answer("GET").unwrap().status();
        assert!(matches!(status, 400 | 505), "{status} to {before:?}");
    }
    assert_eq!(origin.seen().len(), 4);
}

#[test]
fn empty_lines_keep_no_connection_open() {
    let origin = Origin::named("a");
    let edge = before(&origin).env("EDGEPROXY_HTTP_KEEP_ALIVE_TIMEOUT_SECS", "1").start();
    let mut client = Asking::to(&edge);
    client.get("/");
    client.say("\r\n");
    client.ends();
    // A head that has begun behind one has its own time.
    let edge = before(&origin).env("EDGEPROXY_HTTP_HEADER_TIMEOUT_SECS", "1").start();
    let mut client = Asking::to(&edge);
    client.get("/");
    client.say("\r\nGET / HT");
    assert_eq!(client.answer("GET").unwrap().status(), 408);
}
