//! Servers that refuse, fall silent, go and come back.

use std::time::{Duration, Instant};

use edgeproxy::adapters::outbound::{PostgresBackendRepository, PostgresConfig};
use edgeproxy::domain::ports::BackendRepository;
use rustix::process::{Pid, Signal, kill_process};

use super::super::support::postgres::{NAME, PASSWORD, Postgres, USER, config};
use super::super::support::{BlackHole, comes_true};
use super::{backend, ids, insert, loaded, refusal};

/// Of a repository that is given up on soon.
fn hasty(url: &str) -> PostgresConfig {
    PostgresConfig {
        connect_timeout: Duration::from_millis(500),
        query_timeout: Duration::from_millis(500),
        ..config(url)
    }
}

#[tokio::test]
async fn who_cannot_log_in_is_told_why() {
    let server = Postgres::start();
    let place = format!("127.0.0.1:{}", server.port());
    let said = refusal(config(&server.url_of(USER, "wrong-s3cret", NAME))).await;
    assert_eq!(
        said,
        format!(
            "registry PostgreSQL edge@{place}/registry: cannot connect: password authentication \
             failed for user \"edge\""
        )
    );
    let said = refusal(config(&server.url_of("nobody", PASSWORD, NAME))).await;
    assert!(said.contains("authentication failed for user \"nobody\""), "{said}");
    let said = refusal(config(&server.url_of(USER, PASSWORD, "nowhere"))).await;
    assert!(said.ends_with("cannot connect: database \"nowhere\" does not exist"), "{said}");
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_given_up_in_time() {
    let silent = BlackHole::new();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").port()
    };
    // Accepts, and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute_addr = mute.local_addr().expect("bound");
    for (address, reason) in [
        (format!("127.0.0.1:{port}"), "cannot connect: Connection refused (os error 111)"),
        (silent.addr().to_string(), "cannot connect: no answer within 500ms"),
        (mute_addr.to_string(), "cannot connect: no answer within 500ms"),
        ("db.invalid:5432".into(), "cannot connect: failed to lookup address information"),
    ] {
        let begun = Instant::now();
        let url = format!("postgres://{USER}:{PASSWORD}@{address}/{NAME}");
        let said = refusal(hasty(&url)).await;
        assert!(said.contains(reason) && said.contains(&address), "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
        let took = begun.elapsed() / 2;
        assert!(address.starts_with("db.") || took < Duration::from_secs(2), "{took:?}");
        let repository = PostgresBackendRepository::new(hasty(&url));
        assert_eq!(ids(&repository.get_healthy().await), [""; 0]);
    }
}

#[tokio::test]
async fn after_a_restart_of_the_server_the_next_reading_works() {
    let mut server = Postgres::start();
    let repository = PostgresBackendRepository::new(hasty(&server.url()));
    repository.initialize().await.expect("initialized");
    repository.put(vec![backend("a", "10.0.0.1")]).await.expect("put");
    for round in 0..3 {
        // So that several connections are there to be broken.
        let all = tokio::join!(repository.load(), repository.load(), repository.load());
        assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok());
        server.kill();
        let begun = Instant::now();
        let error = repository.load().await.expect_err("it is gone").to_string();
        assert!(error.contains("cannot connect: Connection refused"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(ids(&repository.get_healthy().await), ["a"], "the last good table");
        server.restart();
        assert_eq!(ids(&loaded(&repository).await.backends), ["a"], "round {round}");
    }
    // Nobody looks between: every connection turns out to be broken when it is used.
    let all = tokio::join!(repository.load(), repository.load(), repository.load());
    assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok());
    server.kill();
    server.restart();
    repository.put(vec![backend("b", "10.0.0.2")]).await.expect("put");
    assert_eq!(ids(&loaded(&repository).await.backends), ["a", "b"]);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended_by_the_server() {
    let server = Postgres::start();
    let repository = PostgresBackendRepository::new(hasty(&server.url()));
    repository.initialize().await.expect("initialized");
    let mut other =
        server.session("BEGIN; LOCK TABLE backends IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)");
    comes_true("the table is locked", async || {
        let locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'";
        (server.sql(locks) != "0").then_some(())
    })
    .await;
    let begun = Instant::now();
    let error = repository.load().await.expect_err("it is locked").to_string();
    let took = begun.elapsed();
    assert!(
        error.ends_with("no answer within 500ms: canceling statement due to statement timeout"),
        "{error}"
    );
    assert!(took >= Duration::from_millis(450) && took < Duration::from_secs(2), "{took:?}");
    let error =
        repository.put(vec![backend("a", "10.0.0.1")]).await.expect_err("locked").to_string();
    assert!(error.contains("canceling statement") && !error.contains("not known"), "{error}");
    server.sql("SELECT pg_cancel_backend(pid) FROM pg_locks WHERE mode = 'AccessExclusiveLock'");
    other.wait().expect("it ends");
    assert_eq!(ids(&loaded(&repository).await.backends), [""; 0]);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_and_its_connection_not_used_again() {
    let server = Postgres::start();
    let repository = PostgresBackendRepository::new(hasty(&server.url()));
    repository.initialize().await.expect("initialized");
    server.sql(&insert("a", 1));
    assert_eq!(ids(&loaded(&repository).await.backends), ["a"]);
    let frozen = server.backends();
    assert_eq!(frozen.len(), 1);
    let frozen = Pid::from_raw(frozen[0]).expect("a process");
    kill_process(frozen, Signal::STOP).expect("it is there");
    let begun = Instant::now();
    let error = repository.load().await.expect_err("it is silent").to_string();
    assert!(error.ends_with("no answer within 500ms"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(ids(&loaded(&repository).await.backends), ["a"], "over another connection");
    kill_process(frozen, Signal::CONT).expect("it is there");
    comes_true("the server has seen the end", async || {
        (!server.backends().contains(&frozen.as_raw_nonzero().get())).then_some(())
    })
    .await;
    // In the middle of a write: the server may have made it.
    let cfg = PostgresConfig { query_timeout: Duration::from_secs(3), ..config(&server.url()) };
    let repository = PostgresBackendRepository::new(cfg);
    let writing = async {
        let error = repository.put(vec![backend("b", "10.0.0.2")]).await.expect_err("it is silent");
        error.to_string()
    };
    let mut other = server.session("BEGIN; LOCK TABLE backends IN SHARE MODE; SELECT pg_sleep(60)");
    comes_true("the table is locked", async || {
        (server.sql("SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock'") != "0").then_some(())
    })
    .await;
    let freezing = async {
        let waiting = "SELECT pid FROM pg_stat_activity WHERE usename = 'edge' \
                       AND wait_event_type = 'Lock'";
        let pid = comes_true("it waits", async || server.sql(waiting).parse().ok()).await;
        let frozen = Pid::from_raw(pid).expect("a process");
        kill_process(frozen, Signal::STOP).expect("it is there");
        frozen
    };
    let (error, frozen) = tokio::join!(writing, freezing);
    assert!(error.ends_with("within 3s; whether it was written is not known"), "{error}");
    kill_process(frozen, Signal::CONT).expect("it is there");
    other.kill().and_then(|()| other.wait()).expect("it ends");
}

#[tokio::test]
async fn when_every_connection_is_in_use_it_says_so() {
    let server = Postgres::start();
    let cfg = PostgresConfig {
        max_connections: 1,
        connect_timeout: Duration::from_millis(300),
        ..config(&server.url())
    };
    let repository = PostgresBackendRepository::new(cfg);
    repository.initialize().await.expect("initialized");
    let mut other =
        server.session("BEGIN; LOCK TABLE backends IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)");
    comes_true("the table is locked", async || {
        let locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'";
        (server.sql(locks) != "0").then_some(())
    })
    .await;
    let waits = repository.load();
    let refused = async {
        let error = repository.load().await.expect_err("none is free").to_string();
        server
            .sql("SELECT pg_cancel_backend(pid) FROM pg_locks WHERE mode = 'AccessExclusiveLock'");
        error
    };
    let (waited, error) = tokio::join!(waits, refused);
    assert!(error.contains("all 1 connections are in use, and have been for 300ms"), "{error}");
    assert!(waited.is_ok());
    other.wait().expect("it ends");
}
