//! The documented production example, as it is written: its ports, its host name for the database, its
//! files under /etc/ssl. It runs in a network of its own, where those are nobody else's.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::process::Signal;
use serde_json::json;

use crate::support::api::Api;
use crate::support::postgres::Postgres;
use crate::support::{Client, PATIENCE, Row, Site, Web, eventually};

/// To be run by a shell.
const EXAMPLE: &str = r#"
# Core
export EDGEPROXY_LISTEN_ADDR="0.0.0.0:8080"
export EDGEPROXY_REGION="sa"

# PostgreSQL Backend
export EDGEPROXY_POSTGRES_ENABLED=true
export EDGEPROXY_POSTGRES_URL="postgres://edgeproxy:secret@postgres:5432/edgeproxy"

# TLS
export EDGEPROXY_TLS_ENABLED=true
export EDGEPROXY_TLS_LISTEN_ADDR="0.0.0.0:8443"
export EDGEPROXY_TLS_CERT="/etc/ssl/edgeproxy.crt"
export EDGEPROXY_TLS_KEY="/etc/ssl/edgeproxy.key"

# API
export EDGEPROXY_API_ENABLED=true
export EDGEPROXY_API_LISTEN_ADDR="0.0.0.0:8081"

# Rate Limiting
export EDGEPROXY_RATE_LIMIT_ENABLED=true
export EDGEPROXY_RATE_LIMIT_MAX_REQUESTS=1000
export EDGEPROXY_RATE_LIMIT_BURST=50

# Circuit Breaker
export EDGEPROXY_CIRCUIT_BREAKER_ENABLED=true
export EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD=5
export EDGEPROXY_CIRCUIT_TIMEOUT_SECS=30

# Health Checks
export EDGEPROXY_HEALTH_CHECK_ENABLED=true
export EDGEPROXY_HEALTH_CHECK_TYPE=http
export EDGEPROXY_HEALTH_CHECK_PATH=/health

# Connection Pooling
export EDGEPROXY_POOL_ENABLED=true
export EDGEPROXY_POOL_MAX_PER_BACKEND=20

# Prometheus Metrics
export EDGEPROXY_METRICS_ENABLED=true
export EDGEPROXY_METRICS_LISTEN_ADDR="0.0.0.0:9090"

# Graceful Shutdown
export EDGEPROXY_SHUTDOWN_TIMEOUT_SECS=60
"#;

/// What the shell makes of the example.
fn example() -> Vec<(String, String)> {
    let lines = EXAMPLE.lines().filter_map(|line| line.strip_prefix("export "));
    let pair =
        |line: &str| line.split_once('=').map(|(n, v)| (n.into(), v.trim_matches('"').into()));
    lines.filter_map(pair).collect()
}

