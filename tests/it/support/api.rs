//! The control API of a running edge, as a program of an operator's asks it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::PATIENCE;
use super::http::{Answer, read_answer};

/// The token of operators.
pub const TOKEN: &str = "a-token-of-the-tests";

/// Where it is, and with what it is asked.
#[derive(Clone, Debug)]
pub struct Api {
    place: Place,
    headers: Vec<String>,
}

#[derive(Clone, Debug)]
enum Place {
    Tcp(SocketAddr),
    Socket(PathBuf),
}

/// An answer: its status and what it holds.
#[derive(Debug, PartialEq)]
pub struct Told {
    pub status: u16,
    pub body: Value,
}

impl Told {
    /// What it holds, when all is well.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.body
    }

    /// The status and the one word for what is wrong.
    pub fn problem(&self) -> (u16, &str) {
        (self.status, self.body["error"].as_str().unwrap_or_default())
    }

    /// The fields that are wrong.
    pub fn fields(&self) -> Vec<&str> {
        let fields = self.body["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
        fields.iter().filter_map(|field| field["field"].as_str()).collect()
    }
}

impl Api {
    pub fn at(addr: SocketAddr) -> Self {
        Self { place: Place::Tcp(addr), headers: Vec::new() }.with_token(TOKEN)
    }

    /// By the unix socket, where no token is needed.
    pub fn on_socket(file: PathBuf) -> Self {
        Self { place: Place::Socket(file), headers: Vec::new() }
    }

    /// With another token.
    pub fn with_token(&self, token: &str) -> Self {
        self.without_token().with(&format!("Authorization: Bearer {token}"))
    }

    pub fn without_token(&self) -> Self {
        let keeps = |header: &&String| !header.starts_with("Authorization:");
        let headers = self.headers.iter().filter(keeps).cloned().collect();
        Self { place: self.place.clone(), headers }
    }

    /// With a header more.
    pub fn with(&self, header: &str) -> Self {
        let mut headers = self.headers.clone();
        headers.push(header.into());
        Self { place: self.place.clone(), headers }
    }

    pub fn get(&self, path: &str) -> Told {
        self.ask("GET", path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Told {
        self.ask("POST", path, Some(body))
    }

    pub fn put(&self, path: &str, body: &Value) -> Told {
        self.ask("PUT", path, Some(body))
    }

    pub fn delete(&self, path: &str) -> Told {
        self.ask("DELETE", path, None)
    }

    /// Registers a backend in the app `web`, in Brazil.
    pub fn register(&self, id: &str, addr: SocketAddr) -> Told {
        self.post("/api/v1/register", &registration(id, addr))
    }

    pub fn heartbeat(&self, id: &str) -> Told {
        self.ask("POST", &format!("/api/v1/heartbeat/{id}"), None)
    }

    /// One backend; `null` when there is none.
    pub fn backend(&self, id: &str) -> Value {
        let told = self.get(&format!("/api/v1/backends/{id}"));
        if told.status == 404 { Value::Null } else { told.ok() }
    }

    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Told {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut headers = self.headers.clone();
        if !body.is_empty() {
            headers.push("Content-Type: application/json".into());
        }
        let answer = self.say(method, path, &headers, &body);
        let body = match answer.body.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into())),
        };
        Told { status: answer.status, body }
    }

    /// The answer to a request with just these headers, as it is.
    pub fn say(&self, method: &str, path: &str, headers: &[String], body: &str) -> Answer {
        let host = match &self.place {
            Place::Tcp(addr) => addr.to_string(),
            Place::Socket(_) => "edge-proxy".into(),
        };
        let own = headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:"));
        let host = if own { String::new() } else { format!("Host: {host}\r\n") };
        let headers: String = headers.iter().flat_map(|header| [header.as_str(), "\r\n"]).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("the API reads");
        read_answer(&mut stream).expect("an answer of the API")
    }

    /// A connection of its own.
    pub fn connect(&self) -> Box<dyn Stream> {
        match &self.place {
            Place::Tcp(addr) => {
                let stream = TcpStream::connect_timeout(addr, PATIENCE).expect("the API listens");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                Box::new(stream)
            }
            Place::Socket(file) => {
                let stream = UnixStream::connect(file).expect("the socket is there");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                Box::new(stream)
            }
        }
    }
}

/// What is read and written.
pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// What a backend in the app `web`, in Brazil, registers with.
pub fn registration(id: &str, addr: SocketAddr) -> Value {
    json!({
        "id": id, "app": "web", "region": "sa", "country": "BR",
        "ip": addr.ip().to_string(), "port": addr.port(),
    })
}
