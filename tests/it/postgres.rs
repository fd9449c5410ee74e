//! The registry in `PostgreSQL` as its users meet it: schemas made by hand, roles with few rights,
//! poolers, servers that go and come back. Against a real server, over the network.

mod address;
mod failure;
mod leases;
mod notifications;
mod schema;
mod tls;

use std::time::{Duration, Instant};

use edgeproxy::adapters::outbound::{PostgresBackendRepository, PostgresConfig};
use edgeproxy::domain::Backend;
use edgeproxy::domain::backend::{Number, RawRow};
use edgeproxy::domain::ports::{BackendRepository, Registry};

use super::support::comes_true;
use super::support::postgres::{Postgres, config};

#[expect(dead_code, reason = "its main reads the arguments of a program")]
#[path = "../../examples/postgres.rs"]
mod example;

/// The end of an INSERT of a good row.
const COLUMNS: &str = "backends (id, app, region, country, wg_ip, port)";

fn insert(id: &str, last_octet: u8) -> String {
    format!("INSERT INTO {COLUMNS} VALUES ('{id}', 'web', 'sa', 'BR', '10.0.0.{last_octet}', 80)")
}

fn backend(id: &str, ip: &str) -> Backend {
    let row = RawRow {
        id: Some(id.into()),
        app: Some("web".into()),
        region: Some("sa".into()),
        wg_ip: Some(ip.into()),
        port: Some(Number::Whole(80)),
        ..RawRow::default()
    };
    Backend::try_from(row).expect("a good row")
}

fn ids(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(|backend| backend.id.to_string()).collect()
}

/// How long something takes, and what comes of it.
async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let begun = Instant::now();
    let done = work.await;
    (begun.elapsed(), done)
}

async fn loaded(repository: &PostgresBackendRepository) -> Registry {
    repository.load().await.expect("a registry")
}

/// What is said of a repository that cannot be read.
async fn refusal(cfg: PostgresConfig) -> String {
    let repository = PostgresBackendRepository::new(cfg);
    let error = repository.load().await.expect_err("it cannot be read");
    let started = repository.initialize().await.expect_err("nor initialized").to_string();
    assert!(!started.contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{started}");
    error.to_string()
}

#[tokio::test]
async fn the_example_runs_as_it_is() {
    let server = Postgres::start();
    example::follow(&server.url()).await.expect("it runs");
    comes_true("its connections are closed", async || (server.connections() == 0).then_some(()))
        .await;
}

#[tokio::test]
async fn ten_thousand_rows_are_read_in_a_moment() {
    let server = Postgres::start();
    let repository = server.repository();
    repository.initialize().await.expect("initialized");
    let many: Vec<_> = (0..10_000)
        .map(|n| backend(&format!("b{n}"), &format!("10.1.{}.{}", n / 250, n % 250)))
        .collect();
    let (put, written) = timed(repository.put(many.clone())).await;
    written.expect("new rows");
    let (again, written) = timed(repository.put(many)).await;
    written.expect("the same again");
    let (load, read) = timed(loaded(&repository)).await;
    assert_eq!(read.backends.len(), 10_000);
    println!("10,000 rows: put {put:?}, put again {again:?}, load {load:?}");
    assert!(put.as_secs() < 10 && again.as_secs() < 10 && load.as_secs() < 5);
    if !cfg!(debug_assertions) {
        assert!(load.as_millis() < 300, "{load:?}");
    }
}

#[tokio::test]
async fn as_many_connections_as_were_asked_for_are_kept_open_and_none_after_it_is_dropped() {
    let server = Postgres::start();
    let cfg = PostgresConfig { min_connections: 3, ..config(&server.url()) };
    let repository = PostgresBackendRepository::new(cfg);
    repository.initialize().await.expect("initialized");
    repository.start_sync();
    repository.start_sync();
    // One more listens.
    comes_true("three and one connections", async || (server.connections() == 4).then_some(()))
        .await;
    let mut broken = server.backends();
    broken.pop();
    for pid in broken {
        server.sql(&format!("SELECT pg_terminate_backend({pid})"));
    }
    comes_true("they are back", async || (server.connections() == 4).then_some(())).await;
    drop(repository);
    comes_true("all are closed", async || (server.connections() == 0).then_some(())).await;
}
