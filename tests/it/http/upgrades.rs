//! Connections that speak another protocol from some moment on.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use super::peers::{Asking, Origin, Reader, Then, before, get, ok, request, says, site};
use crate::support::{Lines, PATIENCE, Row, eventually, noise};

const ASKS: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
const GRANTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Grants every upgrade, says `first` behind that in the same segment, then sends back what it gets.
fn granting(first: &'static str) -> Origin {
    Origin::new(move |seen, reader| {
        if seen.message.all("upgrade").is_empty() {
            return says(reader, ok("a"));
        }
        says(reader, format!("{GRANTED}{first}"));
        while let Ok(bytes) = reader.some(64 << 10) {
            if says(reader, bytes) == Then::Closes {
                break;
            }
        }
        let _ = reader.stream.write_all(b"the end");
        Then::Closes
    })
}

#[test]
fn an_upgrade_that_is_granted_carries_bytes_both_ways() {
    let origin = granting("");
    let edge = before(&origin).start();
    for used in [false, true] {
        let mut client = Asking::to(&edge);
        if used {
            client.get("/");
        }
        let answer = client.ask(&request("GET", "/chat", ASKS));
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.field("upgrade"), Some("websocket"));
        assert_eq!(
            answer.field("connection").map(str::to_ascii_lowercase).as_deref(),
            Some("upgrade")
        );
        assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let asked = origin.last();
        assert_eq!(asked.field("upgrade"), Some("websocket"));
        assert_eq!(asked.field("connection"), Some("upgrade"));
        assert_eq!(asked.field("sec-websocket-version"), Some("13"));
        for word in ["hello", "GET / HTTP/1.1\r\n\r\n", "\0\u{7f}"] {
            client.say(word);
            assert_eq!(client.exactly(word.len()).unwrap(), word.as_bytes());
        }
        let bytes = noise(5, 3 << 20);
        let mut writing = client.stream.try_clone().unwrap();
        let sent = bytes.clone();
        let sender = thread::spawn(move || {
            writing.write_all(&sent).unwrap();
            // Half of it is closed, the other goes on.
            writing.shutdown(Shutdown::Write).unwrap();
        });
        assert!(client.exactly(bytes.len()).unwrap() == bytes, "other bytes");
        sender.join().unwrap();
        assert_eq!(client.rest().unwrap(), b"the end");
        // One line for the request, and one for what the connection was then.
        let addr = client.addr();
        let of = |text: &str| edge.access_line(&format!("client={addr} ")).contains(text);
        assert!(used || of("status=101"));
        let lines = eventually("both lines", || {
            let all = edge.access_lines().into_iter();
            let own: Vec<String> = all.filter(|line| line.contains(&addr.to_string())).collect();
            (own.len() == 2 + usize::from(used)).then_some(own)
        });
        let last = lines.last().unwrap();
        assert!(last.contains("reason=client_closed") && !last.contains("status="), "{last}");
    }
}

#[test]
fn what_is_said_right_behind_the_handshake_arrives_first_and_once_both_ways() {
    let origin = granting("welcome");
    let edge = before(&origin).start();
    for _ in 0..30 {
        let mut client = Asking::to(&edge);
        client.say(request("GET", "/", ASKS) + "early ");
        assert_eq!(client.head().unwrap().status(), 101);
        client.say("late");
        assert_eq!(client.exactly(17).unwrap(), b"welcomeearly late");
    }
}

#[test]
fn an_upgrade_that_is_not_granted_is_an_answer_like_any() {
    let origin = Origin::new(|seen, reader| match seen.message.path() {
        "/no" => says(reader, "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"),
        "/newer" => says(
            reader,
            "HTTP/1.1 426 Newer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
        ),
        _ => says(reader, ok("a")),
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    for (path, status) in [("/no", 403), ("/newer", 426), ("/", 200)] {
        let answer = client.ask(&request("GET", path, ASKS));
        assert_eq!(answer.status(), status);
        assert_eq!(client.get("/").text(), "a", "the connection goes on behind {path}");
    }
}

#[test]
fn http_2_in_the_clear_is_never_asked_for() {
    let origin = granting("");
    let edge = before(&origin).start();
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: upgrade\r\nUpgrade: H2C\r\n",
        "Connection: upgrade\r\nUpgrade: h2c-16\r\n",
        // Nobody has said that it is for this hop.
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
    ] {
        let mut client = Asking::to(&edge);
        assert_eq!(client.ask(&request("GET", "/", fields)).text(), "a", "{fields:?}");
        let asked = origin.last();
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(asked.all(name).is_empty(), "{name} of {fields:?} in {asked:?}");
        }
    }
    let mut client = Asking::to(&edge);
    let both = "Connection: upgrade\r\nUpgrade: h2c, websocket\r\n";
    assert_eq!(client.ask(&request("GET", "/", both)).status(), 101);
    assert_eq!(origin.last().field("upgrade"), Some("websocket"));
    // HTTP/1.0 has no such thing.
    let mut old = Asking::to(&edge);
    old.say(format!("GET / HTTP/1.0\r\n{ASKS}\r\n"));
    assert_eq!(old.answer("GET").unwrap().text(), "a");
}

