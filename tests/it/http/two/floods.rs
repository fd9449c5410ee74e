//! Clients that send what costs them nothing, and as much of it as they can.

use std::thread;

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, HEADERS, Outcome, PING, PRIORITY, Raw,
    SETTINGS, WINDOW_UPDATE, asked, block, data, frame, get, head, reset, setting,
};
use crate::http::peers::{Origin, Then, before, ok, says};
use crate::http::streaming::growth_while;
use crate::support::Edge;

/// What the process may have more than before.
const SLACK_KIB: u64 = 16 << 10;
/// Bytes of a flood.
const FLOOD: usize = 24 << 20;

/// What became of a flood.
struct Flood {
    /// Whether it was heard to its end.
    heard: bool,
    /// Why no more is taken, as its client was told.
    told: Option<u32>,
}

/// Sends the same over and over, until nobody listens or it is enough, while others are served.
fn floods(edge: &Edge, first: &[u8], again: &[u8]) -> Flood {
    let mut came = Flood { heard: true, told: None };
    let growth = growth_while(edge, || {
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut raw = Raw::to(edge);
                let reader = raw.stream.try_clone().unwrap();
                let reads = thread::spawn(move || {
                    let mut raw = Raw { stream: reader, goaways: Vec::new() };
                    raw.ends();
                    raw.goaways.last().map(|(_, error)| *error)
                });
                let piece = again.repeat((64 << 10) / again.len() + 1);
                let heard = raw.tries(first) && (0..FLOOD / piece.len()).all(|_| raw.tries(&piece));
                let _ = raw.stream.shutdown(std::net::Shutdown::Both);
                Flood { heard, told: reads.join().unwrap() }
            });
            let mut other = Raw::to(edge);
            for number in 0..50 {
                let outcome = other.get(2 * number + 1, "/");
                assert_eq!(outcome, Outcome::Answered(200, "a".into()));
            }
            came = flood.join().unwrap();
        });
    });
    assert!(growth < SLACK_KIB, "{growth} KiB more");
    assert_eq!(Raw::to(edge).get(1, "/"), Outcome::Answered(200, "a".into()));
    came
}

fn edge() -> (Origin, Edge) {
    let origin = Origin::new(|_, reader| says(reader, ok("a")));
    let edge = before(&origin).start();
    (origin, edge)
}

#[test]
fn frames_that_ask_for_nothing_are_cut_off_and_keep_nobody_waiting() {
    let (_origin, edge) = edge();
    for again in [
        frame(PING, 0, 0, &[0; 8]),
        frame(PING, ACK, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &setting(4, 65_535)),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]),
        frame(0xee, 0, 0, &[0; 100]),
    ] {
        let came = floods(&edge, b"", &again);
        assert!(!came.heard, "type {}", again[3]);
        assert_eq!(came.told, Some(ENHANCE_YOUR_CALM), "type {}", again[3]);
    }
    assert!(!floods(&edge, b"", &frame(SETTINGS, ACK, 0, &[])).heard);
    let open = head(1, &asked("POST", "/", &[]), false);
    assert!(!floods(&edge, &open, &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).heard);
    // A body that goes on excuses nothing.
    let again = [data(1, "x", false), frame(PING, 0, 0, &[0; 8])].concat();
    assert!(!floods(&edge, &open, &again).heard);
}

#[test]
fn requests_that_are_refused_at_full_speed_are_cut_off() {
    let (_origin, edge) = edge();
    let mut raw = Raw::to(&edge);
    let reader = raw.stream.try_clone().unwrap();
    let reads = thread::spawn(move || Raw { stream: reader, goaways: Vec::new() }.ends());
    let heard = (0..100_000).all(|number| {
        raw.tries(head(2 * number + 1, &asked("POST", "/", &[("content-length", "1")]), false))
    });
    assert!(!heard, "100000 were taken");
    let _ = raw.stream.shutdown(std::net::Shutdown::Both);
    reads.join().unwrap();
}

