//! The extensions of a version 2 header: type, length, value (2.2.1 to 2.2.7).

use super::Wrong;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
pub(super) const CRC32C: u8 = 0x03;
pub(super) const UNIQUE_ID: u8 = 0x05;
const TLS: u8 = 0x20;
const TLS_VERSION: u8 = 0x21;
const TLS_COMMON_NAME: u8 = 0x22;
const TLS_CIPHER: u8 = 0x23;

/// The longest identifier of a connection, in bytes (2.2.5).
pub(super) const MAX_UNIQUE_ID: usize = 128;

/// Bytes before each value.
const HEAD: usize = 3;

/// Bytes of [`TLS`] before its own extensions: `client` and `verify`.
const TLS_HEAD: usize = 5;

/// `client`: the connection is encrypted.
const CLIENT_TLS: u8 = 0x01;
/// `client`: a certificate came over this connection.
const CLIENT_CERTIFICATE: u8 = 0x02;
/// `client`: a certificate came at least once over this connection's session.
const CLIENT_SESSION: u8 = 0x04;

/// What a header of version 2 says beyond addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs<'a> {
    /// The protocol that ALPN agreed on, such as `h2` (RFC 7301).
    pub alpn: Option<&'a [u8]>,
    /// The host that the client asked for, which is TLS's server name.
    pub authority: Option<&'a str>,
    /// How the client's connection is encrypted; none when it is not.
    pub tls: Option<Tls<'a>>,
    /// Whether a CRC32C follows.
    pub checksum: bool,
}

/// How a client's connection is encrypted (2.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    /// Its version, as OpenSSL and so everybody who reads it writes it: `TLSv1.3`.
    pub version: &'a str,
    /// Its cipher suite, such as `TLS_AES_128_GCM_SHA256`.
    pub cipher: Option<&'a str>,
    /// The common name in the certificate of the client.
    pub common_name: Option<&'a str>,
    /// The certificate of the client.
    pub certificate: ClientCertificate,
}

/// Whether a client has shown who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It has not: `verify` is 1, as it is zero only for what was verified.
    Absent,
    /// In the session that this connection resumes.
    Resumed {
        /// What verifying it came to: 0 for a certificate that is right, else whatever says why.
        verify: u32,
    },
    /// In this connection's handshake.
    Presented {
        /// What verifying it came to: 0 for a certificate that is right, else whatever says why.
        verify: u32,
    },
}

impl Tlvs<'_> {
    /// How many bytes are written.
    pub(super) fn length(&self) -> usize {
        let plain = [self.alpn, self.authority.map(str::as_bytes)];
        let plain: usize = plain.into_iter().flatten().map(|value| HEAD + value.len()).sum();
        plain
            + self.tls.map_or(0, |tls| HEAD + tls.length())
            + if self.checksum { HEAD + 4 } else { 0 }
    }

    /// Appends them; the checksum comes last, as zeroes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let plain = [(ALPN, self.alpn), (AUTHORITY, self.authority.map(str::as_bytes))];
        for (kind, value) in plain {
            append(out, kind, value);
        }
        if let Some(tls) = &self.tls {
            tls.write(out);
        }
        append(out, CRC32C, self.checksum.then_some(&[0; 4]));
    }
}

impl<'a> Tls<'a> {
    fn parts(&self) -> [(u8, Option<&'a str>); 3] {
        [
            (TLS_VERSION, Some(self.version)),
            (TLS_COMMON_NAME, self.common_name),
            (TLS_CIPHER, self.cipher),
        ]
    }

    fn length(&self) -> usize {
        let parts = self.parts().into_iter().filter_map(|(_, value)| value);
        TLS_HEAD + parts.map(|value| HEAD + value.len()).sum::<usize>()
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (client, verify) = match self.certificate {
            ClientCertificate::Absent => (CLIENT_TLS, 1),
            ClientCertificate::Resumed { verify } => (CLIENT_TLS | CLIENT_SESSION, verify),
            ClientCertificate::Presented { verify } => {
                (CLIENT_TLS | CLIENT_CERTIFICATE | CLIENT_SESSION, verify)
            }
        };
        head(out, TLS, self.length());
        out.push(client);
        out.extend_from_slice(&verify.to_be_bytes());
        for (kind, value) in self.parts() {
            append(out, kind, value.map(str::as_bytes));
        }
    }
}

/// Appends one extension, if there is one.
fn append(out: &mut Vec<u8>, kind: u8, value: Option<&[u8]>) {
    if let Some(value) = value {
        head(out, kind, value.len());
        out.extend_from_slice(value);
    }
}

fn head(out: &mut Vec<u8>, kind: u8, length: usize) {
    debug_assert!(length <= super::MAX_LENGTH, "whoever writes has added all lengths up");
    let [.., high, low] = length.to_be_bytes();
    out.extend_from_slice(&[kind, high, low]);
}

/// One extension, and what is behind it.
pub(super) struct Extension<'a> {
    pub(super) kind: u8,
    pub(super) value: &'a [u8],
    pub(super) after: &'a [u8],
}

/// The first extension; none at the end.
///
/// # Errors
/// The extension is cut off.
pub(super) fn split(bytes: &[u8]) -> Result<Option<Extension<'_>>, Wrong> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    let whole = || {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        rest.split_at_checked(usize::from(u16::from_be_bytes([head[1], head[2]])))
    };
    let (value, after) = whole().ok_or(Wrong::Extension(kind))?;
    Ok(Some(Extension { kind, value, after }))
}