#[test]
fn an_upgraded_connection_is_idle_by_its_apps_setting_and_not_by_those_of_requests() {
    let origin = granting("");
    let edge = before(&origin)
        .env("EDGEPROXY_HTTP_KEEP_ALIVE_TIMEOUT_SECS", "1")
        .env("EDGEPROXY_HTTP_BODY_TIMEOUT_SECS", "1")
        .env("EDGEPROXY_HTTP_HEADER_TIMEOUT_SECS", "1")
        .env("EDGEPROXY_HTTP_REQUEST_TIMEOUT_SECS", "1")
        .env("EDGEPROXY_HTTP_RESPONSE_TIMEOUT_SECS", "1")
        .toml("[app.web]\nidle_timeout_secs = 2")
        .start();
    let begun = std::time::Instant::now();
    let mut client = Asking::to(&edge);
    assert_eq!(client.ask(&request("GET", "/", ASKS)).status(), 101);
    client.ends();
    let took = begun.elapsed().as_secs_f32();
    assert!((1.5..5.0).contains(&took), "{took}");
}

#[test]
fn an_upgraded_connection_keeps_its_place_and_gives_it_back() {
    let origin = granting("");
    // One worker takes one after the other: whoever has been answered has no place any more.
    let edge = site()
        .env("EDGEPROXY_WORKERS", "1")
        .backend(Row::new("a", origin.addr()).hard_limit(1))
        .start();
    for _ in 0..3 {
        let mut client = Asking::to(&edge);
        assert_eq!(client.ask(&request("GET", "/", ASKS)).status(), 101);
        let mut other = Asking::to(&edge);
        assert_eq!(other.get("/").status(), 503);
        drop(client);
        eventually("there is room again", || (other.get("/").status() == 200).then_some(()));
    }
}

/// A program of Node's. Killed when dropped.
pub struct Node {
    child: Child,
    out: Lines,
}

impl Node {
    pub fn run(script: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "--",
                "node",
                "--experimental-websocket",
                "-e",
                script,
                "--",
            ])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Node runs");
        let out: ChildStdout = child.stdout.take().unwrap();
        Self { child, out: Lines::of(out) }
    }

    /// The first line that it says with this prefix, without that.
    pub fn says(&self, prefix: &str) -> String {
        let found = self.out.find(PATIENCE, |line| line.strip_prefix(prefix).map(Into::into));
        found.unwrap_or_else(|| panic!("no {prefix:?} in {:#?}", self.out.so_far()))
    }

    /// The port that a server of it says that it has.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.says("port ").parse().unwrap()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server of `WebSocket`s that sends each message back, by hand: Node has none of its own.
const SERVER: &str = r"
const http = require('http'), crypto = require('crypto');
const server = http.createServer((request, response) => response.end('plain'));
server.on('upgrade', (request, socket, head) => {
  const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  const accept = crypto.createHash('sha1').update(key).digest('base64');
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
    'Sec-WebSocket-Accept: ' + accept + '\r\n\r\n');
  let held = head;
  const frames = () => {
    for (;;) {
      if (held.length < 6) return;
      let length = held[1] & 127, at = 2;
      if (length === 126) { length = held.readUInt16BE(2); at = 4; }
      if (length === 127) { length = Number(held.readBigUInt64BE(2)); at = 10; }
      if (held.length < at + 4 + length) return;
      const mask = held.subarray(at, at + 4), body = Buffer.from(held.subarray(at + 4, at + 4 + length));
      for (let i = 0; i < length; i++) body[i] ^= mask[i & 3];
      socket.write(Buffer.concat([Buffer.from([held[0]]), sized(length), body]));
      if ((held[0] & 15) === 8) socket.end();
      held = held.subarray(at + 4 + length);
    }
  };
  const sized = (length) => {
    if (length < 126) return Buffer.from([length]);
    const long = Buffer.alloc(length < 65536 ? 3 : 9);
    long[0] = length < 65536 ? 126 : 127;
    if (length < 65536) long.writeUInt16BE(length, 1); else long.writeBigUInt64BE(BigInt(length), 1);
    return long;
  };
  socket.on('data', (data) => { held = Buffer.concat([held, data]); frames(); });
  socket.on('error', () => {});
  frames();
});
server.listen(0, '127.0.0.1', () => console.log('port ' + server.address().port));
";

/// A client of `WebSocket`s, as browsers have it.
const CLIENT: &str = r"
const socket = new WebSocket(process.argv[1]);
const sizes = [0, 1, 125, 126, 65535, 65536, 1000000];
let next = 0;
const send = () => socket.send('x'.repeat(sizes[next]));
socket.onopen = send;
socket.onerror = (error) => console.log('failed ' + (error.message || error));
socket.onmessage = (message) => {
  if (message.data.length !== sizes[next]) console.log('failed: ' + message.data.length);
  next += 1;
  if (next < sizes.length) send(); else socket.close(1000, 'done');
};
socket.onclose = (event) => { console.log('closed ' + event.code + ' ' + next); };
";

#[test]
fn nodes_web_sockets_talk_to_nodes_server() {
    let server = Node::run(SERVER, &[]);
    let edge = site().backend(Row::new("a", server.addr())).start();
    let url = format!("ws://{}/chat", edge.addr);
    let clients: Vec<Node> = (0..3).map(|_| Node::run(CLIENT, &[&url])).collect();
    for client in &clients {
        assert_eq!(client.says("closed "), "1000 7", "{:?}", client.out.so_far());
    }
    assert_eq!(Asking::to(&edge).get("/").text(), "plain");
}

#[test]
fn a_request_behind_an_upgrade_that_fails_is_no_message_of_another_protocol() {
    let origin = Origin::new(|seen, reader| {
        says(reader, ok(&format!("{} {}", seen.message.path(), seen.before)))
    });
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    client.say(request("GET", "/first", ASKS) + &get("/second"));
    assert_eq!(client.answer("GET").unwrap().text(), "/first 0");
    assert_eq!(client.answer("GET").unwrap().text(), "/second 1");
    let mut one = [0];
    client.stream.set_nonblocking(true).unwrap();
    assert!(Reader::new(&client.stream).stream.read(&mut one).is_err(), "nothing more");
}
