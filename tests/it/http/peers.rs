//! Clients and backends of HTTP/1.1, by another hand than the edge's, that say exactly what they are told.

use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::support::{Backend, Client, Edge, Row, Site};

/// A site in http mode, where every request is a choice of its own.
pub fn site() -> Site {
    Site::new()
        .env("EDGEPROXY_MODE", "http")
        .env("EDGEPROXY_SLOW_START_SECS", "0")
        .without_affinity()
}

/// The same with this backend.
pub fn before(origin: &Origin) -> Site {
    site().backend(Row::new("a", origin.addr()))
}

/// A message: its first line, its fields, its body and the fields behind that.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Message {
    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect(&self.line)
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The values of all fields of a name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        named.map(|(_, value)| &**value).collect()
    }

    /// The value of the only field of a name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} more than once in {self:?}");
        all.first().copied()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn is_chunked(&self) -> bool {
        self.field("transfer-encoding").is_some_and(|coding| coding == "chunked")
    }

    fn length(&self) -> Option<usize> {
        self.field("content-length").map(|length| length.parse().expect("a number"))
    }
}

/// Bytes of a connection, from which messages are read.
#[derive(Debug)]
pub struct Reader<S> {
    pub stream: S,
    held: Vec<u8>,
}

impl<S: Read> Reader<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, held: Vec::new() }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            read => {
                self.held.extend_from_slice(&bytes[..read]);
                Ok(())
            }
        }
    }

    /// Up to the end of the line, without it.
    pub fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.held.windows(2).position(|bytes| bytes == b"\r\n") {
                let line: Vec<u8> = self.held.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(Error::other);
            }
            self.fill()?;
        }
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| Error::other(line.clone()))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// So many bytes.
    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.held.len() < length {
            self.fill()?;
        }
        Ok(self.held.drain(..length).collect())
    }

    /// What there is, and not more than so many bytes.
    pub fn some(&mut self, most: usize) -> io::Result<Vec<u8>> {
        if self.held.is_empty() {
            self.fill()?;
        }
        let length = most.min(self.held.len());
        Ok(self.held.drain(..length).collect())
    }

    /// The first line and the fields.
    pub fn head(&mut self) -> io::Result<Message> {
        let line = self.line()?;
        Ok(Message { line, fields: self.fields()?, ..Message::default() })
    }

    /// Reads a chunked body to its end.
    pub fn chunks(&mut self, message: &mut Message) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let length = usize::from_str_radix(&line, 16).map_err(Error::other)?;
            if length == 0 {
                message.trailers = self.fields()?;
                return Ok(());
            }
            message.body.extend(self.exactly(length)?);
            assert_eq!(self.line()?, "", "behind a chunk");
        }
    }

    /// A request, as a server reads it.
    pub fn request(&mut self) -> io::Result<Message> {
        let mut message = self.head()?;
        if message.is_chunked() {
            self.chunks(&mut message)?;
        } else if let Some(length) = message.length() {
            message.body = self.exactly(length)?;
        }
        Ok(message)
    }

    /// An answer to a request of this method, as a client reads it.
    pub fn answer(&mut self, method: &str) -> io::Result<Message> {
        let mut message = self.head()?;
        let status = message.status();
        if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
        } else if message.is_chunked() {
            self.chunks(&mut message)?;
        } else if let Some(length) = message.length() {
            message.body = self.exactly(length)?;
        } else {
            message.body = self.rest()?;
        }
        Ok(message)
    }

    /// Everything up to the end.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.held);
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }
}

/// A client's connection.
pub type Asking = Reader<TcpStream>;

impl Asking {
    pub fn to(edge: &Edge) -> Self {
        Self::from("127.0.0.1", edge)
    }

    /// From an address of this machine.
    pub fn from(ip: &str, edge: &Edge) -> Self {
        Self::at(ip, edge.addr)
    }

    pub fn at(ip: &str, addr: SocketAddr) -> Self {
        Self::new(Client::connect(ip, addr).expect("the proxy accepts").stream)
    }

