//! The name that a server's certificate is for.

use rustls::pki_types::ServerName;

use super::value::Value;

/// A host name or an address, as TLS knows them (RFC 6125).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsName(ServerName<'static>);

impl TlsName {
    /// For TLS.
    #[must_use]
    pub const fn get(&self) -> &ServerName<'static> {
        &self.0
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> String {
        self.0.to_str().into_owned()
    }
}

impl Value for TlsName {
    fn parse(text: &str) -> Option<Self> {
        ServerName::try_from(text.trim().to_owned()).ok().map(Self)
    }

    fn accepts() -> String {
        "a host name such as db.internal, or an IP address".into()
    }

    fn show(&self) -> String {
        self.as_str()
    }
}
