//! What is wrong is said, all of it, with an exit code; nothing else suffers.

use std::net::TcpListener;
use std::path::Path;

use crate::support::{Backend, Edge, Row, Site, eventually};

/// Starting with `site` fails with this code, and says all of this.
fn assert_fails(site: Site, code: i32, words: &[&str]) {
    let site = site.prepared();
    let failed = site.run(&[]);
    assert_eq!(failed.code, Some(code), "{failed:?}");
    for word in words {
        assert!(failed.err.contains(word), "no {word:?} in:\n{}", failed.err);
    }
    assert!(!failed.err.contains("panicked"), "{}", failed.err);
    assert!(!failed.err.contains("is ready"), "it was bound: {}", failed.err);
    assert_eq!(failed.out, "", "errors go to standard error");
}

#[test]
fn every_bad_value_is_reported_at_once_with_what_is_accepted_and_nothing_is_touched() {
    let site = Site::new()
        .env("EDGEPROXY_LISTEN_ADDR", "8080")
        .env("EDGEPROXY_WORKERS", "zero")
        .env("EDGEPROXY_MODE", "udp")
        .env("EDGEPROXY_DENY", "10.0.0.0/33")
        .env("EDGEPROXY_IDLE_TIMEOUT_SECS", "-1")
        .env("EDGEPROXY_RATE_LIMIT_ENABLED", "maybe");
    let registry = site.registry();
    let words = [
        "EDGEPROXY_LISTEN_ADDR = \"8080\"",
        "EDGEPROXY_WORKERS = \"zero\": must be a whole number from 1 to 1024",
        "EDGEPROXY_MODE = \"udp\"",
        "EDGEPROXY_DENY = \"10.0.0.0/33\"",
        "EDGEPROXY_IDLE_TIMEOUT_SECS = \"-1\"",
        "EDGEPROXY_RATE_LIMIT_ENABLED = \"maybe\"",
    ];
    assert_fails(site, 78, &words);
    assert!(!registry.exists(), "a registry was created all the same");
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_name_to_run_and_an_error_to_check() {
    let backend = Backend::named("a");
    let site = Site::new().env("EDGEPROXY_WORKRES", "2").backend(Row::new("a", backend.addr()));
    let edge = site.start();
    let warning = edge.wait_for_log("EDGEPROXY_WORKRES");
    assert!(warning.contains("WARN") && warning.contains("EDGEPROXY_WORKERS"), "{warning}");
    assert_eq!(edge.visit().unwrap().served_by, "a");

    let checked = edge.site.run(&["check"]);
    assert_eq!(checked.code, Some(78), "{checked:?}");
    assert!(checked.err.contains("did you mean EDGEPROXY_WORKERS?"), "{checked:?}");
}

#[test]
fn what_kubernetes_injects_is_not_unknown() {
    let site = Site::new()
        .env("EDGEPROXY_PORT", "tcp://10.0.0.1:8080")
        .env("EDGEPROXY_PORT_8080_TCP_ADDR", "10.0.0.1")
        .env("EDGEPROXY_SERVICE_HOST", "10.0.0.1")
        .prepared();
    let checked = site.run(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn bad_toml_is_reported_with_line_and_column() {
    let site = Site::new().toml("workers = 2\npop = gru x");
    assert_fails(site, 78, &["config.toml:2:7: not TOML"]);
}

#[test]
fn a_bad_value_and_an_unknown_key_of_the_file_are_reported_with_line_and_column() {
    let site = Site::new().toml("mode = \"tcp\"\n\n[pool]\n  max_per_backend = 0").prepared();
    let failed = site.run(&["check"]);
    assert_eq!(failed.code, Some(78));
    assert!(failed.err.contains("config.toml:4:21: pool.max_per_backend = 0"), "{}", failed.err);

    let site = Site::new().toml("[metrics]\nenabeld = true").prepared();
    let failed = site.run(&["check"]);
    assert_eq!(failed.code, Some(78));
    let expected = "config.toml:2:1: metrics.enabeld: unknown; did you mean metrics.enabled?";
    assert!(failed.err.contains(expected), "{}", failed.err);
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let words = [&*format!("cannot listen on {addr}"), "in use"];
    assert_fails(Site::new().env("EDGEPROXY_LISTEN_ADDR", &addr), 1, &words);
}

#[test]
fn an_address_that_is_not_this_machines_is_an_error_that_names_it() {
    let site = Site::new().env("EDGEPROXY_LISTEN_ADDR", "192.0.2.1:8080");
    assert_fails(site, 1, &["cannot listen on 192.0.2.1:8080", "no such address"]);
}

#[test]
fn a_second_instance_on_the_same_address_is_an_error_and_takes_no_traffic() {
    let [first, second] = ["first", "second"].map(Backend::named);
    let edge: Edge = Site::new().backend(Row::new("a", first.addr())).start();
    let addr = edge.addr.to_string();
    let another =
        Site::new().env("EDGEPROXY_LISTEN_ADDR", &addr).backend(Row::new("a", second.addr()));
    assert_fails(another, 1, &[&format!("cannot listen on {addr}"), "in use"]);
    for _ in 0..20 {
        assert_eq!(edge.visit().unwrap().served_by, "first");
    }
    assert_eq!(second.accepted(), 0);
}

#[test]
fn a_file_that_is_no_database_is_an_unavailable_registry() {
    let site = Site::new();
    std::fs::write(site.registry(), "# not a database\n".repeat(100)).unwrap();
    let path = site.registry().display().to_string();
    assert_fails(site, 69, &[&path, "is not a SQLite database"]);
}

#[test]
fn a_registry_that_cannot_be_opened_is_reported_with_its_path() {
    let site = Site::new();
    std::fs::create_dir(site.registry()).unwrap();
    let path = site.registry().display().to_string();
    assert_fails(site, 69, &[&path, "directory"]);

    let site = Site::new().env("EDGEPROXY_DB_PATH", "/nonexistent/routing.db");
    assert_fails(site, 69, &["/nonexistent/routing.db", "no folder /nonexistent"]);
}

#[test]
fn a_database_without_the_table_or_a_column_is_reported() {
    let site = Site::new();
    site.sql("CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, region TEXT, port INTEGER)");
    let path = site.registry().display().to_string();
    assert_fails(site, 69, &[&path, "wg_ip"]);
}

#[test]
fn a_missing_registry_is_created_by_run() {
    let backend = Backend::named("a");
    let edge = Site::new().start();
    assert!(edge.site.registry().exists());
    let added = edge.site.run(&[
        "backends",
        "add",
        "a",
        "--app",
        "web",
        "--region",
        "sa",
        "--addr",
        &backend.addr().to_string(),
    ]);
    assert_eq!(added.code, Some(0), "{added:?}");
    let visit = eventually("the new backend serves", || edge.visit().ok());
    assert_eq!(visit.served_by, "a");
}

#[test]
fn a_missing_registry_is_not_created_by_looking_and_who_creates_it_is_said() {
    let site = Site::new().prepared();
    let path = site.registry().display().to_string();
    for command in [&["backends", "list"][..], &["backends", "drain", "a"], &["route", "192.0.2.1"]]
    {
        let failed = site.run(command);
        assert_eq!(failed.code, Some(69), "{failed:?}");
        for word in [&*path, "`edge-proxy backends add` or `edge-proxy run` creates it"] {
            assert!(failed.err.contains(word), "no {word:?} in {}", failed.err);
        }
        assert!(!Path::new(&path).exists(), "{command:?} created it");
    }
}

#[test]
fn a_configuration_file_that_is_not_there_is_an_error() {
    let site = Site::new().prepared();
    let failed = site.run(&["--config", "/nonexistent/edge.toml"]);
    assert_eq!(failed.code, Some(78), "{failed:?}");
    assert!(failed.err.contains("/nonexistent/edge.toml"), "{}", failed.err);
    assert!(failed.err.contains("cannot be read"), "{}", failed.err);
}

#[test]
fn a_bad_log_filter_is_a_configuration_error_to_run_and_to_check() {
    assert_fails(Site::new().env("RUST_LOG", "access=loud"), 78, &["RUST_LOG", "access=loud"]);
    let site = Site::new().env("RUST_LOG", "access=loud").prepared();
    let checked = site.run(&["check"]);
    assert_eq!(checked.code, Some(78), "{checked:?}");
    assert!(checked.err.contains("access=loud"), "{checked:?}");
}

#[test]
fn a_bad_country_database_is_a_configuration_error_that_names_it() {
    let site = Site::new();
    let path = site.path("country.mmdb");
    std::fs::write(&path, "not a database").unwrap();
    let path = path.display().to_string();
    assert_fails(site.env("EDGEPROXY_GEOIP_PATH", &path), 78, &[&path]);
}

#[test]
fn with_everything_enabled_nothing_is_said_to_have_no_effect() {
    let backend = Backend::named("a");
    let working = [
        "EDGEPROXY_RATE_LIMIT_ENABLED",
        "EDGEPROXY_CIRCUIT_BREAKER_ENABLED",
        "EDGEPROXY_HEALTH_CHECK_ENABLED",
        "EDGEPROXY_POOL_ENABLED",
        "EDGEPROXY_METRICS_ENABLED",
        "EDGEPROXY_TLS_ENABLED",
        "EDGEPROXY_API_ENABLED",
    ];
    let site = working
        .iter()
        .fold(Site::new(), |site, name| site.env(name, "true"))
        .env("EDGEPROXY_METRICS_LISTEN_ADDR", "127.0.0.1:0")
        .env("EDGEPROXY_TLS_LISTEN_ADDR", "127.0.0.1:0")
        .env("EDGEPROXY_API_LISTEN_ADDR", "127.0.0.1:0")
        .env("EDGEPROXY_POSTGRES_URL", "postgres://edge:hunter2@db.invalid:5432/edge")
        .backend(Row::new("a", backend.addr()));
    let edge = site.start();
    assert_eq!(edge.visit().unwrap().served_by, "a");
    // What is noted is noted before the line that says that it is ready.
    let ready = edge.wait_for_log("edge-proxy is ready");
    for protection in ["rate_limit", "circuit_breaker", "health_check"] {
        let (_, off) = ready.split_once(" off=").expect("it says what is off");
        assert!(!off.contains(protection), "{ready}");
    }
    assert!(ready.contains(" metrics=\"127.0.0.1:"), "{ready}");
    let log = edge.log_so_far().join("\n");
    for name in working {
        assert!(!log.contains(name), "{name} was noted:\n{log}");
    }
    assert!(!log.contains("hunter2"), "a password was logged: {log}");
}

#[test]
fn half_a_pair_of_tls_files_is_a_configuration_error() {
    let site = Site::new().env("EDGEPROXY_TLS_CERT", "/etc/edge.pem");
    assert_fails(site, 78, &["EDGEPROXY_TLS_KEY", "must be given with EDGEPROXY_TLS_CERT"]);
}

#[test]
fn postgres_without_an_address_is_a_configuration_error() {
    let site = Site::new().env("EDGEPROXY_POSTGRES_ENABLED", "on");
    assert_fails(site, 78, &["EDGEPROXY_POSTGRES_URL", "must be given"]);
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let site = Site::new().prepared();
    for command in [&["serve"][..], &["route"], &["route", "somewhere"], &["--frobnicate"]] {
        let failed = site.run(command);
        assert_eq!(failed.code, Some(2), "{command:?}: {failed:?}");
        assert!(failed.err.contains("Usage") || failed.err.contains("--help"), "{}", failed.err);
    }
}

#[test]
fn one_listening_address_given_twice_is_a_configuration_error_that_names_it() {
    let words = ["127.0.0.1:8080", "given twice"];
    let addrs = "127.0.0.1:8080,127.0.0.1:8081,127.0.0.1:8080";
    assert_fails(Site::new().env("EDGEPROXY_LISTEN_ADDR", addrs), 78, &words);

    let site = Site::new()
        .env("EDGEPROXY_LISTEN_ADDR", "127.0.0.1:8080")
        .toml("[[listener]]\naddr = \"127.0.0.1:8080\"\napp = \"web\"");
    assert_fails(site, 78, &words);
}
