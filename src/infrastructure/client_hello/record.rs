//! The records that a hello comes in (RFC 8446, 5.1), and reading across their borders.

use super::{MAX_LENGTH, Stop, Wrong};

/// Bytes before a record's fragment: type, version, length.
const HEAD: usize = 5;

/// The longest fragment, in bytes.
const MAX_FRAGMENT: usize = 1 << 14;

/// A record's type.
const HANDSHAKE: u8 = 22;

/// A message's type.
const CLIENT_HELLO: u8 = 1;

/// Bytes before a message: its type and length.
const MESSAGE_HEAD: usize = 4;

/// The shortest hello, in bytes behind these: a version, a random, no session, one cipher suite, one
/// compression method.
const MIN_HELLO: usize = 2 + 32 + 1 + 4 + 2;

/// Versions of TLS begin with this; 3.0 is SSL 3.
const MAJOR: u8 = 3;

/// What is left of a message whose records are all there: a place in the caller's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// What is left of the record that the place is in.
    fragment: &'a [u8],
    /// The records behind it.
    records: &'a [u8],
    /// How much is left, in bytes without heads of records.
    left: usize,
}

/// The first message of a connection, without its head, and where it ends in `bytes`.
///
/// Bytes are judged in the order in which they arrive, so that none can change what was wrong before.
pub(super) fn message(bytes: &[u8]) -> Result<(Message<'_>, usize), Stop> {
    let mut head = Head { bytes: [0; 6], known: 0 };
    // Where the record begins, and what of the message is in those before it.
    let (mut start, mut taken) = (0, 0);
    loop {
        let fragment = start + HEAD;
        let Some(length) = fragment_length(bytes, start)? else {
            return Err(Stop::More(fragment + head.message() - taken));
        };
        least_end(fragment, length, head.message() - taken)?;
        let arrived = &bytes[fragment..bytes.len().min(fragment + length)];
        for byte in arrived {
            if head.known == head.bytes.len() {
                break;
            }
            head.take(*byte)?;
            least_end(fragment, length, head.message() - taken)?;
        }
        let missing = head.message() - taken;
        let end = least_end(fragment, length, missing)?;
        if bytes.len() < end && arrived.len() < length {
            return Err(Stop::More(end));
        }
        if missing <= length {
            let mut message =
                Message { fragment: &[], records: &bytes[..end], left: head.message() };
            // It is there: what is missing has been counted with it.
            message.skip(MESSAGE_HEAD);
            return Ok((message, end));
        }
        taken += length;
        start = fragment + length;
    }
}

/// The length of the record that begins at `start`; none when its head has not arrived.
fn fragment_length(bytes: &[u8], start: usize) -> Result<Option<usize>, Wrong> {
    let Some((kind, rest)) = bytes.get(start..).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    match (*kind, rest.first()) {
        // The second byte of a version says nothing in a record (RFC 8446, 5.1).
        (HANDSHAKE, None | Some(&MAJOR)) => {}
        (kind, _) if start > 0 && kind != HANDSHAKE => return Err(Wrong::Interrupted(kind)),
        _ => return Err(Wrong::NotTls),
    }
    let [_, _, high, low, ..] = rest else { return Ok(None) };
    match usize::from(u16::from_be_bytes([*high, *low])) {
        length @ 1..=MAX_FRAGMENT => Ok(Some(length)),
        length => Err(Wrong::Record(length)),
    }
}

/// Where a message ends at least, of which so much is missing before a record that begins here: what
/// does not fit comes in one more.
fn least_end(fragment: usize, length: usize, missing: usize) -> Result<usize, Wrong> {
    let end = fragment + missing + if missing > length { HEAD } else { 0 };
    if end > MAX_LENGTH { Err(Wrong::TooLong(end)) } else { Ok(end) }
}

/// A message's first bytes: its head, and the version that a hello begins with.
struct Head {
    bytes: [u8; 6],
    known: usize,
}

impl Head {
    /// The next byte.
    fn take(&mut self, byte: u8) -> Result<(), Wrong> {
        match (self.known, byte) {
            (0, CLIENT_HELLO) | (1..=3, _) | (4, MAJOR) | (5, 1..) => {}
            _ => return Err(Wrong::NotTls),
        }
        self.bytes[self.known] = byte;
        self.known += 1;
        if self.known == MESSAGE_HEAD && self.message() < MESSAGE_HEAD + MIN_HELLO {
            return Err(Wrong::Malformed("length"));
        }
        Ok(())
    }

    /// How long the message is, in bytes with its head: at least, as long as that is not known.
    fn message(&self) -> usize {
        let [_, high, middle, low, ..] = self.bytes;
        let known = self.known >= MESSAGE_HEAD;
        MESSAGE_HEAD
            + if known { u32::from_be_bytes([0, high, middle, low]) as usize } else { MIN_HELLO }
    }
}

impl<'a> Message<'a> {
    /// No message at all.
    pub(super) const EMPTY: Self = Self { fragment: &[], records: &[], left: 0 };

    pub(super) fn len(&self) -> usize {
        self.left
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The next byte, if there is one.
    pub(super) fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.copy_to(&mut byte)?;
        Some(byte[0])
    }

    /// The next two bytes as a number.
    pub(super) fn short(&mut self) -> Option<u16> {
        let mut bytes = [0; 2];
        self.copy_to(&mut bytes)?;
        Some(u16::from_be_bytes(bytes))
    }

    /// Copies the next bytes to `out`, as many as it has room for.
    pub(super) fn copy_to(&mut self, out: &mut [u8]) -> Option<()> {
        let mut filled = 0;
        self.pieces(out.len(), |piece| {
            out[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        })
    }

    /// Passes over so many bytes.
    pub(super) fn skip(&mut self, length: usize) -> Option<()> {
        self.pieces(length, |_| {})
    }

    /// Takes off so many bytes.
    pub(super) fn split_to(&mut self, length: usize) -> Option<Self> {
        let part = Self { left: length, ..*self };
        self.skip(length)?;
        Some(part)
    }

    /// Gives `each` the next bytes, record by record; none if there are fewer.
    fn pieces(&mut self, mut length: usize, mut each: impl FnMut(&'a [u8])) -> Option<()> {
        self.left = self.left.checked_sub(length)?;
        loop {
            let (piece, rest) = self.fragment.split_at(length.min(self.fragment.len()));
            each(piece);
            self.fragment = rest;
            length -= piece.len();
            if length == 0 {
                return Some(());
            }
            let (head, rest) = self.records.split_first_chunk::<HEAD>()?;
            let next = usize::from(u16::from_be_bytes([head[3], head[4]]));
            (self.fragment, self.records) = rest.split_at(next.min(rest.len()));
        }
    }
}
