//! What every registry does, whichever store it is in: the same tests for each.

use std::time::Duration;

use edgeproxy::adapters::outbound::PostgresBackendRepository;
use edgeproxy::adapters::outbound::sqlite::{Access, SqliteBackendRepository};
use edgeproxy::domain::backend::{Number, RawRow};
use edgeproxy::domain::ports::BackendRepository;
use edgeproxy::domain::{AdminState, Backend, Lease};
use rusqlite::Connection;
use tempfile::TempDir;

use super::support::postgres::{PASSWORD, Postgres, USER, config};

/// A column without a type would be another thing in each store.
const BY_HAND: &str = "CREATE TABLE backends (id TEXT, app TEXT, region TEXT, country TEXT,
    wg_ip TEXT, port INTEGER, healthy INTEGER, weight INTEGER, soft_limit INTEGER,
    hard_limit INTEGER, deleted INTEGER)";

/// A store, where new registries can be made, and other programs write to them.
trait Store {
    /// An empty registry without tables; its name.
    fn fresh(&mut self) -> String;

    fn sql(&self, registry: &str, sql: &str);

    /// Opens a registry, whose tables are made when they are missing.
    async fn open(&self, registry: &str) -> Box<dyn BackendRepository>;
}

struct Sqlite {
    folder: TempDir,
    made: usize,
}

impl Sqlite {
    fn path(&self, registry: &str) -> std::path::PathBuf {
        self.folder.path().join(registry)
    }
}

impl Store for Sqlite {
    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("registry{}.db", self.made)
    }

    fn sql(&self, registry: &str, sql: &str) {
        Connection::open(self.path(registry)).unwrap().execute_batch(sql).unwrap();
    }

    async fn open(&self, registry: &str) -> Box<dyn BackendRepository> {
        Box::new(SqliteBackendRepository::open(&self.path(registry), Access::Create).unwrap())
    }
}

struct Server {
    server: Postgres,
    made: usize,
}

impl Store for Server {
    fn fresh(&mut self) -> String {
        self.made += 1;
        let name = format!("registry{}", self.made);
        self.server.create_database(&name);
        name
    }

    fn sql(&self, registry: &str, sql: &str) {
        self.server.sql_in(registry, &format!("SET ROLE {USER}; {sql}"));
    }

    async fn open(&self, registry: &str) -> Box<dyn BackendRepository> {
        let url = self.server.url_of(USER, PASSWORD, registry);
        let repository = PostgresBackendRepository::new(config(&url));
        repository.initialize().await.unwrap();
        Box::new(repository)
    }
}

#[tokio::test]
async fn sqlite_does_what_every_registry_does() {
    conform(Sqlite { folder: tempfile::tempdir().unwrap(), made: 0 }).await;
}

#[tokio::test]
async fn postgresql_does_what_every_registry_does() {
    conform(Server { server: Postgres::start(), made: 0 }).await;
}

async fn conform(mut store: impl Store) {
    what_is_put_is_loaded(&mut store).await;
    putting_again_keeps_the_time_of_creation(&mut store).await;
    a_put_is_all_or_none(&mut store).await;
    only_news_is_loaded_if_changed(&mut store).await;
    what_is_removed_is_marked(&mut store).await;
    only_those_that_may_serve_are_healthy(&mut store).await;
    every_bad_row_is_named_and_the_rest_loads(&mut store).await;
    older_tables_are_completed_when_written(&mut store).await;
    the_side_table_gives_leases(&mut store).await;
}

