//! HTTP/2 frame by frame (RFC 9113, 4): a client that says what it is told to.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::{Client, Edge};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 32;

/// Codes of errors.
pub const NO_ERROR: u32 = 0;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A field, as bytes.
pub type Field = (Vec<u8>, Vec<u8>);

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    fn ends(&self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// The number that its payload holds at a place.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }

    /// The status that an answer begins with. All that an encoder could have written it in but the table
    /// that grows, which is off.
    pub fn status(&self) -> u16 {
        // A change of that table's size.
        let from = self.payload.iter().position(|byte| byte & 0xe0 != 0x20).expect("a field");
        let block = &self.payload[from..];
        match block[0] {
            index @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
            // Literal, by the name `:status`.
            0x08 | 0x18 | 0x48 => digits(block[1], &block[2..]),
            other => panic!("a status in {other:#x}: {block:?}"),
        }
    }
}

/// Three digits, in Huffman's code or not (RFC 7541, appendix B).
fn digits(length: u8, bytes: &[u8]) -> u16 {
    let length_of = usize::from(length & 0x7f);
    if length & 0x80 == 0 {
        return std::str::from_utf8(&bytes[..length_of]).unwrap().parse().unwrap();
    }
    let bits: Vec<u8> = bytes[..length_of]
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let value = |length: usize| bits[at..at + length].iter().fold(0, |all, bit| all << 1 | bit);
        let (digit, length) = match value(5) {
            digit @ 0..3 => (digit, 5),
            _ => (value(6) - 0b01_1001 + 3, 6),
        };
        number = number * 10 + u16::from(digit);
        at += length;
    }
    number
}

/// A frame, as it is written.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A length with a prefix of seven bits (RFC 7541, 5.1).
fn length(length: usize, out: &mut Vec<u8>) {
    let byte = |value: usize| u8::try_from(value).expect("one byte");
    if length < 127 {
        return out.push(byte(length));
    }
    out.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        out.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    out.push(byte(rest));
}

/// Fields as they are, by no table and no code.
pub fn block(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            length(text.len(), &mut out);
            out.extend(text);
        }
    }
    out
}

/// Fields, from texts.
pub fn fields(fields: &[(&str, &str)]) -> Vec<Field> {
    fields.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect()
}

/// What is asked for, and more fields.
pub fn asked(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<Field> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "web"), (":path", path)];
    fields(&[&pseudo[..], more].concat())
}

/// A head in one frame, or as many as it takes.
pub fn head(stream: u32, all: &[Field], ends: bool) -> Vec<u8> {
    let block = block(all);
    let mut parts = block.chunks(16_000);
    let first = parts.next().unwrap_or_default();
    let last = |left: usize| if left == 0 { END_HEADERS } else { 0 };
    let mut bytes = frame(HEADERS, u8::from(ends) | last(parts.len()), stream, first);
    while let Some(part) = parts.next() {
        bytes.extend(frame(CONTINUATION, last(parts.len()), stream, part));
    }
    bytes
}

/// `GET path`.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    head(stream, &asked("GET", path, &[]), true)
}

pub fn data(stream: u32, bytes: impl AsRef<[u8]>, ends: bool) -> Vec<u8> {
    frame(DATA, u8::from(ends), stream, bytes.as_ref())
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A setting.
pub fn setting(name: u16, value: u32) -> Vec<u8> {
    let mut payload = name.to_be_bytes().to_vec();
    payload.extend(value.to_be_bytes());
    payload
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered(u16, String),
    /// Its stream has been broken off.
    Reset(u32),
    /// The connection is over; the error that was said before.
    Gone(Option<u32>),
}

/// A client.
#[derive(Debug)]
pub struct Raw {
    pub stream: TcpStream,
    /// The last streams and errors of what said that no more is taken.
    pub goaways: Vec<(u32, u32)>,
}

impl Raw {
    pub fn to(edge: &Edge) -> Self {
        Self::from("127.0.0.1", edge.addr)
    }

    pub fn from(ip: &str, addr: SocketAddr) -> Self {
        Self::with(ip, addr, &[])
    }

    /// One with more settings than that nothing is kept for its sake.
    pub fn with(ip: &str, addr: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = Client::connect(ip, addr).expect("the proxy accepts").stream;
        let _ = stream.set_nodelay(true);
        let mut raw = Self { stream, goaways: Vec::new() };
        let mut payload = setting(1, 0);
        for (name, value) in settings {
            payload.extend(setting(*name, *value));
        }
        raw.say([PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat());
        raw
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("it is heard");
    }

    /// Says it to whoever may have gone; whether it could be said.
    pub fn tries(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The next frame; pings are answered.
    pub fn next(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four"));
        let mut payload = vec![0; usize::try_from(number(0) >> 8).expect("24 bits")];
        self.stream.read_exact(&mut payload)?;
        let read = Frame { kind: head[3], flags: head[4], stream: number(5), payload };
        if read.kind == GOAWAY {
            self.goaways.push((read.number(0), read.number(4)));
        }
        if read.kind == PING && read.flags & ACK == 0 {
            self.tries(frame(PING, ACK, 0, &read.payload));
        }
        Ok(read)
    }

    /// The next frame of such a type.
    pub fn next_of(&mut self, kind: u8) -> io::Result<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Ok(frame);
            }
        }
    }

    /// What becomes of a request. What there is to read of others is lost.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut status, mut body) = (None, Vec::new());
        loop {
            let Ok(read) = self.next() else {
                return Outcome::Gone(self.goaways.last().map(|(_, error)| *error));
            };
            if read.stream != stream {
                continue;
            }
            match read.kind {
                HEADERS if status.is_none_or(|status| status < 200) => {
                    status = Some(read.status());
                }
                DATA => body.extend(&read.payload),
                RST_STREAM => return Outcome::Reset(read.number(0)),
                _ => {}
            }
            if read.ends() && matches!(read.kind, HEADERS | DATA) {
                let body = String::from_utf8_lossy(&body).into_owned();
                return Outcome::Answered(status.expect("a head"), body);
            }
        }
    }

    /// Asks, and is answered.
    pub fn get(&mut self, stream: u32, path: &str) -> Outcome {
        self.say(get(stream, path));
        self.outcome(stream)
    }

    /// Everything that comes up to the end; whether that was one, and not a reset.
    pub fn ends(&mut self) -> bool {
        loop {
            match self.next() {
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::UnexpectedEof,
            }
        }
    }
}
