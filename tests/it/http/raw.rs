//! HTTP/1 byte by byte: a reader that takes nothing but the one way to write a message, a backend that
//! keeps what it gets, a client that says what it is told to.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::support::{Backend, Client};

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// A request or an answer.
#[derive(Clone, Debug)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// A message and how many bytes it has; `None` = more must come.
type Parsed = Result<Option<(Message, usize)>, String>;

impl Message {
    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| &**value).collect()
    }

    /// The value of a field that is there once at most.
    pub fn one(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} more than once: {self:?}");
        values.first().copied()
    }

    /// The word of the first line with this number.
    pub fn word(&self, number: usize) -> &str {
        self.start.split(' ').nth(number).expect("three words")
    }

    /// An answer's status.
    pub fn status(&self) -> u16 {
        self.word(1).parse().expect("digits")
    }

    /// The body as a text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What matters of a request: method, target, host, framing, body and the fields behind it.
    pub fn summary(&self) -> String {
        let framing = match self.framing {
            Framing::None => "none",
            Framing::Length(_) => "length",
            Framing::Chunked => "chunked",
            Framing::UntilClose => "until-close",
        };
        let host = self.one("host").unwrap_or("-");
        let (method, target) = (self.word(0), self.word(1));
        let mut text = format!("{method} {target} {host} {framing} {}", self.body.escape_ascii());
        for (name, value) in &self.trailers {
            let _ = write!(text, " +{name}: {value}");
        }
        text.trim_end().to_owned()
    }
}

/// The request that bytes begin with, written as a careful sender writes it: anything else is an error.
pub fn request(bytes: &[u8]) -> Parsed {
    request_of(bytes, true)
}

/// The same. Unless it must be `exact`, also of HTTP/1.0 and with other ways to write the same framing.
fn request_of(bytes: &[u8], exact: bool) -> Parsed {
    message(bytes, exact, |start, fields| {
        if exact && fields.iter().filter(|(name, _)| name == "host").count() != 1 {
            return Err(format!("not one Host: {fields:?}"));
        }
        let words: Vec<&str> = start.split(' ').collect();
        match words[..] {
            [method, target, version]
                if is_token(method)
                    && is_graphic(target)
                    && (version == "HTTP/1.1" || !exact && version == "HTTP/1.0") =>
            {
                Ok(Framing::None)
            }
            _ => Err(format!("no request line: {start:?}")),
        }
    })
}

/// The same of an answer to a request of this method.
pub fn answer(method: &str) -> impl Fn(&[u8]) -> Parsed + '_ {
    move |bytes| {
        message(bytes, true, |start, fields| {
            let (version, rest) = start.split_once(' ').unwrap_or_default();
            let (status, _) = rest.split_once(' ').ok_or(format!("no status line: {start:?}"))?;
            let digits = status.bytes().filter(u8::is_ascii_digit).count();
            if version != "HTTP/1.1" || status.len() != 3 || digits != 3 {
                return Err(format!("no status line: {start:?}"));
            }
            let says_length = fields.iter().any(|(name, _)| name == "content-length");
            match status {
                "204" if says_length => Err("a length of what has no content".into()),
                "204" | "304" => Ok(Framing::Length(0)),
                _ if status.starts_with('1') && says_length => Err("an interim length".into()),
                _ if status.starts_with('1') || method == "HEAD" => Ok(Framing::Length(0)),
                _ => Ok(Framing::UntilClose),
            }
        })
    }
}

