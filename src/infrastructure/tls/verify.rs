//! How far a server's certificate is believed.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Believes every certificate, which makes what is read safe from those who only listen, or those
/// that a chain leads to.
#[derive(Debug)]
pub struct Verifier {
    chain: Option<Chain>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a certificate must be signed by.
#[derive(Debug)]
pub struct Chain {
    /// Who may have signed it.
    pub roots: RootCertStore,
    /// What the roots were made of.
    pub trusted: Vec<CertificateDer<'static>>,
    /// Whether it must also be for the host that was asked for.
    pub with_name: bool,
}

impl Verifier {
    /// Without a `chain` every certificate is believed.
    #[must_use]
    pub fn new(chain: Option<Chain>, provider: &CryptoProvider) -> Self {
        Self { chain, algorithms: provider.signature_verification_algorithms }
    }
}

impl Chain {
    fn check(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(cert)?;

        match verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms.all,
        ) {
            // A server's own certificate given as the root, as `openssl req -x509` makes it, calls
            // itself an authority. OpenSSL takes it, webpki does not. (Its times were checked
            // before that, and have errors of their own.)
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.trusted.iter().any(|trusted| trusted == cert) => {}
            verified => verified?,
        }
        if self.with_name {
            verify_server_name(&parsed, name)?;
        }
        Ok(())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.check(cert, intermediates, name, now, self.algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
