//! What every registry does, whichever store it is in: the same tests for each.

mod leases;
mod store;

use std::time::Duration;

use edgeproxy::domain::backend::{Number, RawRow};
use edgeproxy::domain::ports::BackendRepository;
use edgeproxy::domain::{AdminState, Backend, Lease};

use leases::what_is_leased;
use store::{Database, Files, Row, Server, Sqlite, Store};

#[tokio::test]
async fn sqlite_does_what_every_registry_does() {
    let mut store = Sqlite::new();
    what_is_read(&mut store).await;
    what_is_written(&mut store).await;
    what_is_leased(&mut store).await;
}

#[tokio::test]
async fn postgresql_does_what_every_registry_does() {
    let mut store = Server::start();
    what_is_read(&mut store).await;
    what_is_written(&mut store).await;
    what_is_leased(&mut store).await;
}

#[tokio::test]
async fn the_file_does_what_every_registry_does_and_says_why_it_is_not_written() {
    let mut store = Files::new();
    what_is_read(&mut store).await;
    writing_says_where_to_write_instead(&mut store).await;
}

/// What every registry does.
async fn what_is_read(store: &mut impl Store) {
    what_others_write_is_loaded(store).await;
    only_news_is_loaded_if_changed(store).await;
    only_those_that_may_serve_are_healthy(store).await;
    every_bad_row_is_named(store).await;
}

/// What those do that can be written.
async fn what_is_written(store: &mut impl Database) {
    what_is_put_is_loaded(store).await;
    putting_again_keeps_the_time_of_creation(store).await;
    a_put_is_all_or_none(store).await;
    what_is_put_is_news(store).await;
    what_is_removed_is_marked(store).await;
    bad_rows_are_left_out_and_the_rest_loads(store).await;
    older_tables_are_completed_when_written(store).await;
    the_side_table_gives_leases(store).await;
    a_lease_says_who_may_serve(store).await;
}

async fn what_others_write_is_loaded(store: &mut impl Store) {
    let name = store.fresh();
    let full = [
        ("region", "'EU'"),
        ("country", "'de'"),
        ("wg_ip", "'2001:db8::1'"),
        ("healthy", "0"),
        ("weight", "7"),
        ("soft_limit", "0"),
        ("hard_limit", "9"),
        ("deleted", "1"),
    ];
    store.write(&name, &[Row::new("b", 1, &[("country", "NULL")]), Row::new("a", 2, &full)]);
    let registry = store.open(&name).await.load().await.unwrap();
    let full = Backend {
        region: "eu".parse().unwrap(),
        country: "DE".parse().ok(),
        wg_ip: "2001:db8::1".parse().unwrap(),
        healthy: false,
        weight: 7,
        soft_limit: 0,
        hard_limit: 9,
        deleted: true,
        ..backend("a", 2)
    };
    assert_eq!((registry.backends, registry.skipped), (vec![full, backend("b", 1)], vec![]));
}

async fn only_news_is_loaded_if_changed(store: &mut impl Store) {
    // A time that a database sets itself would be another each time.
    let row = |id, octet, weight| {
        let moment = "'2026-01-01 00:00:00'";
        let values = [("weight", weight), ("created_at", moment), ("updated_at", moment)];
        Row::new(id, octet, &values)
    };
    let name = store.fresh();
    let repository = store.open(&name).await;
    assert_eq!(changed(&repository).await, Some(vec![]), "the first reading is always news");
    assert_eq!(changed(&repository).await, None);
    store.rewrite(&name, &[row("a", 1, "1")], &repository);
    assert_eq!(changed(&repository).await, Some(vec!["a".into()]));
    store.rewrite(&name, &[row("a", 1, "1")], &repository);
    assert_eq!(changed(&repository).await, None, "nothing is different");
    store.rewrite(&name, &[row("a", 1, "2")], &repository);
    assert_eq!(changed(&repository).await, Some(vec!["a".into()]));
    store.rewrite(&name, &[row("b", 2, "1"), row("a", 1, "2")], &repository);
    assert_eq!(changed(&repository).await, Some(vec!["a".into(), "b".into()]));
    store.rewrite(&name, &[], &repository);
    assert_eq!(ids(&repository.load().await.unwrap().backends), [""; 0]);
    assert_eq!(changed(&repository).await, None, "what load gave is known");
}

