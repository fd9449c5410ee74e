//! The life of a connection of HTTP/2: its idle end, its limits of time, and a drain.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::frames::{
    DATA, GOAWAY, NO_ERROR, Outcome, PING, Raw, SETTINGS, asked, data, frame, get, head, setting,
};
use crate::http::drain::drains;
use crate::http::peers::{Origin, Then, before, ok, says};
use crate::support::{PATIENCE, eventually};

#[test]
fn a_drain_is_said_twice_and_what_is_under_way_is_answered() {
    let (more, rest) = channel::<()>();
    let rest = Mutex::new(rest);
    let origin = Origin::new(move |_, reader| {
        let _ = rest.lock().unwrap().recv();
        says(reader, ok("late"))
    });
    let mut edge = before(&origin).start();
    let mut raw = Raw::to(&edge);
    raw.say(get(1, "/"));
    crate::support::eventually("it is under way", || (origin.seen().len() == 1).then_some(()));
    drains(&edge);
    let first = raw.next_of(GOAWAY).unwrap();
    assert_eq!((first.number(0), first.number(4)), (0x7fff_ffff, NO_ERROR), "no request is lost");
    more.send(()).unwrap();
    assert_eq!(raw.outcome(1), Outcome::Answered(200, "late".into()));
    assert!(raw.ends(), "an end, and no reset");
    assert_eq!(raw.goaways.last(), Some(&(1, NO_ERROR)));
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.took < Duration::from_secs(3), "{:?}", exit.took);
}

#[test]
fn an_idle_connection_is_told_before_it_is_closed() {
    let origin = Origin::named("a");
    let edge = before(&origin).env("EDGEPROXY_HTTP_KEEP_ALIVE_TIMEOUT_SECS", "1").start();
    let mut raw = Raw::to(&edge);
    assert!(matches!(raw.get(1, "/"), Outcome::Answered(200, _)));
    assert!(raw.ends());
    assert_eq!(raw.goaways.last().map(|(_, error)| *error), Some(NO_ERROR));
}

#[test]
fn frames_that_ask_for_nothing_keep_no_connection_open() {
    let origin = Origin::named("a");
    let edge = before(&origin).env("EDGEPROXY_HTTP_KEEP_ALIVE_TIMEOUT_SECS", "1").start();
    for again in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &setting(4, 65_535))] {
        let mut raw = Raw::to(&edge);
        assert!(matches!(raw.get(1, "/"), Outcome::Answered(200, _)));
        let begun = Instant::now();
        // Another ten times a second, between which whatever comes is read.
        raw.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        while raw.goaways.is_empty() {
            assert!(begun.elapsed() < PATIENCE, "type {} keeps it", again[3]);
            match raw.next() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => raw.say(&again),
                read => drop(read.expect("it is told before it ends")),
            }
        }
        assert_eq!(raw.goaways[0].1, NO_ERROR);
    }
}

#[test]
fn each_request_has_its_own_time() {
    let origin = Origin::new(|seen, reader| match seen.message.path() {
        "/silent" => {
            let _ = reader.exactly(1);
            Then::Closes
        }
        _ => says(reader, ok("a")),
    });
    let edge = before(&origin)
        .env("EDGEPROXY_HTTP_RESPONSE_TIMEOUT_SECS", "1")
        .env("EDGEPROXY_HTTP_BODY_TIMEOUT_SECS", "2")
        .start();
    let mut raw = Raw::to(&edge);
    raw.say(get(1, "/silent"));
    raw.say(get(3, "/"));
    assert_eq!(raw.outcome(3), Outcome::Answered(200, "a".into()));
    raw.say(head(5, &asked("POST", "/", &[]), false));
    raw.say(data(5, "hello", false));
    let status = |outcome: Outcome| match outcome {
        Outcome::Answered(status, _) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(status(raw.outcome(1)), 504);
    assert_eq!(status(raw.outcome(5)), 408);
    assert_eq!(raw.get(7, "/"), Outcome::Answered(200, "a".into()));
    for (path, reason) in [("/silent", "response_timeout"), ("/ ", "request_timeout")] {
        let line = edge.access_line(&format!("reason={reason}"));
        assert!(line.contains(&format!("path={path}")), "{line}");
    }
}

#[test]
fn a_backend_that_breaks_off_ends_its_own_stream_only() {
    let origin = Origin::new(|seen, reader| match seen.message.path() {
        "/broken" => {
            says(reader, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            Then::Closes
        }
        _ => says(reader, ok("a")),
    });
    let edge = before(&origin).start();
    let mut raw = Raw::to(&edge);
    assert_eq!(raw.get(1, "/broken"), Outcome::Reset(2), "INTERNAL_ERROR");
    assert_eq!(raw.get(3, "/"), Outcome::Answered(200, "a".into()));
}

#[test]
fn who_says_no_more_behind_a_whole_request_is_answered() {
    let (more, rest) = channel::<()>();
    let rest = Mutex::new(rest);
    let origin = Origin::new(move |_, reader| {
        let _ = rest.lock().unwrap().recv();
        says(reader, ok("late"))
    });
    let edge = before(&origin).start();
    let mut raw = Raw::to(&edge);
    raw.say(get(1, "/"));
    raw.say([head(3, &asked("POST", "/", &[]), false), data(3, "hello", true)].concat());
    raw.stream.shutdown(Shutdown::Write).unwrap();
    eventually("both are under way", || (origin.seen().len() == 2).then_some(()));
    more.send(()).unwrap();
    more.send(()).unwrap();
    let mut ends = Vec::new();
    while let Ok(read) = raw.next() {
        if read.kind == DATA {
            ends.push((read.stream, String::from_utf8(read.payload).unwrap()));
        }
    }
    ends.retain(|(_, text)| !text.is_empty());
    ends.sort();
    assert_eq!(ends, [(1, "late".to_owned()), (3, "late".to_owned())]);
}

#[test]
fn who_says_no_more_in_the_midst_of_a_body_is_gone() {
    let origin = Origin::of_heads(|_, reader| {
        let _ = reader.rest();
        Then::Closes
    });
    let edge = before(&origin).start();
    let mut raw = Raw::to(&edge);
    raw.say([head(1, &asked("POST", "/", &[]), false), data(1, "hello", false)].concat());
    eventually("it is under way", || (origin.seen().len() == 1).then_some(()));
    raw.stream.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(raw.outcome(1), Outcome::Gone(_) | Outcome::Reset(_)));
    assert!(edge.access_line("path=/ ").contains("reason=client_reset"));
}
