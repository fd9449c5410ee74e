//! A body on its way from one side to the other: its bytes, in the framing of each.

use std::io::Write;

use super::is_field_for_trailers;
use crate::infrastructure::http1::{Bad, Chunks, Framing, MAX_HEADERS, Piece};

/// Where a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// It has come to its end.
    Over,
    /// So many bytes are to come.
    Length(u64),
    /// It comes in chunks.
    Chunked(Chunks),
    /// It goes on until the connection ends.
    UntilClose,
}

/// A body that is passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    from: Body,
    /// Whether the other side gets it in chunks.
    chunked: bool,
    /// The fields behind it, a line each: those that may stand there.
    trailers: Vec<u8>,
}

impl Flow {
    /// One that comes framed as `from`, and leaves as `to`.
    #[must_use]
    pub fn new(from: Framing, to: Framing) -> Self {
        let from = match from {
            Framing::None | Framing::Length(0) => Body::Over,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Chunks::default()),
            Framing::UntilClose => Body::UntilClose,
        };
        Self { from, chunked: to == Framing::Chunked, trailers: Vec::new() }
    }

    /// Whether all of it has come.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.from, Body::Over)
    }

    /// The fields behind it that are not in its chunks: a line each.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        if self.chunked { &[] } else { &self.trailers }
    }

    /// Passes on what has arrived, to the end of `out`; how many bytes of it are done with. What is left
    /// is the beginning of something that is not whole, or behind the body.
    ///
    /// # Errors
    /// When it is not what it must be.
    pub fn pass(&mut self, arrived: &[u8], out: &mut Vec<u8>) -> Result<usize, Bad> {
        let mut taken = 0;
        loop {
            let rest = &arrived[taken..];
            match &mut self.from {
                Body::Over => return Ok(taken),
                Body::Length(left) => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    let left = *left - length as u64;
                    self.from = if left == 0 { Body::Over } else { Body::Length(left) };
                    out.extend_from_slice(&rest[..length]);
                    return Ok(taken + length);
                }
                Body::UntilClose => {
                    write_chunk(rest, self.chunked, out);
                    return Ok(arrived.len());
                }
                Body::Chunked(chunks) => {
                    let (piece, done) = chunks.next(rest)?;
                    taken += done;
                    match piece {
                        Piece::More => return Ok(taken),
                        Piece::Data(data) => write_chunk(data, self.chunked, out),
                        Piece::End(fields) => {
                            self.trailers = kept(fields)?;
                            self.end(out);
                            return Ok(taken);
                        }
                    }
                }
            }
        }
    }

    /// Notes that the connection has ended from which it comes; whether that is its end as well.
    pub fn close(&mut self, out: &mut Vec<u8>) -> bool {
        if self.from == Body::UntilClose {
            self.end(out);
        }
        self.is_over()
    }

    /// The same, with fields behind it, a line each.
    pub fn close_with(&mut self, trailers: Vec<u8>, out: &mut Vec<u8>) -> bool {
        self.trailers = trailers;
        self.close(out)
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.chunked {
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(&self.trailers);
            out.extend_from_slice(b"\r\n");
        }
        self.from = Body::Over;
    }
}

fn write_chunk(data: &[u8], chunked: bool, out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    if chunked {
        // Writing to memory cannot fail.
        let _ = write!(out, "{:x}\r\n", data.len());
    }
    out.extend_from_slice(data);
    if chunked {
        out.extend_from_slice(b"\r\n");
    }
}

/// The fields behind a body that are passed on.
fn kept(section: &[u8]) -> Result<Vec<u8>, Bad> {
    if section == b"\r\n" {
        return Ok(Vec::new());
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut kept = Vec::new();
    match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => {
            for field in fields.iter().filter(|field| is_field_for_trailers(field.name)) {
                kept.extend_from_slice(field.name.as_bytes());
                kept.extend_from_slice(b": ");
                kept.extend_from_slice(field.value);
                kept.extend_from_slice(b"\r\n");
            }
            Ok(kept)
        }
        _ => Err(Bad::request("trailers that are no fields")),
    }
}
