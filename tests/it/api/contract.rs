//! What the document says against what is answered: schemathesis makes requests of the one and looks at
//! the other, with each kind of registry that can be written.

use std::process::Command;

use super::site;
use crate::support::api::TOKEN;
use crate::support::postgres::Postgres;
use crate::support::{Backend, Site};

/// Runs it on an edge of `site`, which has a backend, breakers and a connection.
fn holds_for(site: Site) {
    let a = Backend::named("a");
    let edge = site.env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true").start();
    let api = edge.api();
    api.register("a", a.addr()).ok();
    let _open = edge.visit().expect("a client");
    let folder = tempfile::tempdir().unwrap();
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/api/schemathesis.toml");
    let run = Command::new("schemathesis")
        .current_dir(folder.path())
        .args(["--config-file", config, "run", "--no-color", "--suppress-health-check", "all"])
        .args(["--max-examples", "25", "--seed", "7", "--request-timeout", "15"])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .arg(format!("http://{}/openapi.json", edge.api_addr()))
        .output()
        .expect("schemathesis runs; scripts/test installs it");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(edge.api().get("/health").status, 200);
    let log = edge.log_so_far().join("\n");
    assert!(!log.contains("panicked") && !log.contains("a bug in edge-proxy"), "{log}");
}

#[test]
fn every_answer_is_documented_with_the_registry_in_sqlite() {
    holds_for(site());
}

#[test]
fn every_answer_is_documented_with_the_registry_in_postgresql() {
    let server = Postgres::start();
    holds_for(site().with_postgres(&server, "5"));
}
