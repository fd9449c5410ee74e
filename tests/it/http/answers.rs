//! Backends that answer as none should: a client gets a right answer, a 502, or sees its connection break
//! off. Nobody ever gets another's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::raw::{Framing, Message, address, answer, at_once, request};
use crate::support::{Backend, Client, Edge, PATIENCE, Row, Site, reset};

/// What a backend does behind the bytes that it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Reads on.
    Stays,
    /// Ends the connection.
    Closes,
    /// Resets it.
    Resets,
    /// Says the bytes once more, again and again.
    Repeats,
}

/// What a client must get.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    /// An answer.
    Gets(u16, &'static str),
    /// Word from the proxy that there is none.
    Refused,
    /// Something that cannot be taken for a whole answer.
    BreaksOff,
}

use Expected::{BreaksOff, Gets, Refused};
use Then::{Closes, Repeats, Resets, Stays};

struct Case {
    name: String,
    /// The first line of the request, without its target.
    asked: (&'static str, &'static str),
    bytes: Vec<u8>,
    then: Then,
    expected: Expected,
}

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// All of them.
#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut of = |asked, bytes: &[u8], then, expected| {
        let name = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
        let name = format!("{asked:?} {name:?} {then:?}");
        cases.push(Case { name, asked, bytes: bytes.to_vec(), then, expected });
    };
    let [get, head, old] = [("GET", "HTTP/1.1"), ("HEAD", "HTTP/1.1"), ("GET", "HTTP/1.0")];
    let ok = "HTTP/1.1 200 OK\r\n";
    let hello = "Content-Length: 5\r\n\r\nhello";
    let in_chunks = "Transfer-Encoding: chunked\r\n\r\n";

    // What is right, in all its forms.
    for asked in [get, old] {
        for (text, then) in [
            (format!("{ok}{hello}"), Stays),
            (format!("{ok}{hello}"), Closes),
            (format!("{ok}Connection: close\r\n{hello}"), Stays),
            (format!("{ok}Connection: close\r\n{hello}"), Closes),
            (format!("{ok}Connection: content-length\r\n{hello}"), Stays),
            (format!("{ok}content-length:5\t\r\n\r\nhello"), Stays),
            (format!("{ok}{in_chunks}5\r\nhello\r\n0\r\n\r\n"), Stays),
            (format!("{ok}{in_chunks}5\r\nhello\r\n0\r\n\r\n"), Closes),
            (
                format!("{ok}{in_chunks}002;x=\"y\"\r\nhe\r\n3\r\nllo\r\n00\r\nX-A: b\r\n\r\n"),
                Stays,
            ),
            (format!("{ok}{in_chunks}5\r\nhello\r\n0\r\nContent-Length: 7\r\n\r\n"), Stays),
            (format!("{ok}\r\nhello"), Closes),
            (format!("{ok}Connection: keep-alive\r\n\r\nhello"), Closes),
            (format!("HTTP/1.0 200 OK\r\n{hello}"), Closes),
            (format!("HTTP/1.0 200 OK\r\n{hello}"), Stays),
            (format!("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n{hello}"), Stays),
            ("HTTP/1.0 200 OK\r\n\r\nhello".into(), Closes),
            (format!("HTTP/1.1 200 \r\n{hello}"), Stays),
            (format!("HTTP/1.1 200\r\n{hello}"), Stays),
            (format!("HTTP/1.1 200 a b\tc\r\n{hello}"), Stays),
            (format!("HTTP/1.1 200 \u{e9}\r\n{hello}"), Stays),
            (format!("HTTP/1.1 100 Continue\r\n\r\n{ok}{hello}"), Stays),
            (format!("HTTP/1.1 103 -\r\nLink: </x>\r\n\r\n{ok}{hello}"), Stays),
            (format!("HTTP/1.1 100 -\r\nContent-Length: 5\r\n\r\n{ok}{hello}"), Stays),
            (format!("HTTP/1.1 102 -\r\n{in_chunks}{ok}{hello}"), Stays),
            (format!("{}{ok}{hello}", "HTTP/1.1 102 -\r\n\r\n".repeat(20)), Stays),
            // Behind the answer there is what is for nobody.
            (format!("{ok}{hello}!"), Stays),
            (format!("{ok}{hello}\r\n"), Stays),
            (format!("{ok}{hello}{POISON}"), Stays),
            (format!("{ok}{hello}{}", POISON.repeat(50)), Stays),
            (format!("{ok}{hello}{POISON}"), Closes),
            (format!("{ok}{hello}{ok}"), Stays),
            (format!("{ok}{hello}HTTP/1.1 100 Continue\r\n\r\n"), Stays),
            (format!("{ok}{in_chunks}5\r\nhello\r\n0\r\n\r\n{POISON}"), Stays),
            (format!("{ok}{in_chunks}5\r\nhello\r\n0\r\n\r\n0\r\n\r\n"), Stays),
            (format!("HTTP/1.1 100 Continue\r\n\r\n{ok}{hello}{POISON}"), Stays),
        ] {
            of(asked, text.as_bytes(), then, Gets(200, "hello"));
        }
        for (status, fields) in [
            (200, "Content-Length: 0\r\n\r\n"),
            (204, "\r\n"),
            (304, "\r\n"),
            (304, "Content-Length: 5\r\n\r\n"),
            (304, "Transfer-Encoding: chunked\r\n\r\n"),
            (999, "Content-Length: 0\r\n\r\n"),
        ] {
            for (behind, then) in [("", Stays), ("", Closes), (POISON, Stays)] {
                let text = format!("HTTP/1.1 {status} -\r\n{fields}{behind}");
                of(asked, text.as_bytes(), then, Gets(status, ""));
            }
        }
        for text in [
            format!("HTTP/1.1 204 -\r\n{hello}"),
            format!("HTTP/1.1 204 -\r\n{in_chunks}5\r\nhello\r\n0\r\n\r\n"),
            "HTTP/1.1 204 -\r\nContent-Length: 0\r\n\r\n".into(),
            "HTTP/1.1 204 -\r\nContent-Length: 5\r\n\r\n".into(),
            format!("HTTP/1.1 204 -\r\nContent-Length: 44\r\n\r\n{POISON}"),
        ] {
            of(asked, text.as_bytes(), Stays, Gets(204, ""));
        }
        for text in [
            format!("HTTP/1.1 304 -\r\n{hello}"),
            format!("HTTP/1.1 304 -\r\n{in_chunks}5\r\nhello\r\n0\r\n\r\n"),
            "HTTP/1.1 304 -\r\n\r\nhello".into(),
        ] {
            of(asked, text.as_bytes(), Stays, Gets(304, ""));
        }
    }
    for (fields, behind) in [
        ("Content-Length: 5\r\n", ""),
        ("Content-Length: 5\r\n", "hello"),
        ("Content-Length: 44\r\n", POISON),
        ("Transfer-Encoding: chunked\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("", ""),
        ("", "hello"),
        ("", POISON),
    ] {
        for then in [Stays, Closes] {
            of(head, format!("{ok}{fields}\r\n{behind}").as_bytes(), then, Gets(200, ""));
        }
    }

    // What could be framed in two ways, or in none.
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\ncontent-length: 0",
        "Content-Length: 5, 5",
        "Content-Length: 5,6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length:",
        "Content-Length: five",
        "Content-Length: 18446744073709551621",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding:",
        "Transfer-Encoding:\r\n chunked",
        // And what is no head.
        "X-A: b\r\n c\r\nContent-Length: 5",
        " X-A: b\r\nContent-Length: 5",
        "X-A : b\r\nContent-Length: 5",
        "X A: b\r\nContent-Length: 5",
        "X-A\r\nContent-Length: 5",
        ": b\r\nContent-Length: 5",
        "X-A: b\nContent-Length: 5",
        "X-A: b\rContent-Length: 5",
        "X-A: b\r\nSet-Cookie: \0\r\nContent-Length: 5",
        "X-A: b\u{b}\r\nContent-Length: 5",
        "X-A: b\u{7f}\r\nContent-Length: 5",
        "X-A: b\r\r\nContent-Length: 5",
        "X-\u{e9}: b\r\nContent-Length: 5",
        "X\0: b\r\nContent-Length: 5",
    ] {
        for (asked, then) in [(get, Stays), (get, Closes), (head, Stays), (old, Stays)] {
            let text = format!("{ok}{fields}\r\n\r\nhello");
            of(asked, text.as_bytes(), then, Refused);
        }
    }
    let twice = format!("HTTP/1.0 200 OK\r\n{in_chunks}5\r\nhello\r\n0\r\n\r\n");
    of(get, twice.as_bytes(), Closes, Refused);
    for line in [
        "",
        " HTTP/1.1 200 OK",
        "HTTP/1.2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/0.9 200 OK",
        "HTTP/11 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 abc OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1 2 00 OK",
        "HTTP/1.1 OK",
        "HTTP/1.1",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "HTTP/1.1 200 O\nK",
        "HTTP/1.1 200 O\u{b}K",
        "HTTP/1.1200 OK",
        "GET / HTTP/1.1",
        "hello",
        "\u{feff}HTTP/1.1 200 OK",
        "200 OK",
        "<html>",
    ] {
        of(get, format!("{line}\r\n{hello}").as_bytes(), Stays, Refused);
        of(old, format!("{line}\r\n{hello}").as_bytes(), Closes, Refused);
    }
    for text in [
        // A complete answer that is refused must not stand in for the next.
        format!("HTTP/1.1 200 OK\n{hello}"),
        format!("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello{POISON}"),
        format!("\r\n{POISON}"),
        format!("{ok}X-A: b\r\n{}\r\n", "X-A: b\r\n".repeat(200)),
        format!("{ok}X-A: {}\r\n{hello}", "b".repeat(80_000)),
        format!("{ok}{}", "X-A: b\r\n".repeat(20_000)),
        "x".repeat(100_000),
        // Nobody asked for these.
        format!("HTTP/1.1 101 -\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n{POISON}"),
        "HTTP/1.1 101 -\r\n\r\n".into(),
        format!("HTTP/1.1 100 -\r\n\r\nHTTP/1.1 101 -\r\n\r\n{POISON}"),
    ] {
        of(get, text.as_bytes(), Stays, Refused);
        of(head, text.as_bytes(), Stays, Refused);
        of(old, text.as_bytes(), Stays, Refused);
    }
    for asked in [get, head, old] {
        for then in [Closes, Resets] {
            for text in [
                "",
                "H",
                "HTTP/1.1 200 OK",
                "HTTP/1.1 200 OK\r\n",
                "HTTP/1.1 200 OK\r\nX-A: b",
                "hello",
            ] {
                of(asked, text.as_bytes(), then, Refused);
            }
            of(asked, b"HTTP/1.1 100 -\r\n\r\n", then, Refused);
            of(asked, b"HTTP/1.1 103 -\r\n\r\nHTTP/1.1 200", then, Refused);
        }
        of(asked, b"HTTP/1.1 100 Continue\r\n\r\n", Repeats, Refused);
    }

    // What cannot be ended in order.
    for asked in [get, old] {
        for then in [Closes, Resets] {
            for text in [
                "Content-Length: 50\r\n\r\nhello",
                "Content-Length: 5\r\n\r\n",
                "Content-Length: 9223372036854775807\r\n\r\nhello",
                "Transfer-Encoding: chunked\r\n\r\n",
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0",
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n",
            ] {
                of(asked, format!("{ok}{text}").as_bytes(), then, BreaksOff);
            }
        }
        of(asked, format!("{ok}\r\nhello").as_bytes(), Resets, BreaksOff);
        for chunk in [
            "-5",
            "+5",
            "0x5",
            " 5",
            "",
            "x",
            "5 5",
            "ffffffffffffffffff",
            "5\0",
            "5;\0",
            "5\r",
            "5;x\u{1}",
        ] {
            let text = format!("{ok}{in_chunks}{chunk}\r\nhello\r\n0\r\n\r\n");
            of(asked, text.as_bytes(), Stays, BreaksOff);
            let text = format!("{ok}{in_chunks}2\r\nhe\r\n{chunk}\r\nhello\r\n0\r\n\r\n");
            of(asked, text.as_bytes(), Closes, BreaksOff);
        }
        for body in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "6\r\nhello\r\n0\r\n\r\n",
            "4\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\n\n",
            "5\r\nhello\r\n0\r\n\n",
            "5\r\nhello\r\n0\r\n X-A: b\r\n\r\n",
            "5\r\nhello\r\n0\r\nX-A: b\n\r\n",
            "5\r\nhello\r\n0\r\nX-A\r\n\r\n",
            "5\r\nhello\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            of(asked, format!("{ok}{in_chunks}{body}").as_bytes(), Stays, BreaksOff);
        }
        let long = format!("{ok}{in_chunks}5\r\nhello\r\n0\r\nX-A: {}\r\n\r\n", "b".repeat(20_000));
        of(asked, long.as_bytes(), Stays, BreaksOff);
    }
    cases
}