/// Reads a message whose first line says how it is framed where its fields do not: a length of 0 = it
/// has no body, whatever they say.
fn message(
    bytes: &[u8],
    exact: bool,
    start_of: impl Fn(&str, &[(String, String)]) -> Result<Framing, String>,
) -> Parsed {
    let mut at = 0;
    let Some(start) = line(bytes, &mut at)? else { return Ok(None) };
    let Some(fields) = fields(bytes, &mut at)? else { return Ok(None) };
    let said = framing(&fields, exact)?;
    let framing = match start_of(&start, &fields)? {
        Framing::Length(0) => Framing::None,
        otherwise => said.unwrap_or(otherwise),
    };
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    match framing {
        Framing::None => {}
        Framing::UntilClose => {
            body = bytes[at..].to_vec();
            at = bytes.len();
        }
        Framing::Length(length) => {
            let Some(part) = bytes.get(at..at + length) else { return Ok(None) };
            body = part.to_vec();
            at += length;
        }
        Framing::Chunked => loop {
            let Some(length) = line(bytes, &mut at)? else { return Ok(None) };
            if length.is_empty()
                || length.len() > 8
                || !length.bytes().all(|byte| byte.is_ascii_hexdigit())
            {
                return Err(format!("no length of a chunk: {length:?}"));
            }
            let length = usize::from_str_radix(&length, 16).map_err(|error| error.to_string())?;
            if length == 0 {
                let Some(behind) = self::fields(bytes, &mut at)? else { return Ok(None) };
                trailers = behind;
                break;
            }
            let Some(part) = bytes.get(at..at + length + 2) else { return Ok(None) };
            let (data, end) = part.split_at(length);
            if end != b"\r\n" {
                return Err("a chunk that does not end where it says".into());
            }
            body.extend_from_slice(data);
            at += length + 2;
        },
    }
    Ok(Some((Message { start, fields, framing, body, trailers }, at)))
}

/// The line at `at`, and its end behind it.
fn line(bytes: &[u8], at: &mut usize) -> Result<Option<String>, String> {
    let rest = &bytes[*at..];
    let end = rest.windows(2).position(|pair| pair == b"\r\n");
    let part = &rest[..end.unwrap_or(rest.len().saturating_sub(1))];
    let is_plain = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    if !part.iter().all(is_plain) {
        return Err(format!("a control character: {}", part.escape_ascii()));
    }
    *at += end.map_or(0, |end| end + 2);
    Ok(end.map(|_| part.iter().map(|byte| char::from(*byte)).collect()))
}

