//! What is told of requests: the access log and the metrics.

use std::time::Duration;

use serde_json::Value;

use super::peers::{Asking, Origin, Then, before, get, ok, once, request, says, site};
use crate::support::{Access, Refusing, Row, eventually};

#[test]
fn a_line_in_text_has_every_field_of_the_request() {
    let origin = Origin::new(|seen, reader| says(reader, ok(&seen.message.text())));
    let edge = before(&origin).with_geography().start();
    let mut client = Asking::from("127.0.2.5", &edge);
    client.ask(&(request("POST", "/a%20b?c=d\"e", "Content-Length: 5\r\n") + "hello"));
    client.ask("GET /old HTTP/1.0\r\nHost: web:80\r\n\r\n");
    let addr = client.addr().to_string();
    let line = Access::parse(&edge.access_line("method=POST"));
    for (key, value) in [
        ("client", &*addr),
        ("country", "DE"),
        ("app", "web"),
        ("backend", "a"),
        ("tries", "1"),
        ("sent", "5"),
        ("reason", "served"),
        ("host", "web"),
        ("path", "/a%20b?c=d\"e"),
        ("version", "HTTP/1.1"),
        ("status", "200"),
    ] {
        assert_eq!(&line[key], value, "{key} of {line:?}");
    }
    assert_eq!(line["request_id"].len(), 32);
    assert!(line.number("duration_ms") < 15_000.0 && line.number("received") > 5.0);
    let old = Access::parse(&edge.access_line("path=/old"));
    assert_eq!((&old["version"], &old["host"], &old["method"]), ("HTTP/1.0", "web:80", "GET"));
}

#[test]
fn a_line_in_json_has_the_same_and_nothing_in_a_request_breaks_it() {
    let origin = Origin::named("a");
    let edge = before(&origin).env("EDGEPROXY_LOG_FORMAT", "json").start();
    for path in ["/\"}{\\", "/?a=%0a&b='", "/x"] {
        once(&edge, &request("GET", path, ""));
        eventually("its line", || {
            let lines = edge.access_lines();
            let parsed = lines.iter().map(|line| {
                serde_json::from_str::<Value>(line)
                    .unwrap_or_else(|error| panic!("{error}: {line}"))
            });
            let mut own = parsed.filter(|line| line["path"] == path);
            own.next().map(|line| {
                assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"served".into()));
                assert_eq!(line["request_id"].as_str().map(str::len), Some(32));
                assert_eq!((&line["method"], &line["host"]), (&"GET".into(), &"web".into()));
            })
        });
    }
}

#[test]
fn a_connection_without_a_request_has_no_line_and_each_request_has_one() {
    let origin = Origin::named("a");
    let mut edge = before(&origin).start();
    drop(Asking::to(&edge));
    let mut client = Asking::to(&edge);
    for _ in 0..10 {
        client.get("/");
    }
    client.say("nonsense\r\n\r\n");
    assert_eq!(client.answer("GET").unwrap().status(), 400);
    drop(client);
    edge.signal(rustix::process::Signal::TERM);
    let exit = edge.exit();
    let reasons: Vec<String> = exit.access().iter().map(|line| line["reason"].to_owned()).collect();
    assert_eq!(reasons.len(), 11, "{reasons:?}");
    assert_eq!(reasons.last().unwrap(), "bad_request");
}

#[test]
fn metrics_count_requests_failures_and_their_time() {
    let origin = Origin::new(|seen, reader| match seen.message.path() {
        "/404" => says(reader, "HTTP/1.1 404 -\r\nContent-Length: 0\r\n\r\n"),
        "/500" => says(reader, "HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n"),
        "/304" => says(reader, "HTTP/1.1 304 -\r\n\r\n"),
        "/slow" => {
            std::thread::sleep(Duration::from_millis(300));
            says(reader, ok("slow"))
        }
        "/closes" => Then::Closes,
        "/breaks" => {
            says(reader, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx");
            Then::Closes
        }
        _ => says(reader, ok("a")),
    });
    let edge = before(&origin).with_metrics().start();
    for path in ["/", "/", "/", "/404", "/500", "/304", "/slow", "/closes"] {
        once(&edge, &get(path));
    }
    assert!(Asking::to(&edge).try_ask(&get("/breaks")).is_err());
    once(&edge, "GET / HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n");
    let metrics = edge.metrics_when("all are counted", |metrics| {
        metrics.sum("edgeproxy_http_requests_total", &[]) == 10
    });
    let of = |class: &str| metrics.sum("edgeproxy_http_requests_total", &[("status", class)]);
    // That which broke off had a status.
    assert_eq!([of("2xx"), of("3xx"), of("4xx"), of("5xx"), of("none")], [5, 1, 2, 2, 0]);
    let failed =
        |reason: &str| metrics.value("edgeproxy_http_failures_total", &[("reason", reason)]);
    assert_eq!((failed("backend_reset"), failed("bad_request"), failed("rate_limited")), (2, 1, 0));
    assert_eq!(metrics.sum("edgeproxy_http_failures_total", &[]), 3);
    let count = metrics.value("edgeproxy_http_request_seconds_count", &[]);
    assert_eq!(count, 10);
    let slow = metrics.seconds("edgeproxy_http_request_seconds_sum");
    assert!((0.3..15.0).contains(&slow), "{slow}");
}

#[test]
fn what_a_request_cost_is_told_when_it_was_made_twice_or_elsewhere() {
    let dead = Refusing::new();
    let origin = Origin::new(|seen, reader| match seen.before {
        0 => says(reader, ok("a")),
        _ => Then::Closes,
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.get("/first");
    client.get("/second");
    let line = Access::parse(&edge.access_line("path=/second"));
    assert_eq!((&line["tries"], &line["backend"], &line["status"]), ("2", "a", "200"));

    let edge = site().backend(Row::new("dead", dead.addr())).start();
    once(&edge, &get("/"));
    let line = Access::parse(&edge.access_line("path=/"));
    assert_eq!((&line["backend"], &line["reason"]), ("dead", "connect_failed"));
}