/// A backend that does what a case says for `/case/` and its number, and answers anything else with
/// what was asked for; in one go, or in so many bytes at a time where that does not take too long.
fn hostile(cases: Arc<Vec<Case>>, step: usize) -> Backend {
    Backend::serving(move |mut stream| {
        let mut held = Vec::new();
        while let Some(asked) = next_request(&mut stream, &mut held) {
            let target = asked.word(1);
            let number = target.strip_prefix("/case/").and_then(|number| number.parse().ok());
            let case: Option<&Case> = number.map(|number: usize| &cases[number]);
            let Some(Case { bytes, then, .. }) = case else {
                if stream.write_all(honest(target).as_bytes()).is_err() {
                    return;
                }
                continue;
            };
            let _ = stream.set_nodelay(true);
            let step = step.max(bytes.len() / 400).max(1);
            let mut say = || bytes.chunks(step).try_for_each(|part| stream.write_all(part));
            while say().is_ok() && *then == Repeats {}
            match then {
                Stays | Repeats => {}
                Closes => {
                    let _ = stream.shutdown(Shutdown::Write);
                    let _ = std::io::copy(&mut stream, &mut std::io::sink());
                    return;
                }
                Resets => return reset(stream),
            }
        }
    })
}

/// The next request on a connection, if it is still there.
fn next_request(stream: &mut TcpStream, held: &mut Vec<u8>) -> Option<Message> {
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some((read, length)) = request(held).expect("what the proxy sends is well-formed") {
            held.drain(..length);
            return Some(read);
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => held.extend_from_slice(&buffer[..read]),
        }
    }
}