async fn only_those_that_may_serve_are_healthy(store: &mut impl Store) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    let rows = [
        Row::new("good", 1, &[]),
        Row::new("draining", 2, &[("healthy", "0")]),
        Row::new("weightless", 3, &[("weight", "0")]),
        Row::new("deleted", 4, &[("deleted", "1")]),
        Row::new("far", 5, &[("region", "'ap'")]),
    ];
    store.rewrite(&name, &rows, &repository);
    assert_eq!(ids(&repository.get_healthy().await), ["far", "good"]);
}

/// Good rows and bad ones, whose ids say what is bad about them.
fn good_and_bad() -> Vec<Row> {
    [
        (1, "good", ("weight", "1")),
        (2, "port", ("port", "70000")),
        (3, "host", ("wg_ip", "'db.internal'")),
        (4, "weight", ("weight", "-1")),
        (5, "address", ("wg_ip", "'10.0.0.300'")),
        (1, "twin", ("weight", "1")),
        (6, "unknown", ("port", "NULL")),
        (7, "spaced", ("app", "'a b'")),
        (8, "country", ("country", "'BRA'")),
        (9, "two", ("healthy", "2")),
        (1, "other", ("app", "'api'")),
        (1, "past", ("deleted", "1")),
        (10, "plain", ("weight", "NULL")),
        (11, "zzz", ("id", "NULL")),
    ]
    .map(|(octet, id, value)| Row::new(id, octet, &[value]))
    .into()
}

async fn every_bad_row_is_named(store: &mut impl Store) {
    let name = store.fresh();
    store.write(&name, &good_and_bad());
    let mut said = store.complaints(&name).await;
    for parts in [
        ["address", "wg_ip = \"10.0.0.300\"", "an IP address (host names are not looked up)"],
        ["country", "country = \"BRA\"", "empty or two letters (ISO 3166-1)"],
        ["host", "wg_ip = \"db.internal\"", "an IP address (host names are not looked up)"],
        ["port", "port = 70000", "a whole number from 1 to 65535"],
        ["spaced", "app = \"a b\"", "1 to 128 visible characters without spaces"],
        ["twin", "10.0.0.1", "already used by backend good of app web"],
        ["two", "healthy = 2", "must be"],
        ["unknown", "port", "a whole number from 1 to 65535"],
        ["weight", "weight = -1", "a whole number from 0 to 1000000"],
        ["backend", "id", "1 to 128 visible characters without spaces, quotes or commas"],
    ] {
        let found = said.iter().position(|line| parts.iter().all(|part| line.contains(part)));
        said.remove(found.unwrap_or_else(|| panic!("{parts:?} not in {said:#?}")));
    }
    assert_eq!(said, [""; 0], "nothing else is wrong");
}

async fn what_is_put_is_loaded(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    let full = Backend {
        country: "BR".parse().ok(),
        wg_ip: "2001:db8::1".parse().unwrap(),
        healthy: false,
        weight: 7,
        soft_limit: 0,
        hard_limit: 9,
        ..backend(r"a\b", 1)
    };
    let gone = Backend { deleted: true, ..backend("gone", 2) };
    // The last of one id counts.
    repository
        .put(vec![backend("b", 1), full.clone(), gone.clone(), backend("b", 3)])
        .await
        .unwrap();
    let registry = repository.load().await.unwrap();
    assert!(registry.backends.iter().all(|b| b.created_at.is_some() && b.updated_at.is_some()));
    let timeless = |b: &Backend| Backend { created_at: None, updated_at: None, ..b.clone() };
    let read: Vec<Backend> = registry.backends.iter().map(timeless).collect();
    assert_eq!(read, [full, backend("b", 3), gone]);
    assert_eq!(registry.skipped, []);
    repository.put(vec![]).await.unwrap();
}

