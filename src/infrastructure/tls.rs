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

use crate::domain::host::HostMap;

pub(crate) use leaf::name_of;
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
    by_name: HashMap<String, Shown>,
    /// What somebody has decided for names, however deep: it goes before the names in certificates.
    decided: HostMap<Shown>,
    /// For other names, and for clients that give none; `None` = they are refused.
    default: Option<Shown>,
}

/// What one client is shown, and what is asked of it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// How its connection is secured.
    pub config: Arc<ServerConfig>,
    /// What is asked of it.
    pub policy: Arc<Policy>,
}

impl Terminator {
    /// One with certificates for the names in them, with what was `decided` for names, and with one for
    /// all others, if they are not to be refused.
    #[must_use]
    pub const fn new(
        by_name: HashMap<String, Shown>,
        decided: HostMap<Shown>,
        default: Option<Shown>,
    ) -> Self {
        Self { by_name, decided, default }
    }

    /// What a client is shown that asks for `name`, in lower case and without a dot at its end.
    /// `None` = there is no certificate for it, and it is to be refused.
    #[must_use]
    pub fn shown(&self, name: Option<&str>) -> Option<&Shown> {
        let named = name.and_then(|name| {
            self.by_name.get(name).or_else(|| {
                let (_, above) = name.split_once('.')?;
                self.by_name.get(&format!("*.{above}"))
            })
        });
        let usual = named.or(self.default.as_ref())?;
        Some(name.and_then(|name| self.decided.get(name)).unwrap_or(usual))
    }

    /// Whether what is asked of a client that asks for `name` is what `policy` asks.
    #[must_use]
    pub fn asks_the_same(&self, name: Option<&str>, policy: &Arc<Policy>) -> bool {
        self.shown(name).is_some_and(|shown| Arc::ptr_eq(&shown.policy, policy))
    }
}

/// Bytes that nobody can guess; `None` when the system has no random numbers.
#[must_use]
pub fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    provider().secure_random.fill(&mut bytes).ok()?;
    Some(bytes)
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