/// The answer that belongs to what was asked for.
fn honest(target: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len())
}

/// What a client has got of an answer.
#[derive(Debug)]
enum Got {
    Whole(Message),
    /// What came before the end of the connection, and whether that was a reset.
    Part(String, bool),
}

/// Reads an answer, and those that go before it, as a client of this version does.
fn read_answer(stream: &mut TcpStream, asked: (&str, &str), held: &mut Vec<u8>) -> Got {
    let mut buffer = [0; 16 << 10];
    let mut end = None;
    loop {
        loop {
            let parsed = answer(asked.0)(held);
            let text = || String::from_utf8_lossy(&held[..held.len().min(2_000)]).into_owned();
            let Some((read, length)) = parsed.unwrap_or_else(|why| panic!("{why}: {}", text()))
            else {
                break;
            };
            if read.status() < 200 {
                assert_eq!(asked.1, "HTTP/1.1", "an interim answer to who does not know of it");
                held.drain(..length);
                continue;
            }
            assert!(asked.1 == "HTTP/1.1" || read.framing != Framing::Chunked, "{read:?}");
            let is_whole = match read.framing {
                Framing::UntilClose => end == Some(false),
                _ => true,
            };
            if is_whole {
                held.drain(..length);
                return Got::Whole(read);
            }
            break;
        }
        if let Some(reset) = end {
            return Got::Part(String::from_utf8_lossy(held).into_owned(), reset);
        }
        match stream.read(&mut buffer) {
            Ok(0) => end = Some(false),
            Ok(read) => held.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => end = Some(true),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(held)),
        }
    }
}

