//! A body on its way from one side to the other: its bytes, in the framing of each.

use std::io::Write;

use crate::infrastructure::http1::{Bad, Chunks, Framing, Piece};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    from: Body,
    /// Whether the other side gets it in chunks.
    chunked: bool,
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
        Self { from, chunked: to == Framing::Chunked }
    }

    /// Whether all of it has come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.from == Body::Over
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
                        // What comes behind the last chunk is for one hop: nobody has asked for it.
                        Piece::End(_) => {
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

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.chunked {
            out.extend_from_slice(b"0\r\n\r\n");
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