async fn putting_again_keeps_the_time_of_creation(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    repository.put(vec![backend("a", 1)]).await.unwrap();
    store.sql(
        &name,
        "UPDATE backends SET created_at = '2020-01-01 00:00:00', updated_at = '2020-01-01 00:00:00'",
    );
    repository.put(vec![Backend { weight: 2, ..backend("a", 1) }]).await.unwrap();
    let read = &repository.load().await.unwrap().backends[0];
    let says = |time: &Option<String>, text| time.as_deref().is_some_and(|t| t.starts_with(text));
    assert!(says(&read.created_at, "2020-01-01 00:00:00"), "{read:?}");
    assert!(says(&read.updated_at, "20") && !says(&read.updated_at, "2020-"), "{read:?}");
    assert_eq!(read.weight, 2);
}

async fn a_put_is_all_or_none(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    repository.put(vec![backend("a", 1)]).await.unwrap();
    store.sql(&name, "CREATE UNIQUE INDEX one_weight ON backends(weight)");
    let weighs = |id, octet, weight| Backend { weight, ..backend(id, octet) };
    let refused = repository.put(vec![weighs("a", 1, 5), weighs("b", 2, 6), weighs("c", 3, 6)]);
    let error = refused.await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("unique"), "{error}");
    let read = repository.load().await.unwrap().backends;
    assert_eq!((ids(&read), read[0].weight), (vec!["a".into()], 1));
}

async fn what_is_put_is_news(store: &mut impl Database) {
    let name = store.fresh();
    store.write(&name, &[Row::new("a", 1, &[])]);
    let repository = store.open(&name).await;
    assert_eq!(changed(&repository).await, Some(vec!["a".into()]));
    repository.put(vec![backend("b", 2)]).await.unwrap();
    assert_eq!(changed(&repository).await, Some(vec!["a".into(), "b".into()]));
    store.sql(&name, "UPDATE backends SET app = app");
    assert_eq!(changed(&repository).await, None, "nothing is different");
}

async fn what_is_removed_is_marked(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    repository.put(vec![backend("a", 1)]).await.unwrap();
    assert!(!repository.remove("b".parse().unwrap()).await.unwrap());
    assert_eq!(ids(&repository.get_healthy().await), ["a"]);
    assert!(repository.remove("a".parse().unwrap()).await.unwrap());
    assert!(repository.load().await.unwrap().backends[0].deleted);
    assert_eq!(ids(&repository.get_healthy().await), [""; 0]);
}

async fn bad_rows_are_left_out_and_the_rest_loads(store: &mut impl Database) {
    let name = store.fresh();
    store.write(&name, &good_and_bad());
    let registry = store.open(&name).await.load().await.unwrap();
    assert_eq!(ids(&registry.backends), ["good", "other", "past", "plain"]);
    let plain = &registry.backends[3];
    assert_eq!((plain.weight, plain.soft_limit, plain.hard_limit), (1, 100, 150));
    // A row that has no name is named by its place.
    let said: Vec<String> = registry.skipped.iter().map(ToString::to_string).collect();
    let nameless = "backend (row 14): id = NULL: must be 1 to 128 visible characters";
    assert!(said.iter().any(|line| line.starts_with(nameless)), "{said:#?}");
}

async fn older_tables_are_completed_when_written(store: &mut impl Database) {
    let name = store.fresh();
    store.sql(
        &name,
        "CREATE TABLE backends (id TEXT, app TEXT, region TEXT, wg_ip TEXT, port INTEGER);
         INSERT INTO backends VALUES ('a', 'web', 'sa', '10.0.0.1', 80)",
    );
    let repository = store.open(&name).await;
    let read = repository.load().await.unwrap().backends;
    assert_eq!((read[0].country, read[0].weight), (None, 1));
    repository.put(vec![Backend { weight: 3, ..backend("b", 2) }]).await.unwrap();
    let read = repository.load().await.unwrap().backends;
    assert_eq!((ids(&read), read[1].weight), (vec!["a".into(), "b".into()], 3));
    assert_eq!((&read[0].created_at, read[1].created_at.is_some()), (&None, true));
    let name = store.fresh();
    store
        .sql(&name, "CREATE TABLE backends (id TEXT, app TEXT, region TEXT, wg_ip TEXT, port INT)");
    assert_eq!(ids(&store.open(&name).await.load().await.unwrap().backends), [""; 0]);
}