/// Asks, and reads the answer.
fn ask(client: &mut Client, (method, version): (&str, &str), target: &str, fields: &str) -> Got {
    let text = format!("{method} {target} {version}\r\nHost: web\r\n{fields}\r\n");
    client.stream.write_all(text.as_bytes()).expect("it listens");
    let mut held = Vec::new();
    let got = read_answer(&mut client.stream, (method, version), &mut held);
    let is_part = matches!(got, Got::Part(..));
    assert!(is_part || held.is_empty(), "behind it: {}", String::from_utf8_lossy(&held));
    got
}

/// What is wrong with the answer to somebody who asks for something of his own.
fn fault_of_own(client: &mut Client, target: &str, fields: &str) -> Option<String> {
    match ask(client, ("GET", "HTTP/1.1"), target, fields) {
        Got::Whole(answer) if answer.status() == 200 && answer.text() == target => None,
        got => Some(format!("asked for {target}, got {got:?}")),
    }
}

/// What is wrong with what a client gets in such a case, and whoever asks next.
fn fault(edge: SocketAddr, number: usize, case: &Case) -> Option<String> {
    let ip = address(number).to_string();
    let mut client = Client::connect(&ip, edge).expect("it accepts");
    let got = ask(&mut client, case.asked, &format!("/case/{number}"), "");
    let (is_right, goes_on) = match (&case.expected, &got) {
        (Gets(status, body), Got::Whole(answer)) => (
            answer.status() == *status && answer.text() == *body,
            case.asked.1 == "HTTP/1.1" && answer.all("connection").is_empty(),
        ),
        (Refused, Got::Whole(answer)) => {
            let goes_on = case.asked.1 == "HTTP/1.1" && answer.all("connection").is_empty();
            (answer.status() == 502, goes_on)
        }
        // Who knows the end by that of the connection must not take this for it.
        (BreaksOff, Got::Part(_, reset)) => (*reset || case.asked.1 == "HTTP/1.1", false),
        (BreaksOff, Got::Whole(answer)) => (answer.status() == 502, false),
        _ => (false, false),
    };
    if !is_right {
        return Some(format!("got {got:?} in place of {:?}", case.expected));
    }
    let fault = goes_on.then(|| {
        fault_of_own(&mut client, &format!("/own/{number}"), "")
            .or_else(|| fault_of_own(&mut client, &format!("/own/{number}/2"), ""))
    });
    let mut other = Client::connect(&ip, edge).expect("it accepts");
    fault
        .flatten()
        .or_else(|| fault_of_own(&mut other, &format!("/other/{number}"), "Connection: close\r\n"))
}

