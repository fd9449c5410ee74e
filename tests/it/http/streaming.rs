//! Bodies of any length, through buffers that do not grow.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::peers::{Asking, Message, Origin, Reader, Then, before, get, ok, request, says};
use crate::support::{Edge, eventually, noise};

const MIB: usize = 1 << 20;
/// What is sent: many times what may be held. More with `EDGEPROXY_TEST_STREAM_MIB`.
const LENGTH_MIB: usize = 100;
/// What the process may have more than before: its buffers, and what an allocator keeps back.
const SLACK_KIB: u64 = 4 << 10;
const PIECE: usize = 256 << 10;

fn length() -> usize {
    let given = std::env::var("EDGEPROXY_TEST_STREAM_MIB").ok();
    given.map_or(LENGTH_MIB, |mib| mib.parse().expect("a number")) * MIB
}

/// Writes a body of so many bytes, in chunks or not.
fn write_body(stream: &mut impl Write, length: usize, chunked: bool) {
    let piece = noise(1, PIECE);
    for _ in 0..length / PIECE {
        if chunked {
            write!(stream, "{PIECE:x}\r\n").unwrap();
        }
        stream.write_all(&piece).unwrap();
        if chunked {
            stream.write_all(b"\r\n").unwrap();
        }
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n").unwrap();
    }
}

/// Reads a body of so many bytes that are what [`write_body`] writes; whether they are.
fn reads_body<S: Read>(reader: &mut Reader<S>, length: usize, chunked: bool) -> bool {
    let piece = noise(1, PIECE);
    let mut at = 0;
    let mut right = true;
    let mut take = |bytes: &[u8]| {
        for byte in bytes.chunks(4096) {
            let from = at % PIECE;
            let to = (from + byte.len()).min(PIECE);
            let (first, second) = byte.split_at(to - from);
            right &= first == &piece[from..to] && second == &piece[..second.len()];
            at += byte.len();
        }
    };
    if chunked {
        loop {
            let size = usize::from_str_radix(&reader.line().unwrap(), 16).unwrap();
            if size == 0 {
                assert_eq!(reader.line().unwrap(), "");
                break;
            }
            take(&reader.exactly(size).unwrap());
            assert_eq!(reader.line().unwrap(), "");
        }
    } else {
        let mut left = length;
        while left > 0 {
            let bytes = reader.some(left).unwrap();
            left -= bytes.len();
            take(&bytes);
        }
    }
    at == length && right
}

fn framing(length: usize, chunked: bool) -> String {
    if chunked {
        "Transfer-Encoding: chunked\r\n".into()
    } else {
        format!("Content-Length: {length}\r\n")
    }
}

/// The most memory that it has while `work` is done, above what it had before.
pub fn growth_while(edge: &Edge, work: impl FnOnce()) -> u64 {
    let before = edge.memory_kib();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = before;
            while !ends.load(Ordering::SeqCst) {
                most = most.max(edge.memory_kib());
                thread::yield_now();
                thread::sleep(std::time::Duration::from_millis(2));
            }
            most
        });
        work();
        ends.store(true, Ordering::SeqCst);
        watch.join().unwrap().saturating_sub(before)
    })
}

#[test]
fn long_bodies_both_ways_take_no_more_memory_than_short_ones() {
    let length = length();
    let origin = Origin::of_heads(move |seen, reader| {
        let chunked = seen.message.path() == "/chunked";
        if seen.message.method() == "POST" {
            let right = reads_body(reader, length, chunked);
            return says(reader, ok(if right { "right" } else { "wrong" }));
        }
        says(reader, format!("HTTP/1.1 200 OK\r\n{}\r\n", framing(length, chunked)));
        write_body(&mut reader.stream, length, chunked);
        Then::Goes
    });
    let edge = before(&origin).start();
    // What any request takes.
    let mut client = Asking::to(&edge);
    client.say(request("POST", "/chunked", "Transfer-Encoding: chunked\r\n"));
    write_body(&mut client.stream, length / 10, true);
    assert_eq!(client.answer("POST").unwrap().text(), "wrong");
    for chunked in [false, true] {
        let path = if chunked { "/chunked" } else { "/length" };
        let growth = growth_while(&edge, || {
            client.say(request("POST", path, &framing(length, chunked)));
            write_body(&mut client.stream, length, chunked);
            assert_eq!(client.answer("POST").unwrap().text(), "right", "{path}");
        });
        assert!(growth < SLACK_KIB, "{growth} KiB more while it came, {path}");
        let growth = growth_while(&edge, || {
            client.say(get(path));
            client.head().unwrap();
            assert!(reads_body(&mut client, length, chunked), "{path}");
        });
        assert!(growth < SLACK_KIB, "{growth} KiB more while it went, {path}");
    }
}

/// Waits until a count does not change any more; what it is then.
fn settles(what: &str, count: &AtomicUsize) -> usize {
    let (mut last, mut times) = (0, 0);
    eventually(what, || {
        let now = count.load(Ordering::SeqCst);
        times = if now > 0 && now == last { times + 1 } else { 0 };
        last = now;
        (times > 20).then_some(now)
    })
}

