//! What clients are told by the edge itself.

use serde_json::Value;

use super::peers::{Asking, Message, Origin, Then, before, get, once, request, site};
use crate::support::{Edge, Refusing, Row};

/// The request's id as an answer says it, in text or JSON.
fn id_of(answer: &Message) -> String {
    let text = answer.text();
    let id = match serde_json::from_str::<Value>(&text) {
        Ok(json) => json["request_id"].as_str().expect("an id").to_owned(),
        Err(_) => text.lines().last().and_then(|line| line.split(' ').nth(1)).unwrap().to_owned(),
    };
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    id
}

/// A site that answers 502 itself: nobody listens at its only backend.
fn dead(port: &Refusing) -> Edge {
    site().backend(Row::new("a", port.addr())).start()
}

#[test]
fn an_error_is_short_in_the_form_that_its_client_takes_and_has_the_requests_id() {
    let port = Refusing::new();
    let edge = dead(&port);
    for (accept, json) in [
        ("", false),
        ("Accept: */*\r\n", false),
        ("Accept: text/html, text/plain\r\n", false),
        ("Accept: application/json\r\n", true),
        ("Accept: text/plain;q=0.5\r\nAccept: application/problem+json\r\n", true),
        ("ACCEPT: Application/JSON\r\n", true),
    ] {
        let answer = once(&edge, &request("GET", "/", accept));
        assert_eq!(answer.status(), 502, "{accept:?}");
        let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
        assert_eq!(answer.field("content-type"), Some(kind), "{accept:?}");
        assert_eq!(answer.field("cache-control"), Some("no-store"));
        assert!(answer.body.len() < 200, "{}", answer.text());
        if json {
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(body["status"], 502);
        } else {
            assert!(answer.text().starts_with("502 Bad Gateway"), "{}", answer.text());
        }
        let line = edge.access_line(&id_of(&answer));
        assert!(line.contains("status=502") && line.contains("reason=connect_failed"), "{line}");
    }
    // The id is the trace's, if there is one.
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let given = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n");
    assert_eq!(id_of(&once(&edge, &request("GET", "/", &given))), trace);
}

#[test]
fn what_is_no_request_is_refused_in_the_form_that_its_client_takes() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    for (head, status) in [
        ("GET / HTTP/1.1\r\nAccept: application/json\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nACCEPT:text/html,application/json\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nAccept: application/json\r\nHost: a\r\nContent-Length: 1\r\n\
             Content-Length: 2\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\nAccept: application/json\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nAccept: application/json\r\nHost: a\r\nExpect: z\r\n\r\n", 417),
        ("GET / HTTP/3.0\r\nAccept: application/json\r\nHost: a\r\n\r\n", 505),
    ] {
        let answer = once(&edge, head);
        assert_eq!(answer.status(), status, "{head:?}");
        assert_eq!(answer.field("content-type"), Some("application/json"), "{head:?}");
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(body["status"], status, "{head:?}");
        edge.access_line(&id_of(&answer));
    }
    for head in [
        "GET / HTTP/1.1\r\nX-Accept: application/json\r\n\r\n",
        "GET / HTTP/1.1\r\nAccept: text/html\r\n\r\nAccept: application/json\r\n\r\n",
        "nonsense\n\n",
    ] {
        let answer = once(&edge, head);
        assert_eq!(answer.field("content-type"), Some("text/plain; charset=utf-8"), "{head:?}");
    }
}

#[test]
fn a_head_has_the_fields_and_not_the_body() {
    let port = Refusing::new();
    let edge = dead(&port);
    let mut client = Asking::to(&edge);
    for _ in 0..3 {
        let answer = client.ask(&request("HEAD", "/", ""));
        assert_eq!(answer.status(), 502);
        assert_ne!(answer.field("content-length"), Some("0"));
        // If it had one, this would be read as the next answer.
        assert_eq!(client.get("/").status(), 502);
    }
}

#[test]
fn after_an_error_the_connection_goes_on_unless_there_may_be_more_of_its_request() {
    let port = Refusing::new();
    let edge = dead(&port);
    let mut client = Asking::to(&edge);
    for _ in 0..5 {
        let answer = client.get("/");
        assert!(answer.all("connection").is_empty(), "{answer:?}");
    }
    client.say(request("POST", "/", "Content-Length: 100\r\n"));
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status(), answer.field("connection")), (502, Some("close")));
}

