//! The server's name that a client asks for (RFC 6066, 3).

use std::fmt;

use rustls::pki_types;

use super::Wrong;
use super::record::Message;

/// The longest name, in bytes (RFC 1035, 2.3.4, as text).
const MAX_NAME: usize = 253;

/// The one type of name that there is.
const HOST_NAME: u8 = 0;

/// A host name in lower case, without a dot at its end: 1 to 253 bytes of ASCII.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServerName {
    /// Zeroes behind the name.
    bytes: [u8; MAX_NAME],
    length: usize,
}

impl ServerName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// The host name in an extension's body; none if there are only names of other types, or an address.
pub(super) fn read(mut body: Message<'_>) -> Result<Option<ServerName>, Wrong> {
    const MALFORMED: Wrong = Wrong::Malformed("server name");
    let list = body.short().filter(|length| *length > 0 && usize::from(*length) == body.len());
    list.ok_or(MALFORMED)?;
    let mut hosts = None;
    while !body.is_empty() {
        // Names of types to come have a length as well, by which they are passed over.
        let mut entry = || {
            let kind = body.byte()?;
            let length = body.short().filter(|length| *length > 0)?;
            Some((kind, body.split_to(usize::from(length))?))
        };
        let (kind, name) = entry().ok_or(MALFORMED)?;
        if kind == HOST_NAME && hosts.replace(host(name)?).is_some() {
            return Err(MALFORMED);
        }
    }
    Ok(hosts.flatten())
}

/// A host name, or none for an address.
fn host(mut name: Message<'_>) -> Result<Option<ServerName>, Wrong> {
    let mut bytes = [0; MAX_NAME];
    let length = name.len();
    let text = bytes.get_mut(..length).ok_or(Wrong::Name)?;
    name.copy_to(text).ok_or(Wrong::Name)?;
    text.make_ascii_lowercase();
    // What a host name is, is what it is where TLS is decrypted.
    match pki_types::ServerName::try_from(&*text) {
        Ok(pki_types::ServerName::DnsName(_)) => {}
        Ok(pki_types::ServerName::IpAddress(_)) => return Ok(None),
        _ => return Err(Wrong::Name),
    }
    let length = length - usize::from(text.ends_with(b"."));
    bytes[length..].fill(0);
    Ok(Some(ServerName { bytes, length }))
}