#[test]
fn the_example_serves_as_it_is_written_and_each_of_its_settings_is_at_work() {
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--fork", "--kill-child"]);
    if !rustix::process::getuid().is_root() {
        command.args(["--map-root-user", "--user"]);
    }
    let inside = command
        .arg(own)
        .args(["--exact", "production::in_a_network_of_its_own", "--ignored", "--nocapture"])
        .output()
        .expect("unshare runs");
    let said = [inside.stdout, inside.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(inside.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by the test above, in a network of its own"]
fn in_a_network_of_its_own() {
    let run = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).output().expect(program);
        assert!(done.status.success(), "{program} {args:?}: {done:?}");
    };
    run("ip", &["link", "set", "lo", "up"]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("hosts"), "127.0.0.1 localhost postgres\n").unwrap();
    fs::create_dir(path("ssl")).unwrap();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["edge.example".to_owned()]).unwrap();
    fs::write(path("ssl/edgeproxy.crt"), cert.pem()).unwrap();
    fs::write(path("ssl/edgeproxy.key"), signing_key.serialize_pem()).unwrap();
    run("mount", &["--bind", &path("hosts"), "/etc/hosts"]);
    run("mount", &["--bind", &path("ssl"), "/etc/ssl"]);

    let server = Postgres::start_at(5432);
    server.sql("CREATE ROLE edgeproxy LOGIN PASSWORD 'secret'");
    server.sql("CREATE DATABASE edgeproxy OWNER edgeproxy");
    let [good, sick] = ["good", "sick"].map(Web::named);
    sick.tells_probes(500);
    // Its own words, and a folder to run in.
    let site = Site::bare();
    let edge =
        example().into_iter().fold(site, |site, (name, value)| site.env(&name, &value)).start();
    assert_eq!(edge.addr.to_string(), "0.0.0.0:8080");
    let sql = |text: &str| server.sql_in("edgeproxy", text);

    // PostgreSQL: the tables are made, and a row is live at once.
    for (id, web) in [("good", &good), ("sick", &sick)] {
        sql(&Row::new(id, web.addr()).place("sa", "").insert());
    }
    let status = eventually("both are known", || {
        let api = Api::on_socket(edge.site.path("edge-proxy.sock"));
        let status = api.get("/api/v1/status").ok();
        (status["registry"]["backends"] == 2).then_some(status)
    });
    assert_eq!((&status["region"], &status["registry"]["up"]), (&json!("sa"), &json!(true)));

    // The API, with the token that was made for it.
    let token = fs::read_to_string(edge.site.path("edge-proxy.token")).unwrap();
    let api = Api::at("127.0.0.1:8081".parse().unwrap()).with_token(token.trim());
    assert_eq!(api.without_token().get("/api/v1/status").status, 200);
    assert_eq!(api.without_token().ask("POST", "/api/v1/config/reload", None).status, 401);

    // Health checks: of the path, by http.
    let sick_seen = eventually("it is out", || {
        Some(api.backend("sick")).filter(|backend| backend["reason"] == "probe_down")
    });
    assert_eq!(sick_seen["probe"], "unhealthy");
    assert!(good.probes().iter().all(|head| head.starts_with("GET /health ")));
    assert_eq!(edge.fetch().unwrap(), "good");

    // TLS, with the pair of the example, to the same backend.
    let curl = Command::new("curl")
        .args(["-s", "-m", "10", "--cacert", "/etc/ssl/edgeproxy.crt"])
        .args(["--resolve", "edge.example:8443:127.0.0.1", "https://edge.example:8443/"])
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "good", "{curl:?}");

    // The pool: connections that wait for a client, no more than 20.
    let metrics = || {
        let answer = crate::support::ask("127.0.0.1:9090".parse().unwrap(), "GET", "/metrics");
        crate::support::Metrics::parse(&answer.expect("the metrics").body)
    };
    eventually("some are warm", || {
        let warm = metrics().value("edgeproxy_pool_idle_connections", &[("backend", "good")]);
        (1..=20).contains(&warm).then_some(())
    });

    // The rate limit: 50 at once, and 1000 a second from then on.
    let from = |turn: u32| {
        Client::connect("127.0.7.7", "127.0.0.1:8080".parse().unwrap()).ok().map(|c| (turn, c))
    };
    let begun = Instant::now();
    let served =
        (0..400).filter_map(from).filter_map(|(_, mut client)| client.fetch().ok()).count();
    let refilled = usize::try_from(begun.elapsed().as_millis()).unwrap();
    assert!((50..=51 + refilled).contains(&served), "{served} of 400 in {refilled} ms");

    // The circuit breaker: the fifth failure in a row opens it, for 30 s.
    let dead = crate::support::Refusing::new();
    sql(&Row::new("dead", dead.addr()).app("web").place("sa", "").insert());
    eventually("it is known", || (!api.backend("dead").is_null()).then_some(()));
    sql("UPDATE backends SET healthy = 0 WHERE id <> 'dead'");
    eventually("only the dead are left", || {
        (api.backend("good")["state"] == "drain").then_some(())
    });
    eventually("its breaker opens", || {
        let client = Client::connect("127.0.7.8", "127.0.0.1:8080".parse().unwrap());
        let _ = client.and_then(|mut client| client.fetch());
        (edge.times_logged("circuit breaker opens") > 0).then_some(())
    });
    let failures = api.backend("dead")["dial_failures_total"].as_u64();
    assert!(failures >= Some(5), "{failures:?}");
    sql("UPDATE backends SET healthy = 1 WHERE id = 'good'");
    eventually("it is back", || (edge.fetch().ok()? == "good").then_some(()));

    // The shutdown: what is open may go on for 60 s.
    let mut open = TcpStream::connect("127.0.0.1:8080").unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n").unwrap();
    eventually("it is open", || (api.get("/api/v1/connections").ok()["total"] != 0).then_some(()));
    edge.signal(Signal::TERM);
    edge.wait_for_log("60s at most");
    open.write_all(b"\r\n").unwrap();
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    let answer = crate::support::read_answer(&mut open).expect("it is served in the drain");
    assert_eq!(answer.body, "good");
    drop(open);
    let mut edge = edge;
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.took < Duration::from_secs(30) && exit.logged("forced 0"), "{exit:?}");
}
