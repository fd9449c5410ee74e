//! HTTP/1.1 on the wire (RFC 9112), read strictly: what two readers could understand in two ways is
//! understood by nobody here. Nothing is kept: each reader is given what has arrived.

mod body;
mod head;
mod request;
mod response;

#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

pub use body::{Chunks, Piece};
pub use head::{Found, MAX_HEADERS, find};
pub use request::{Request, Target, Version, is_authority};
pub use response::Response;

/// One field of a head.
pub use httparse::Header as Field;

/// Room for the fields of a head.
#[must_use]
pub const fn room<'b>() -> [MaybeUninit<Field<'b>>; MAX_HEADERS] {
    [const { MaybeUninit::uninit() }; MAX_HEADERS]
}

/// How the end of a body is known (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// It has so many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
    /// It goes on until the connection ends. Only a response's can.
    UntilClose,
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Bad {
    /// What a client is told, as a status.
    pub status: u16,
    /// What is wrong, for people.
    pub why: &'static str,
}

impl Bad {
    /// A request that is none.
    #[must_use]
    pub const fn request(why: &'static str) -> Self {
        Self { status: 400, why }
    }

    const fn with(status: u16, why: &'static str) -> Self {
        Self { status, why }
    }
}

/// The elements of a list in a field (RFC 9110, 5.6.1), without those that are empty.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// How the body of a message is framed by its fields, when they say so.
fn framing(fields: &[Field<'_>], minor: u8) -> Result<Option<Framing>, Bad> {
    let named = |name: &'static str| {
        fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name))
    };
    let mut codings = named("transfer-encoding");
    let mut lengths = named("content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Bad::request("both Transfer-Encoding and Content-Length")),
        (Some(coding), None) => {
            if minor == 0 {
                return Err(Bad::request("Transfer-Encoding in HTTP/1.0"));
            }
            if codings.next().is_some() || !coding.value.eq_ignore_ascii_case(b"chunked") {
                // Whoever reads it otherwise finds another end.
                return Err(Bad::request("a Transfer-Encoding other than chunked"));
            }
            Ok(Some(Framing::Chunked))
        }
        (None, Some(length)) => {
            if lengths.next().is_some() {
                return Err(Bad::request("Content-Length more than once"));
            }
            let length =
                number(length.value).ok_or(Bad::request("a Content-Length that is no number"))?;
            Ok(Some(Framing::Length(length)))
        }
    }
}

/// Digits and nothing else, below 2^63.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = str::from_utf8(value).ok()?.parse().ok()?;
    (number <= i64::MAX.unsigned_abs()).then_some(number)
}
