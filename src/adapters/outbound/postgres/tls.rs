//! TLS to the database, with what libpq means by `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.

mod stream;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::infrastructure::tls::{Chain, Verifier};

pub(super) use self::stream::{Connector, TlsFailed, TlsStream};

/// The name by which the protocol is asked for (`PostgreSQL` 17; older servers pass over it).
const PROTOCOL: &[u8] = b"postgresql";

/// How safe a connection must be, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// Never encrypted.
    Disable,
    /// Encrypted when the server insists.
    Allow,
    /// Encrypted when the server can.
    Prefer,
    /// Encrypted.
    Require,
    /// Encrypted, to a server whose certificate somebody trusted has signed.
    VerifyCa,
    /// The same, and the certificate is for the host that was asked for.
    VerifyFull,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err("sslmode must be disable, allow, prefer, require, verify-ca or \
                    verify-full"
                    .into());
            }
        })
    }
}

/// Who may sign certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// Whom the operating system trusts.
    System,
    /// Who is in a file, in PEM.
    File(PathBuf),
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Security {
    pub mode: Mode,
    pub roots: Option<Roots>,
    /// Our own certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Security {
    pub(super) fn new(
        mode: Option<Mode>,
        roots: Option<Roots>,
        identity: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self, String> {
        let mode = match (mode, &roots) {
            // As libpq: whom the system trusts is so many that the name must be checked.
            (None | Some(Mode::VerifyFull), Some(Roots::System)) => Mode::VerifyFull,
            (Some(_), Some(Roots::System)) => {
                return Err("sslrootcert=system needs sslmode=verify-full".into());
            }
            (Some(Mode::VerifyCa | Mode::VerifyFull), None) => {
                return Err("sslmode=verify-ca and sslmode=verify-full need sslrootcert=PATH, \
                    or sslrootcert=system with verify-full"
                    .into());
            }
            (mode, _) => mode.unwrap_or(Mode::Prefer),
        };
        Ok(Self { mode, roots, identity })
    }

    /// Whether the server is asked for a certificate that nobody checks, though encryption was
    /// asked for.
    pub(super) fn is_unverified(&self) -> bool {
        self.mode == Mode::Require && self.roots.is_none()
    }

    /// What connections need to be encrypted. Reads files.
    pub(super) fn prepare(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let with_name = self.mode == Mode::VerifyFull;
        let chain = self.roots.as_ref().map(|roots| chain(roots, with_name)).transpose()?;
        let verifier = Arc::new(Verifier::new(chain, &provider));
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let certs = certificates(cert, "sslcert")?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unreadable("sslkey", key, &error))?;
                builder
                    .with_client_auth_cert(certs, key)
                    .map_err(|error| format!("sslcert and sslkey: {error}"))?
            }
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }
}

fn chain(roots: &Roots, with_name: bool) -> Result<Chain, String> {
    let trusted = match roots {
        Roots::File(path) => certificates(path, "sslrootcert")?,
        Roots::System => rustls_native_certs::load_native_certs().certs,
    };
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(trusted.iter().cloned());
    match roots {
        _ if usable > 0 => Ok(Chain { roots: store, trusted, with_name }),
        Roots::System => Err("sslrootcert=system: this system trusts nobody; \
            install its ca-certificates"
            .into()),
        Roots::File(path) => {
            Err(format!("sslrootcert {}: holds no usable certificate", path.display()))
        }
    }
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{what} {}: holds no certificate in PEM", path.display()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unreadable(what, path, &error)),
    }
}

fn unreadable(what: &str, path: &Path, error: &rustls::pki_types::pem::Error) -> String {
    format!("{what} {}: {error}", path.display())
}
