//! A certificate with its chain and its key.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustix::fs::{Mode, OFlags};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::leaf::Leaf;
use super::provider;
use crate::domain::host::HostPattern;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A certificate that can be shown: its chain is well-formed, and its key is its own.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate with its chain, and the key that signs for it.
    pub(super) key: Arc<CertifiedKey>,
    leaf: Leaf,
    /// By which other content of the files is told from this.
    content: Option<u64>,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct BadFile {
    /// Which one.
    pub path: PathBuf,
    /// What is wrong with it, and what is accepted.
    pub reason: String,
}

impl BadFile {
    /// One that cannot be used because of `reason`.
    pub fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }
}

impl Pair {
    /// Reads a chain and its key, both PEM: the pair of `before` when the files hold what they held
    /// then. Blocks while it does.
    ///
    /// # Errors
    /// When one of them cannot be read or is not what it should be, or when they do not belong
    /// together.
    pub fn read(cert: &Path, key: &Path, before: Option<&Arc<Self>>) -> Result<Arc<Self>, BadFile> {
        let (pem, secret) = (read_file(cert)?, read_file(key)?);
        let content = Some(hash(&[&pem, &secret]));
        if let Some(before) = before.filter(|before| before.content == content) {
            return Ok(Arc::clone(before));
        }
        let chain = certificates(cert, &pem)?;
        let leaf = Leaf::of(&chain).map_err(|reason| BadFile::new(cert, reason))?;
        let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|_| {
            let reason = "holds no private key; must be PEM without a passphrase (PRIVATE KEY, \
                          RSA PRIVATE KEY or EC PRIVATE KEY)";
            BadFile::new(key, reason)
        })?;
        let signing = provider().key_provider.load_private_key(secret);
        let signing = signing.map_err(|_| {
            let reason = "the private key cannot be used; must be RSA of 2048 bits at least, ECDSA \
                          (P-256, P-384, P-521) or Ed25519";
            BadFile::new(key, reason)
        })?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let cert = cert.display();
                BadFile::new(key, format!("is not the key of the first certificate in {cert}"))
            }
            error => BadFile::new(cert, format!("the first certificate cannot be used: {error}")),
        })?;
        Ok(Arc::new(Self { key: Arc::new(certified), leaf, content }))
    }

    /// A certificate made here and now for `names`, which nobody has a reason to trust. Addresses and
    /// host names are put in it, others are left out.
    ///
    /// # Panics
    /// When the system has no random numbers.
    #[must_use]
    pub fn self_signed(names: &[&str]) -> Self {
        let is_name =
            |name: &&str| name.parse::<IpAddr>().is_ok() || name.parse::<HostPattern>().is_ok();
        let names: Vec<String> =
            names.iter().copied().filter(is_name).map(ToOwned::to_owned).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate can be made");
        let secret = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let chain = vec![made.cert.der().clone()];
        let leaf = Leaf::of(&chain).expect("what is made is well-formed");
        let key = CertifiedKey::from_der(chain, secret.into(), provider());
        let key = Arc::new(key.expect("what is made matches"));
        Self { key, leaf, content: None }
    }

    /// The names of servers in it, as far as they are host names.
    #[must_use]
    pub fn names(&self) -> &[HostPattern] {
        &self.leaf.names
    }

    /// From when on it is valid, in seconds since the epoch.
    #[must_use]
    pub const fn not_before(&self) -> i64 {
        self.leaf.not_before
    }

    /// Until when it is valid, in seconds since the epoch.
    #[must_use]
    pub const fn not_after(&self) -> i64 {
        self.leaf.not_after
    }
}

/// The certificates in `pem`, one at least.
pub(super) fn certificates(
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| BadFile::new(path, format!("is not PEM: {error}")))?;
    if all.is_empty() {
        return Err(BadFile::new(path, "holds no certificate; must be PEM (BEGIN CERTIFICATE)"));
    }
    Ok(all)
}

/// All that a file holds, if that is not too much.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, BadFile> {
    let mut bytes = Vec::new();
    // A pipe is not waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
    let read = opened.map_err(std::io::Error::from).and_then(|file| {
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is no regular file"));
        }
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)
    });
    read.map_err(|error| BadFile::new(path, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(BadFile::new(path, format!("is longer than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// A hash and not the content, which is secret. Its keys are drawn by each process.
fn hash(content: &[&[u8]]) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(content)
}