#[test]
fn without_any_backend_it_is_a_503() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.get("/");
    edge.site.sql("DELETE FROM backends");
    crate::support::eventually("nobody serves", || (client.get("/").status() == 503).then_some(()));
    let line = edge.access_line("status=503");
    assert!(line.contains("reason=no_backend"), "{line}");
}

#[test]
fn what_is_no_answer_is_a_502_and_no_client_sees_any_of_it() {
    for nonsense in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    ] {
        let origin = Origin::new(move |_, reader| {
            let _ = std::io::Write::write_all(&mut reader.stream, nonsense.as_bytes());
            Then::Closes
        });
        let edge = before(&origin).start();
        let mut client = Asking::to(&edge);
        for _ in 0..2 {
            let answer = client.get("/");
            assert_eq!(answer.status(), 502, "{nonsense:?}");
            assert!(!answer.text().contains("secret"), "{nonsense:?}");
        }
        assert!(edge.access_line("status=502").contains("reason=backend_reset"), "{nonsense:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_never_ended_as_if_it_were_whole() {
    for (head, cut) in [
        ("Content-Length: 10\r\n\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n", "5\r\nhel"),
        ("Transfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\nx\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\nX: "),
    ] {
        for version in ["1.1", "1.0"] {
            let origin = Origin::new(move |_, reader| {
                let text = format!("HTTP/1.1 200 OK\r\n{head}{cut}");
                let _ = std::io::Write::write_all(&mut reader.stream, text.as_bytes());
                Then::Closes
            });
            let edge = before(&origin).start();
            let mut client = Asking::to(&edge);
            let answer = client.try_ask(&format!("GET / HTTP/{version}\r\nHost: web\r\n\r\n"));
            let error = answer.expect_err("it is not whole");
            let reason = edge.access_of_addr(client.addr())["reason"].to_owned();
            assert_eq!(reason, "backend_reset", "{cut:?} {version}: {error}");
        }
    }
}

#[test]
fn methods_that_are_not_for_an_edge_are_refused() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    for (request, status) in [
        ("CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: web\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nHost: web\r\nExpect: miracles\r\n\r\n", 417),
        ("GET / HTTP/3.0\r\nHost: web\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\n\r\n", 400),
    ] {
        let answer = once(&edge, request);
        assert_eq!(answer.status(), status, "{request:?}");
        id_of(&answer);
    }
    assert!(origin.seen().is_empty());
    assert_eq!(once(&edge, &get("/")).status(), 200);
}

#[test]
fn who_is_answered_in_the_midst_of_a_request_may_say_the_rest_of_it() {
    // A close while bytes are on their way would be a reset, which may overtake the answer.
    let origin = Origin::named("a");
    let edge = before(&origin)
        .env("EDGEPROXY_RATE_LIMIT_ENABLED", "true")
        .env("EDGEPROXY_RATE_LIMIT_MAX_REQUESTS", "1")
        .env("EDGEPROXY_RATE_LIMIT_WINDOW_SECS", "60")
        .env("EDGEPROXY_RATE_LIMIT_BURST", "1")
        .start();
    once(&edge, &get("/"));
    for head in [
        request("POST", "/", "Content-Length: 5000000\r\n"),
        request("POST", "/", "Transfer-Encoding: chunked\r\n"),
        "POST / HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n".to_owned(),
        "nonsense\n\n".to_owned(),
    ] {
        let mut client = Asking::to(&edge);
        client.say(&head);
        let answer = client.answer("POST").unwrap();
        assert!(matches!(answer.status(), 400 | 429), "{answer:?}");
        for _ in 0..100 {
            client.say([b'x'; 4096]);
        }
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        client.ends();
    }
}

#[test]
fn a_last_answer_survives_what_its_client_had_asked_behind_it() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    for _ in 0..30 {
        let mut client = Asking::to(&edge);
        client.stream.set_nodelay(true).unwrap();
        // Refused, and the connection ends: what comes next is on its way already.
        client.say("GET / HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n");
        for _ in 0..20 {
            let _ = std::io::Write::write_all(&mut client.stream, get("/").as_bytes());
        }
        assert_eq!(client.answer("GET").unwrap().status(), 400);
        client.ends();
    }
    assert!(origin.seen().is_empty(), "none of it was taken for a request");
}
