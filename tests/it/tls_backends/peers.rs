//! Certificates, servers and clients of TLS, by another hand than the edge's: rustls with its ordinary,
//! buffered interface.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig,
    ServerConnection, StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;

use crate::support::{Backend, Client, PATIENCE};

pub const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
pub const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

static AUTHORITIES: AtomicUsize = AtomicUsize::new(0);

/// An authority, and a folder for files in PEM.
pub struct Pki {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Identity {
    pub chain: String,
    pub key: String,
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        // No two are called the same: else one would be taken for the other until its signature is.
        let name = format!("authority {}", AUTHORITIES.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), issuer }
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |_| {})
    }

    pub fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = params(names, change);
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { chain, key: key.serialize_pem() }
    }

    /// The path of a file with this text.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The path of the authority's certificate.
    pub fn root(&self) -> String {
        self.file("root.pem", &self.root_pem())
    }

    /// The authority's certificate.
    pub fn root_pem(&self) -> String {
        self.issuer.pem()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// How a server serves that has a certificate for `localhost` and 127.0.0.1.
    pub fn server(&self) -> ServerConfig {
        self.issue(&["localhost", "127.0.0.1"]).server(BOTH)
    }

    /// A server that wants a certificate of this authority.
    pub fn strict_server(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let identity = self.issue(&["localhost", "127.0.0.1"]);
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.roots()),
            Arc::clone(&provider),
        );
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(identity.certificates(), identity.private_key())
            .unwrap()
    }

    /// A client that trusts this authority.
    pub fn client(&self, identity: Option<&Identity>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        match identity {
            None => builder.with_no_client_auth(),
            Some(own) => {
                builder.with_client_auth_cert(own.certificates(), own.private_key()).unwrap()
            }
        }
    }
}

fn params(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    let purposes = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.extended_key_usages = purposes.into();
    change(&mut params);
    params
}

/// One that nobody but itself has signed.
pub fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let key = KeyPair::generate().unwrap();
    let chain = params(names, change).self_signed(&key).unwrap().pem();
    Identity { chain, key: key.serialize_pem() }
}

impl Identity {
    fn certificates(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(Result::unwrap).collect()
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    /// How a server with it serves.
    pub fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.certificates(), self.private_key())
            .unwrap()
    }
}

/// One end of a connection, with TLS or without.
pub enum Peer {
    Plain(TcpStream),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Peer {
    /// A client of the server at `to`, with TLS if it is told how.
    pub fn connect(to: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Self {
        let stream = Client::connect("127.0.0.1", to).unwrap().stream;
        let Some(config) = tls else { return Self::Plain(stream) };
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        Self::Client(Box::new(StreamOwned::new(connection, stream)))
    }

    pub fn stream(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Server(secured) => &secured.sock,
            Self::Client(secured) => &secured.sock,
        }
    }

    /// Says that nothing more will be sent, in TLS too.
    pub fn finish(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Server(secured) => secured.conn.send_close_notify(),
            Self::Client(secured) => secured.conn.send_close_notify(),
        }
        let _ = self.flush();
        self.cut_off();
    }

    /// Sends the end of the connection and not that of TLS.
    pub fn cut_off(&self) {
        let _ = self.stream().shutdown(Shutdown::Write);
    }

    /// Everything up to the end, and whether that was an end in order.
    pub fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let ended = match self.read_to_end(&mut bytes) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(error) => panic!("{error}, after {} bytes", bytes.len()),
        };
        (bytes, ended)
    }

    /// Exactly so many bytes.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A line.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            match self.exactly(1)?[0] {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                byte => line.push(byte),
            }
        }
    }

    /// Says something to whoever echoes, and hears it.
    pub fn echo(&mut self, text: &str) -> io::Result<()> {
        self.write_all(text.as_bytes())?;
        self.flush()?;
        assert_eq!(String::from_utf8_lossy(&self.exactly(text.len())?), text, "the echo is exact");
        Ok(())
    }
}

impl Read for Peer {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(bytes),
            Self::Server(secured) => secured.read(bytes),
            Self::Client(secured) => secured.read(bytes),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Server(secured) => secured.write(bytes),
            Self::Client(secured) => secured.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Server(secured) => secured.flush(),
            Self::Client(secured) => secured.flush(),
        }
    }
}

/// What a server knows of a connection once its handshake is over.
#[derive(Clone, Debug)]
pub struct Seen {
    pub name: Option<String>,
    pub alpn: Option<Vec<u8>>,
    pub resumed: bool,
    pub version: ProtocolVersion,
    pub identified: bool,
}

/// A backend with TLS.
pub struct Secured {
    backend: Backend,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Secured {
    /// Says its name in a line, then sends back what it gets.
    pub fn named(name: &'static str, config: ServerConfig) -> Self {
        Self::serving(config, move |peer| {
            if peer.write_all(format!("{name}\n").as_bytes()).is_ok() {
                echo(peer);
            }
        })
    }

    /// Sends back what it gets.
    pub fn echo(config: ServerConfig) -> Self {
        Self::serving(config, echo)
    }

    /// Does what `service` does, after the handshake.
    pub fn serving(
        config: ServerConfig,
        service: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let config = Arc::new(config);
        Self::choosing(move || Arc::clone(&config), service)
    }

    /// The same with whatever `config` says at the time.
    pub fn choosing(
        config: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static,
        service: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let sees = Arc::clone(&seen);
        let backend = Backend::serving(move |stream| {
            if let Some(mut peer) = accept(&config(), stream, &sees) {
                service(&mut peer);
            }
        });
        Self { backend, seen }
    }

    pub fn addr(&self) -> SocketAddr {
        self.backend.addr()
    }

    /// The handshakes so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// The server's part of a handshake.
pub fn accept(
    config: &Arc<ServerConfig>,
    mut stream: TcpStream,
    seen: &Mutex<Vec<Seen>>,
) -> Option<Peer> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // What is said must not wait until its tickets are acknowledged.
    stream.set_nodelay(true).ok()?;
    let mut connection = ServerConnection::new(Arc::clone(config)).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).ok()?;
    }
    seen.lock().unwrap().push(Seen {
        name: connection.server_name().map(Into::into),
        alpn: connection.alpn_protocol().map(Into::into),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        version: connection.protocol_version().unwrap(),
        identified: connection.peer_certificates().is_some(),
    });
    Some(Peer::Server(Box::new(StreamOwned::new(connection, stream))))
}

/// Sends back what comes, up to its end.
pub fn echo(peer: &mut Peer) {
    let mut bytes = [0; 16 << 10];
    while let Ok(read @ 1..) = peer.read(&mut bytes) {
        if peer.write_all(&bytes[..read]).and_then(|()| peer.flush()).is_err() {
            return;
        }
    }
    peer.finish();
}
