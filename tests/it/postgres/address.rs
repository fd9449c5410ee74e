//! Addresses in every form, and what is said of them.

use edgeproxy::adapters::outbound::PostgresBackendRepository;
use edgeproxy::domain::ports::BackendRepository;

use super::super::support::postgres::{Postgres, config};
use super::{loaded, refusal};

#[tokio::test]
async fn an_address_is_taken_in_every_form_that_libpq_takes() {
    let server = Postgres::start();
    let repository = server.repository();
    repository.initialize().await.expect("initialized");
    server.sql(r"ALTER ROLE edge PASSWORD 'p@ss''w\rd %'");
    let (port, folder) = (server.port(), server.socket_folder().display().to_string());
    let encoded = folder.replace('/', "%2F");
    for (url, shown) in [
        (
            format!("postgresql://edge:p%40ss'w%5Crd%20%25@127.0.0.1:{port}/registry"),
            format!("edge@127.0.0.1:{port}/registry"),
        ),
        (
            format!(
                r"host=127.0.0.1 port={port} user=edge dbname = registry password='p@ss\'w\\rd %'"
            ),
            format!("edge@127.0.0.1:{port}/registry"),
        ),
        (
            format!(
                "host=db.example hostaddr=127.0.0.1 port={port} user=edge dbname=registry \
                     password=p@ss\\'w\\\\rd\\ % connect_timeout=3 sslcompression=0"
            ),
            format!("edge@db.example:{port}/registry"),
        ),
        (
            format!("postgres://edge@{encoded}:{port}/registry?sslmode=require"),
            format!("edge@{folder}:{port}/registry"),
        ),
        (
            // The first of the hosts is nobody's.
            format!(
                "postgres://edge:p%40ss'w%5Crd%20%25@127.0.0.1:1,127.0.0.1:{port}/registry\
                     ?target_session_attrs=read-write&application_name=me@here"
            ),
            format!("edge@127.0.0.1:1,127.0.0.1:{port}/registry"),
        ),
    ] {
        let repository = PostgresBackendRepository::new(config(&url));
        assert_eq!(repository.describe(), format!("PostgreSQL {shown}"));
        assert!(loaded(&repository).await.backends.is_empty(), "{url}");
        let shown = format!("{repository:?} {:?}", config(&url));
        assert!(!shown.contains("ss'w") && !shown.contains("p%40ss"), "{shown}");
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_an_error_and_never_shows_a_password() {
    for (url, reason) in [
        ("", "must be postgres://user:password@host:5432/name"),
        ("s3cret", "must be postgres://"),
        ("https://edge:s3cret@db/x", "must be postgres://"),
        ("postgres://edge:s3cret@/x", "names no host"),
        ("user=edge password=s3cret", "names no host"),
        ("postgres://edge:s3cret@db:port/x", "invalid value for option `port`"),
        ("host=db password=x s3cret=y", "a parameter is not known"),
        ("host=db password=x s3cret", "must be postgres://"),
        ("postgres://db/x?password=s3cret&sslmode=on", "sslmode must be disable, allow, prefer"),
        ("postgres://db/x?password=s3cret&pgbouncer=true", "pgbouncer is not supported"),
        ("postgres://db/x?password=s3cret&sslcert=/c.pem", "sslcert and sslkey must be given"),
        ("postgres://db/x?password=s3cret%", "a parameter cannot be read"),
        ("postgres://edge:s3cret@db/x?sslmode=verify-full", "need sslrootcert=PATH"),
        ("postgres://edge:s3cret@db/x?sslmode=verify-ca", "need sslrootcert=PATH"),
        (
            "postgres://edge:s3cret@db/x?sslmode=require&sslrootcert=system",
            "sslrootcert=system needs sslmode=verify-full",
        ),
        ("postgres://edge:s3cret@db/x?channel_binding=require", "channel_binding=require is not"),
    ] {
        let said = refusal(config(url)).await;
        assert!(said.contains(reason) && !said.contains("s3cret"), "{url}: {said}");
        let repository = PostgresBackendRepository::new(config(url));
        let shown = format!("{} {repository:?} {:?}", repository.describe(), config(url));
        assert!(!shown.contains("s3cret"), "{shown}");
        repository.start_sync();
        assert!(repository.get_healthy().await.is_empty());
    }
}
