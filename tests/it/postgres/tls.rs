//! What each `sslmode` of libpq's does, against a server with TLS and without.

use std::path::PathBuf;

use edgeproxy::adapters::outbound::PostgresBackendRepository;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::super::support::Logged;
use super::super::support::postgres::{NAME, PASSWORD, Postgres, USER, config};

/// The name that the server's certificate is for.
const HOST: &str = "db.example";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A server with TLS, and files of certificates.
struct Secured {
    server: Postgres,
    authority: Authority,
    folder: TempDir,
}

impl Secured {
    /// A server whose certificate an authority has signed.
    fn start() -> Self {
        let mut server = Postgres::start();
        let authority = authority("authority");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![HOST.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &authority).expect("signed");
        server.set_tls(&certificate.pem(), &key.serialize_pem());
        Self { server, authority, folder: tempfile::tempdir().expect("a folder") }
    }

    /// A file of certificates.
    fn file(&self, name: &str, pem: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, pem).expect("a file");
        path
    }

    fn root(&self) -> PathBuf {
        self.file("root.pem", &self.authority.pem())
    }

    /// How a connection to this host name comes about: encrypted or not, or why not.
    async fn attempt(&self, host: &str, parameters: &str) -> Result<bool, String> {
        attempt(&self.server, host, parameters).await
    }
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(vec![]).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

async fn attempt(server: &Postgres, host: &str, parameters: &str) -> Result<bool, String> {
    let url = format!(
        "host={host} hostaddr=127.0.0.1 port={} user={USER} password={PASSWORD} dbname={NAME} \
         {parameters}",
        server.port()
    );
    let repository = PostgresBackendRepository::new(config(&url));
    repository.initialize().await.map_err(|error| error.to_string())?;
    let encrypted = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE usename = 'edge'";
    Ok(server.sql(encrypted) == "t")
}

fn says(refused: Result<bool, String>, reason: &str) {
    let said = refused.expect_err(reason);
    assert!(said.contains(reason) && !said.contains(PASSWORD), "{said}");
}

#[tokio::test]
async fn each_mode_means_what_libpq_means_by_it() {
    let secured = Secured::start();
    let root = secured.root().display().to_string();
    let stranger = secured.file("stranger.pem", &authority("stranger").pem()).display().to_string();
    let at = async |host, parameters: String| secured.attempt(host, &parameters).await;
    let (right, wrong) = (HOST, "other.example");
    let logged = Logged::here();

    assert_eq!(at(right, "sslmode=disable".into()).await, Ok(false));
    assert_eq!(at(right, "sslmode=allow".into()).await, Ok(false));
    assert_eq!(at(right, "sslmode=prefer".into()).await, Ok(true));
    assert_eq!(at(right, String::new()).await, Ok(true), "as prefer");
    assert_eq!(logged.with("WARN"), [""; 0]);
    assert_eq!(at(wrong, "sslmode=require".into()).await, Ok(true));
    let said = logged.with("does not check who answers");
    assert!(said.len() == 1 && said[0].contains("WARN"), "{said:?}");

    let ca = |root: &str| format!("sslmode=verify-ca sslrootcert={root}");
    assert_eq!(at(wrong, ca(&root)).await, Ok(true));
    says(at(right, ca(&stranger)).await, "TLS: invalid peer certificate: UnknownIssuer");
    let full = |root: &str| format!("sslmode=verify-full sslrootcert={root}");
    assert_eq!(at(right, full(&root)).await, Ok(true));
    says(at(wrong, full(&root)).await, "not valid for name \"other.example\"");
    says(at(right, full(&stranger)).await, "UnknownIssuer");
    says(at(right, full("/nonexistent.pem")).await, "sslrootcert /nonexistent.pem: ");
    let empty = secured.file("empty.pem", "").display().to_string();
    says(at(right, full(&empty)).await, "holds no certificate in PEM");
    says(at(right, full("system")).await, "UnknownIssuer");

    // With a root, require checks as verify-ca does.
    assert_eq!(at(wrong, format!("sslmode=require sslrootcert={root}")).await, Ok(true));
    says(at(right, format!("sslmode=require sslrootcert={stranger}")).await, "UnknownIssuer");
    // Prefer would rather go unencrypted than fail.
    assert_eq!(at(right, format!("sslmode=prefer sslrootcert={stranger}")).await, Ok(false));
    assert_eq!(logged.with("does not check who answers").len(), 1);
}

