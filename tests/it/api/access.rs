//! Who may see and change what.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use super::{edge_with, site};
use crate::support::api::{Api, TOKEN};
use crate::support::{Backend, PATIENCE, Row, Site};

/// Every write there is, with a body that would do something.
fn writes() -> Vec<(&'static str, &'static str, Option<Value>)> {
    vec![
        (
            "POST",
            "/api/v1/register",
            Some(json!({ "id": "x", "app": "web", "region": "sa", "ip": "127.0.0.1", "port": 1 })),
        ),
        ("POST", "/api/v1/heartbeat/a", None),
        ("DELETE", "/api/v1/backends/a", None),
        ("PUT", "/api/v1/backends/a/state", Some(json!({ "state": "maint" }))),
        ("PUT", "/api/v1/backends/a/breaker", Some(json!({ "state": "open" }))),
        ("DELETE", "/api/v1/connections/0-1", None),
        ("DELETE", "/api/v1/connections?app=web", None),
        ("POST", "/api/v1/deny", Some(json!({ "cidr": "0.0.0.0/0" }))),
        ("DELETE", "/api/v1/deny?cidr=192.0.2.1", None),
        ("POST", "/api/v1/config/reload", None),
        ("POST", "/api/v1/registry/refresh", None),
    ]
}

/// Who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn write(&self, folder: &Path) -> PathBuf {
        let file = folder.join("ca.pem");
        std::fs::write(&file, self.0.pem()).unwrap();
        file
    }

    /// A certificate and its key.
    fn issue(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let files = ["crt", "key"].map(|end| folder.join(format!("{name}.{end}")));
        std::fs::write(&files[0], certificate.pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        files.into()
    }
}

/// Every path that tells something.
const READS: [&str; 10] = [
    "/api/v1/status",
    "/api/v1/backends",
    "/api/v1/backends/a",
    "/api/v1/route?client=192.0.2.1",
    "/api/v1/choices",
    "/api/v1/capacity",
    "/api/v1/connections",
    "/api/v1/limits",
    "/api/v1/deny",
    "/api/v1/config",
];

#[test]
fn without_the_token_every_write_is_401_and_changes_nothing() {
    let a = Backend::named("a");
    let edge = edge_with([Row::new("a", a.addr())]);
    let api = edge.api();
    for asked in [api.without_token(), api.with_token("wrong"), api.with_token("")] {
        for (method, path, body) in writes() {
            let told = asked.ask(method, path, body.as_ref());
            assert_eq!(told.problem(), (401, "unauthorized"), "{method} {path}");
        }
    }
    for basic in ["Authorization: Basic YWRtaW46eA==", "Authorization: Token x", "X-Token: x"] {
        let told = api.without_token().with(basic).ask("POST", "/api/v1/config/reload", None);
        assert_eq!(told.status, 401, "{basic}");
    }
    assert_eq!(edge.served_by().as_deref(), Some("a"));
    let documented: Vec<(String, String)> = documented_writes(&api);
    assert_eq!(documented.len(), writes().len(), "each write is tried here: {documented:?}");
    edge.wait_for_log("refused: DELETE /api/v1/connections");
    let log = edge.log_so_far().join("\n");
    let is_told = [TOKEN, "Bearer wrong", "YWRtaW46eA"].iter().any(|token| log.contains(token));
    assert!(!is_told, "no token is logged");
}

/// Methods and paths of the document that change something.
fn documented_writes(api: &Api) -> Vec<(String, String)> {
    let document = api.get("/openapi.json").ok();
    let paths = document["paths"].as_object().expect("paths");
    let each = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods").keys();
        methods.map(move |method| (method.clone(), path.clone()))
    });
    each.filter(|(method, _)| method != "get").collect()
}

#[test]
fn this_machine_reads_without_a_token_and_nobody_for_another() {
    let a = Backend::named("a");
    let edge = edge_with([Row::new("a", a.addr())]);
    let api = edge.api().without_token();
    for path in READS {
        assert_eq!(api.get(path).status, 200, "{path}");
        let forwarded = api.with("X-Forwarded-For: 192.0.2.1").get(path);
        assert_eq!(forwarded.problem(), (401, "unauthorized"), "{path}");
        let rebound = api.with("Host: evil.example").get(path);
        assert_eq!(rebound.problem(), (401, "unauthorized"), "{path}");
        assert_eq!(api.with_token("wrong").get(path).status, 401, "{path}");
    }
    for path in ["/", "/docs", "/assets/app.js", "/openapi.json", "/health", "/readyz"] {
        assert_eq!(api.with("Host: edge.example").get(path).status, 200, "{path}");
    }
}