/// The fields at `at`, and the empty line at their end.
fn fields(bytes: &[u8], at: &mut usize) -> Result<Option<Vec<(String, String)>>, String> {
    let mut fields = Vec::new();
    loop {
        let Some(line) = line(bytes, at)? else { return Ok(None) };
        if line.is_empty() {
            return Ok(Some(fields));
        }
        let (name, value) = line.split_once(':').ok_or(format!("no colon: {line:?}"))?;
        let value = value.strip_prefix(' ').unwrap_or(value);
        if !is_token(name) || value.starts_with([' ', '\t']) || value.ends_with([' ', '\t']) {
            return Err(format!("no field: {line:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

/// How a body is framed by fields, in exactly one way, which must be written `exact`ly or so that all
/// understand the same.
fn framing(fields: &[(String, String)], exact: bool) -> Result<Option<Framing>, String> {
    let named = |wanted: &str| -> Vec<&str> {
        let named = fields.iter().filter(|(name, _)| name == wanted);
        named.map(|(_, value)| &**value).collect()
    };
    match (&named("content-length")[..], &named("transfer-encoding")[..]) {
        ([], []) => Ok(None),
        ([], [coding]) if *coding == "chunked" => Ok(Some(Framing::Chunked)),
        ([], [coding]) if !exact && coding.eq_ignore_ascii_case("chunked") => {
            Ok(Some(Framing::Chunked))
        }
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let number: usize = length.parse().map_err(|_| format!("no length: {length}"))?;
            if exact && number.to_string() != *length {
                return Err(format!("an odd length: {length}"));
            }
            Ok(Some(Framing::Length(number)))
        }
        (lengths, codings) => Err(format!("two ways to frame: {lengths:?}, {codings:?}")),
    }
}

fn is_token(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_inner)
}

fn is_graphic(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// All answers that a connection has brought, to requests of these methods.
pub fn answers(bytes: &[u8], methods: &[&str]) -> Result<Vec<Message>, String> {
    let (mut at, mut read) = (0, Vec::new());
    let mut methods = methods.iter();
    let mut method = "GET";
    let mut is_next = true;
    while at < bytes.len() {
        if is_next {
            method = methods.next().copied().unwrap_or("GET");
        }
        let (answer, length) = answer(method)(&bytes[at..])?.ok_or("an answer that breaks off")?;
        is_next = answer.status() >= 200;
        at += length;
        read.push(answer);
    }
    Ok(read)
}

/// A backend that keeps every byte that it gets, and answers what a strict reader takes for a request
/// with what that was.
pub struct Recorder {
    backend: Backend,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    requests: Mutex<Vec<Message>>,
    /// What was no request, or not whole when its connection ended.
    left: Mutex<Vec<Left>>,
}

/// Bytes that are no whole request.
#[derive(Clone, Debug)]
pub struct Left {
    pub bytes: Vec<u8>,
    /// Why they are none; `None` = they may be the beginning of one.
    pub why: Option<String>,
}

impl Recorder {
    pub fn new() -> Self {
        Self::of(true)
    }

    /// One that takes what others than this proxy write as well.
    pub fn lenient() -> Self {
        Self::of(false)
    }

    fn of(exact: bool) -> Self {
        let heard: Arc<Heard> = Arc::default();
        let hears = Arc::clone(&heard);
        let backend = Backend::serving(move |stream| hears.hear(stream, exact));
        Self { backend, heard }
    }

    pub fn addr(&self) -> SocketAddr {
        self.backend.addr()
    }

    /// What it has got, once all of its connections have ended.
    pub fn to_the_end(&self) -> (Vec<Message>, Vec<Left>) {
        self.backend.wait_until_idle();
        let take = |requests: &Mutex<Vec<Message>>| {
            std::mem::take(&mut *requests.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let left = self.heard.left.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (take(&self.heard.requests), left)
    }
}

impl Heard {
    fn hear(&self, mut stream: TcpStream, exact: bool) {
        let (mut held, mut buffer) = (Vec::new(), [0; 16 << 10]);
        let mut why = None;
        'connection: loop {
            loop {
                match request_of(&held, exact) {
                    Ok(None) => break,
                    Ok(Some((read, length))) => {
                        held.drain(..length);
                        let text = read.summary();
                        let body = if read.word(0) == "HEAD" { "" } else { &*text };
                        let length = text.len();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(read);
                        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
                            break 'connection;
                        }
                    }
                    Err(error) => {
                        why = Some(error);
                        break 'connection;
                    }
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => held.extend_from_slice(&buffer[..read]),
            }
        }
        if !held.is_empty() {
            let left = Left { bytes: held, why };
            self.left.lock().unwrap_or_else(PoisonError::into_inner).push(left);
        }
    }
}

/// How a client says what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// In one go.
    AtOnce,
    /// In so many bytes at a time.
    By(usize),
    /// In two goes, the first so long.
    Split(usize),
}

/// What became of a connection.
#[derive(Debug)]
pub struct Told {
    pub from: SocketAddr,
    pub bytes: Vec<u8>,
    /// Whether it ended with a reset.
    pub reset: bool,
}

/// Says all of it from an address, and hears all that comes of it.
pub fn tell(to: SocketAddr, from: IpAddr, bytes: &[u8], said: Said, ends: bool) -> Told {
    let mut client = Client::connect(&from.to_string(), to).expect("it accepts");
    let _ = client.stream.set_nodelay(true);
    let addr = client.addr();
    let (first, rest) = match said {
        Said::AtOnce => (bytes, &b""[..]),
        Said::By(_) => (&b""[..], bytes),
        Said::Split(at) => bytes.split_at(at),
    };
    let step = if let Said::By(step) = said { step } else { rest.len().max(1) };
    for part in [first].into_iter().chain(rest.chunks(step)) {
        // Who is refused need not be heard to the end.
        if client.stream.write_all(part).is_err() {
            break;
        }
    }
    if ends {
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
    }
    let (mut heard, mut buffer) = (Vec::new(), [0; 16 << 10]);
    let reset = loop {
        match client.stream.read(&mut buffer) {
            Ok(0) => break false,
            Ok(read) => heard.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break true,
            Err(error) => panic!(
                "{error} after {:?} for {:?}",
                String::from_utf8_lossy(&heard),
                String::from_utf8_lossy(&bytes[..bytes.len().min(2_000)])
            ),
        }
    };
    Told { from: addr, bytes: heard, reset }
}

/// The address of the client with this number, which only it has.
pub fn address(number: usize) -> IpAddr {
    let byte = |value: usize| u8::try_from(value % 250).expect("small") + 1;
    IpAddr::from([127, 10 + byte(number / 62_500), byte(number / 250), byte(number)])
}

/// Does `work` for each number below `count`, some at a time; what it gave, in order.
pub fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    const THREADS: usize = 12;
    let next = AtomicUsize::new(0);
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= count {
                            return done;
                        }
                        done.push((number, work(number)));
                    }
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, done)| done).collect()
}
