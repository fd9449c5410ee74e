//! Version 2: a header for machines (2.2).

use std::net::IpAddr;

use super::tlv::{self, Extension, Tlvs};
use super::{Header, MAX_LENGTH, Pair, Stop, TooLong, Wrong, crc32c};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes that every header has: the signature, version and command, family and protocol, and how
/// many follow.
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const UNSPECIFIED: u8 = 0x00;
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;

pub(super) fn read(bytes: &[u8]) -> Result<(Header, usize), Stop> {
    super::starts(bytes, &SIGNATURE)?;
    let command = next(bytes, SIGNATURE.len())?;
    match command {
        LOCAL | PROXY => {}
        _ if command >> 4 == 2 => return Err(Wrong::Command(command & 0xf).into()),
        _ => return Err(Wrong::Version(command >> 4).into()),
    }
    let family = next(bytes, SIGNATURE.len() + 1)?;
    if command == PROXY && (family >> 4 > 3 || family & 0xf > 2) {
        return Err(Wrong::Family(family).into());
    }
    let [high, low] = [next(bytes, FIXED - 2)?, next(bytes, FIXED - 1)?];
    let given = usize::from(u16::from_be_bytes([high, low]));
    let length = FIXED + given;
    if length > MAX_LENGTH {
        return Err(Wrong::TooLong(length).into());
    }
    let addresses = if command == PROXY { addresses_length(family) } else { None };
    if let Some(least) = addresses.filter(|least| given < *least) {
        return Err(Wrong::TooShort { given, least }.into());
    }
    let header = bytes.get(..length).ok_or(Stop::More(length))?;
    if let Some(addresses) = addresses {
        check_extensions(header, FIXED + addresses)?;
    }
    let said = match (command, family) {
        // The whole block is to be discarded, its family included.
        (LOCAL, _) => Some(Header::Local),
        (_, TCP_V4) => proxied::<4>(&header[FIXED..]),
        (_, TCP_V6) => proxied::<16>(&header[FIXED..]),
        // What is assigned and not of use here is to be taken as unspecified.
        _ => Some(Header::Unknown),
    };
    let least = addresses.unwrap_or_default();
    Ok((said.ok_or(Wrong::TooShort { given, least })?, length))
}

fn next(bytes: &[u8], at: usize) -> Result<u8, Stop> {
    bytes.get(at).copied().ok_or(Stop::More(FIXED))
}

/// How long the addresses are, behind which extensions come. Unknown for what is unspecified in one
/// half or both: such a block is skipped unread.
fn addresses_length(family: u8) -> Option<usize> {
    match (family >> 4, family & 0xf) {
        (1, 1 | 2) => Some(2 * 4 + 2 * 2),
        (2, 1 | 2) => Some(2 * 16 + 2 * 2),
        (3, 1 | 2) => Some(2 * 108),
        _ => None,
    }
}

/// Two addresses, two ports.
fn proxied<const N: usize>(block: &[u8]) -> Option<Header>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk()?;
    let to = rest.first_chunk()?;
    let ports = [from, to].map(|port| u16::from_be_bytes(*port));
    Some(Header::proxied((*source).into(), (*destination).into(), ports))
}

/// Whether the extensions of a whole header fill it exactly, and whether its checksum is right if it
/// has one. The others say nothing that is asked for.
fn check_extensions(header: &[u8], start: usize) -> Result<(), Wrong> {
    let mut rest = &header[start..];
    let mut checked = false;
    while let Some(Extension { kind, value, after }) = tlv::split(rest)? {
        match kind {
            tlv::CRC32C => {
                let sum = *value
                    .first_chunk()
                    .filter(|_| value.len() == 4)
                    .ok_or(Wrong::Extension(kind))?;
                let before = &header[..header.len() - after.len() - value.len()];
                let parts = [before, &[0; 4], after];
                if checked || u32::from_be_bytes(sum) != crc32c::of(&parts) {
                    return Err(Wrong::Checksum);
                }
                checked = true;
            }
            tlv::UNIQUE_ID if value.len() > tlv::MAX_UNIQUE_ID => {
                return Err(Wrong::Extension(kind));
            }
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

pub(super) fn write(header: &Header, tlvs: &Tlvs<'_>, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let start = out.len();
    let Header::Proxied { source, destination } = header else {
        let command = if *header == Header::Local { LOCAL } else { PROXY };
        out.extend_from_slice(&SIGNATURE);
        out.extend_from_slice(&[command, UNSPECIFIED, 0, 0]);
        return Ok(());
    };
    let pair = Pair::of(*source, *destination);
    let (family, addresses) = match pair {
        Pair::V4(_) => (TCP_V4, 12),
        Pair::V6(_) => (TCP_V6, 36),
    };
    let follow = addresses + tlvs.length();
    let length = FIXED + follow;
    // Whatever fits into a header also has a length that fits into 16 bits.
    let follow =
        u16::try_from(follow).ok().filter(|_| length <= MAX_LENGTH).ok_or(TooLong(length))?;

    out.reserve(length);
    out.extend_from_slice(&SIGNATURE);
    out.extend_from_slice(&[PROXY, family]);
    out.extend_from_slice(&follow.to_be_bytes());
    match pair {
        Pair::V4(pair) => pair.iter().for_each(|ip| out.extend_from_slice(&ip.octets())),
        Pair::V6(pair) => pair.iter().for_each(|ip| out.extend_from_slice(&ip.octets())),
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    tlvs.write(out);
    if tlvs.checksum {
        // It is the last extension, and counts as zeroes in itself.
        let at = out.len() - 4;
        let sum = crc32c::of(&[&out[start..]]);
        out[at..].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}
