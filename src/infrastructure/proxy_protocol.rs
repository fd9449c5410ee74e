//! The PROXY protocol, versions 1 and 2: for whom another proxy makes a connection, read from its
//! first bytes and written before a backend's.
//!
//! The specification is <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, sections 2.1 and
//! 2.2. Nothing here reads a socket: [`read`] is given what has arrived so far and
//! asks for more. Only whoever is trusted may be read from; that is the caller's to know.

mod crc32c;
mod tlv;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

pub use tlv::{ClientCertificate, Tls, Tlvs};

/// The longest header that is read or written, in bytes. Version 2 could say 64 KiB; what proxies
/// send, a certificate's names included, is far below this, and it is one page.
pub const MAX_LENGTH: usize = 4096;

/// The shortest header there is: `PROXY UNKNOWN` and its end of line.
const MIN_LENGTH: usize = 15;

/// What a header says about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// It is made for somebody else. Addresses are canonical: an IPv4 address that came mapped into
    /// IPv6 is an IPv4 address, so the two families may differ.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
    },
    /// The proxy makes it for itself, to see whether it is answered: the peer's own addresses hold.
    Local,
    /// It is made for somebody whose address is not one of TCP over IPv4 or IPv6: the peer's own
    /// addresses hold.
    Unknown,
}

/// What has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So far it can become a header.
    More {
        /// No header ends before this many bytes, counted from the first; always more than there
        /// are, at most [`MAX_LENGTH`]. Reading again sooner is right, and of use only to learn
        /// earlier that something is wrong.
        need: usize,
    },
    /// The header is whole.
    Done {
        /// What it says.
        header: Header,
        /// Its length in bytes: what comes after them is the client's.
        length: usize,
    },
    /// It is no header and cannot become one: the connection must be closed (2.1, 2.2).
    Wrong(Wrong),
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Wrong {
    /// Neither version's first bytes.
    #[error("it does not start with a PROXY header of version 1 or 2")]
    NotProxy,
    /// Version 1: what follows `PROXY`.
    #[error("version 1: the protocol is none of TCP4, TCP6 and UNKNOWN")]
    Transport,
    /// Version 1: a CR or LF that is not part of CRLF.
    #[error("version 1: the line does not end with CR and LF")]
    LineEnd,
    /// Version 1: no end of line.
    #[error("version 1: the line does not end within {} bytes", v1::MAX_LINE)]
    LineTooLong,
    /// Version 1: the addresses.
    #[error("version 1: not two addresses of the family it names")]
    Address,
    /// Version 1: the ports.
    #[error("version 1: not two ports from 0 to 65535 without leading zeroes")]
    Port,
    /// Version 2's first bytes with another version.
    #[error("the version is {0}, only 1 and 2 are known")]
    Version(u8),
    /// Version 2: an unassigned command.
    #[error("version 2: the command is {0}, only 0 (LOCAL) and 1 (PROXY) are known")]
    Command(u8),
    /// Version 2: an unassigned address family or transport protocol.
    #[error("version 2: the family and protocol are {0:#04x}, which are not assigned")]
    Family(u8),
    /// Version 2: it says that it is longer than [`MAX_LENGTH`].
    #[error("version 2: the header has {0} bytes, at most {MAX_LENGTH} are taken")]
    TooLong(usize),
    /// Version 2: its length has no room for its addresses.
    #[error("version 2: {given} bytes follow, the addresses alone have {least}")]
    TooShort {
        /// What the header says.
        given: usize,
        /// What its family needs.
        least: usize,
    },
    /// Version 2: an extension is cut off, or longer than its type may be.
    #[error("version 2: an extension of type {0:#04x} has a wrong length")]
    Extension(u8),
    /// Version 2: the checksum is not that of the header, or there are two.
    #[error("version 2: the checksum is wrong")]
    Checksum,
}

/// Which of the two is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary, with extensions.
    V2,
}

/// A header would be longer than [`MAX_LENGTH`]: this many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the PROXY header would have {0} bytes, at most {MAX_LENGTH} are sent")]
pub struct TooLong(pub usize);

/// Reads a header from a connection's first bytes, `bytes` being all that have arrived.
///
/// The answer does not depend on how they arrived: once it is not [`Outcome::More`] it stays the
/// same whatever comes after. Takes no memory, and looks at most at [`MAX_LENGTH`] bytes.
#[must_use]
pub fn read(bytes: &[u8]) -> Outcome {
    let read = match bytes.first() {
        None => Err(Stop::More(MIN_LENGTH)),
        Some(b'P') => v1::read(bytes),
        Some(b'\r') => v2::read(bytes),
        Some(_) => Err(Stop::Wrong(Wrong::NotProxy)),
    };
    match read {
        Ok((header, length)) => Outcome::Done { header, length },
        Err(Stop::More(need)) => Outcome::More { need },
        Err(Stop::Wrong(wrong)) => Outcome::Wrong(wrong),
    }
}

impl Header {
    /// Appends the header of version 1 to `out`: at most 107 bytes.
    ///
    /// When one address is IPv4 and the other IPv6, both are written as IPv6, the one mapped. Version
    /// 1 has no LOCAL: both it and [`Header::Unknown`] are `UNKNOWN`, which some receivers refuse; a
    /// proxy that asks for itself had better give its own addresses (2.1).
    pub fn write_v1(&self, out: &mut Vec<u8>) {
        v1::write(self, out);
    }

    /// Appends the header of version 2 to `out`, with its extensions when somebody's addresses are
    /// in it.
    ///
    /// # Errors
    /// The extensions are so long that the header would exceed [`MAX_LENGTH`]; nothing is appended.
    pub fn write_v2(&self, tlvs: &Tlvs<'_>, out: &mut Vec<u8>) -> Result<(), TooLong> {
        v2::write(self, tlvs, out)
    }

    /// The header in bytes, of version 2 with `tlvs`, which must be short enough.
    #[must_use]
    pub fn written(&self, version: Version, tlvs: &Tlvs<'_>) -> Box<[u8]> {
        let mut bytes = Vec::new();
        match version {
            Version::V1 => self.write_v1(&mut bytes),
            Version::V2 => {
                let _ = self.write_v2(tlvs, &mut bytes);
            }
        }
        bytes.into()
    }

    fn proxied(source: IpAddr, destination: IpAddr, ports: [u16; 2]) -> Self {
        Self::Proxied {
            source: SocketAddr::new(source.to_canonical(), ports[0]),
            destination: SocketAddr::new(destination.to_canonical(), ports[1]),
        }
    }
}

/// Two addresses of one family, as both versions write them.
enum Pair {
    V4([std::net::Ipv4Addr; 2]),
    V6([std::net::Ipv6Addr; 2]),
}

impl Pair {
    fn of(source: SocketAddr, destination: SocketAddr) -> Self {
        match (source.ip().to_canonical(), destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Self::V4([source, destination]),
            (source, destination) => Self::V6([source, destination].map(|ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            })),
        }
    }
}

/// Why there is no header yet.
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

/// Whether `bytes` start with `word`, as far as they go.
///
/// # Errors
/// They do not.
fn starts(bytes: &[u8], word: &[u8]) -> Result<(), Wrong> {
    let shared = bytes.len().min(word.len());
    if bytes[..shared] == word[..shared] { Ok(()) } else { Err(Wrong::NotProxy) }
}
