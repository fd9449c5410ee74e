//! What is asked of clients, and the tickets by which they come back.

use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, ProducesTickets, WantsServerCert};
use rustls::sign::SingleCertAndKey;
use rustls::{ConfigBuilder, ServerConfig};

use super::{Pair, provider};

/// What is asked of clients. It has the keys of its own session tickets: what was asked of a client
/// once is not asked again, so a ticket is worth nothing under another policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// All that is the same for every certificate.
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    ticketer: Arc<dyn ProducesTickets>,
}

impl Policy {
    /// No certificate is asked for.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn open() -> Result<Self, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth();
        Ok(Self { builder, ticketer: rustls::crypto::aws_lc_rs::Ticketer::new()? })
    }

    /// How connections are secured that are shown `pair`: TLS 1.2 or 1.3, no data before the
    /// handshake is over, sessions in tickets only.
    #[must_use]
    pub fn server(&self, pair: &Pair) -> ServerConfig {
        let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&pair.key)));
        let mut config = self.builder.clone().with_cert_resolver(resolver);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::clone(&self.ticketer);
        config
    }
}