#[test]
fn the_register_token_may_register_and_nothing_else() {
    let edge = site().env("EDGEPROXY_API_REGISTER_TOKEN", "for-apps").start();
    let apps = edge.api().with_token("for-apps");
    let may = ["/api/v1/register", "/api/v1/heartbeat/a", "/api/v1/backends/a"];
    for (method, path, body) in writes() {
        let told = apps.ask(method, path, body.as_ref());
        assert_eq!(told.status == 403, !may.contains(&path), "{method} {path}: {told:?}");
        assert_ne!(told.status, 401, "{method} {path}");
    }
    for path in READS {
        assert_eq!(apps.get(path).problem(), (403, "forbidden"), "{path}");
    }
}

#[test]
fn a_token_is_made_at_the_first_start_and_stays() {
    let site = Site::new()
        .env("EDGEPROXY_API_ENABLED", "true")
        .env("EDGEPROXY_API_LISTEN_ADDR", "127.0.0.1:0");
    let edge = site.start();
    let file = edge.site.path("edge-proxy.token");
    edge.wait_for_log(&format!("{}", file.display()));
    let token = std::fs::read_to_string(&file).expect("it is there").trim().to_owned();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    assert!(token.len() >= 32);
    let reload = |api: &Api| api.ask("POST", "/api/v1/config/reload", None).status;
    assert_eq!(reload(&edge.api().with_token(&token)), 200);
    assert_eq!(reload(&edge.api()), 401);
    assert!(!edge.log_so_far().join("\n").contains(&token));
    let edge = edge.killed().start();
    assert_eq!(reload(&edge.api().with_token(&token)), 200, "the same after a restart");
}

#[test]
fn on_the_socket_nothing_is_needed_but_its_permission() {
    let a = Backend::named("a");
    let edge = Site::new().backend(Row::new("a", a.addr())).start();
    let file = edge.site.path("edge-proxy.sock");
    assert_eq!(file.metadata().expect("there without EDGEPROXY_API_ENABLED").mode() & 0o777, 0o600);
    let api = Api::on_socket(file.clone());
    assert_eq!(api.get("/api/v1/status").ok()["pid"], edge.pid());
    let drain = json!({ "state": "drain" });
    assert_eq!(api.put("/api/v1/backends/a/state", &drain).status, 200);
    edge.wait_for_log("who=socket:uid=");
    let exit = edge.stop();
    assert_eq!(exit.code, Some(0));
    assert!(!file.exists(), "it goes with the process");
}

#[test]
fn a_second_process_in_the_same_folder_leaves_the_first_ones_socket_alone() {
    let edge = Site::new().start();
    let file = edge.site.path("edge-proxy.sock");
    let second =
        Site::new().env("EDGEPROXY_STATE_DIR", edge.site.path("").to_str().unwrap()).start();
    second.wait_for_log("another edge-proxy listens here");
    assert_eq!(second.stop().code, Some(0));
    assert_eq!(Api::on_socket(file).get("/api/v1/status").ok()["pid"], edge.pid());
}

#[test]
fn a_socket_that_a_killed_process_has_left_is_replaced() {
    let edge = Site::new().start();
    let site = edge.killed();
    assert!(site.path("edge-proxy.sock").exists());
    let edge = site.start();
    let api = Api::on_socket(edge.site.path("edge-proxy.sock"));
    assert_eq!(api.get("/api/v1/status").ok()["pid"], edge.pid());
}

#[test]
fn who_guesses_tokens_is_slowed_down_and_who_has_one_is_not() {
    let edge = edge_with([]);
    let api = edge.api();
    let guess = api.with_token("guess");
    let answers: Vec<u16> = (0..200).map(|_| guess.get("/api/v1/status").status).collect();
    let slowed = answers.iter().filter(|status| **status == 429).count();
    assert!(slowed > 50 && answers[0] == 401, "{slowed} of 200");
    let answer = guess.say("GET", "/api/v1/status", &["Authorization: Bearer guess".into()], "");
    assert!(answer.head.to_ascii_lowercase().contains("retry-after: "), "{}", answer.head);
    assert_eq!(api.get("/api/v1/status").status, 200);
}

