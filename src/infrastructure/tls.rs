//! TLS that ends here: which certificate a client is shown, by the server's name that it asks for.

mod leaf;
mod originator;
mod pair;
mod policy;
mod session;
mod verify;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;

pub use originator::{OriginSpec, Originator};
pub use pair::{BadFile, Pair};
pub use policy::Policy;
pub use session::{Session, sealed_length};
pub use verify::{Chain, Verifier};

/// What a listener shows its clients. Never changed: another takes its place.
#[derive(Debug, Default)]
pub struct Terminator {
    /// By name, in lower case; `*.example.com` stands for one label before `example.com` (RFC 6125,
    /// 6.4.3).
    by_name: HashMap<String, Arc<ServerConfig>>,
    /// For other names, and for clients that give none; `None` = they are refused.
    default: Option<Arc<ServerConfig>>,
}

impl Terminator {
    /// One with certificates for names, and one for all others, if they are not to be refused.
    #[must_use]
    pub const fn new(
        by_name: HashMap<String, Arc<ServerConfig>>,
        default: Option<Arc<ServerConfig>>,
    ) -> Self {
        Self { by_name, default }
    }

    /// How a connection is secured that asks for `name`, in lower case and without a dot at its end.
    /// `None` = there is no certificate for it, and it is to be refused.
    #[must_use]
    pub fn config(&self, name: Option<&str>) -> Option<&Arc<ServerConfig>> {
        let named = name.and_then(|name| {
            self.by_name.get(name).or_else(|| {
                let (_, above) = name.split_once('.')?;
                self.by_name.get(&format!("*.{above}"))
            })
        });
        named.or(self.default.as_ref())
    }
}

/// The cryptography, given to everyone explicitly. AES with 128 bits comes first: nobody breaks it, and
/// it costs a quarter less than the one with 256.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider};
        let cipher_suites = vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ];
        Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
    });
    &PROVIDER
}
