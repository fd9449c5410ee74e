//! A certificate with its chain and its key.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::provider;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A certificate that can be shown: it is well-formed, and its key is its own.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate with its chain, and the key that signs for it.
    pub key: Arc<CertifiedKey>,
}

/// A pair that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct PairError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what is accepted.
    pub reason: String,
}

impl Pair {
    /// Reads a chain and its key, both PEM. Blocks while it does.
    ///
    /// # Errors
    /// When one of them cannot be read or is not what it should be, or when they do not belong
    /// together.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, PairError> {
        let (chain, secret) = (read(cert)?, read(key)?);
        let wrong = |path: &Path, reason: String| PairError { path: path.into(), reason };
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| wrong(cert, format!("is not PEM: {error}")))?;
        if chain.is_empty() {
            let reason =
                "holds no certificate; must be PEM (BEGIN CERTIFICATE), the server's first";
            return Err(wrong(cert, reason.into()));
        }
        let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|_| {
            let reason = "holds no private key; must be PEM without a passphrase (BEGIN PRIVATE \
                          KEY, RSA PRIVATE KEY or EC PRIVATE KEY)";
            wrong(key, reason.into())
        })?;
        let signing = provider().key_provider.load_private_key(secret);
        let signing = signing.map_err(|_| {
            wrong(key, "the private key cannot be used; must be RSA, ECDSA or Ed25519".into())
        })?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let reason = format!("is not the key of the certificate in {}", cert.display());
                wrong(key, reason)
            }
            error => wrong(cert, format!("the first certificate is none: {error}")),
        })?;
        Ok(Self { key: Arc::new(certified) })
    }

    /// A certificate made here and now for `names`, which nobody has a reason to trust.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn self_signed(names: Vec<String>) -> Result<Self, String> {
        let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
        let secret = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let chain = vec![made.cert.der().clone()];
        let key = CertifiedKey::from_der(chain, secret.into(), provider());
        Ok(Self { key: Arc::new(key.map_err(|error| error.to_string())?) })
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, PairError> {
    let wrong = |reason| PairError { path: path.into(), reason };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(wrong(format!("is longer than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}