#[test]
fn a_slow_reader_slows_its_backend_and_costs_no_memory() {
    const CLIENTS: usize = 8;
    let length = 64 * MIB;
    let written: &'static AtomicUsize = Box::leak(Box::default());
    let origin = Origin::new(move |_, reader| {
        says(reader, format!("HTTP/1.1 200 OK\r\n{}\r\n", framing(length, false)));
        let piece = noise(1, PIECE);
        for _ in 0..length / PIECE {
            if reader.stream.write_all(&piece).is_err() {
                return Then::Closes;
            }
            written.fetch_add(PIECE, Ordering::SeqCst);
        }
        Then::Goes
    });
    let edge = before(&origin).start();
    Asking::to(&edge).try_ask("HEAD / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").unwrap();
    written.store(0, Ordering::SeqCst);
    let mut clients: Vec<Asking> = (0..CLIENTS).map(|_| Asking::to(&edge)).collect();
    let growth = growth_while(&edge, || {
        for client in &mut clients {
            client.say(get("/"));
            client.head().unwrap();
        }
        let stuck = settles("all of them are stuck", written);
        assert!(stuck < CLIENTS * length / 2, "{} MiB", stuck / MIB);
    });
    assert!(growth < SLACK_KIB, "{growth} KiB more for {CLIENTS} slow clients");
    // One of them goes on, and gets everything.
    assert!(reads_body(&mut clients[0], length, false));
}

#[test]
fn a_slow_backend_slows_its_client_and_costs_no_memory() {
    let (lets_go, let_go) = channel::<()>();
    let let_go = std::sync::Mutex::new(let_go);
    let length = 64 * MIB;
    let origin = Origin::of_heads(move |_, reader| {
        let _ = let_go.lock().unwrap().recv();
        let right = reads_body(reader, length, true);
        says(reader, ok(if right { "right" } else { "wrong" }))
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.say(request("POST", "/", "Transfer-Encoding: chunked\r\n"));
    let written = AtomicUsize::new(0);
    thread::scope(|scope| {
        let mut counting = Counting { stream: client.stream.try_clone().unwrap(), count: &written };
        scope.spawn(move || write_body(&mut counting, length, true));
        let growth = growth_while(&edge, || {
            let stuck = settles("it is stuck", &written);
            assert!(stuck < length / 2, "{} MiB", stuck / MIB);
        });
        assert!(growth < SLACK_KIB, "{growth} KiB more");
        lets_go.send(()).unwrap();
        assert_eq!(client.answer("POST").unwrap().text(), "right");
    });
}

/// Counts what is written.
struct Counting<'a> {
    stream: std::net::TcpStream,
    count: &'a AtomicUsize,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.stream.write(bytes)?;
        self.count.fetch_add(written, Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn tiny_chunks_by_the_hundred_thousand_are_passed_on_whole() {
    const CHUNKS: usize = 100_000;
    let origin = Origin::of_heads(|seen, reader| {
        let mut message = seen.message.clone();
        reader.chunks(&mut message).unwrap();
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for byte in &message.body {
            answer.extend_from_slice(b"1\r\n");
            answer.push(*byte);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        says(reader, answer)
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    let body = noise(9, CHUNKS);
    let mut up = request("POST", "/", "Transfer-Encoding: chunked\r\n").into_bytes();
    for byte in &body {
        up.extend_from_slice(b"1;x=y\r\n");
        up.push(*byte);
        up.extend_from_slice(b"\r\n");
    }
    up.extend_from_slice(b"0\r\n\r\n");
    let mut writing = client.stream.try_clone().unwrap();
    let sender = thread::spawn(move || writing.write_all(&up).unwrap());
    let answer = client.answer("POST").unwrap();
    sender.join().unwrap();
    assert!(answer.body == body, "{} bytes", answer.body.len());
}

#[test]
fn both_bodies_of_one_request_can_go_at_once() {
    // It says each chunk that it gets as one of its answer, which begins before the request ends.
    let origin = Origin::of_heads(|_, reader| {
        says(reader, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        loop {
            let mut chunk = Message::default();
            let size = usize::from_str_radix(&reader.line().unwrap(), 16).unwrap();
            chunk.body = reader.exactly(size).unwrap();
            assert_eq!(reader.line().unwrap(), "");
            says(reader, format!("{size:x}\r\n{}\r\n", chunk.text()));
            if size == 0 {
                return Then::Goes;
            }
        }
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.say(request("POST", "/", "Transfer-Encoding: chunked\r\n"));
    let head = client.head().unwrap();
    assert_eq!(head.field("connection"), Some("close"), "{head:?}");
    for word in ["hello", "out", "there"] {
        client.say(format!("{:x}\r\n{word}\r\n", word.len()));
        assert_eq!(client.line().unwrap(), format!("{:x}", word.len()));
        assert_eq!(client.line().unwrap(), word);
    }
    client.say("0\r\n\r\n");
    assert_eq!((client.line().unwrap(), client.line().unwrap()), ("0".into(), String::new()));
    client.ends();
}

#[test]
fn events_of_a_server_come_as_they_are_sent_and_a_client_that_has_gone_is_noticed() {
    for version in ["1.1", "1.0"] {
        let (says_it, said): (Sender<&'static str>, _) = channel();
        let said = std::sync::Mutex::new(said);
        let origin = Origin::new(move |_, reader| {
            says(reader, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
            while let Ok(event) = said.lock().unwrap().recv() {
                if says(reader, event) == Then::Closes {
                    break;
                }
            }
            Then::Closes
        });
        let edge = before(&origin).start();
        let mut client = Asking::to(&edge);
        client.say(format!("GET / HTTP/{version}\r\nHost: web\r\n\r\n"));
        client.head().unwrap();
        for event in ["data: one\n\n", "data: two\n\n"] {
            says_it.send(event).unwrap();
            if version == "1.1" {
                assert_eq!(client.line().unwrap(), "b");
            }
            assert_eq!(client.exactly(event.len()).unwrap(), event.as_bytes());
            if version == "1.1" {
                assert_eq!(client.line().unwrap(), "");
            }
        }
        drop(client);
        eventually("its line", || {
            let _ = says_it.send("data: more\n\n");
            let gone = |line: &String| line.contains("reason=client_reset");
            edge.access_lines().iter().any(gone).then_some(())
        });
    }
}
