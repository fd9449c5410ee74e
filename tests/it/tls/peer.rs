//! A POP where TLS ends, and clients of it: real ones, and one that no library would be.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion,
    RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::support::{Backend, Client, Edge, PATIENCE, Refusing, Row, Site};

pub use rustls::version::{TLS12, TLS13};

/// Both versions that are spoken.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
/// The name that clients ask for.
pub const NAME: &str = "edge.test";
/// The head of a record, in bytes.
pub const HEAD: usize = 5;

/// A client's TLS.
pub type Tls = StreamOwned<ClientConnection, std::net::TcpStream>;

/// A POP whose clients come by TLS, with a certificate of an authority of its own.
pub struct Pop {
    pub edge: Edge,
    pub addr: SocketAddr,
    port: Option<Refusing>,
}

impl Pop {
    /// One with this backend.
    pub fn before(backend: &Backend) -> Self {
        Self::of(Site::new().backend(Row::new("a", backend.addr())))
    }

    /// One with all that `site` says.
    pub fn of(site: Site) -> Self {
        let port = Refusing::new();
        let addr = port.addr();
        let site = certified(site)
            .env("EDGEPROXY_TLS_ENABLED", "true")
            .env("EDGEPROXY_TLS_LISTEN_ADDR", &addr.to_string());
        Self { edge: site.start(), addr, port: Some(port) }
    }

    /// The authority's certificate, as a file.
    pub fn authority(&self) -> PathBuf {
        self.edge.site.path("authority.pem")
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority()).unwrap()).unwrap();
        roots
    }

    /// How a client of one version comes.
    pub fn config(&self, version: &'static SupportedProtocolVersion) -> ClientConfig {
        self.config_with(default_provider(), version)
    }

    /// The same of one that can do no more than `provider`.
    pub fn config_with(
        &self,
        provider: CryptoProvider,
        version: &'static SupportedProtocolVersion,
    ) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    /// A connection without a word.
    pub fn client(&self) -> Client {
        Client::connect("127.0.0.1", self.addr).expect("the proxy accepts")
    }

    /// A client whose handshake is yet to begin.
    pub fn comer(&self, config: &Arc<ClientConfig>) -> Tls {
        StreamOwned::new(connection(config), self.client().stream)
    }

    /// A client that is in.
    pub fn tls_with(&self, config: &Arc<ClientConfig>) -> Tls {
        let mut tls = self.comer(config);
        shake_hands(&mut tls).expect("a handshake");
        tls
    }

    /// The same of one version.
    pub fn tls(&self, version: &'static SupportedProtocolVersion) -> Tls {
        self.tls_with(&Arc::new(self.config(version)))
    }

    /// `openssl s_client` with these arguments and nothing to say.
    pub fn openssl(&self, args: &[&str]) -> Output {
        self.openssl_command(args).stdin(Stdio::null()).output().expect("openssl runs")
    }

    /// The same, yet to be started.
    pub fn openssl_command(&self, args: &[&str]) -> Command {
        // It ends with the thread that starts it, and has the time that a failing test has.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "timeout", &PATIENCE.as_secs().to_string()])
            .args(["openssl", "s_client", "-connect", &self.addr.to_string()])
            .args(["-servername", NAME, "-verify_return_error", "-CAfile"])
            .arg(self.authority())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What the access log says of a client.
    pub fn reason_of(&self, client: SocketAddr) -> String {
        self.edge.access_of_addr(client)["reason"].to_owned()
    }

    /// Good clients are served, and nothing has broken.
    pub fn is_unhurt(&mut self) {
        assert!(self.edge.lives());
        self.has_no_bug();
        for version in VERSIONS {
            let mut tls = self.tls(version);
            tls.write_all(b"well?").unwrap();
            let mut heard = [0; 5];
            tls.read_exact(&mut heard).unwrap();
            assert_eq!(heard, *b"well?");
        }
    }

    /// No panic has ended a connection.
    pub fn has_no_bug(&self) {
        assert_eq!(self.edge.times_logged("a bug in edge-proxy"), 0);
        assert_eq!(self.edge.times_logged("panicked"), 0);
    }
}

impl Drop for Pop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.has_no_bug();
        }
        drop(self.port.take());
    }
}

