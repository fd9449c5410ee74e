//! Version 1: a line that people can read (2.1).

use std::fmt::{self, Display};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Header, MIN_LENGTH, Pair, Stop, Wrong};

/// The longest line, in bytes with its CRLF: `UNKNOWN` and two whole IPv6 addresses.
pub(super) const MAX_LINE: usize = 107;

const PROXY: &[u8] = b"PROXY ";
const TCP4: &[u8] = b"TCP4 ";
const TCP6: &[u8] = b"TCP6 ";
const CRLF: &[u8] = b"\r\n";

/// What may follow [`PROXY`].
const TRANSPORTS: [&[u8]; 4] = [TCP4, TCP6, b"UNKNOWN ", b"UNKNOWN\r"];

pub(super) fn read(bytes: &[u8]) -> Result<(Header, usize), Stop> {
    super::starts(bytes, PROXY)?;
    let rest = bytes.get(PROXY.len()..).unwrap_or_default();
    if !TRANSPORTS.iter().any(|word| rest.starts_with(word)) {
        let may_become_one = TRANSPORTS.iter().any(|word| word.starts_with(rest));
        return Err(if may_become_one { more(bytes) } else { Wrong::Transport.into() });
    }
    let end = line_end(bytes)?;
    let line = &bytes[PROXY.len()..end];
    let header = if let Some(fields) = line.strip_prefix(TCP4) {
        proxied::<Ipv4Addr>(fields)?
    } else if let Some(fields) = line.strip_prefix(TCP6) {
        proxied::<Ipv6Addr>(fields)?
    } else {
        // Whatever else is in the line must be ignored.
        Header::Unknown
    };
    Ok((header, end + CRLF.len()))
}

/// Where the line's CRLF is. Neither byte may stand alone: a sender that ends its line with one of
/// them would have the client's first bytes taken for the rest of the line.
fn line_end(bytes: &[u8]) -> Result<usize, Stop> {
    let line = &bytes[..bytes.len().min(MAX_LINE - 1)];
    let Some(end) = line.iter().position(|byte| CRLF.contains(byte)) else {
        let full = line.len() == MAX_LINE - 1;
        return Err(if full { Wrong::LineTooLong.into() } else { more(bytes) });
    };
    match &bytes[end..] {
        [b'\r', b'\n', ..] => Ok(end),
        [b'\r'] => Err(more(bytes)),
        _ => Err(Wrong::LineEnd.into()),
    }
}

/// How long the line is at least.
fn more(bytes: &[u8]) -> Stop {
    let missing = if bytes.ends_with(b"\r") { 1 } else { CRLF.len() };
    Stop::More((bytes.len() + missing).max(MIN_LENGTH))
}

/// What is behind `TCP4` or `TCP6`: two addresses of that family, two ports, one space between.
fn proxied<Address: FromStr + Into<IpAddr>>(fields: &[u8]) -> Result<Header, Wrong> {
    let mut fields = str::from_utf8(fields).map_err(|_| Wrong::Address)?.split(' ');
    // The standard library's parsers are as strict as the specification: four decimal numbers without
    // leading zeroes, or 128 bits with at most one `::`, and no zone.
    let mut address = || fields.next().and_then(|text| text.parse::<Address>().ok());
    let (Some(source), Some(destination)) = (address(), address()) else {
        return Err(Wrong::Address);
    };
    let mut port = || fields.next().and_then(port_of);
    let (Some(from), Some(to), None) = (port(), port(), fields.next()) else {
        return Err(Wrong::Port);
    };
    Ok(Header::proxied(source.into(), destination.into(), [from, to]))
}

/// A port as the specification writes it; the standard library would take a sign and zeroes before.
fn port_of(text: &str) -> Option<u16> {
    let plain = text == "0" || text.starts_with(|c: char| matches!(c, '1'..='9'));
    if plain { text.parse().ok() } else { None }
}

pub(super) fn write(header: &Header, out: &mut Vec<u8>) {
    let Header::Proxied { source, destination } = header else {
        out.extend_from_slice(b"PROXY UNKNOWN\r\n");
        return;
    };
    let ports = format_args!("{} {}", source.port(), destination.port());
    let written = match Pair::of(*source, *destination) {
        Pair::V4([from, to]) => write!(out, "PROXY TCP4 {from} {to} {ports}\r\n"),
        Pair::V6([from, to]) => write!(out, "PROXY TCP6 {} {} {ports}\r\n", Hex(from), Hex(to)),
    };
    debug_assert!(written.is_ok(), "a vector takes every byte");
}

/// An IPv6 address in hexadecimal groups only. A mapped one would else be shown with IPv4's dots, for
/// which the specification has no room.
struct Hex(Ipv6Addr);

impl Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.to_ipv4_mapped(), self.0.segments()) {
            (Some(_), [.., high, low]) => write!(f, "::ffff:{high:x}:{low:x}"),
            (None, _) => self.0.fmt(f),
        }
    }
}