fn site(pooled: bool, backend: &Backend) -> Site {
    let pooled = if pooled { "true" } else { "false" };
    Site::new()
        .env("EDGEPROXY_MODE", "http")
        .env("EDGEPROXY_WORKERS", "1")
        .env("EDGEPROXY_POOL_ENABLED", pooled)
        .backend(Row::new("a", backend.addr()))
}

fn nobody_gets_what_is_anothers(pooled: bool, step: usize) {
    let cases = Arc::new(cases());
    let backend = hostile(Arc::clone(&cases), step);
    let mut edge = site(pooled, &backend).start();
    let faults = at_once(cases.len(), |number| {
        let case = &cases[number];
        let fault = std::panic::catch_unwind(|| fault(edge.addr, number, case));
        let fault = fault.unwrap_or_else(|_| Some("a panic".into()));
        fault.map(|fault| format!("{}: {fault}", case.name))
    });
    assert!(edge.lives(), "it has ended");
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    let count = faults.len();
    assert!(faults.is_empty(), "{count} of {} cases:\n{}", cases.len(), faults.join("\n---\n"));
}

#[test]
fn nobody_gets_what_is_anothers_by_connections_of_his_own() {
    nobody_gets_what_is_anothers(false, usize::MAX);
}

#[test]
fn nobody_gets_what_is_anothers_by_connections_that_are_shared() {
    nobody_gets_what_is_anothers(true, usize::MAX);
}