/// A site with an authority and its certificate for [`NAME`].
fn certified(site: Site) -> Site {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(rcgen::DnType::CommonName, "An authority for tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate().unwrap();
    let made = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![NAME.into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let [authority, chain, secret] =
        ["authority.pem", "cert.pem", "key.pem"].map(|name| site.path(name));
    fs::write(authority, made.pem()).unwrap();
    fs::write(&chain, cert.pem()).unwrap();
    fs::write(&secret, key.serialize_pem()).unwrap();
    site.env("EDGEPROXY_TLS_CERT", &chain.display().to_string())
        .env("EDGEPROXY_TLS_KEY", &secret.display().to_string())
}

/// A client's side, which has its hello ready.
pub fn connection(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from(NAME).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

/// What there is to send.
pub fn to_send(connection: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Takes the handshake to its end.
pub fn shake_hands(tls: &mut Tls) -> io::Result<()> {
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    // Its Finished, after which nothing was waited for.
    while tls.conn.wants_write() {
        tls.conn.write_tls(&mut tls.sock)?;
    }
    Ok(())
}

/// Takes the handshake to its end. The last that there is to send is given back and not sent.
pub fn last_flight(tls: &mut Tls) -> Vec<u8> {
    while tls.conn.is_handshaking() {
        let bytes = to_send(&mut tls.conn);
        tls.sock.write_all(&bytes).unwrap();
        tls.conn.read_tls(&mut tls.sock).unwrap();
        tls.conn.process_new_packets().unwrap();
    }
    to_send(&mut tls.conn)
}

/// Everything up to the end, which TLS must have said.
pub fn rest(tls: &mut Tls) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tls.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Says that nothing follows, and leaves the connection open.
pub fn say_end(tls: &mut Tls) {
    tls.conn.send_close_notify();
    let bytes = to_send(&mut tls.conn);
    tls.sock.write_all(&bytes).unwrap();
}

/// Moves what a connection that does not block can move, or waits until it can; whether TLS has said that
/// it ends.
pub fn step(tls: &mut Tls, heard: &mut Vec<u8>) -> bool {
    let mut moved = false;
    for result in [tls.conn.write_tls(&mut tls.sock), tls.conn.read_tls(&mut tls.sock)] {
        match result {
            Ok(bytes) => moved |= bytes > 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("after {} bytes: {error}", heard.len()),
        }
    }
    tls.conn.process_new_packets().unwrap();
    match tls.conn.reader().read_to_end(heard) {
        Ok(_) => return true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => panic!("after {} bytes: {error}", heard.len()),
    }
    if !moved {
        let writes = if tls.conn.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
        let mut sockets = [PollFd::new(&tls.sock, PollFlags::IN | writes)];
        let patience = Timespec { tv_sec: 15, tv_nsec: 0 };
        assert_eq!(poll(&mut sockets, Some(&patience)).unwrap(), 1, "{} heard", heard.len());
    }
    false
}

/// Sends `up` in records of every size, says that nothing follows, and hears all that there is to hear,
/// both at once.
pub fn exchange(tls: &mut Tls, up: &[u8], seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut left, mut finished, mut heard) = (up, false, Vec::new());
    tls.sock.set_nonblocking(true).unwrap();
    loop {
        if !tls.conn.wants_write() && !finished {
            let most = if random.bool() { 100 } else { 50_000 };
            let length = random.usize(1..=most);
            let (piece, later) = left.split_at(length.min(left.len()));
            tls.conn.writer().write_all(piece).unwrap();
            left = later;
            if left.is_empty() {
                tls.conn.send_close_notify();
                finished = true;
            }
        }
        if step(tls, &mut heard) && finished && !tls.conn.wants_write() {
            break;
        }
    }
    tls.sock.set_nonblocking(false).unwrap();
    heard
}

/// A client whose handshake was right, and whose records are whatever it likes.
pub struct Forger {
    pub stream: std::net::TcpStream,
    says: Box<dyn MessageEncrypter>,
    hears: Box<dyn MessageDecrypter>,
    said: u64,
    heard: u64,
}

impl Forger {
    pub fn new(pop: &Pop, version: &'static SupportedProtocolVersion) -> Self {
        let suite = if *version == TLS13 {
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256
        } else {
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        };
        let provider = CryptoProvider { cipher_suites: vec![suite], ..default_provider() };
        let mut config = pop.config_with(provider, version);
        config.enable_secret_extraction = true;
        let Tls { conn, sock: stream } = pop.tls_with(&Arc::new(config));
        let secrets = conn.dangerous_extract_secrets().unwrap();
        let parts = |secrets| match secrets {
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
            _ => panic!("another cipher suite"),
        };
        let ((said, up), (heard, down)) = (secrets.tx, secrets.rx);
        let ((up, up_iv), (down, down_iv)) = (parts(up), parts(down));
        let (says, hears) = match (suite.tls13(), suite) {
            (Some(suite), _) => {
                (suite.aead_alg.encrypter(up, up_iv), suite.aead_alg.decrypter(down, down_iv))
            }
            (None, rustls::SupportedCipherSuite::Tls12(suite)) => (
                suite.aead_alg.encrypter(up, up_iv.as_ref(), &[]),
                suite.aead_alg.decrypter(down, down_iv.as_ref()),
            ),
            _ => panic!("no such version"),
        };
        Self { stream, says, hears, said, heard }
    }

    /// A record, sealed as it must be.
    pub fn record(&mut self, typ: u8, payload: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ: ContentType::from(typ),
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(payload),
        };
        let sealed = self.says.encrypt(message, self.said).unwrap();
        self.said += 1;
        sealed.encode()
    }

    /// Sends one.
    pub fn say(&mut self, typ: u8, payload: &[u8]) {
        let record = self.record(typ, payload);
        self.stream.write_all(&record).unwrap();
    }

    /// The next record's type and what is in it. Tickets are passed over.
    pub fn hear(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; HEAD];
            self.stream.read_exact(&mut head)?;
            let mut sealed = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            self.stream.read_exact(&mut sealed)?;
            let version = ProtocolVersion::TLSv1_2;
            let message = InboundOpaqueMessage::new(head[0].into(), version, &mut sealed);
            let plain = self.hears.decrypt(message, self.heard).map_err(io::Error::other)?;
            self.heard += 1;
            let said = (u8::from(plain.typ), plain.payload.to_vec());
            if said.0 != HANDSHAKE || said.1.first() != Some(&NEW_SESSION_TICKET) {
                return Ok(said);
            }
        }
    }
}

/// Types of records (RFC 8446, B.1).
pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;
/// Types of handshake messages (RFC 8446, B.3).
const NEW_SESSION_TICKET: u8 = 4;
