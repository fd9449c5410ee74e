//! Points of presence that share a registry in `PostgreSQL`.

use std::time::Duration;

use crate::support::postgres::Postgres;
use crate::support::{Backend, Row, Site, eventually, within};

fn site(server: &Postgres) -> Site {
    Site::new().without_affinity().with_metrics().with_postgres(server, "30")
}

#[test]
fn a_change_is_at_three_of_them_long_before_they_would_look() {
    let server = Postgres::start();
    let [one, other] = [Backend::named("one"), Backend::named("other")];
    let pops =
        ["sa", "eu", "ap"].map(|region| site(&server).env("EDGEPROXY_REGION", region).start());
    server.sql(&Row::new("one", one.addr()).insert());
    for pop in &pops {
        eventually("the row is served", || {
            (pop.served_by().as_deref() == Some("one")).then_some(())
        });
    }
    server.sql(&format!("DELETE FROM backends; {}", Row::new("other", other.addr()).insert()));
    for pop in &pops {
        // 100 ms on a machine with time; this one may be busy with other tests.
        within(Duration::from_secs(2), "the change is served", || {
            (pop.served_by().as_deref() == Some("other")).then_some(())
        });
    }
}

#[test]
fn a_database_that_is_killed_under_traffic_costs_no_connection_and_its_changes_are_taken_up_after()
{
    let mut server = Postgres::start();
    let [one, other] = [Backend::named("one"), Backend::named("other")];
    let edge = site(&server).env("EDGEPROXY_POSTGRES_RELOAD_SECS", "1").start();
    server.sql(&Row::new("one", one.addr()).insert());
    eventually("the row is served", || edge.served_by());
    server.kill();
    edge.metrics_when("it is noticed", |metrics| metrics.value("edgeproxy_registry_up", &[]) == 0);
    for _ in 0..200 {
        assert_eq!(edge.served_by().as_deref(), Some("one"));
    }
    server.restart();
    server.sql(&format!("DELETE FROM backends; {}", Row::new("other", other.addr()).insert()));
    eventually("the change is served", || {
        (edge.served_by().as_deref() == Some("other")).then_some(())
    });
    edge.metrics_when("it is noticed", |metrics| metrics.value("edgeproxy_registry_up", &[]) == 1);
    let log = edge.log_so_far().join("\n");
    assert!(!log.contains("s3cret"), "the password was logged: {log}");
}

#[test]
fn commands_speak_to_the_same_database_and_say_which() {
    let server = Postgres::start();
    let backend = Backend::named("a");
    let site = site(&server).prepared();
    let addr = backend.addr().to_string();
    let add = ["backends", "add", "a", "--app", "web", "--region", "sa", "--addr", &addr];
    let added = site.run(&add);
    assert_eq!(added.code, Some(0), "{added:?}");
    assert!(added.err.contains("PostgreSQL edge@127.0.0.1:"), "{added:?}");
    assert!(!format!("{added:?}").contains("s3cret"));
    let listed = site.run(&["backends", "list"]);
    assert!(listed.out.contains(&addr), "{listed:?}");
    let route = site.run(&["route", "8.8.8.8"]);
    assert_eq!(route.code, Some(0), "{route:?}");
    assert!(!site.registry().exists(), "no other registry was made");

    let edge = site.start();
    assert_eq!(edge.visit().unwrap().served_by, "a");
}

#[test]
fn rows_move_from_one_store_to_the_other_and_back() {
    let server = Postgres::start();
    let backend = Backend::named("a");
    let local = Site::new()
        .backend(Row::new("a", backend.addr()).place("sa", "BR").weight(3).hard_limit(9))
        .backend(Row::new("b", "[2001:db8::7]:443".parse().unwrap()).app("api").soft_limit(5))
        .prepared();
    let done = |site: &Site, args: &[&str]| {
        let done = site.run(args);
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
        done
    };
    done(&local, &["backends", "remove", "b"]);
    let shared = site(&server).prepared();
    for format in ["csv", "json"] {
        let (first, second) = (format!("first.{format}"), format!("second.{format}"));
        let exported = done(&local, &["backends", "export", &first]);
        assert!(exported.err.contains("SQLite"), "{exported:?}");
        let first = local.path(&first);
        let imported = done(&shared, &["backends", "import", first.to_str().unwrap()]);
        assert!(imported.err.contains("PostgreSQL edge@127.0.0.1:"), "{imported:?}");
        done(&shared, &["backends", "export", &second]);
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(shared.path(&second)), read(first));
    }

    let checked = done(&shared, &["backends", "check"]);
    assert!(checked.out.contains('a') && !checked.out.contains("refused"), "{checked:?}");
    done(&shared, &["backends", "set", "a", "--weight", "7"]);
    done(&shared, &["backends", "drain", "a"]);
    assert_eq!(server.sql("SELECT weight, healthy FROM backends WHERE id = 'a'"), "7|0");
    done(&shared, &["backends", "remove", "a"]);
    assert_eq!(server.sql("SELECT deleted FROM backends WHERE id = 'a'"), "1");
}

#[test]
fn without_its_database_it_does_not_start_and_says_why_without_the_password() {
    let mut server = Postgres::start();
    let site = site(&server).env("EDGEPROXY_POSTGRES_CONNECT_TIMEOUT_SECS", "1").prepared();
    server.kill();
    let failed = site.run(&[]);
    assert_eq!(failed.code, Some(69), "{failed:?}");
    assert!(failed.err.contains("PostgreSQL edge@127.0.0.1:"), "{failed:?}");
    assert!(!failed.err.contains("s3cret"), "{failed:?}");
}
