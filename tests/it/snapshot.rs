//! Starting without the database: from the last good table, which a file has kept.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::postgres::Postgres;
use crate::support::{Backend, Lines, Metrics, PATIENCE, Row, Site, eventually};

fn site(server: &Postgres) -> Site {
    Site::new()
        .without_affinity()
        .with_metrics()
        .with_postgres(server, "1")
        .env("EDGEPROXY_POSTGRES_CONNECT_TIMEOUT_SECS", "2")
}

/// Where a site keeps its snapshot, once there is one.
fn file(site: &Site) -> Option<PathBuf> {
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("registry-snapshot-") && name.ends_with(".json")
    };
    std::fs::read_dir(site.path("")).ok()?.flatten().map(|entry| entry.path()).find(is_it)
}

/// A POP that has served this row, and its database.
fn having_served(row: &Row) -> (Site, Postgres) {
    let server = Postgres::start();
    let edge = site(&server).start();
    server.sql(&row.insert());
    eventually("the row is served", || edge.served_by());
    let has_row = || {
        let text = std::fs::read_to_string(file(&edge.site)?).ok()?;
        text.contains(&format!("\"{}\"", row.id)).then_some(())
    };
    eventually("it is kept", has_row);
    (edge.killed(), server)
}

/// The program, begun and not yet ready, and its log.
fn begun(site: &Site) -> (Child, Lines) {
    let mut child = site.command(&[]).spawn().expect("it starts");
    let log = Lines::of(child.stderr.take().expect("piped"));
    (child, log)
}

fn expect(log: &Lines, text: &str) {
    let found = log.find(PATIENCE, |line| line.contains(text).then_some(()));
    assert!(found.is_some(), "no {text:?}: {:#?}", log.so_far());
}

#[test]
fn a_pop_starts_from_it_while_its_database_is_down_and_takes_up_what_has_changed_once_it_is_back() {
    let [one, other] = [Backend::named("one"), Backend::named("other")];
    let (site, mut server) = having_served(&Row::new("one", one.addr()));
    server.kill();
    let hour = Duration::from_secs(3_600);
    let kept = File::options().write(true).open(file(&site).unwrap()).unwrap();
    kept.set_modified(SystemTime::now() - hour).unwrap();
    let edge = site.start();
    let said = edge.wait_for_log("serving from the snapshot");
    assert!(said.contains("WARN") && said.contains("1h 0m old"), "{said}");
    assert!(said.contains("PostgreSQL edge@127.0.0.1:"), "{said}");
    assert_eq!(edge.served_by().as_deref(), Some("one"));
    let metrics = edge.metrics();
    assert_eq!(metrics.value("edgeproxy_registry_up", &[]), 0);
    assert!(metrics.seconds("edgeproxy_registry_age_seconds") >= 3_600.0);
    assert_eq!(edge.get("/readyz").status, 200, "a table is loaded");

    server.restart();
    server.sql(&format!("DELETE FROM backends; {}", Row::new("other", other.addr()).insert()));
    eventually("the change is served", || {
        (edge.served_by().as_deref() == Some("other")).then_some(())
    });
    let metrics =
        edge.metrics_when("it is noticed", |m| m.value("edgeproxy_registry_up", &[]) == 1);
    assert!(metrics.seconds("edgeproxy_registry_age_seconds") < 3_600.0);
    edge.wait_for_log("the registry can be read again, after 1h 0m");
}

#[test]
fn a_database_that_accepts_and_says_nothing_is_not_waited_for_for_ever() {
    let backend = Backend::named("a");
    let (site, server) = having_served(&Row::new("a", backend.addr()));
    server.freeze();
    let edge = site.env("EDGEPROXY_POSTGRES_QUERY_TIMEOUT_SECS", "1").start();
    edge.wait_for_log("serving from the snapshot");
    assert_eq!(edge.served_by().as_deref(), Some("a"));
    server.thaw();
    edge.metrics_when("it is back", |metrics| metrics.value("edgeproxy_registry_up", &[]) == 1);
}