    pub fn addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    pub fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).unwrap();
    }

    /// Says a request, and reads its answer.
    pub fn try_ask(&mut self, request: &str) -> io::Result<Message> {
        self.stream.write_all(request.as_bytes())?;
        self.answer(request.split(' ').next().unwrap_or_default())
    }

    /// The same, where nothing must go wrong.
    pub fn ask(&mut self, request: &str) -> Message {
        self.try_ask(request).unwrap_or_else(|error| panic!("{error}, asked {request:?}"))
    }

    pub fn get(&mut self, path: &str) -> Message {
        self.ask(&get(path))
    }

    /// Whether the connection has ended as it should: nothing more has come.
    pub fn ends(&mut self) {
        assert_eq!(self.rest().expect("an end, not a reset"), b"", "nothing more");
    }
}

/// `GET path`.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")
}

/// A request with a method and fields, each with its line's end.
pub fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: web\r\n{fields}\r\n")
}

/// One request on a connection of its own, which ends.
pub fn once(edge: &Edge, request: &str) -> Message {
    Asking::to(edge).ask(request)
}

/// An answer with this body.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// What a backend has been asked, and on which of its connections, counted from 0.
#[derive(Clone, Debug)]
pub struct Seen {
    pub connection: usize,
    /// How many requests came before it on this connection.
    pub before: usize,
    pub message: Message,
    /// Who the PROXY protocol's header said it is, as it was written.
    pub header: String,
}

/// What a backend does after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Reads another.
    Goes,
    /// Closes.
    Closes,
    /// Resets the connection.
    Resets,
}

/// A backend that answers requests.
pub struct Origin {
    backend: Backend,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Origin {
    /// Answers each as `answer` does.
    pub fn new(
        answer: impl Fn(&Seen, &mut Reader<TcpStream>) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::reading(false, Reader::request, answer)
    }

    /// The same, where only heads are read before.
    pub fn of_heads(
        answer: impl Fn(&Seen, &mut Reader<TcpStream>) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::reading(false, Reader::head, answer)
    }

    /// The same, behind a header of the PROXY protocol in its first version.
    pub fn headed(
        answer: impl Fn(&Seen, &mut Reader<TcpStream>) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::reading(true, Reader::request, answer)
    }

    fn reading(
        headed: bool,
        read: impl Fn(&mut Reader<TcpStream>) -> io::Result<Message> + Send + Sync + 'static,
        answer: impl Fn(&Seen, &mut Reader<TcpStream>) -> Then + Send + Sync + 'static,
    ) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (noted, numbers) = (Arc::clone(&seen), AtomicUsize::new(0));
        let backend = Backend::serving(move |stream| {
            let connection = numbers.fetch_add(1, Ordering::SeqCst);
            let _ = stream.set_nodelay(true);
            let mut reader = Reader::new(stream);
            let mut before = 0;
            let header = if headed { reader.line().unwrap_or_default() } else { String::new() };
            while let Ok(message) = read(&mut reader) {
                let header = header.clone();
                let request = Seen { connection, before, message, header };
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
                before += 1;
                match answer(&request, &mut reader) {
                    Then::Goes => {}
                    Then::Closes => return,
                    Then::Resets => return crate::support::reset(reader.stream),
                }
            }
        });
        Self { backend, seen }
    }

    /// Answers each with this name.
    pub fn named(name: &str) -> Self {
        let answer = ok(name);
        Self::new(move |_, reader| says(reader, &answer))
    }

    /// Answers each with these bytes.
    pub fn saying(answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::new(move |_, reader| says(reader, &answer))
    }

    pub fn addr(&self) -> SocketAddr {
        self.backend.addr()
    }

    /// Connections that it has had.
    pub fn accepted(&self) -> usize {
        self.backend.accepted()
    }

    pub fn backend(&mut self) -> &mut Backend {
        &mut self.backend
    }

    /// What it has been asked.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last that it has been asked.
    pub fn last(&self) -> Message {
        self.seen().pop().expect("a request").message
    }
}

/// Says something, and reads another request if that was heard.
pub fn says(reader: &mut Reader<TcpStream>, text: impl AsRef<[u8]>) -> Then {
    match reader.stream.write_all(text.as_ref()) {
        Ok(()) => Then::Goes,
        Err(_) => Then::Closes,
    }
}
