//! One line for every connection, and none of them ever in a connection's way.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Backend, Edge, Row, Site};

fn site(backend: &Backend) -> Site {
    Site::new().with_geography().backend(Row::new("fra-1", backend.addr()).place("eu", "DE"))
}

/// One connection from Germany: 5 bytes up, 7 + 5 down.
fn one_connection(edge: &Edge) -> String {
    let mut visit = edge.visit_from("127.0.2.5").unwrap();
    visit.client.echo("hello").unwrap();
    let addr = visit.client.addr().to_string();
    drop(visit);
    addr
}

#[test]
fn a_text_line_has_every_field_with_the_right_value() {
    let backend = Backend::named("fra-1!");
    let edge = site(&backend).start();
    let client = one_connection(&edge);
    let line = edge.access_of_addr(client.parse().unwrap());
    for (key, value) in [
        ("client", &*client),
        ("country", "DE"),
        ("region", "eu"),
        ("app", "web"),
        ("backend", "fra-1"),
        ("backend_region", "eu"),
        ("tier", "0"),
        ("tries", "1"),
        ("sent", "5"),
        ("received", "12"),
        ("reason", "client_closed"),
    ] {
        assert_eq!(&line[key], value, "{key} of {line:?}");
    }
    let (setup, duration) = (line.number("setup_ms"), line.number("duration_ms"));
    assert!(setup >= 0.0 && setup <= duration && duration < 15_000.0, "{line:?}");
    assert!(line["time"].ends_with('Z') && line["time"].contains('T'), "{line:?}");
}

#[test]
fn a_json_line_parses_and_has_the_same_fields() {
    let backend = Backend::named("fra-1!");
    let edge = site(&backend).env("EDGEPROXY_LOG_FORMAT", "json").start();
    let client = one_connection(&edge);
    let unknown = edge.visit().unwrap().client.addr().to_string();
    let of = |addr: &str| -> Value {
        let line = edge.access_line(addr);
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let line = of(&client);
    for (key, value) in [
        ("target", Value::from("access")),
        ("country", "DE".into()),
        ("region", "eu".into()),
        ("app", "web".into()),
        ("backend", "fra-1".into()),
        ("backend_region", "eu".into()),
        ("tier", 0.into()),
        ("tries", 1.into()),
        ("sent", 5.into()),
        ("received", 12.into()),
        ("reason", "client_closed".into()),
    ] {
        assert_eq!(line[key], value, "{key} of {line}");
    }
    assert!(line["setup_ms"].as_f64().unwrap() <= line["duration_ms"].as_f64().unwrap());
    assert_eq!(of(&unknown)["country"], Value::Null);
}

#[test]
fn the_log_itself_is_json_too_when_asked() {
    let backend = Backend::named("a");
    let edge = site(&backend).env("EDGEPROXY_LOG_FORMAT", "json").start();
    for line in edge.log_so_far() {
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value["level"].is_string() && value["message"].is_string(), "{line}");
    }
}

#[test]
fn the_access_log_can_be_turned_off() {
    let backend = Backend::named("a");
    let edge = site(&backend).env("RUST_LOG", "info,access=off").start();
    one_connection(&edge);
    backend.wait_until_idle();
    assert_eq!(edge.stop().access_lines, [""; 0]);
}

#[test]
fn standard_output_that_is_closed_does_not_stop_the_proxy() {
    let backend = Backend::named("a");
    let mut edge = Edge::start_with(site(&backend).prepared(), |stdout| {
        drop(stdout);
        None
    });
    for _ in 0..300 {
        edge.visit().unwrap().client.echo("hello").unwrap();
    }
    assert!(edge.lives());
    edge.signal(Signal::TERM);
    assert_eq!(edge.exit().code, Some(0));
}

#[test]
fn standard_output_that_nobody_reads_does_not_stop_the_proxy() {
    let backend = Backend::named("a");
    let mut unread = None;
    let mut edge = Edge::start_with(site(&backend).prepared(), |stdout| {
        unread = Some(stdout);
        None
    });
    // A pipe takes 64 KiB, some 300 lines.
    for _ in 0..2_500 {
        edge.visit().unwrap();
    }
    edge.visit().unwrap().client.echo("still served").unwrap();
    edge.signal(Signal::TERM);
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.took < Duration::from_secs(4), "{:?}", exit.took);
    drop(unread);
}
