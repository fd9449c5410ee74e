//! Tables: ours, those made by hand, and who may make them.

use std::time::Duration;

use edgeproxy::adapters::outbound::{PostgresBackendRepository, PostgresConfig};
use edgeproxy::domain::ports::BackendRepository;

use super::super::support::postgres::{NAME, Postgres, config};
use super::super::support::{Logged, comes_true};
use super::{backend, ids, insert, loaded};

const COLUMNS: &str = "SELECT column_name, data_type, is_nullable, column_default \
    FROM information_schema.columns WHERE table_name = 'backends' ORDER BY ordinal_position";

#[tokio::test]
async fn what_is_missing_is_made_as_documented_and_making_it_again_changes_nothing() {
    let server = Postgres::start();
    let repository = server.repository();
    repository.initialize().await.expect("initialized");
    assert_eq!(
        server.sql(COLUMNS),
        "id|text|NO|\napp|text|NO|\nregion|text|NO|\ncountry|text|NO|\nwg_ip|text|NO|\n\
         port|integer|NO|\nhealthy|integer|NO|1\nweight|integer|NO|1\nsoft_limit|integer|NO|100\n\
         hard_limit|integer|NO|150\ndeleted|integer|NO|0\n\
         created_at|timestamp with time zone|YES|CURRENT_TIMESTAMP\n\
         updated_at|timestamp with time zone|YES|CURRENT_TIMESTAMP"
    );
    let indexes = server.sql("SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'idx_%'");
    assert!(indexes.contains("(healthy) WHERE (deleted = 0)"), "{indexes}");
    assert!(indexes.contains("(region) WHERE (deleted = 0)"), "{indexes}");
    server.sql(&insert("a", 1));
    repository.initialize().await.expect("initialized again");
    assert_eq!(ids(&loaded(&repository).await.backends), ["a"]);
    let port = server.port();
    assert_eq!(repository.describe(), format!("PostgreSQL edge@127.0.0.1:{port}/{NAME}"));
}

#[tokio::test]
async fn ten_may_make_it_at_once() {
    let server = Postgres::start();
    for round in 0..3 {
        let repositories: Vec<_> = (0..10).map(|_| server.repository()).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for repository in repositories {
            tasks.spawn(async move { repository.initialize().await });
        }
        for made in tasks.join_all().await {
            made.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        assert_eq!(server.sql("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"), "1");
        server.sql("DROP TABLE backends, edgeproxy_backend_state");
    }
}

#[tokio::test]
async fn a_table_made_by_hand_is_taken_as_it_is_whatever_its_types() {
    let server = Postgres::start();
    server.sql(
        "SET ROLE edge;
         CREATE TABLE backends (note JSONB, port NUMERIC(8, 2), id VARCHAR(20), app CHAR(10),
         region TEXT, country CHAR(2), wg_ip INET, healthy BOOLEAN, weight BIGINT,
         soft_limit SMALLINT, hard_limit DOUBLE PRECISION, deleted BOOLEAN, created_at DATE);
         INSERT INTO backends VALUES
         ('{}', 8080, 'a', 'web', 'sa', 'BR', '10.0.0.1', true, 7, 50, 60, false, '2020-01-01'),
         (NULL, 80, 'b', 'web', 'sa', NULL, '2001:db8::1', NULL, NULL, NULL, NULL, NULL, NULL),
         (NULL, 80.5, 'c', 'web', 'sa', NULL, '10.0.0.3', false, NULL, NULL, NULL, NULL, NULL)",
    );
    let repository = server.repository();
    repository.initialize().await.expect("initialized");
    let registry = loaded(&repository).await;
    assert_eq!(ids(&registry.backends), ["a", "b"]);
    let [a, b] = &registry.backends[..] else { panic!() };
    assert_eq!((a.app.as_str(), a.port, a.weight, a.hard_limit), ("web", 8080, 7, 60));
    assert_eq!((a.healthy, a.deleted, a.created_at.as_deref()), (true, false, Some("2020-01-01")));
    assert_eq!((b.country, b.healthy, b.weight), (None, true, 1));
    assert_eq!(
        registry.skipped[0].to_string(),
        "backend c: port = \"80.50\": must be a whole number from 1 to 65535"
    );
    repository.put(vec![backend("b", "10.0.0.2"), backend("d", "10.0.0.4")]).await.expect("put");
    assert!(repository.remove("a".parse().unwrap()).await.expect("removed"));
    let read = loaded(&repository).await.backends;
    assert_eq!(ids(&read), ["a", "b", "d"]);
    assert!(read[0].deleted && !read[1].deleted && read[1].wg_ip.is_ipv4() && read[2].healthy);
}

#[tokio::test]
async fn bytes_that_are_no_text_spoil_only_their_own_row() {
    let server = Postgres::start();
    server.sql_in(
        "postgres",
        "CREATE DATABASE raw OWNER edge TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'",
    );
    let repository =
        PostgresBackendRepository::new(config(&server.url_of("edge", "s3cret", "raw")));
    repository.initialize().await.expect("initialized");
    server.sql_in("raw", &insert("a", 1));
    server.sql_in(
        "raw",
        &format!("{}; UPDATE backends SET region = E'\\xe3' WHERE id = 'b'", insert("b", 2)),
    );
    let registry = loaded(&repository).await;
    assert_eq!(ids(&registry.backends), ["a"]);
    assert!(registry.skipped[0].to_string().starts_with("backend b: region = "));
}

#[tokio::test]
async fn a_column_that_a_backend_cannot_do_without_is_named() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE backends (id TEXT, app TEXT, region TEXT, port INT); \
                GRANT ALL ON backends TO edge",
    );
    let repository = server.repository();
    let errors = [
        repository.initialize().await.expect_err("no address").to_string(),
        repository.load().await.expect_err("no address").to_string(),
        repository.put(vec![backend("a", "10.0.0.1")]).await.expect_err("no address").to_string(),
    ];
    for error in errors {
        assert!(error.contains("table backends has no column wg_ip"), "{error}");
    }
}

