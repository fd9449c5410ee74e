//! The protocols that a client offers to speak inside TLS (RFC 7301, 3.1).

use std::fmt;
use std::ops::Deref;

use super::record::Message;

/// The longest name of a protocol, in bytes.
const MAX_PROTOCOL: usize = 255;

/// The protocols offered, in the client's order; they are read off its hello one by one.
#[derive(Clone, Debug)]
pub struct Protocols<'a>(Message<'a>);

/// A protocol's name, such as `h2`: 1 to 255 bytes of any kind.
#[derive(Clone, Copy)]
pub struct Protocol {
    bytes: [u8; MAX_PROTOCOL],
    length: u8,
}

impl Protocols<'_> {
    /// Without the extension.
    pub(super) fn none() -> Self {
        Self(Message::EMPTY)
    }
}

impl Iterator for Protocols<'_> {
    type Item = Protocol;

    fn next(&mut self) -> Option<Protocol> {
        let length = self.0.byte()?;
        let mut bytes = [0; MAX_PROTOCOL];
        self.0.copy_to(&mut bytes[..usize::from(length)])?;
        Some(Protocol { bytes, length })
    }
}

impl Deref for Protocol {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

/// The protocols in an extension's body; none if it is malformed.
pub(super) fn read(mut body: Message<'_>) -> Option<Protocols<'_>> {
    body.short().filter(|length| *length > 0 && usize::from(*length) == body.len())?;
    let protocols = Protocols(body);
    while !body.is_empty() {
        let length = body.byte().filter(|length| *length > 0)?;
        body.skip(usize::from(length))?;
    }
    Some(protocols)
}
