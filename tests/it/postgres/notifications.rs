//! How soon changes are seen, with notifications and without.

use std::time::{Duration, Instant};

use edgeproxy::adapters::outbound::{PostgresBackendRepository, PostgresConfig};
use edgeproxy::domain::ports::BackendRepository;

use super::super::support::postgres::{PgBouncer, Postgres, config};
use super::super::support::{Logged, comes_true};
use super::{backend, ids, insert, loaded};

#[tokio::test]
async fn a_change_by_another_program_is_heard_of_at_once() {
    let server = Postgres::start();
    let repository = server.repository();
    repository.initialize().await.expect("initialized");
    let mut hints = repository.hints();
    hints.changed().await.expect("listening has begun");
    // The echo with which it makes sure that it hears is not a change.
    tokio::time::timeout(Duration::from_millis(200), hints.changed()).await.expect_err("silence");
    for change in [
        insert("a", 1),
        "UPDATE backends SET weight = 2".into(),
        "DELETE FROM backends".into(),
        "TRUNCATE backends".into(),
    ] {
        server.sql(&change);
        let heard = tokio::time::timeout(Duration::from_millis(100), hints.changed()).await;
        heard.unwrap_or_else(|_| panic!("not heard of within 100 ms: {change}")).expect("it runs");
    }
    server
        .sql("SELECT * FROM backends; CREATE TABLE other (id TEXT); INSERT INTO other VALUES ('')");
    tokio::time::timeout(Duration::from_millis(200), hints.changed()).await.expect_err("silence");
}

#[tokio::test]
async fn the_table_is_kept_in_step_and_answers_while_the_server_is_gone() {
    let mut server = Postgres::start();
    let repository = server.repository();
    repository.initialize().await.expect("initialized");
    assert_eq!(ids(&repository.get_healthy().await), [""; 0]);
    let logged = Logged::here();
    let mut hints = repository.hints();
    repository.start_sync();
    hints.changed().await.expect("listening has begun");
    server.sql(&format!("{}; {}", insert("a", 1), insert("bad", 2).replace("80)", "70000)")));
    let begun = Instant::now();
    comes_true("the change is seen", async || {
        (ids(&repository.get_healthy().await) == ["a"]).then_some(())
    })
    .await;
    println!("a change was seen after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(1), "not by the interval, which is an hour");
    let said = logged.with("backend bad: port = 70000");
    assert!(said.len() == 1 && said[0].contains("WARN"), "{said:?}");

    server.kill();
    comes_true("listening has ended", async || {
        (!logged.with("notifications are lost").is_empty()).then_some(())
    })
    .await;
    assert_eq!(ids(&repository.get_healthy().await), ["a"], "the last good table");
    server.restart();
    comes_true("notifications are back", async || {
        (!logged.with("notifications are back").is_empty()).then_some(())
    })
    .await;
    server.sql(&insert("c", 3));
    comes_true("the change is seen", async || {
        (ids(&repository.get_healthy().await) == ["a", "c"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_notifications_changes_are_seen_at_the_interval() {
    let server = Postgres::start();
    let cfg =
        PostgresConfig { reload_interval: Duration::from_millis(200), ..config(&server.url()) };
    let repository = PostgresBackendRepository::new(cfg);
    repository.initialize().await.expect("initialized");
    server.sql("DROP TRIGGER edgeproxy_backends_changed ON backends");
    repository.start_sync();
    for (octet, id) in [(1, "a"), (2, "b")] {
        server.sql(&insert(id, octet));
        comes_true("the change is seen", async || {
            ids(&repository.get_healthy().await).iter().any(|seen| seen == id).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn without_syncing_a_table_older_than_the_interval_is_read_again() {
    let server = Postgres::start();
    let cfg =
        PostgresConfig { reload_interval: Duration::from_millis(200), ..config(&server.url()) };
    let repository = PostgresBackendRepository::new(cfg);
    repository.initialize().await.expect("initialized");
    server.sql(&insert("a", 1));
    assert_eq!(ids(&repository.get_healthy().await), ["a"], "the first who asks reads it");
    server.sql(&insert("b", 2));
    comes_true("the change is seen", async || {
        (ids(&repository.get_healthy().await) == ["a", "b"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_serves_and_passes_no_notifications_on() {
    let server = Postgres::start();
    let pooler = PgBouncer::before(&server);
    let logged = Logged::here();
    let cfg =
        PostgresConfig { reload_interval: Duration::from_millis(200), ..config(&pooler.url()) };
    let repository = PostgresBackendRepository::new(cfg);
    repository.initialize().await.expect("initialized");
    repository.initialize().await.expect("initialized again");
    repository.start_sync();
    let many: Vec<_> =
        (0..100).map(|n| backend(&format!("b{n}"), &format!("10.1.0.{n}"))).collect();
    repository.put(many).await.expect("put");
    for round in 0..20 {
        let work = async {
            assert_eq!(loaded(&repository).await.backends.len(), 100, "round {round}");
        };
        tokio::join!(
            work,
            async { repository.put(vec![backend("b1", "10.1.0.1")]).await.expect("put") },
            async { repository.remove("b2".parse().unwrap()).await.map(drop).expect("removed") },
        );
    }
    comes_true("no notification comes through", async || {
        (!logged.with("notifications are not to be had").is_empty()).then_some(())
    })
    .await;
    server.sql("DELETE FROM backends");
    server.sql(&insert("a", 1));
    comes_true("the change is seen", async || {
        (ids(&repository.get_healthy().await) == ["a"]).then_some(())
    })
    .await;
    let said = logged.with("notifications");
    assert!(said.len() == 1 && said[0].contains("INFO"), "{said:?}");
    assert_eq!(logged.with("WARN"), [""; 0]);
}