#[tokio::test]
async fn a_role_that_may_only_read_is_served() {
    let server = Postgres::start();
    let owner = server.repository();
    owner.initialize().await.expect("initialized");
    owner.put(vec![backend("a", "10.0.0.1")]).await.expect("put");
    server.sql("CREATE ROLE reader LOGIN PASSWORD 's3cret'; GRANT SELECT ON backends TO reader");
    let logged = Logged::here();
    let reader = PostgresBackendRepository::new(config(&server.url_of("reader", "s3cret", NAME)));
    reader.initialize().await.expect("it need not make anything");
    assert_eq!(ids(&loaded(&reader).await.backends), ["a"]);
    assert_eq!(logged.with("PostgreSQL"), [""; 0], "the trigger is there");
    for error in [
        reader.put(vec![backend("b", "10.0.0.2")]).await.unwrap_err(),
        reader.remove("a".parse().unwrap()).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("permission denied for table backends"), "{error}");
    }
    assert_eq!(ids(&loaded(&reader).await.backends), ["a"]);

    server.sql("DROP TRIGGER edgeproxy_backends_changed ON backends");
    reader.initialize().await.expect("it need not make the trigger either");
    let said = logged.with("no trigger tells of changes");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("INFO") && said[0].contains("permission denied"), "{said:?}");
}

#[tokio::test]
async fn without_a_table_and_the_right_to_make_one_it_says_so() {
    let server = Postgres::start();
    server.sql("CREATE ROLE reader LOGIN PASSWORD 's3cret'");
    let reader = PostgresBackendRepository::new(config(&server.url_of("reader", "s3cret", NAME)));
    let error = reader.initialize().await.expect_err("no table").to_string();
    assert!(error.contains("has no table `backends` that this role can see"), "{error}");
    assert!(error.contains("none can be made: permission denied for schema public"), "{error}");
    let error = reader.load().await.expect_err("no table").to_string();
    assert!(error.contains("has no table `backends`"), "{error}");
    server.sql("CREATE TABLE backends (id TEXT)");
    let error = reader.initialize().await.expect_err("no right").to_string();
    assert!(error.contains("permission denied for table backends"), "{error}");
}

#[tokio::test]
async fn two_who_write_the_same_rows_at_once_both_succeed() {
    let server = Postgres::start();
    let one = server.repository();
    one.initialize().await.expect("initialized");
    let two = server.repository();
    for round in 0..10 {
        let ip = |n: u8| format!("10.{round}.0.{n}");
        let rows: Vec<_> = (0..50).map(|n| backend(&format!("{round}-{n}"), &ip(n))).collect();
        let mut turned = rows.clone();
        turned.reverse();
        let (first, second) = tokio::join!(one.put(rows), two.put(turned));
        first.expect("written");
        second.expect("written as well");
    }
    assert_eq!(loaded(&one).await.backends.len(), 500);
}

#[tokio::test]
async fn a_write_that_is_given_up_leaves_nothing_behind() {
    let server = Postgres::start();
    let cfg = PostgresConfig { max_connections: 1, ..config(&server.url()) };
    let repository = PostgresBackendRepository::new(cfg);
    repository.initialize().await.expect("initialized");
    let mut other = server.session("BEGIN; LOCK TABLE backends IN SHARE MODE; SELECT pg_sleep(60)");
    comes_true("the table is locked", async || {
        (server.sql("SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock'") != "0").then_some(())
    })
    .await;
    let put = repository.put(vec![backend("a", "10.0.0.1")]);
    tokio::time::timeout(Duration::from_millis(200), put).await.expect_err("it waits");
    assert_eq!(ids(&loaded(&repository).await.backends), [""; 0]);
    server
        .sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'ShareLock' AND granted");
    other.wait().expect("it ends");
    repository.put(vec![backend("b", "10.0.0.2")]).await.expect("put");
    assert_eq!(ids(&loaded(&repository).await.backends), ["b"]);
}