#[test]
fn nobody_gets_what_is_anothers_byte_by_byte() {
    nobody_gets_what_is_anothers(true, 1);
}

/// A backend that answers each connection's first request, and says [`POISON`] when it is told to. Says
/// when it has.
fn poisoner() -> (Backend, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let ((tell, told), (says, said)) = (mpsc::channel(), mpsc::channel());
    let told = Mutex::new(Some((told, says)));
    let backend = Backend::serving(move |mut stream| {
        let mut held = Vec::new();
        let mut first = told.lock().unwrap_or_else(PoisonError::into_inner).take();
        while let Some(asked) = next_request(&mut stream, &mut held) {
            let answer = honest(asked.word(1));
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            if let Some((told, says)) = first.take() {
                told.recv().expect("the test goes on");
                let _ = stream.write_all(POISON.as_bytes());
                says.send(()).expect("the test goes on");
            }
        }
    });
    (backend, tell, said)
}

#[test]
fn what_a_backend_says_between_two_requests_is_for_nobody() {
    for pooled in [false, true] {
        let (backend, tell, said) = poisoner();
        let edge = site(pooled, &backend).start();
        let mut client = edge.client();
        assert_eq!(fault_of_own(&mut client, "/one", ""), None);
        tell.send(()).unwrap();
        said.recv_timeout(PATIENCE).unwrap();
        assert_eq!(fault_of_own(&mut client, "/two", ""), None, "pooled: {pooled}");
        assert_eq!(fault_of_own(&mut edge.client(), "/three", ""), None, "pooled: {pooled}");
    }
}

