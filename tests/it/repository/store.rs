//! The stores that registries are in, and how others than the repository write to them.

use std::fmt::Write as _;
use std::path::PathBuf;

use edgeproxy::adapters::outbound::sqlite::{Access, SqliteBackendRepository};
use edgeproxy::adapters::outbound::{PostgresBackendRepository, StaticBackendRepository};
use edgeproxy::config::{ConfigErrors, Source, load};
use edgeproxy::domain::Backend;
use edgeproxy::domain::ports::BackendRepository;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::postgres::{PASSWORD, Postgres, USER, config};

/// A column without a type would be another thing in each store.
const BY_HAND: &str = "CREATE TABLE IF NOT EXISTS backends (id TEXT, app TEXT, region TEXT,
    country TEXT, wg_ip TEXT, port INTEGER, healthy INTEGER, weight INTEGER, soft_limit INTEGER,
    hard_limit INTEGER, deleted INTEGER)";

/// A store, where new registries can be made, and others than the repository write to them.
pub(super) trait Store {
    type Repository: BackendRepository;

    /// An empty registry, whose tables are not there yet; its name.
    fn fresh(&mut self) -> String;

    /// Has these rows and no others. A table that is missing is made by hand.
    fn write(&self, registry: &str, rows: &[Row]);

    /// The same while a repository is open, which is told if it does not see for itself.
    fn rewrite(&self, registry: &str, rows: &[Row], _repository: &Self::Repository) {
        self.write(registry, rows);
    }

    /// Opens a registry, which is made when it is missing.
    async fn open(&self, registry: &str) -> Self::Repository;

    /// All that is said of rows that are wrong.
    async fn complaints(&self, registry: &str) -> Vec<String>;
}

/// A store that is also written through its repository, and speaks SQL with everybody else.
pub(super) trait Database: Store {
    fn sql(&self, registry: &str, sql: &str);
}

/// A backend's columns, as its operator writes them: texts in single quotes, numbers, and NULL.
pub(super) struct Row(Vec<(&'static str, String)>);

impl Row {
    /// A good row, but for the columns that `values` overrides.
    pub(super) fn new(id: &str, last_octet: u8, values: &[(&'static str, &str)]) -> Self {
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
        Self(columns)
    }

    fn sql(&self) -> String {
        let (names, given): (Vec<_>, Vec<_>) = self.0.iter().cloned().unzip();
        format!("INSERT INTO backends ({}) VALUES ({});", names.join(", "), given.join(", "))
    }

    /// What SQL calls NULL is left out.
    fn toml(&self) -> String {
        let given = self.0.iter().filter(|(_, value)| value != "NULL");
        given.fold("[[backend]]\n".into(), |mut text, (column, value)| {
            writeln!(text, "{column} = {value}").unwrap();
            text
        })
    }
}

/// What makes a table hold these rows and no others.
fn script(rows: &[Row]) -> String {
    let inserts: String = rows.iter().map(Row::sql).collect();
    format!("{BY_HAND}; DELETE FROM backends; {inserts}")
}

/// The rows that a database leaves out, and why.
async fn skipped(repository: impl BackendRepository) -> Vec<String> {
    let registry = repository.load().await.unwrap();
    registry.skipped.iter().map(ToString::to_string).collect()
}

pub(super) struct Sqlite {
    folder: TempDir,
    made: usize,
}

impl Sqlite {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), made: 0 }
    }

    fn path(&self, registry: &str) -> PathBuf {
        self.folder.path().join(registry)
    }
}

impl Store for Sqlite {
    type Repository = SqliteBackendRepository;

    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("registry{}.db", self.made)
    }

    fn write(&self, registry: &str, rows: &[Row]) {
        self.sql(registry, &script(rows));
    }

    async fn open(&self, registry: &str) -> SqliteBackendRepository {
        SqliteBackendRepository::open(&self.path(registry), Access::Create).unwrap()
    }

    async fn complaints(&self, registry: &str) -> Vec<String> {
        skipped(self.open(registry).await).await
    }
}

impl Database for Sqlite {
    fn sql(&self, registry: &str, sql: &str) {
        Connection::open(self.path(registry)).unwrap().execute_batch(sql).unwrap();
    }
}

pub(super) struct Server {
    server: Postgres,
    made: usize,
}

impl Server {
    pub(super) fn start() -> Self {
        Self { server: Postgres::start(), made: 0 }
    }
}

impl Store for Server {
    type Repository = PostgresBackendRepository;

    fn fresh(&mut self) -> String {
        self.made += 1;
        let name = format!("registry{}", self.made);
        self.server.create_database(&name);
        name
    }

    fn write(&self, registry: &str, rows: &[Row]) {
        self.sql(registry, &script(rows));
    }

    async fn open(&self, registry: &str) -> PostgresBackendRepository {
        let url = self.server.url_of(USER, PASSWORD, registry);
        let repository = PostgresBackendRepository::new(config(&url));
        repository.initialize().await.unwrap();
        repository
    }

    async fn complaints(&self, registry: &str) -> Vec<String> {
        skipped(self.open(registry).await).await
    }
}

impl Database for Server {
    fn sql(&self, registry: &str, sql: &str) {
        self.server.sql_in(registry, &format!("SET ROLE {USER}; {sql}"));
    }
}

/// Configuration files.
pub(super) struct Files {
    folder: TempDir,
    made: usize,
}

impl Files {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), made: 0 }
    }

    pub(super) fn path(&self, registry: &str) -> PathBuf {
        self.folder.path().join(registry)
    }

    /// What a process reads of it, at the start and at each reload.
    pub(super) fn read(&self, registry: &str) -> Result<Vec<Backend>, ConfigErrors> {
        let source = Source { env: Vec::new(), file: Some(self.path(registry)) };
        load(&source).map(|config| config.backends.expect("a registry"))
    }
}

impl Store for Files {
    type Repository = StaticBackendRepository;

    fn fresh(&mut self) -> String {
        self.made += 1;
        let name = format!("config{}.toml", self.made);
        self.write(&name, &[]);
        name
    }

    fn write(&self, registry: &str, rows: &[Row]) {
        let rows: String = rows.iter().map(Row::toml).collect();
        let text = if rows.is_empty() { "backend = []".into() } else { rows };
        std::fs::write(self.path(registry), text).unwrap();
    }

    fn rewrite(&self, registry: &str, rows: &[Row], repository: &StaticBackendRepository) {
        self.write(registry, rows);
        repository.replace(self.read(registry).unwrap());
    }

    async fn open(&self, registry: &str) -> StaticBackendRepository {
        StaticBackendRepository::new(&self.path(registry), self.read(registry).unwrap())
    }

    async fn complaints(&self, registry: &str) -> Vec<String> {
        let errors = self.read(registry).expect_err("a file with a bad row is not used at all");
        let folder = self.folder.path().display().to_string();
        errors.0.iter().map(|error| error.to_string().replace(&folder, "")).collect()
    }
}
