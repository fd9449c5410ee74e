//! TLS towards servers: who may be at the other end, and who we are.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::pair::{BadFile, certificates, read_file};
use super::{Chain, Verifier, provider};

/// What errors call those whom the system trusts.
const SYSTEM: &str = "the system's certificates";
/// Sessions that are remembered of one server: of version 1.3, tickets for that many connections at once.
const SESSIONS: usize = 1;

/// How servers are told to be who they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginSpec {
    /// Whether their certificates are checked at all.
    pub verify: bool,
    /// Who may have signed them, in PEM; `None` = whom the operating system trusts.
    pub ca: Option<PathBuf>,
    /// The name that they must be for, which they are also asked for; `None` = their address.
    pub name: Option<ServerName<'static>>,
    /// Our own certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Begins TLS with servers.
pub struct Originator {
    config: ClientConfig,
    name: Option<ServerName<'static>>,
    /// What it was made of.
    made_of: MadeOf,
}

/// What the files held.
#[derive(PartialEq, Eq)]
struct MadeOf {
    spec: OriginSpec,
    ca: Vec<CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, Vec<u8>)>,
}

impl Originator {
    /// Reads the files. Blocks while it does.
    ///
    /// # Errors
    /// When one of them is not what it should be; when it takes the place of one that `is_had` already,
    /// also when those that the system trusts cannot all be read.
    pub fn read(spec: &OriginSpec, is_had: bool) -> Result<Self, BadFile> {
        let trusted = match &spec.ca {
            _ if !spec.verify => Vec::new(),
            Some(ca) => certificates(ca, &read_file(ca)?)?,
            None => system_roots(is_had)?,
        };
        let chain = if spec.verify { Some(chain(spec, &trusted)?) } else { None };
        let verifier = Arc::new(Verifier::new(chain, provider()));
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| BadFile::new(Path::new("TLS"), error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let (mut config, identity) = match &spec.identity {
            None => (builder.with_no_client_auth(), None),
            Some((cert, key)) => {
                let certs = certificates(cert, &read_file(cert)?)?;
                let secret = PrivateKeyDer::from_pem_slice(&read_file(key)?);
                let secret = secret.map_err(|error| {
                    BadFile::new(
                        key,
                        format!("holds no private key in PEM without a passphrase: {error}"),
                    )
                })?;
                let kept = (certs.clone(), secret.secret_der().to_vec());
                let config = builder.with_client_auth_cert(certs, secret).map_err(|error| {
                    BadFile::new(key, format!("cannot be used with {}: {error}", cert.display()))
                })?;
                (config, Some(kept))
            }
        };
        config.resumption = Resumption::disabled();
        let made_of = MadeOf { spec: spec.clone(), ca: trusted, identity };
        Ok(Self { config, name: spec.name.clone(), made_of })
    }

    /// Whether it was made of the same.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.made_of == other.made_of
    }

    /// How connections to one server are secured: with sessions of its own to go on from.
    #[must_use]
    pub fn for_one(&self) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Arc::new(config)
    }

    /// The name that the server at `ip` must have.
    #[must_use]
    pub fn name(&self, ip: IpAddr) -> ServerName<'static> {
        self.name.clone().unwrap_or_else(|| ServerName::IpAddress(ip.to_canonical().into()))
    }
}

impl fmt::Debug for Originator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Originator").field("spec", &self.made_of.spec).finish_non_exhaustive()
    }
}

impl PartialEq for Originator {
    fn eq(&self, other: &Self) -> bool {
        self.is_like(other)
    }
}

impl Eq for Originator {}

/// Whom the operating system trusts.
fn system_roots(is_had: bool) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.first() {
        if is_had {
            return Err(BadFile::new(Path::new(SYSTEM), error.to_string()));
        }
        tracing::warn!("{SYSTEM}: {error}");
    }
    Ok(found.certs)
}

fn chain(spec: &OriginSpec, trusted: &[CertificateDer<'static>]) -> Result<Chain, BadFile> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if usable > 0 {
        return Ok(Chain { roots, trusted: trusted.to_vec(), with_name: true });
    }
    Err(match &spec.ca {
        Some(ca) => BadFile::new(ca, "holds no certificate that can be trusted"),
        None => BadFile::new(
            Path::new(SYSTEM),
            "this system trusts nobody; install its ca-certificates, or name a file with `ca`",
        ),
    })
}