#[test]
fn what_a_backend_says_just_before_a_request_is_for_nobody() {
    for pooled in [false, true] {
        for is_late in [false, true] {
            let (backend, tell, said) = poisoner();
            let edge: Edge = site(pooled, &backend).start();
            let mut client = edge.client();
            assert_eq!(fault_of_own(&mut client, "/one", ""), None);
            // Both are there when it looks, the one or the other first.
            edge.freeze();
            let poison = || {
                tell.send(()).unwrap();
                said.recv_timeout(PATIENCE).unwrap();
            };
            if !is_late {
                poison();
            }
            client.stream.write_all(b"GET /two HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
            if is_late {
                poison();
            }
            edge.thaw();
            let got = read_answer(&mut client.stream, ("GET", "HTTP/1.1"), &mut Vec::new());
            let Got::Whole(answer) = got else { panic!("{got:?}") };
            assert_eq!(answer.text(), "/two", "pooled: {pooled}, late: {is_late}");
        }
    }
}

#[test]
fn a_bad_body_behind_the_beginning_of_an_answer_breaks_it_off() {
    let backend = Backend::serving(|mut stream| {
        let mut head = [0; 4 << 10];
        let _ = stream.read(&mut head);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let edge = site(false, &backend).start();
    let mut client = edge.client();
    let head = "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.stream.write_all(head.as_bytes()).unwrap();
    let mut held = Vec::new();
    while !held.ends_with(b"hello") {
        let mut byte = [0];
        client.stream.read_exact(&mut byte).unwrap();
        held.push(byte[0]);
    }
    client.stream.write_all(b"no chunk\r\n").unwrap();
    let got = read_answer(&mut client.stream, ("POST", "HTTP/1.1"), &mut held);
    let Got::Part(text, _) = got else { panic!("{got:?}") };
    assert!(text.ends_with("hello"), "behind the beginning of an answer: {text}");
    let access = edge.access_of(&client);
    assert_eq!((&access["reason"], &access["status"]), ("bad_request", "200"));
}

#[test]
fn a_body_that_goes_on_behind_its_answer_is_no_request() {
    for pooled in [false, true] {
        let backend = Backend::serving(|mut stream| {
            let mut head = [0; 4 << 10];
            while let Ok(1..) = stream.read(&mut head) {
                let text = String::from_utf8_lossy(&head);
                assert!(!text.contains("GET /in"), "{text}");
                if text.starts_with("POST") {
                    let _ = stream.write_all(honest("early").as_bytes());
                }
            }
        });
        let edge = site(pooled, &backend).start();
        let mut client = edge.client();
        let head = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 40\r\n\r\n";
        client.stream.write_all(head.as_bytes()).unwrap();
        let mut held = Vec::new();
        let got = read_answer(&mut client.stream, ("POST", "HTTP/1.1"), &mut held);
        let Got::Whole(answer) = got else { panic!("{got:?}") };
        assert_eq!((answer.text(), answer.one("connection")), ("early".into(), Some("close")));
        // It may be too late for that.
        let _ = client.stream.write_all(b"GET /in HTTP/1.1\r\nHost: web\r\n\r\n".as_slice());
        assert_eq!(client.rest().unwrap(), b"", "an answer to a body");
    }
}

#[test]
fn a_change_of_protocol_that_was_asked_for_carries_bytes_both_ways() {
    for pooled in [false, true] {
        let backend = Backend::serving(|mut stream| {
            let asked = next_request(&mut stream, &mut Vec::new()).expect("a request");
            assert_eq!(
                (asked.one("connection"), asked.one("upgrade")),
                (Some("upgrade"), Some("echo"))
            );
            let head = "HTTP/1.1 101 -\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst ";
            let _ = stream.write_all(head.as_bytes());
            let mut buffer = [0; 4 << 10];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                let _ = stream.write_all(&buffer[..read]);
            }
        });
        let edge = site(pooled, &backend).start();
        let mut client = edge.client();
        let head = "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        // What is said behind it at once is for whoever speaks the new protocol.
        client.stream.write_all(format!("{head}GET /x HTTP/1.1\r\n").as_bytes()).unwrap();
        client.finish();
        let heard = String::from_utf8(client.rest().unwrap()).unwrap();
        let (head, rest) = heard.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{heard:?}"));
        assert!(head.starts_with("HTTP/1.1 101 "), "{heard}");
        assert_eq!(rest, "first GET /x HTTP/1.1\r\n");
    }
}

#[test]
fn no_change_of_protocol_comes_of_a_request_with_a_body() {
    let backend = Backend::serving(|mut stream| {
        let _ = next_request(&mut stream, &mut Vec::new());
        let head = "HTTP/1.1 101 -\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        let _ = stream.write_all(format!("{head}{POISON}").as_bytes());
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let edge = site(false, &backend).start();
    for body in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"]
    {
        let mut client = edge.client();
        let head = "POST / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: echo\r\n";
        client.stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let got = read_answer(&mut client.stream, ("POST", "HTTP/1.1"), &mut Vec::new());
        let Got::Whole(answer) = got else { panic!("{got:?}") };
        assert_eq!(answer.status(), 502);
    }
}
