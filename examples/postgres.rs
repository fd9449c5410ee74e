//! A program that follows a registry in `PostgreSQL`:
//! `cargo run --example postgres -- postgres://user:password@host:5432/name`
//!
//! It makes the tables when they are missing, and leaves one deleted row, `example`, behind.

use std::error::Error;
use std::time::Duration;

use edgeproxy::adapters::outbound::{PostgresBackendRepository, PostgresConfig};
use edgeproxy::domain::Backend;
use edgeproxy::domain::backend::{BadRow, Number, RawRow};
use edgeproxy::domain::ports::BackendRepository;

/// A row as another program would write it.
fn row() -> Result<Backend, BadRow> {
    Backend::try_from(RawRow {
        id: Some("example".into()),
        app: Some("example".into()),
        region: Some("eu".into()),
        country: Some("DE".into()),
        wg_ip: Some("10.50.1.1".into()),
        port: Some(Number::Whole(8080)),
        ..RawRow::default()
    })
}

/// Waits until the repository, by itself, has the example among those that may serve, or not.
async fn has_example(repository: &PostgresBackendRepository, wanted: bool) {
    let wait = async {
        loop {
            let healthy = repository.get_healthy().await;
            if healthy.iter().any(|backend| backend.id.as_str() == "example") == wanted {
                println!("{} healthy backends", healthy.len());
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), wait).await.is_ok();
    assert!(in_time, "should have become {wanted} within 10 s");
}

/// Has a change made, and sees it, and sees it go.
pub(crate) async fn follow(url: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let repository = PostgresBackendRepository::new(PostgresConfig {
        url: url.into(),
        max_connections: 10,
        min_connections: 2,
        connect_timeout: Duration::from_secs(5),
        query_timeout: Duration::from_secs(10),
        reload_interval: Duration::from_secs(5),
    });
    println!("{}", repository.describe());
    repository.initialize().await?;
    repository.start_sync();

    // Another process, with a connection of its own.
    let other = PostgresBackendRepository::new(PostgresConfig {
        url: url.into(),
        max_connections: 1,
        min_connections: 0,
        connect_timeout: Duration::from_secs(5),
        query_timeout: Duration::from_secs(10),
        reload_interval: Duration::from_secs(5),
    });
    other.put(vec![row()?]).await?;
    has_example(&repository, true).await;
    assert!(other.remove("example".parse()?).await?);
    has_example(&repository, false).await;

    for skipped in repository.load().await?.skipped {
        println!("{skipped}");
    }
    println!("OK");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let url = std::env::args().nth(1).ok_or("give the database's address")?;
    follow(&url).await
}