async fn what_is_put_is_loaded(store: &mut impl Store) {
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

async fn putting_again_keeps_the_time_of_creation(store: &mut impl Store) {
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

async fn a_put_is_all_or_none(store: &mut impl Store) {
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

async fn only_news_is_loaded_if_changed(store: &mut impl Store) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    assert_eq!(changed(&*repository).await, Some(vec![]), "the first reading is always news");
    assert_eq!(changed(&*repository).await, None);
    store.sql(&name, &insert("a", 1, &[]));
    assert_eq!(changed(&*repository).await, Some(vec!["a".into()]));
    store.sql(&name, "UPDATE backends SET weight = 1");
    assert_eq!(changed(&*repository).await, None, "nothing is different");
    repository.put(vec![backend("b", 2)]).await.unwrap();
    assert_eq!(changed(&*repository).await, Some(vec!["a".into(), "b".into()]));
    store.sql(&name, "DELETE FROM backends");
    assert_eq!(ids(&repository.load().await.unwrap().backends), [""; 0]);
    assert_eq!(changed(&*repository).await, None, "what load gave is known");
}

async fn what_is_removed_is_marked(store: &mut impl Store) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    repository.put(vec![backend("a", 1)]).await.unwrap();
    assert!(!repository.remove("b".parse().unwrap()).await.unwrap());
    assert_eq!(ids(&repository.get_healthy().await), ["a"]);
    assert!(repository.remove("a".parse().unwrap()).await.unwrap());
    assert!(repository.load().await.unwrap().backends[0].deleted);
    assert_eq!(ids(&repository.get_healthy().await), [""; 0]);
}

async fn only_those_that_may_serve_are_healthy(store: &mut impl Store) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    for (octet, id, value) in [
        (1, "good", ("weight", "1")),
        (2, "draining", ("healthy", "0")),
        (3, "weightless", ("weight", "0")),
        (4, "deleted", ("deleted", "1")),
        (5, "expired", ("weight", "1")),
        (6, "maint", ("weight", "1")),
        (7, "leased", ("weight", "1")),
    ] {
        store.sql(&name, &insert(id, octet, &[value]));
    }
    store.sql(
        &name,
        "INSERT INTO edgeproxy_backend_state VALUES ('expired', 1, 100, 'ready'),
         ('maint', 1, NULL, 'maint'), ('leased', 1, 99999999999, 'ready')",
    );
    assert_eq!(ids(&repository.get_healthy().await), ["good", "leased"]);
}

async fn every_bad_row_is_named_and_the_rest_loads(store: &mut impl Store) {
    let name = store.fresh();
    store.sql(&name, BY_HAND);
    let repository = store.open(&name).await;
    for (octet, id, value) in [
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
    ] {
        store.sql(&name, &insert(id, octet, &[value]));
    }
    let registry = repository.load().await.unwrap();
    assert_eq!(ids(&registry.backends), ["good", "other", "past", "plain"]);
    let plain = &registry.backends[3];
    assert_eq!((plain.weight, plain.soft_limit, plain.hard_limit), (1, 100, 150));
    let mut said: Vec<String> = registry.skipped.iter().map(ToString::to_string).collect();
    said.sort();
    assert_eq!(
        said,
        [
            "backend (row 14): id = NULL: must be 1 to 128 visible characters without spaces, \
             quotes or commas",
            "backend address: wg_ip = \"10.0.0.300\": must be an IP address (host names are not \
             looked up)",
            "backend country: country = \"BRA\": must be empty or two letters (ISO 3166-1)",
            "backend host: wg_ip = \"db.internal\": must be an IP address (host names are not \
             looked up)",
            "backend port: port = 70000: must be a whole number from 1 to 65535",
            "backend spaced: app = \"a b\": must be 1 to 128 visible characters without spaces, \
             quotes or commas",
            "backend twin: wg_ip and port = 10.0.0.1:8080: already used by backend good of app web",
            "backend two: healthy = 2: must be a whole number from 0 to 1",
            "backend unknown: port = NULL: must be a whole number from 1 to 65535",
            "backend weight: weight = -1: must be a whole number from 0 to 1000000",
        ]
    );
}

async fn older_tables_are_completed_when_written(store: &mut impl Store) {
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

async fn the_side_table_gives_leases(store: &mut impl Store) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    let ids_wanted = ["a", "b", "c"];
    for (octet, id) in (1..).zip(ids_wanted) {
        store.sql(&name, &insert(id, octet, &[]));
    }
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

/// A statement that adds a row; `values` overrides columns of a good one.
fn insert(id: &str, last_octet: u8, values: &[(&str, &str)]) -> String {
    let mut columns = vec![
        ("id", format!("'{id}'")),
        ("app", "'web'".into()),
        ("region", "'sa'".into()),
        ("country", "'BR'".into()),
        ("wg_ip", format!("'10.0.0.{last_octet}'")),
        ("port", "8080".into()),
    ];
    for (column, value) in values {
        columns.retain(|(name, _)| name != column);
        columns.push((column, (*value).to_owned()));
    }
    let (names, given): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    format!("INSERT INTO backends ({}) VALUES ({})", names.join(", "), given.join(", "))
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
