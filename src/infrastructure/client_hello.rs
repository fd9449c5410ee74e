//! The first message of a TLS client, as far as it says where a connection is to go: the server's
//! name (RFC 6066, 3) and the protocols offered by ALPN (RFC 7301).
//!
//! Nothing is decrypted and nothing is kept: [`read`] is given what has arrived so far, which the
//! caller keeps anyway to pass it on, and asks for more. A hello may be cut into records of TLS and
//! into segments of TCP anywhere.

mod name;
mod protocol;
mod record;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use name::ServerName;
pub use protocol::{Protocol, Protocols};

use record::Message;

/// The longest hello that is read, in bytes, with the heads of its records. Those of today's clients
/// with a post-quantum key share have about 1800.
pub const MAX_LENGTH: usize = 16 * 1024;

/// Extensions that are looked into (the IANA registry "TLS `ExtensionType` Values").
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// The longest session identifier, in bytes (RFC 8446, 4.1.2).
const MAX_SESSION_ID: usize = 32;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct ClientHello<'a> {
    name: Option<ServerName>,
    protocols: Protocols<'a>,
}

/// What has been read.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a name lies in it: it is looked at once and not kept, and a box would be an allocation"
)]
pub enum Outcome<'a> {
    /// So far it can become a hello.
    More {
        /// No hello ends before this many bytes, counted from the first; always more than there are,
        /// at most [`MAX_LENGTH`]. Who reads again only then reads a few dozen times at most, however
        /// small the records are. Reading again sooner is right as well and tells earlier that
        /// something is wrong, but each time goes over all heads of records again: with every byte
        /// of the worst hello that is a thousand times as much work.
        need: usize,
    },
    /// The hello is whole.
    Done {
        /// What it says.
        hello: ClientHello<'a>,
        /// Where it ends, in bytes from the first; a server must be given these too.
        length: usize,
    },
    /// It is no hello and cannot become one.
    Wrong(Wrong),
}

/// Why bytes are not a hello that can be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Wrong {
    /// Another protocol, or TLS's predecessors SSL 2 and 3 (RFC 6176, RFC 7568).
    #[error("it does not start with a ClientHello of TLS 1.0 or newer")]
    NotTls,
    /// Something else comes before the hello ends, which RFC 8446, 5.1 forbids.
    #[error("a record of type {0} comes before the ClientHello ends")]
    Interrupted(u8),
    /// A record's length.
    #[error("a record of {0} bytes; 1 to 16384 are allowed")]
    Record(usize),
    /// It would be longer than [`MAX_LENGTH`]: at least this many bytes.
    #[error("a ClientHello of {0} bytes or more, at most {MAX_LENGTH} are read")]
    TooLong(usize),
    /// Its parts do not fit into each other.
    #[error("the ClientHello's {0} is malformed")]
    Malformed(&'static str),
    /// One extension twice (RFC 8446, 4.2).
    #[error("the ClientHello has extension {0} twice")]
    Duplicate(u16),
    /// A server name that is no host name: letters, digits, `-` and `_` in labels of at most 63
    /// bytes, 253 in all, and the last label is not a number.
    #[error("the server name is not a host name")]
    Name,
}

/// Reads a hello from a connection's first bytes, `bytes` being all that have arrived.
///
/// The answer does not depend on how they arrived: once it is not [`Outcome::More`] it stays the
/// same whatever comes after. Takes no memory but what it returns, and time in proportion to at most
/// [`MAX_LENGTH`] bytes.
#[must_use]
pub fn read(bytes: &[u8]) -> Outcome<'_> {
    let (message, length) = match record::message(bytes) {
        Ok(message) => message,
        Err(Stop::More(need)) => return Outcome::More { need },
        Err(Stop::Wrong(wrong)) => return Outcome::Wrong(wrong),
    };
    match hello(message) {
        Ok(hello) => Outcome::Done { hello, length },
        Err(wrong) => Outcome::Wrong(wrong),
    }
}

impl<'a> ClientHello<'a> {
    /// The host that is asked for. None when the client does not say, or gives an IP address, which
    /// is no host name (RFC 6066, 3). Under encrypted client hello it is the outer name, by which
    /// such a connection is to be routed (RFC 9849).
    #[must_use]
    pub fn name(&self) -> Option<&ServerName> {
        self.name.as_ref()
    }

    /// The protocols offered, the preferred one first; none without the extension.
    #[must_use]
    pub fn protocols(&self) -> Protocols<'a> {
        self.protocols.clone()
    }

    /// Whether a protocol is among those offered.
    #[must_use]
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.protocols().any(|offered| *offered == *protocol)
    }
}

/// Why there is no hello yet.
enum Stop {
    /// There is none before so many bytes.
    More(usize),
    Wrong(Wrong),
}

impl From<Wrong> for Stop {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

/// Takes a whole message apart (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2).
fn hello(mut message: Message<'_>) -> Result<ClientHello<'_>, Wrong> {
    let mut hello = ClientHello { name: None, protocols: Protocols::none() };
    let Some(extensions) = extensions(&mut message)? else { return Ok(hello) };
    let mut seen = Seen::new();
    let mut rest = extensions;
    while !rest.is_empty() {
        let (kind, body) = extension(&mut rest).ok_or(Wrong::Malformed("list of extensions"))?;
        if !seen.insert(kind) {
            return Err(Wrong::Duplicate(kind));
        }
        match kind {
            SERVER_NAME => hello.name = name::read(body)?,
            ALPN => hello.protocols = protocol::read(body).ok_or(Wrong::Malformed("ALPN"))?,
            // Unknown ones, those of GREASE among them (RFC 8701), are for the server.
            _ => {}
        }
    }
    Ok(hello)
}

/// The extensions of a message; none if it ends before them, as one of TLS 1.2 may.
fn extensions<'a>(message: &mut Message<'a>) -> Result<Option<Message<'a>>, Wrong> {
    let fixed = |message: &mut Message<'a>| {
        let [_legacy_version, _random] = [message.skip(2)?, message.skip(32)?];
        let session = message.byte().map(usize::from).filter(|length| *length <= MAX_SESSION_ID)?;
        message.skip(session)?;
        let suites = message.short().filter(|length| *length > 0 && length % 2 == 0)?;
        message.skip(usize::from(suites))?;
        let compressions = message.byte().filter(|length| *length > 0)?;
        message.skip(usize::from(compressions))
    };
    fixed(message).ok_or(Wrong::Malformed("beginning"))?;
    if message.is_empty() {
        return Ok(None);
    }
    let whole = message.short().filter(|length| usize::from(*length) == message.len());
    whole.ok_or(Wrong::Malformed("list of extensions"))?;
    Ok(Some(*message))
}

/// The next extension's type and body.
fn extension<'a>(rest: &mut Message<'a>) -> Option<(u16, Message<'a>)> {
    let kind = rest.short()?;
    let length = rest.short()?;
    Some((kind, rest.split_to(usize::from(length))?))
}

/// Which types of extension there were, a bit each: a hello has room for thousands.
struct Seen([u64; 1 << 10]);

impl Seen {
    fn new() -> Self {
        Self([0; 1 << 10])
    }

    /// Whether it is the first of its type.
    fn insert(&mut self, kind: u16) -> bool {
        let word = &mut self.0[usize::from(kind >> 6)];
        let bit = 1 << (kind & 63);
        let first = *word & bit == 0;
        *word |= bit;
        first
    }
}
