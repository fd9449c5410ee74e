//! The certificates that clients are shown where TLS ends here.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::StartError;
use super::summary::host_name;
use crate::config::Settings;
use crate::infrastructure::tls::{Pair, Policy, Terminator};

/// What listeners that end TLS show.
pub(super) fn terminator(settings: &Settings) -> Result<Arc<Terminator>, StartError> {
    let pair = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => Pair::read(cert, key)?,
        _ => self_signed()?,
    };
    let policy = Policy::open().map_err(io::Error::other)?;
    Ok(Arc::new(Terminator::new(HashMap::new(), Some(Arc::new(policy.server(&pair))))))
}

/// One for development.
fn self_signed() -> io::Result<Pair> {
    let names = ["localhost".into(), host_name(), "127.0.0.1".into(), "::1".into()];
    tracing::warn!(
        "no certificate is given: one was made for development, which no client has a reason to \
         trust (EDGEPROXY_TLS_CERT and EDGEPROXY_TLS_KEY name one)"
    );
    Pair::self_signed(names.into()).map_err(io::Error::other)
}
