//! What clients are told by this proxy itself.

use std::io::Write;

/// An answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 400 to 504.
    pub status: u16,
    /// Why, in a few words.
    pub why: &'static str,
    /// After how many seconds to come again.
    pub retry_after: Option<u64>,
}

impl Answer {
    /// One with a reason.
    #[must_use]
    pub const fn new(status: u16, why: &'static str) -> Self {
        Self { status, why, retry_after: None }
    }

    /// Writes it as HTTP/1.
    pub fn write(&self, said: &Said, out: &mut Vec<u8>) {
        let body = self.body(said);
        // Writing to memory cannot fail.
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, words(self.status));
        for (name, value) in self.fields(said, &body) {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        out.extend_from_slice(if said.keeps { b"\r\n" } else { b"connection: close\r\n\r\n" });
        if !said.to_head {
            out.extend_from_slice(body.as_bytes());
        }
    }

    /// What there is to read.
    #[must_use]
    pub fn body(&self, said: &Said) -> String {
        let Self { status, why, .. } = self;
        let id = u128::from_be_bytes(said.trace);
        if said.json {
            format!("{{\"status\":{status},\"error\":\"{why}\",\"request_id\":\"{id:032x}\"}}\n")
        } else {
            format!("{status} {}: {why}\nrequest {id:032x}\n", words(*status))
        }
    }

    /// Its fields, for such a body.
    pub fn fields(
        &self,
        said: &Said,
        body: &str,
    ) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let kind = if said.json { "application/json" } else { "text/plain; charset=utf-8" };
        let again = self.retry_after.map(|secs| ("retry-after", secs.max(1).to_string()));
        let fields = [
            ("content-type", kind.to_owned()),
            ("content-length", body.len().to_string()),
            ("cache-control", "no-store".to_owned()),
        ];
        fields.into_iter().chain(again)
    }
}

/// How an answer is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// By which the request is known.
    pub trace: [u8; 16],
    /// Whether its client takes JSON rather than text.
    pub json: bool,
    /// Whether it is for a HEAD, and has no body.
    pub to_head: bool,
    /// Whether the connection goes on.
    pub keeps: bool,
}

/// The words for a status (RFC 9110, 15).
const fn words(status: u16) -> &'static str {
    match status {
        403 => "Forbidden",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Bad Request",
    }
}