async fn the_side_table_gives_leases(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    store.write(&name, &[Row::new("a", 1, &[]), Row::new("b", 2, &[]), Row::new("c", 3, &[])]);
    store.sql(
        &name,
        "INSERT INTO edgeproxy_backend_state VALUES ('a', 3, 100, 'drain'),
         ('b', 0, NULL, 'asleep'), ('gone', 1, 1, 'ready')",
    );
    let registry = repository.load().await.unwrap();
    let lease = Lease { generation: 3, expires_at: Some(100), admin_state: AdminState::Drain };
    assert_eq!(ids(&registry.backends), ["a", "c"]);
    assert_eq!(registry.backends[0].lease, Some(lease));
    let said = registry.skipped[0].to_string();
    assert_eq!(said, "backend b: admin_state = \"asleep\": must be ready, drain or maint");
    repository.put(vec![backend("a", 1)]).await.unwrap();
    assert!(repository.load().await.unwrap().backends[0].lease.is_some(), "left alone");
    store.sql(&name, "DROP TABLE edgeproxy_backend_state");
    let registry = repository.load().await.unwrap();
    assert!(registry.backends.iter().all(|b| b.lease.is_none()), "no side table, no leases");
}

async fn a_lease_says_who_may_serve(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    let rows = ["good", "expired", "maint", "leased"];
    store.write(&name, &(1..).zip(rows).map(|(n, id)| Row::new(id, n, &[])).collect::<Vec<_>>());
    store.sql(
        &name,
        "INSERT INTO edgeproxy_backend_state VALUES ('expired', 1, 100, 'ready'),
         ('maint', 1, NULL, 'maint'), ('leased', 1, 99999999999, 'ready')",
    );
    assert_eq!(ids(&repository.get_healthy().await), ["good", "leased"]);
}

async fn writing_says_where_to_write_instead(store: &mut Files) {
    let name = store.fresh();
    store.write(&name, &[Row::new("a", 1, &[])]);
    let repository = store.open(&name).await;
    let file = store.path(&name).display().to_string();
    let expected =
        format!("registry file {file}: backends are in {file}; edit them there, and reload");
    let put = repository.put(vec![backend("b", 2)]).await.unwrap_err();
    let removed = repository.remove("a".parse().unwrap()).await.unwrap_err();
    let registered = repository.register(backend("b", 2), 1).await.unwrap_err();
    let renewed = repository.renew(vec![]).await.unwrap_err();
    let state = AdminState::Drain;
    let set = repository.set_state("a".parse().unwrap(), state).await.unwrap_err();
    for error in [put, removed, registered, renewed, set] {
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(ids(&store.read(&name).unwrap()), ["a"]);
    assert_eq!(ids(&repository.get_healthy().await), ["a"]);
}

fn backend(id: &str, last_octet: u8) -> Backend {
    let row = RawRow {
        id: Some(id.into()),
        app: Some("web".into()),
        region: Some("sa".into()),
        wg_ip: Some(format!("10.0.0.{last_octet}")),
        port: Some(Number::Whole(8080)),
        ..RawRow::default()
    };
    Backend::try_from(row).unwrap()
}

fn ids(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(|backend| backend.id.to_string()).collect()
}

async fn changed(repository: &dyn BackendRepository) -> Option<Vec<String>> {
    let read = tokio::time::timeout(Duration::from_secs(30), repository.load_if_changed()).await;
    read.unwrap().unwrap().map(|registry| ids(&registry.backends))
}
