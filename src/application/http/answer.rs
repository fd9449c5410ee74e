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

    /// Writes it, to a client that takes JSON or text; one to a HEAD has no body.
    pub fn write(
        &self,
        (trace, json, to_head, keeps): ([u8; 16], bool, bool, bool),
        out: &mut Vec<u8>,
    ) {
        let Self { status, why, retry_after } = self;
        let (words, id) = (words(*status), u128::from_be_bytes(trace));
        let body = if json {
            format!("{{\"status\":{status},\"error\":\"{why}\",\"request_id\":\"{id:032x}\"}}\n")
        } else {
            format!("{status} {words}: {why}\nrequest {id:032x}\n")
        };
        let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
        // Writing to memory cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {status} {words}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\
             cache-control: no-store\r\n",
            body.len()
        );
        if let Some(secs) = retry_after {
            let _ = write!(out, "retry-after: {}\r\n", (*secs).max(1));
        }
        out.extend_from_slice(if keeps { b"\r\n" } else { b"connection: close\r\n\r\n" });
        if !to_head {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

/// The words for a status (RFC 9110, 15).
const fn words(status: u16) -> &'static str {
    match status {
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