#[test]
fn who_reads_byte_by_byte_and_opens_both_windows_each_time_gets_all_of_it() {
    let body = "0123456789".repeat(1_000);
    let answer = ok(&body);
    let origin = Origin::new(move |_, reader| says(reader, &answer));
    let edge = before(&origin).start();
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let mut raw = Raw::with("127.0.0.1", edge.addr, &[(4, 1)]);
    raw.say(get(1, "/"));
    let mut came = Vec::new();
    while came.len() < body.len() {
        let read = raw.next_of(DATA).expect("it goes on");
        assert_eq!(read.payload.len(), 1);
        came.extend(read.payload);
        let one = [0, 0, 0, 1];
        raw.say([frame(WINDOW_UPDATE, 0, 0, &one), frame(WINDOW_UPDATE, 0, 1, &one)].concat());
    }
    assert_eq!(String::from_utf8(came).unwrap(), body);
}

#[test]
fn heads_without_end_and_bodies_of_nothing_are_cut_off() {
    let (_origin, edge) = edge();
    let open = frame(HEADERS, 0, 1, &block(&asked("GET", "/", &[])));
    let more = frame(CONTINUATION, 0, 1, &block(&[(b"x".to_vec(), vec![b'y'; 100])]));
    assert!(!floods(&edge, &open, &more).heard, "a head has an end");
    assert!(!floods(&edge, &open, &frame(CONTINUATION, 0, 1, &[])).heard, "it is no head");
    let open = head(1, &asked("POST", "/", &[]), false);
    assert!(!floods(&edge, &open, &frame(DATA, 0, 1, &[])).heard, "it is no body");
}

#[test]
fn bodies_byte_by_byte_take_no_memory() {
    let (_origin, edge) = edge();
    let open = head(1, &asked("POST", "/", &[]), false);
    floods(&edge, &open, &data(1, "x", false));
}

#[test]
fn a_head_that_unpacks_to_much_is_refused() {
    let (origin, edge) = edge();
    let mut raw = Raw::to(&edge);
    // A long field is put into the table, then named again and again (RFC 7541, 7.3): the table is off by
    // our own settings only if both keep to it.
    let mut fields = block(&asked("GET", "/", &[]));
    fields.extend([0x40, 1, b'x', 127, 0x80 | (3_900 - 127_u16).to_le_bytes()[0] & 0x7f, 29]);
    fields.extend(vec![b'y'; 3_900]);
    fields.extend([0xbe; 12_000]);
    raw.say(frame(HEADERS, END_HEADERS | 1, 1, &fields));
    let outcome = raw.outcome(1);
    assert!(!matches!(outcome, Outcome::Answered(200, _)), "{outcome:?}");
    assert!(origin.seen().is_empty());
}

#[test]
fn requests_that_are_taken_back_are_not_taken_without_end() {
    let silent = Origin::new(|_, reader| {
        let _ = reader.exactly(1);
        Then::Closes
    });
    let edge = before(&silent).start();
    let mut raw = Raw::to(&edge);
    let mut stream = 1;
    let cut_off = loop {
        // Each is under way before it is taken back.
        let seen = silent.seen().len();
        if !raw.tries(get(stream, "/")) {
            break true;
        }
        while silent.seen().len() == seen && raw.goaways.is_empty() && stream < 40 {
            thread::yield_now();
        }
        if !raw.tries(reset(stream)) || stream > 20_000 {
            break stream <= 20_000;
        }
        stream += 2;
    };
    assert!(cut_off, "{} were taken back", stream / 2);
    assert!(stream / 2 < 2_000, "{}", stream / 2);
}

#[test]
fn more_than_is_allowed_at_once_is_refused_and_what_is_allowed_is_served() {
    let silent = Origin::new(|seen, reader| {
        if seen.message.path() == "/" {
            return says(reader, ok("a"));
        }
        let _ = reader.exactly(1);
        Then::Closes
    });
    let edge = before(&silent).start();
    let mut raw = Raw::to(&edge);
    for number in 0..129 {
        raw.say(get(2 * number + 1, "/silent"));
    }
    let refused = raw.outcome(2 * 128 + 1);
    assert!(matches!(refused, Outcome::Reset(7) | Outcome::Gone(_)), "{refused:?}");
    assert_eq!(Raw::to(&edge).get(1, "/"), Outcome::Answered(200, "a".into()));
}