#[test]
fn a_body_that_is_too_long_or_no_json_or_never_comes_is_refused() {
    let edge = edge_with([]);
    let api = edge.api();
    let token = format!("Authorization: Bearer {TOKEN}");
    let json = "Content-Type: application/json".to_owned();
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(70 << 10));
    let answer = api.say("POST", "/api/v1/register", &[token.clone(), json], &long);
    assert_eq!(answer.status, 413);
    let plain = ["Content-Type: text/plain".to_owned(), token];
    assert_eq!(api.say("POST", "/api/v1/register", &plain, "{}").status, 415);
    assert_eq!(api.say("POST", "/api/v1/nowhere", &plain, "{}").status, 404);
    let wrong = api.ask("PATCH", "/api/v1/backends", None);
    assert_eq!(wrong.problem(), (405, "method_not_allowed"));
    assert_eq!(api.get("/api/v1/backends?nonsense=1").fields(), ["nonsense"]);
    assert_eq!(api.get("/api/v1/connections?limit=0&client=x").fields(), ["client", "limit"]);
}

#[test]
fn slow_clients_of_the_api_hold_up_neither_others_nor_traffic() {
    let a = Backend::named("a");
    let edge = edge_with([Row::new("a", a.addr())]);
    let addr = edge.api_addr();
    let slow: Vec<TcpStream> = (0..500)
        .map(|turn| {
            let mut stream = TcpStream::connect(addr).expect("a connection");
            let said: &[u8] = match turn % 3 {
                0 => b"",
                1 => b"POST /api/v1/register HTTP/1.1\r\nHost: x\r\nAuth",
                _ => b"GET /api/v1/live HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/x-ndjson\r\n\r\n",
            };
            stream.write_all(said).expect("it takes that");
            stream
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(edge.served_by().as_deref(), Some("a"));
        assert_eq!(edge.api().get("/api/v1/status").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    drop(slow);
}

#[test]
fn the_api_speaks_tls_and_asks_for_certificates_where_that_is_said() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = authority.issue(folder.path(), "localhost");
    let (own_cert, own_key) = authority.issue(folder.path(), "operator");
    let ca = authority.write(folder.path());
    let path = |file: &std::path::Path| file.to_str().unwrap().to_owned();
    let edge = site()
        .env("EDGEPROXY_API_TLS_CERT", &path(&cert))
        .env("EDGEPROXY_API_TLS_KEY", &path(&key))
        .env("EDGEPROXY_API_TLS_CLIENT_CA", &path(&ca))
        .start();
    let addr = edge.api_addr();
    let url = format!("https://localhost:{}/api/v1/config/reload", addr.port());
    let curl = |more: &[&str]| {
        let output = std::process::Command::new("curl")
            .args(["-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST"])
            .args(["--cacert", &path(&ca), "-H", &format!("Authorization: Bearer {TOKEN}")])
            .args(more)
            .arg(&url)
            .output()
            .expect("curl");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(curl(&["--cert", &path(&own_cert), "--key", &path(&own_key)]), "200");
    edge.wait_for_log("/operator");
    assert_eq!(curl(&[]), "000", "without a certificate there is no TLS");
    let mut plain = TcpStream::connect(addr).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "nothing is said in the clear");
}

#[test]
fn strangers_who_only_connect_to_the_api_take_no_descriptor_that_clients_need() {
    let a = Backend::named("a");
    let edge = site().backend(Row::new("a", a.addr())).descriptors(128).start();
    let idle: Vec<TcpStream> =
        (0..200).map_while(|_| TcpStream::connect(edge.api_addr()).ok()).collect();
    assert!(idle.len() > 100, "only {} could connect", idle.len());
    let clients: Vec<_> = (0..10).map(|_| edge.visit().expect("there is room")).collect();
    assert_eq!(edge.api().get("/health").status, 200);
    assert_eq!(edge.times_logged("descriptors"), 0, "{:?}", edge.log_so_far());
    drop((idle, clients));
}

#[test]
fn a_write_that_is_refused_is_told_of_with_who_and_why() {
    let edge = site().env("EDGEPROXY_API_REGISTER_TOKEN", "for-apps").start();
    let api = edge.api();
    let dangerous =
        json!({ "id": "x", "app": "web", "region": "sa", "ip": "169.254.169.254", "port": 80 });
    assert_eq!(api.post("/api/v1/register", &dangerous).status, 422);
    let line = edge.wait_for_log("refused: POST /api/v1/register");
    assert!(line.contains("who=admin@") && line.contains("link-local"), "{line}");
    assert_eq!(api.delete("/api/v1/backends/nobody").status, 404);
    edge.wait_for_log("refused: DELETE /api/v1/backends/nobody");
    let apps = api.with_token("for-apps");
    assert_eq!(apps.ask("POST", "/api/v1/config/reload", None).status, 403);
    let line = edge.wait_for_log("refused: POST /api/v1/config/reload");
    assert!(line.contains("who=register@"), "{line}");
}