#[tokio::test]
async fn the_servers_rules_have_their_say() {
    let secured = Secured::start();
    secured.server.set_rules("hostssl all all 127.0.0.1/32 scram-sha-256");
    let said = secured.attempt(HOST, "sslmode=disable").await;
    says(said, "no pg_hba.conf entry for host \"127.0.0.1\", user \"edge\"");
    assert_eq!(secured.attempt(HOST, "sslmode=allow").await, Ok(true));
    secured.server.set_rules("hostnossl all all 127.0.0.1/32 scram-sha-256");
    assert_eq!(secured.attempt(HOST, "sslmode=prefer").await, Ok(false));
    says(secured.attempt(HOST, "sslmode=require").await, "no pg_hba.conf entry");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let server = Postgres::start();
    assert_eq!(attempt(&server, HOST, "sslmode=prefer").await, Ok(false));
    assert_eq!(attempt(&server, HOST, "sslmode=allow").await, Ok(false));
    says(attempt(&server, HOST, "sslmode=require").await, "TLS: server does not support TLS");
}

#[tokio::test]
async fn a_certificate_that_signed_itself_can_be_trusted_by_itself() {
    let mut server = Postgres::start();
    let folder = tempfile::tempdir().expect("a folder");
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let mut params = CertificateParams::new(vec![HOST.to_owned()]).expect("a name");
        params.is_ca = is_ca;
        let key = KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("signed").pem();
        server.set_tls(&own, &key.serialize_pem());
        let path = folder.path().join("own.pem");
        std::fs::write(&path, own).expect("a file");
        let root = format!("sslmode=verify-full sslrootcert={}", path.display());
        assert_eq!(attempt(&server, HOST, "sslmode=require").await, Ok(true));
        assert_eq!(attempt(&server, HOST, &root).await, Ok(true));
        says(attempt(&server, "other.example", &root).await, "not valid for name");
    }
    let mut params = CertificateParams::new(vec![HOST.to_owned()]).expect("a name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let expired = params.self_signed(&key).expect("signed").pem();
    server.set_tls(&expired, &key.serialize_pem());
    let path = folder.path().join("expired.pem");
    std::fs::write(&path, expired).expect("a file");
    let root = format!("sslmode=verify-ca sslrootcert={}", path.display());
    says(attempt(&server, HOST, &root).await, "certificate expired");
}

#[tokio::test]
async fn a_client_shows_its_own_certificate_where_the_server_asks_for_one() {
    let mut server = Postgres::start();
    let folder = tempfile::tempdir().expect("a folder");
    let authority = authority("authority");
    let sign = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &authority).expect("signed").pem(), key.serialize_pem())
    };
    let (certificate, key) = sign(HOST);
    server.set_client_roots(&authority.pem());
    server.set_tls(&certificate, &key);
    server.set_rules("hostssl all all 127.0.0.1/32 cert");
    let (certificate, key) = sign(USER);
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (certificate, key) = (path("own.pem", &certificate), path("own.key", &key));
    let own = format!("sslmode=require sslcert={certificate} sslkey={key}");
    assert_eq!(attempt(&server, HOST, &own).await, Ok(true));
    says(attempt(&server, HOST, "sslmode=require").await, "valid client certificate");
    let none = format!("sslmode=require sslcert={certificate} sslkey=/nonexistent.key");
    says(attempt(&server, HOST, &none).await, "sslkey /nonexistent.key: ");
}