#[test]
fn one_that_is_damaged_or_of_another_database_is_not_served_from() {
    let backend = Backend::named("a");
    let (site, mut server) = having_served(&Row::new("a", backend.addr()));
    server.create_database("other");
    let other = server.url_of("edge", "s3cret", "other");
    server.kill();
    let site = site.env("EDGEPROXY_POSTGRES_URL", &other);
    let failed = site.run(&[]);
    assert_eq!(failed.code, Some(69), "{failed:?}");

    let site = site.env("EDGEPROXY_POSTGRES_URL", &server.url());
    let path = file(&site).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    let failed = site.run(&[]);
    assert_eq!(failed.code, Some(69), "{failed:?}");
    assert!(
        failed.err.contains("registry-snapshot-") && failed.err.contains("damaged"),
        "{failed:?}"
    );
    assert!(!failed.err.contains("s3cret"), "{failed:?}");
}

#[test]
fn a_pop_that_is_told_to_waits_for_its_database() {
    let mut server = Postgres::start();
    let site = site(&server).env("EDGEPROXY_POSTGRES_WAIT_SECS", "600").prepared();
    server.kill();
    let (mut waiting, log) = begun(&site);
    expect(&log, "so it is waited for");
    server.restart();
    expect(&log, "edge-proxy is ready");
    kill_process(Pid::from_child(&waiting), Signal::TERM).expect("it runs");
    assert_eq!(waiting.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_signal_ends_the_wait_in_order() {
    let mut server = Postgres::start();
    let site = site(&server).env("EDGEPROXY_POSTGRES_WAIT_SECS", "600").prepared();
    server.kill();
    let (mut waiting, log) = begun(&site);
    expect(&log, "so it is waited for");
    kill_process(Pid::from_child(&waiting), Signal::TERM).expect("it runs");
    assert_eq!(waiting.wait().expect("it ends").code(), Some(0));
    let mut said = String::new();
    waiting.stdout.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    assert_eq!(said, "");
}

#[test]
fn a_state_folder_that_cannot_be_written_is_warned_of_and_serving_goes_on() {
    let backend = Backend::named("a");
    let server = Postgres::start();
    let edge = site(&server).env("EDGEPROXY_STATE_DIR", "/proc/nowhere").start();
    server.sql(&Row::new("a", backend.addr()).insert());
    eventually("the row is served", || edge.served_by());
    let said = edge.wait_for_log("/proc/nowhere/registry-snapshot-");
    assert!(said.contains("WARN") && said.contains("cannot be written"), "{said}");
}

#[test]
fn no_lease_ends_while_the_database_cannot_be_read_nor_when_the_pop_starts_again() {
    let backend = Backend::named("a");
    let mut server = Postgres::start();
    let edge = site(&server).env("EDGEPROXY_HEARTBEAT_TTL_SECS", "1").start();
    server.sql(&format!(
        "{}; INSERT INTO edgeproxy_backend_state (id, generation, lease_expires_at) \
         VALUES ('a', 1, extract(epoch FROM now())::bigint + 4)",
        Row::new("a", backend.addr()).insert()
    ));
    eventually("the row is served", || edge.served_by());
    let has_row =
        || std::fs::read_to_string(file(&edge.site)?).ok()?.contains("\"a\"").then_some(());
    eventually("it is kept", has_row);
    server.kill();
    edge.metrics_when("it is noticed", |metrics| metrics.value("edgeproxy_registry_up", &[]) == 0);
    let ended = SystemTime::now() + Duration::from_secs(5);
    eventually("the lease would have ended", || (SystemTime::now() > ended).then_some(()));
    assert_eq!(edge.served_by().as_deref(), Some("a"));
    // A reload makes the tables anew.
    edge.signal(Signal::HUP);
    edge.wait_for_log("configuration reloaded");
    assert_eq!(edge.served_by().as_deref(), Some("a"));

    let edge = edge.killed().start();
    assert_eq!(edge.served_by().as_deref(), Some("a"), "the POP starts with it");
    server.restart();
    eventually("it ends once the database says so", || edge.served_by().is_none().then_some(()));
}

#[test]
fn leases_get_the_time_to_be_renewed_when_the_database_is_back() {
    let backends: Vec<Backend> = (0..10).map(|n| Backend::named(&format!("b{n}"))).collect();
    let mut server = Postgres::start();
    let edge = site(&server).env("EDGEPROXY_HEARTBEAT_TTL_SECS", "600").start();
    for (n, backend) in backends.iter().enumerate() {
        let id = format!("b{n}");
        server.sql(&format!(
            "{}; INSERT INTO edgeproxy_backend_state (id, generation, lease_expires_at) \
             VALUES ('{id}', 1, extract(epoch FROM now())::bigint + 8)",
            Row::new(&id, backend.addr()).insert()
        ));
    }
    let eligible = |metrics: &Metrics| metrics.sum("edgeproxy_backend_eligible", &[]);
    edge.metrics_when("all are there", |metrics| eligible(metrics) == 10);
    server.kill();
    edge.metrics_when("it is noticed", |metrics| metrics.value("edgeproxy_registry_up", &[]) == 0);
    let ended = SystemTime::now() + Duration::from_secs(9);
    eventually("the leases would have ended", || (SystemTime::now() > ended).then_some(()));
    server.restart();
    edge.metrics_when("it is back", |metrics| metrics.value("edgeproxy_registry_up", &[]) == 1);
    assert_eq!(eligible(&edge.metrics()), 10);
}

#[test]
fn a_pop_that_starts_on_an_emptied_registry_serves_from_it_until_that_is_confirmed() {
    let backends: Vec<Backend> = (0..10).map(|n| Backend::named(&format!("b{n}"))).collect();
    let server = Postgres::start();
    let rows: String = backends
        .iter()
        .enumerate()
        .map(|(n, backend)| Row::new(&format!("b{n}"), backend.addr()).insert() + ";")
        .collect();
    let edge = site(&server).start();
    server.sql(&rows);
    let has_rows = || std::fs::read_to_string(file(&edge.site)?).ok()?.contains("b9").then_some(());
    eventually("they are kept", has_rows);
    let site = edge.killed().env("EDGEPROXY_POSTGRES_RELOAD_SECS", "3");
    server.sql("DELETE FROM backends");
    let edge = site.start();
    edge.wait_for_log("the registry lacks 10 of 10 eligible backends");
    assert!(edge.served_by().is_some());
    assert_eq!(edge.metrics().value("edgeproxy_registry_change_held", &[]), 1);
    edge.wait_for_log("the change of the registry that was held is confirmed");
    eventually("nobody is left", || edge.served_by().is_none().then_some(()));
}

#[test]
fn a_change_that_is_held_when_the_database_goes_is_waited_for_in_peace() {
    let backends: Vec<Backend> = (0..10).map(|n| Backend::named(&format!("b{n}"))).collect();
    let mut server = Postgres::start();
    let rows: String = backends
        .iter()
        .enumerate()
        .map(|(n, backend)| Row::new(&format!("b{n}"), backend.addr()).insert() + ";")
        .collect();
    let edge = site(&server).env("EDGEPROXY_POSTGRES_RELOAD_SECS", "3").start();
    server.sql(&rows);
    let eligible = |metrics: &Metrics| metrics.sum("edgeproxy_backend_eligible", &[]);
    edge.metrics_when("all are there", |metrics| eligible(metrics) == 10);
    server.sql("DELETE FROM backends");
    edge.wait_for_log("a change of the registry is held");
    server.kill();
    edge.metrics_when("it is noticed", |metrics| metrics.value("edgeproxy_registry_up", &[]) == 0);
    let has_passed = |secs| {
        let then = SystemTime::now() + Duration::from_secs(secs);
        eventually("time passes", || (SystemTime::now() > then).then_some(()));
    };
    // What would have confirmed it is due by then.
    has_passed(4);
    let before = edge.sleeps();
    has_passed(2);
    let sleeps = edge.sleeps() - before;
    assert!(sleeps < 300, "it woke up {sleeps} times in 2 s without work");
    assert_eq!(eligible(&edge.metrics()), 10);
}

#[test]
fn a_lease_that_went_on_when_it_was_kept_goes_on_however_often_it_was_confirmed_since() {
    let backend = Backend::named("a");
    let (mut site, mut server) = having_served(&Row::new("a", backend.addr()));
    server.kill();
    let path = file(&site).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for (left, is_served) in [(30, true), (-1, false)] {
        let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
        let written = kept["written"].as_i64().unwrap() - 3_600;
        kept["written"] = written.into();
        kept["backends"][0]["lease"] = serde_json::json!({
            "generation": 1, "expires_at": written + left, "admin_state": "ready"
        });
        // Which is a confirmation, too.
        std::fs::write(&path, kept.to_string()).unwrap();
        let edge = site.start();
        edge.wait_for_log("serving from the snapshot");
        assert_eq!(edge.served_by().is_some(), is_served, "{left} s left");
        site = edge.killed();
    }
}
