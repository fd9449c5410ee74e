//! A body in chunks (RFC 9112, 7.1), read strictly.

use super::Bad;
use super::head::{Found, find};

/// The longest line before a chunk, in bytes, its extensions included.
const MAX_LINE: usize = 256;
/// The longest trailer section, in bytes.
const MAX_TRAILERS: usize = 16 << 10;
/// Digits of the length of a chunk: 2^60 is more than anybody sends.
const MAX_DIGITS: usize = 15;

/// Where in a chunked body its reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks(State);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the line that says how long the next chunk is.
    #[default]
    Line,
    /// So many bytes of a chunk are to come.
    Data(u64),
    /// The line's end behind a chunk.
    Behind,
    /// The fields behind the last chunk.
    Trailers,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// More must arrive.
    More,
    /// A part of the body.
    Data(&'b [u8]),
    /// All of it has come; these are the fields behind it, with the empty line at their end.
    End(&'b [u8]),
}

impl Chunks {
    /// The next piece of what has arrived, and how many bytes are done with.
    ///
    /// # Errors
    /// When it is not what it must be. There is no way on.
    pub fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<(Piece<'b>, usize), Bad> {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            match self.0 {
                State::Line => match line(rest)? {
                    None => return Ok((Piece::More, taken)),
                    Some((0, length)) => {
                        // The fields begin behind the line's end, which `find` must see.
                        taken += length - 2;
                        self.0 = State::Trailers;
                    }
                    Some((data, length)) => {
                        taken += length;
                        self.0 = State::Data(data);
                    }
                },
                State::Data(left) => {
                    if rest.is_empty() {
                        return Ok((Piece::More, taken));
                    }
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left - length as u64;
                    self.0 = if left == 0 { State::Behind } else { State::Data(left) };
                    return Ok((Piece::Data(&rest[..length]), taken + length));
                }
                State::Behind => match rest {
                    [b'\r', b'\n', ..] => {
                        taken += 2;
                        self.0 = State::Line;
                    }
                    [] | [b'\r'] => return Ok((Piece::More, taken)),
                    _ => return Err(Bad::request("a chunk that is longer than it says")),
                },
                State::Trailers => return trailers(rest, taken),
            }
        }
    }
}

/// The length of the next chunk, and of the line that says it.
fn line(bytes: &[u8]) -> Result<Option<(u64, usize)>, Bad> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_LINE {
            Ok(None)
        } else {
            Err(Bad::request("too long a line before a chunk"))
        };
    };
    let Some((b'\r', line)) = bytes[..end].split_last() else {
        return Err(Bad::request("LF without CR before a chunk"));
    };
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extension) = line.split_at(digits);
    let is_extension = matches!(extension, [] | [b';' | b' ' | b'\t', ..])
        && extension.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let has_semicolon = extension.trim_ascii_start().first().is_none_or(|byte| *byte == b';');
    if digits.is_empty() || digits.len() > MAX_DIGITS || !is_extension || !has_semicolon {
        return Err(Bad::request("a chunk without a length"));
    }
    let length = str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    let length = length.ok_or(Bad::request("a chunk without a length"))?;
    Ok(Some((length, end + 1)))
}

/// What is behind the last chunk; `bytes` begin with its line's end.
fn trailers(bytes: &[u8], taken: usize) -> Result<(Piece<'_>, usize), Bad> {
    let Some(fields) = bytes.get(2..) else { return Ok((Piece::More, taken)) };
    if let [b'\r', b'\n', ..] = fields {
        return Ok((Piece::End(&fields[..2]), taken + 4));
    }
    if let [b' ' | b'\t', ..] = fields {
        return Err(Bad::request("a field that begins with a space"));
    }
    match find(fields, 0) {
        // Also when all of it has come at once.
        Found::More(length) | Found::Whole(length) if length > MAX_TRAILERS => {
            Err(Bad::request("too long trailers"))
        }
        Found::Whole(length) => Ok((Piece::End(&fields[..length]), taken + 2 + length)),
        Found::More(_) => Ok((Piece::More, taken)),
        Found::Bad(bad) => Err(bad),
    }
}
