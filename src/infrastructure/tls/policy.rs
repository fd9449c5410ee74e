//! What is asked of clients, and the tickets by which they come back.

use std::path::Path;
use std::sync::Arc;

use rustls::server::{
    NoServerSessionStorage, ProducesTickets, WantsServerCert, WebPkiClientVerifier,
};
use rustls::sign::SingleCertAndKey;
use rustls::{ConfigBuilder, RootCertStore, ServerConfig};

use super::pair::{certificates, read_file};
use super::{BadFile, Pair, provider};

/// What is asked of clients. It has the keys of its own session tickets, which rustls changes every
/// six hours (a ticket lives twelve at most). What a client has shown once is in its ticket and is
/// not asked for again, so a ticket must be worth nothing under another policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The CAs as they are written, and whether a client may come without a certificate.
    clients: Option<(Vec<u8>, bool)>,
    /// All that is the same for every certificate of a server.
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    ticketer: Arc<dyn ProducesTickets>,
}

impl Policy {
    /// No certificate is asked for: the one of `known` that says so, else a new one.
    ///
    /// # Panics
    /// When the system has no random numbers.
    #[must_use]
    pub fn open(known: &[Arc<Self>]) -> Arc<Self> {
        let same = known.iter().find(|policy| policy.clients.is_none());
        same.map_or_else(|| Self::new(None, None), Arc::clone)
    }

    /// Clients' certificates must come from the CAs in the file `ca` (PEM); when they are `optional` a
    /// client may have none. The one of `known` that says so, else a new one. Blocks while it reads.
    ///
    /// # Errors
    /// When the file cannot be read, or holds what is no CA.
    ///
    /// # Panics
    /// When the system has no random numbers.
    pub fn of_clients(
        ca: &Path,
        optional: bool,
        known: &[Arc<Self>],
    ) -> Result<Arc<Self>, BadFile> {
        let clients = Some((read_file(ca)?, optional));
        if let Some(same) = known.iter().find(|policy| policy.clients == clients) {
            return Ok(Arc::clone(same));
        }
        let wrong = |error: &dyn std::error::Error| {
            BadFile::new(ca, format!("holds a certificate that cannot be a CA: {error}"))
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca, clients.as_ref().map_or(&[], |(pem, _)| pem))? {
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
        let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
        let verifier = verifier.build().map_err(|error| wrong(&error))?;
        Ok(Self::new(clients, Some(verifier)))
    }

    fn new(
        clients: Option<(Vec<u8>, bool)>,
        verifier: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
    ) -> Arc<Self> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider has suites of both versions");
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new();
        let ticketer = ticketer.expect("the system has random numbers");
        Arc::new(Self { clients, builder, ticketer })
    }

    /// How connections are secured that are shown `pair` and offered `protocols` (ALPN): TLS 1.2 or
    /// 1.3, no data before the handshake is over, sessions in tickets only.
    #[must_use]
    pub fn server(&self, pair: &Pair, protocols: &[String]) -> Arc<ServerConfig> {
        let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&pair.key)));
        let mut config = self.builder.clone().with_cert_resolver(resolver);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::clone(&self.ticketer);
        // Every client of today has AES in hardware, and scanners miss an order.
        config.ignore_client_order = true;
        Arc::new(config)
    }
}
