//! The certificates that clients are shown: which, from when on, and what they are asked for.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData,
    date_time_ymd,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, RootCertStore,
    SignatureScheme, StreamOwned,
};

use crate::support::{Backend, Edge, PATIENCE, Refusing, Row, Site, eventually};

/// A certificate on disk.
pub(super) struct Pair {
    pub(super) der: CertificateDer<'static>,
    cert: String,
    key: String,
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

impl Pair {
    pub(super) fn new(names: &[&str]) -> Self {
        Self::with(&params(names))
    }

    fn with(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { der: cert.der().clone(), cert: cert.pem(), key: key.serialize_pem() }
    }

    /// Written as `NAME.crt` and `NAME.key`, each replaced at once.
    pub(super) fn write(&self, site: &Site, name: &str) {
        self.write_cert(site, name);
        self.write_key(site, name);
    }

    fn write_cert(&self, site: &Site, name: &str) {
        replace(&site.path(&format!("{name}.crt")), &self.cert);
    }

    fn write_key(&self, site: &Site, name: &str) {
        replace(&site.path(&format!("{name}.key")), &self.key);
    }
}

fn replace(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// A POP of one backend whose TLS listener is where `addr` says.
pub(super) struct Tls {
    pub(super) edge: Edge,
    pub(super) addr: SocketAddr,
    _port: Refusing,
    _backend: Backend,
}

/// A site with files, and what its configuration says.
pub(super) fn site() -> Site {
    Site::new().env("EDGEPROXY_CONFIG_WATCH_INTERVAL_SECS", "1")
}

pub(super) fn start(site: Site) -> Tls {
    let (port, backend) = (Refusing::new(), Backend::named("a"));
    let edge = site
        .env("EDGEPROXY_TLS_ENABLED", "true")
        .env("EDGEPROXY_TLS_LISTEN_ADDR", &port.addr().to_string())
        .backend(Row::new("a", backend.addr()))
        .start();
    Tls { edge, addr: port.addr(), _port: port, _backend: backend }
}

/// Believes every certificate.
#[derive(Debug)]
struct Anyone(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A client that keeps its sessions.
#[derive(Clone)]
pub(super) struct Visitor(Arc<ClientConfig>);

/// What a client saw that was served.
pub(super) struct Seen {
    pub(super) der: CertificateDer<'static>,
    alpn: Option<Vec<u8>>,
    resumed: bool,
}

impl Visitor {
    /// Without a certificate of its own.
    pub(super) fn new() -> Self {
        Self::with(None, &[])
    }

    fn with(own: Option<&Own>, alpn: &[&str]) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(Pair::new(&["nobody.test"]).der).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = Arc::new(Anyone(verifier.build().unwrap()));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match own {
            Some(Own { der, key }) => {
                let key = PrivatePkcs8KeyDer::from(key.clone()).into();
                builder.with_client_auth_cert(vec![der.clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    /// Shakes hands with whoever is at `addr`, by this name or by an address, and is served.
    pub(super) fn visit(&self, addr: SocketAddr, name: &str) -> io::Result<Seen> {
        let Open(mut stream) = self.open(addr, name)?;
        stream.write_all(b"goes both ways\n")?;
        let client = &stream.conn;
        Ok(Seen {
            der: client.peer_certificates().unwrap()[0].clone().into_owned(),
            alpn: client.alpn_protocol().map(<[u8]>::to_vec),
            resumed: client.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }

    /// The same, and stays.
    pub(super) fn open(&self, addr: SocketAddr, name: &str) -> io::Result<Open> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        let socket = TcpStream::connect(addr)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut open = Open(StreamOwned::new(client, socket));
        // The greeting comes behind the tickets.
        assert_eq!(open.line()?, b"a\n");
        Ok(open)
    }
}

/// A connection that was greeted.
pub(super) struct Open(StreamOwned<ClientConnection, TcpStream>);

impl Open {
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(line)
    }

    /// Says a line and hears it again.
    pub(super) fn echo(&mut self, line: &[u8]) -> io::Result<()> {
        self.0.write_all(line)?;
        assert_eq!(self.line()?, line);
        Ok(())
    }
}

impl Tls {
    fn shown(&self, name: &str) -> io::Result<CertificateDer<'static>> {
        Visitor::new().visit(self.addr, name).map(|seen| seen.der)
    }

    /// Waits until clients are shown this one.
    fn shows(&self, name: &str, pair: &Pair) {
        let what = format!("another certificate for {name}");
        eventually(&what, || (self.shown(name).ok()? == pair.der).then_some(()));
    }

    /// Why a client is refused.
    fn refusal(&self, client: &Visitor, name: &str) -> String {
        match client.visit(self.addr, name) {
            Ok(_) => panic!("it was served"),
            Err(error) => error.to_string(),
        }
    }
}

/// A certificate of a client's.
struct Own {
    der: CertificateDer<'static>,
    key: Vec<u8>,
}

/// Those who say who clients are.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn client(&self) -> Own {
        let key = KeyPair::generate().unwrap();
        assert!(!key.der_bytes().is_empty());
        let cert = params(&["client.test"]).signed_by(&key, &self.0).unwrap();
        Own { der: cert.der().clone(), key: key.serialize_der() }
    }
}

pub(super) const SEED: &str = "[tls]\ncert = \"seed.crt\"\nkey = \"seed.key\"\n";

#[test]
fn one_is_made_when_none_is_given() {
    let tls = start(site());
    let der = tls.shown("localhost").unwrap();
    assert_eq!(tls.shown("127.0.0.1").unwrap(), der, "for no name as well");
    let said = tls.edge.wait_for_log("no certificate is given");
    assert!(said.contains("WARN"), "{said}");
    assert_eq!(tls.edge.stop().code, Some(0));
}

#[test]
fn half_a_pair_a_pair_of_halves_and_no_pair_are_configuration_errors() {
    let site = site().env("EDGEPROXY_TLS_ENABLED", "true").toml(SEED).prepared();
    let (one, other) = (Pair::new(&["one.test"]), Pair::new(&["two.test"]));
    one.write_cert(&site, "seed");
    other.write_key(&site, "seed");
    for args in [&["run"][..], &["check"]] {
        let failed = site.run(args);
        assert_eq!(failed.code, Some(78), "{failed:?}");
        let said = "seed.key: is not the key of the first certificate in seed.crt";
        assert!(failed.err.contains(said), "{failed:?}");
    }
    one.write_key(&site, "seed");
    assert_eq!(site.run(&["check"]).code, Some(0));
    site.configure("[tls]\ncert = \"seed.crt\"\n");
    let failed = site.run(&["check"]);
    assert_eq!(failed.code, Some(78), "{failed:?}");
    assert!(failed.err.contains("must be given with EDGEPROXY_TLS_CERT"), "{failed:?}");
}

#[test]
fn a_certificate_that_has_expired_is_said_and_shown_all_the_same() {
    let mut params = params(&["old.test"]);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let old = Pair::with(&params);
    let site = site().toml(SEED);
    old.write(&site, "seed");
    let tls = start(site);
    assert_eq!(tls.shown("old.test").unwrap(), old.der);
    let said = tls.edge.wait_for_log("has expired on 2021-01-01");
    assert!(said.contains("ERROR"), "{said}");
    let checked = tls.edge.site.run(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.err.contains("note: certificate seed.crt has expired"), "{checked:?}");
}

#[test]
fn each_name_has_its_own_and_other_names_the_default() {
    let pairs = [&["seed.test"][..], &["one.test", "*.wild.test"], &["folder.test"]].map(Pair::new);
    let [seed, one, folder] = &pairs;
    let site = site().toml(&format!(
        "{SEED}cert_dir = \"folder\"\n\
         [[certificate]]\ncert = \"one.crt\"\nkey = \"one.key\"\n"
    ));
    seed.write(&site, "seed");
    one.write(&site, "one");
    folder.write(&site, "folder/x");
    let tls = start(site);
    for (name, expected) in [
        ("seed.test", seed),
        ("ONE.test", one),
        ("a.wild.test", one),
        ("a.b.wild.test", seed),
        ("folder.test", folder),
        ("other.test", seed),
        ("127.0.0.1", seed),
    ] {
        assert_eq!(tls.shown(name).unwrap(), expected.der, "{name}");
    }
}

#[test]
fn who_asks_for_no_name_that_is_known_is_refused_when_names_are_strict() {
    let seed = Pair::new(&["seed.test"]);
    let site = site().toml(SEED);
    seed.write(&site, "seed");
    let tls = start(site);
    assert_eq!(tls.shown("other.test").unwrap(), seed.der);
    tls.edge.reload(&format!("{SEED}strict_sni = true\n"));
    for name in ["other.test", "127.0.0.1"] {
        let said = eventually("a refusal", || Visitor::new().visit(tls.addr, name).err());
        assert!(said.to_string().contains("UnrecognisedName"), "{name}: {said}");
    }
    assert_eq!(tls.shown("seed.test").unwrap(), seed.der);
}

#[test]
fn a_pair_that_is_replaced_in_two_steps_never_fails_a_handshake() {
    let (old, new) = (Pair::new(&["seed.test"]), Pair::new(&["seed.test"]));
    let site = site().toml(SEED).with_metrics();
    old.write(&site, "seed");
    let tls = start(site);
    let open = tls.edge.visit().unwrap();
    let (done, visits) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let visitors = [(); 2].map(|()| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let der = tls.shown("seed.test").expect("a handshake that works");
                    assert!(der == old.der || der == new.der);
                    visits.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        new.write_cert(&tls.edge.site, "seed");
        // Which is what is promised: so long it is half.
        thread::sleep(Duration::from_millis(500));
        let said = tls.edge.wait_for_log("seed.key: is not the key");
        assert!(said.contains("INFO"), "{said}");
        new.write_key(&tls.edge.site, "seed");
        tls.shows("seed.test", &new);
        done.store(true, Ordering::SeqCst);
        for visitor in visitors {
            visitor.join().unwrap();
        }
    });
    assert!(visits.load(Ordering::SeqCst) > 2);
    assert_eq!(tls.edge.times_logged("ERROR"), 0);
    let reloads = |result: &str| {
        let metrics = tls.edge.metrics();
        metrics.value("edgeproxy_tls_certificate_reloads_total", &[("result", result)])
    };
    assert_eq!((reloads("success"), reloads("failure")), (1, 0));
    drop(open);
}

#[test]
fn a_folder_behind_links_as_kubernetes_changes_them_is_read_anew() {
    let pairs = [(); 2].map(|()| Pair::new(&["seed.test"]));
    let site = site().toml("[tls]\ncert_dir = \"volume\"\n");
    let volume = |name: &str| site.path("volume").join(name);
    let held = |number: usize, pair: &Pair| {
        replace(&volume(&format!("..2026_{number}/tls.crt")), &pair.cert);
        replace(&volume(&format!("..2026_{number}/tls.key")), &pair.key);
    };
    pairs.iter().enumerate().for_each(|(number, pair)| held(number, pair));
    symlink("..2026_0", volume("..data")).unwrap();
    symlink("..data/tls.crt", volume("tls.crt")).unwrap();
    symlink("..data/tls.key", volume("tls.key")).unwrap();
    symlink("..2026_1", volume("..data_tmp")).unwrap();
    let [from, to] = ["..data_tmp", "..data"].map(volume);
    let tls = start(site);
    assert_eq!(tls.shown("seed.test").unwrap(), pairs[0].der);
    fs::rename(from, to).unwrap();
    tls.shows("seed.test", &pairs[1]);
    assert_eq!(tls.edge.times_logged("seed"), 1, "one change, and nothing that was waited for");
}

#[test]
fn a_signal_has_certificates_read_at_once() {
    let (old, new) = (Pair::new(&["seed.test"]), Pair::new(&["seed.test"]));
    let site = site().env("EDGEPROXY_CONFIG_WATCH_INTERVAL_SECS", "3600").toml(SEED);
    old.write(&site, "seed");
    let tls = start(site);
    new.write(&tls.edge.site, "seed");
    tls.edge.reloads();
    assert_eq!(tls.shown("seed.test").unwrap(), new.der);
}

#[test]
fn what_comes_into_the_folder_is_shown_and_what_leaves_it_is_not() {
    let site = site().toml("[tls]\ncert_dir = \"folder\"\n").with_metrics();
    let pairs = ["a.test", "b.test"].map(|name| Pair::new(&[name]));
    let [a, b] = &pairs;
    fs::create_dir(site.path("folder")).unwrap();
    let tls = start(site);
    tls.edge.wait_for_log("there is no certificate");
    assert!(tls.refusal(&Visitor::new(), "a.test").contains("UnrecognisedName"));
    a.write(&tls.edge.site, "folder/a");
    tls.shows("b.test", a);
    replace(&tls.edge.site.path("folder/c.crt"), "half");
    replace(&tls.edge.site.path("folder/c.key"), "half");
    replace(&tls.edge.site.path("folder/b/fullchain.pem"), &b.cert);
    replace(&tls.edge.site.path("folder/b/privkey.pem"), &b.key);
    tls.shows("b.test", b);
    let expiry = "edgeproxy_certificate_not_after_timestamp_seconds";
    let page = tls.edge.get("/metrics").body;
    assert!(page.contains(&format!("{expiry}{{name=\"folder/b/fullchain.pem\"}} ")), "{page}");
    fs::remove_dir_all(tls.edge.site.path("folder/b")).unwrap();
    tls.shows("b.test", a);
    assert_eq!(tls.edge.times_logged("ERROR"), 1, "only that there was none");
}

#[test]
fn a_reload_with_a_bad_pair_changes_nothing_and_one_with_a_good_pair_everything() {
    let (seed, one) = (Pair::new(&["seed.test"]), Pair::new(&["one.test"]));
    let site = site().toml(SEED);
    seed.write(&site, "seed");
    one.write(&site, "one");
    replace(&site.path("bad.key"), &seed.key);
    let tls = start(site);
    let certificate = |key: &str| {
        format!(
            "deny = [\"127.0.9.0/24\"]\n{SEED}[[certificate]]\ncert = \"one.crt\"\nkey = \"{key}\"\n"
        )
    };
    let said = tls.edge.refuses(&certificate("bad.key"));
    assert!(said.contains("bad.key: is not the key of the first certificate in one.crt"), "{said}");
    tls.edge.visit_from("127.0.9.1").expect("the whole of it is refused");
    assert_eq!(tls.shown("one.test").unwrap(), seed.der);
    tls.edge.reload(&certificate("one.key"));
    tls.shows("one.test", &one);
    assert!(tls.edge.visit_from("127.0.9.1").is_err());
    // What was right and is not any more is no reason to refuse a reload.
    replace(&tls.edge.site.path("one.key"), "");
    tls.edge.reload(&certificate("one.key").replace("9.0", "8.0"));
    tls.edge.visit_from("127.0.9.1").unwrap();
    assert_eq!(tls.shown("one.test").unwrap(), one.der);
}

#[test]
fn a_client_must_have_a_certificate_where_that_is_asked_for() {
    let (ca, other) = (Ca::new(), Ca::new());
    let [seed, one] = ["seed.test", "one.test"].map(|name| Pair::new(&[name]));
    let toml = |auth: &str| {
        format!(
            "{SEED}[[certificate]]\ncert = \"one.crt\"\nkey = \"one.key\"\n\
             client_ca = \"ca.pem\"\nclient_auth = \"{auth}\"\n"
        )
    };
    let site = site().toml(&toml("required"));
    seed.write(&site, "seed");
    one.write(&site, "one");
    replace(&site.path("ca.pem"), &ca.0.pem());
    let tls = start(site);
    let [known, stranger] = [&ca, &other].map(|ca| Visitor::with(Some(&ca.client()), &[]));
    let nobody = Visitor::new();
    assert_eq!(tls.shown("seed.test").unwrap(), seed.der, "nothing is asked for");
    assert_eq!(known.visit(tls.addr, "one.test").unwrap().der, one.der);
    assert!(known.visit(tls.addr, "one.test").unwrap().resumed);
    assert!(tls.refusal(&nobody, "one.test").contains("CertificateRequired"));
    let said = tls.refusal(&stranger, "one.test");
    assert!(said.contains("UnknownCA") || said.contains("alert"), "{said}");

    tls.edge.reload(&toml("optional"));
    eventually("none is needed", || nobody.visit(tls.addr, "one.test").ok());
    assert!(!known.visit(tls.addr, "one.test").unwrap().resumed, "another policy");
    tls.refusal(&stranger, "one.test");
    tls.edge.reload(&toml("required"));
    eventually("one is needed", || nobody.visit(tls.addr, "one.test").err());

    // Another CA in the same file.
    replace(&tls.edge.site.path("ca.pem"), &other.0.pem());
    eventually("the other is known", || stranger.visit(tls.addr, "one.test").ok());
    tls.refusal(&known, "one.test");
}

#[test]
fn sessions_outlive_certificates_and_reloads() {
    let (old, new) = (Pair::new(&["seed.test"]), Pair::new(&["seed.test"]));
    let site = site().toml(SEED);
    old.write(&site, "seed");
    let tls = start(site);
    let client = Visitor::new();
    assert!(!client.visit(tls.addr, "seed.test").unwrap().resumed);
    assert!(client.visit(tls.addr, "seed.test").unwrap().resumed);
    new.write(&tls.edge.site, "seed");
    tls.shows("seed.test", &new);
    assert!(client.visit(tls.addr, "seed.test").unwrap().resumed);
    tls.edge.reload(&format!("idle_timeout_secs = 60\n{SEED}strict_sni = true\n"));
    assert!(client.visit(tls.addr, "seed.test").unwrap().resumed);
}

#[test]
fn protocols_are_offered_as_the_settings_or_the_listener_say() {
    let seed = Pair::new(&["seed.test"]);
    let port = Refusing::new();
    let listener =
        format!("[[listener]]\naddr = \"{}\"\ntls = true\nalpn = [\"own\"]\n", port.addr());
    let site = site().toml(&format!("{SEED}alpn = [\"h2\", \"http/1.1\"]\n{listener}"));
    seed.write(&site, "seed");
    let tls = start(site);
    let both = Visitor::with(None, &["http/1.1", "own", "h2"]);
    let said = |addr| both.visit(addr, "seed.test").unwrap().alpn.unwrap();
    assert_eq!(said(tls.addr), b"h2");
    assert_eq!(said(port.addr()), b"own");
    assert_eq!(Visitor::new().visit(tls.addr, "seed.test").unwrap().alpn, None);
    let said = tls.refusal(&Visitor::with(None, &["unknown"]), "seed.test");
    assert!(said.contains("NoApplicationProtocol"), "{said}");
    tls.edge.reload(&format!("{SEED}alpn = [\"http/1.1\"]\n{listener}"));
    eventually("other protocols", || {
        let alpn = both.visit(tls.addr, "seed.test").ok()?.alpn?;
        (alpn == b"http/1.1").then_some(())
    });
}

#[test]
fn without_a_plain_listener_there_is_only_tls() {
    let tls = start(site().env("EDGEPROXY_LISTEN_ADDR", "off"));
    assert_eq!(tls.edge.addr, tls.addr);
    tls.shown("localhost").unwrap();
    let failed = Site::new().env("EDGEPROXY_LISTEN_ADDR", "off").prepared().run(&["check"]);
    assert_eq!(failed.code, Some(78), "{failed:?}");
    assert!(failed.err.contains("EDGEPROXY_LISTEN_ADDR = \"off\""), "{failed:?}");
}
