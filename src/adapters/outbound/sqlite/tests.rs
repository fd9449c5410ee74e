//! The registry file as its users meet it: other programs write to it, replace it, break it.

mod changes;
mod leases;

use std::path::PathBuf;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::domain::AdminState;
use crate::domain::backend::RawRow;

const OLD_SCHEMA: &str = "CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, region TEXT,
    wg_ip TEXT, port INTEGER, healthy INTEGER, weight INTEGER, soft_limit INTEGER,
    hard_limit INTEGER, deleted INTEGER)";

/// A folder with a registry, and "another program" to change it.
struct Shop {
    folder: TempDir,
}

impl Shop {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("routing.db")
    }

    fn open(&self, access: Access) -> Result<SqliteBackendRepository, RepositoryError> {
        SqliteBackendRepository::open(&self.path(), access)
    }

    fn create(&self) -> SqliteBackendRepository {
        self.open(Access::Create).unwrap()
    }

    fn store(&self) -> Store {
        Store::open(&self.path(), Access::Create).unwrap()
    }

    /// Makes the file's last change look an hour old.
    fn age(&self) {
        let hour_ago = std::time::UNIX_EPOCH + clock::wall() - std::time::Duration::from_hours(1);
        std::fs::File::open(self.path()).unwrap().set_modified(hour_ago).unwrap();
    }

    fn sql(&self, sql: &str) {
        Connection::open(self.path()).unwrap().execute_batch(sql).unwrap();
    }

    /// Makes an older table, with a row and no side table.
    fn row_of_old_schema(&self) {
        self.sql(OLD_SCHEMA);
        self.sql("INSERT INTO backends VALUES ('a', 'web', 'sa', '10.0.0.1', 80, 1, 1, 1, 2, 0)");
    }

    /// Adds a row; `values` overrides columns of a good one.
    fn row(&self, id: &str, last_octet: u8, values: &[(&str, &str)]) {
        insert(&Connection::open(self.path()).unwrap(), id, last_octet, values);
    }
}

fn insert(connection: &Connection, id: &str, last_octet: u8, values: &[(&str, &str)]) {
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
    let (names, given) = (names.join(", "), given.join(", "));
    connection.execute_batch(&format!("INSERT INTO backends ({names}) VALUES ({given})")).unwrap();
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn load(repo: &SqliteBackendRepository) -> Registry {
    wait(repo.load()).unwrap()
}

fn changed(repo: &SqliteBackendRepository) -> Option<Vec<String>> {
    wait(repo.load_if_changed()).unwrap().map(|registry| ids(&registry.backends))
}

fn ids(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(|backend| backend.id.to_string()).collect()
}

fn backend(id: &str, ip: &str) -> Backend {
    Backend::try_from(RawRow {
        id: Some(id.into()),
        app: Some("web".into()),
        region: Some("eu".into()),
        wg_ip: Some(ip.into()),
        port: Some(crate::domain::backend::Number::Whole(443)),
        ..RawRow::default()
    })
    .unwrap()
}

fn reason<T>(opened: Result<T, RepositoryError>) -> String {
    opened.err().expect("an error").to_string()
}

#[test]
fn create_makes_the_file_with_the_documented_schema_in_wal_mode() {
    let shop = Shop::new();
    let repo = shop.create();
    assert_eq!(load(&repo), Registry::default());
    assert_eq!(repo.describe(), format!("SQLite {}", shop.path().display()));
    let other = Connection::open(shop.path()).unwrap();
    let mode: String = other.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    let mut names = other.prepare("SELECT name FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
    let names: Vec<String> =
        names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for name in
        ["backends", "idx_backends_healthy", "idx_backends_region", "edgeproxy_backend_state"]
    {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    insert(&other, "a", 1, &[]);
    let (backends, stamps) = (load(&repo).backends, |b: &Backend| b.created_at.clone());
    assert_eq!((backends[0].weight, backends[0].soft_limit, backends[0].hard_limit), (1, 100, 150));
    assert!(stamps(&backends[0]).is_some_and(|text| text.len() == 19));
    drop(shop.create());
    assert_eq!(ids(&load(&repo).backends), ["a"], "creating again changes nothing");
}

#[test]
fn what_cannot_be_opened_is_said_with_its_path_and_reason() {
    let shop = Shop::new();
    let path = shop.path().display().to_string();
    for access in [Access::Existing, Access::ReadOnly] {
        let said = reason(shop.open(access));
        assert!(said.contains(&path) && said.contains("no such file; `edge-proxy"), "{said}");
        assert!(!shop.path().exists());
    }
    std::fs::write(shop.path(), "not a database, but long enough to have a header ".repeat(9))
        .unwrap();
    for access in [Access::Create, Access::Existing, Access::ReadOnly] {
        let said = reason(shop.open(access));
        assert!(said.contains(&path) && said.contains("is not a SQLite database"), "{said}");
        let said = reason(SqliteBackendRepository::open(shop.folder.path(), access));
        assert!(said.contains("is a directory"), "{said}");
    }
    let lost = shop.folder.path().join("none/routing.db");
    let said = reason(SqliteBackendRepository::open(&lost, Access::Create));
    assert!(said.contains("there is no folder") && said.contains("/none"), "{said}");
}

#[test]
fn a_file_without_the_table_is_an_error_unless_it_may_be_made() {
    let shop = Shop::new();
    shop.sql("CREATE TABLE other (x)");
    assert!(reason(shop.open(Access::Existing)).contains("has no table `backends`"));
    assert_eq!(load(&shop.create()), Registry::default());
    assert!(shop.open(Access::Existing).is_ok());
}

#[test]
fn one_bad_row_never_hides_the_others() {
    let shop = Shop::new();
    let repo = shop.create();
    shop.row("good", 1, &[]);
    shop.row("port", 2, &[("port", "70000")]);
    shop.row("host", 3, &[("wg_ip", "'db.internal'")]);
    shop.row("weight", 4, &[("weight", "-1")]);
    shop.row("address", 5, &[("wg_ip", "'10.0.0.300'")]);
    shop.row("twin", 1, &[]);
    shop.row("latin1", 6, &[("region", "CAST(x'73e3' AS TEXT)")]);
    shop.row("utf8", 7, &[("app", "CAST(x'ff20ff' AS TEXT)")]);
    shop.row("half", 8, &[("weight", "1.5")]);
    shop.row("blob", 9, &[("port", "x'00ff'")]);
    shop.row("nothing", 10, &[("id", "NULL")]);
    shop.row("whole", 11, &[("weight", "'7.0'"), ("port", "CAST(81 AS REAL)")]);
    let registry = load(&repo);
    assert_eq!(ids(&registry.backends), ["good", "latin1", "whole"]);
    assert_eq!((registry.backends[2].weight, registry.backends[2].port), (7, 81));
    let said: Vec<_> = registry.skipped.iter().map(ToString::to_string).collect();
    for part in [
        "port: port = 70000",
        "host: wg_ip = \"db.internal\"",
        "weight: weight = -1",
        "address: wg_ip = \"10.0.0.300\"",
        "twin: wg_ip and port = 10.0.0.1:8080: already used by backend good",
        "utf8: app = ",
        "half: weight = \"1.5\"",
        "blob: port = ",
        "(row 11): id = NULL",
    ] {
        assert!(said.iter().any(|line| line.contains(part)), "{part}\n{said:#?}");
    }
    assert_eq!(said.len(), 9, "{said:#?}");
}

#[test]
fn values_count_by_what_they_say_not_by_how_they_are_stored() {
    let shop = Shop::new();
    shop.sql(
        "CREATE TABLE backends (id, app, region, country, wg_ip, port, healthy, weight,
         soft_limit, hard_limit, deleted)",
    );
    shop.sql(
        "INSERT INTO backends VALUES
         (7, 'web', 'sa', NULL, '10.0.0.1', ' 8080 ', 1.0, NULL, '50', 60.0, '0')",
    );
    let repo = shop.open(Access::Existing).unwrap();
    let registry = load(&repo);
    assert_eq!(registry.skipped, []);
    let read = &registry.backends[0];
    assert_eq!((read.id.as_str(), read.port, read.healthy), ("7", 8080, true));
    assert_eq!((read.weight, read.soft_limit, read.hard_limit), (1, 50, 60));
}

#[test]
fn an_older_table_loads_and_is_completed_when_written() {
    let shop = Shop::new();
    shop.row_of_old_schema();
    let repo = shop.open(Access::Existing).unwrap();
    let read = load(&repo);
    assert_eq!((ids(&read.backends), read.backends[0].country), (vec!["a".into()], None));
    wait(repo.put(vec![backend("b", "10.0.0.2")])).unwrap();
    assert_eq!(changed(&repo), Some(vec!["a".into(), "b".into()]));
    shop.sql("UPDATE backends SET country = 'CL' WHERE created_at IS NOT NULL");
    let read = load(&repo);
    assert_eq!(read.backends[0].created_at, None);
    assert_eq!(read.backends[1].country, "CL".parse().ok());
}

#[test]
fn a_column_that_a_backend_cannot_do_without_is_named() {
    let shop = Shop::new();
    shop.sql("CREATE TABLE backends (id TEXT, app TEXT, region TEXT, port INTEGER)");
    assert!(reason(shop.open(Access::Create)).contains("no column wg_ip"));
}

#[test]
fn the_side_table_gives_leases_and_a_bad_row_in_it_is_named() {
    let shop = Shop::new();
    let repo = shop.create();
    for (id, octet) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)] {
        shop.row(id, octet, &[]);
    }
    shop.sql(
        "INSERT INTO edgeproxy_backend_state VALUES
         ('a', 3, 100, 'ready'), ('b', 0, NULL, 'maint'), ('c', 0, NULL, 'asleep'),
         ('d', 0, 'soon', 'ready'), ('gone', 1, 1, 'ready')",
    );
    let registry = load(&repo);
    assert_eq!(ids(&registry.backends), ["a", "b", "e"]);
    let lease = |place: usize| registry.backends[place].lease.clone();
    let of = |generation, expires_at, admin_state| {
        Some(crate::domain::Lease { generation, expires_at, admin_state })
    };
    assert_eq!(lease(0), of(3, Some(100), AdminState::Ready));
    assert_eq!(lease(1), of(0, None, AdminState::Maint));
    assert_eq!(lease(2), None);
    let said: Vec<_> = registry.skipped.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("c: admin_state = \"asleep\": must be ready, drain"), "{said:?}");
    assert!(said[1].contains("d: lease_expires_at = \"soon\""), "{said:?}");
    assert_eq!(ids(&wait(repo.get_healthy())), ["e"]);
    shop.sql("DROP TABLE edgeproxy_backend_state");
    assert_eq!(changed(&repo).map(|ids| ids.len()), Some(5), "no side table, no leases");
}
