//! Leases: who hears of them, who may write them, and what many do at once.

use std::time::Duration;

use edgeproxy::adapters::outbound::PostgresBackendRepository;
use edgeproxy::domain::ports::{BackendRepository, Renewal};
use edgeproxy::domain::{AdminState, BackendId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::support::comes_true;
use super::super::support::postgres::{NAME, PgBouncer, Postgres, config};
use super::{backend, ids, insert, loaded, timed};

/// The end of a lease that will not be seen.
const FAR: i64 = 99_999_999_999;

fn id(name: &str) -> BackendId {
    name.parse().expect("a name")
}

fn renewal(name: &str, generation: i64, expires_at: i64) -> Renewal {
    Renewal { id: id(name), generation, expires_at }
}

async fn heard(hints: &mut watch::Receiver<u64>) -> bool {
    let heard = tokio::time::timeout(Duration::from_millis(200), hints.changed()).await;
    heard.is_ok_and(|heard| heard.is_ok())
}

#[tokio::test]
async fn others_hear_of_registrations_and_states_at_once_and_of_renewals_not_at_all() {
    let server = Postgres::start();
    let (one, other) = (server.repository(), server.repository());
    one.initialize().await.expect("initialized");
    let mut hints = other.hints();
    hints.changed().await.expect("listening has begun");
    one.register(backend("a", "10.0.0.1"), 100).await.expect("registered");
    assert!(heard(&mut hints).await, "a registration");
    for state in [AdminState::Drain, AdminState::Maint, AdminState::Ready] {
        assert!(one.set_state(id("a"), state).await.expect("set"));
        assert!(heard(&mut hints).await, "{state:?}");
    }
    one.renew(vec![renewal("a", 1, 200)]).await.expect("renewed");
    one.renew(vec![renewal("a", 9, 300)]).await.expect("passed over");
    assert!(!one.set_state(id("none"), AdminState::Drain).await.expect("there is none"));
    assert!(!heard(&mut hints).await, "none of them changes a row");
    let lease = loaded(&other).await.backends[0].lease.clone().expect("a lease");
    assert_eq!((lease.generation, lease.expires_at), (1, Some(200)));
    assert!(one.remove(id("a")).await.expect("removed"));
    assert!(heard(&mut hints).await, "a removal");
}

/// What each of the three writes is answered with.
async fn refusals(repository: &PostgresBackendRepository) -> [String; 3] {
    [
        repository.register(backend("a", "10.0.0.1"), 100).await.unwrap_err(),
        repository.renew(vec![renewal("a", 1, 200)]).await.unwrap_err(),
        repository.set_state(id("a"), AdminState::Drain).await.unwrap_err(),
    ]
    .map(|error| error.to_string())
}

#[tokio::test]
async fn who_may_not_write_leases_is_told_so() {
    let server = Postgres::start();
    let owner = server.repository();
    owner.initialize().await.expect("initialized");
    owner.register(backend("a", "10.0.0.1"), 100).await.expect("registered");
    server.sql(
        "CREATE ROLE reader LOGIN PASSWORD 's3cret';
         GRANT SELECT ON backends, edgeproxy_backend_state TO reader;
         CREATE ROLE operator LOGIN PASSWORD 's3cret';
         GRANT SELECT, INSERT, UPDATE ON backends TO operator",
    );
    let reader = PostgresBackendRepository::new(config(&server.url_of("reader", "s3cret", NAME)));
    let [register, renew, set] = refusals(&reader).await;
    for error in [register, set] {
        assert!(error.ends_with("permission denied for table backends"), "{error}");
    }
    assert!(renew.ends_with("permission denied for table edgeproxy_backend_state"), "{renew}");
    let read = loaded(&reader).await.backends;
    assert_eq!(read[0].lease.as_ref().map(|lease| lease.generation), Some(1), "nothing changed");

    let operator = server.url_of("operator", "s3cret", NAME);
    let operator = PostgresBackendRepository::new(config(&operator));
    for error in refusals(&operator).await {
        assert!(error.ends_with("permission denied for table edgeproxy_backend_state"), "{error}");
    }
    server.sql("DROP TABLE edgeproxy_backend_state");
    let [register, set] = [
        operator.register(backend("a", "10.0.0.1"), 100).await.unwrap_err().to_string(),
        operator.set_state(id("a"), AdminState::Drain).await.unwrap_err().to_string(),
    ];
    for error in [register, set] {
        assert!(
            error.ends_with(
                "has no table `edgeproxy_backend_state` that this role can see, and none can be \
                 made: permission denied for schema public"
            ),
            "{error}"
        );
    }
    operator.renew(vec![renewal("a", 1, 200)]).await.expect("there is nothing to renew");
    server.sql("DROP TABLE backends");
    for error in refusals(&operator).await {
        assert!(error.contains("has no table `backends` that this role can see"), "{error}");
    }
    assert_eq!(server.sql("SELECT to_regclass('edgeproxy_backend_state')"), "", "none was made");
}

#[tokio::test]
async fn tables_made_by_hand_are_taken_as_they_are_whatever_their_types() {
    let server = Postgres::start();
    server.sql(&format!(
        "SET ROLE edge;
         CREATE TABLE backends (port NUMERIC(8, 2), id CHAR(10), app CHAR(10), region TEXT,
         country CHAR(2), wg_ip INET, healthy BOOLEAN, weight BIGINT, soft_limit SMALLINT,
         hard_limit DOUBLE PRECISION, deleted BOOLEAN, created_at DATE);
         CREATE TABLE edgeproxy_backend_state (admin_state VARCHAR(9), lease_expires_at NUMERIC(20),
         id VARCHAR(20), generation INTEGER);
         {}; INSERT INTO edgeproxy_backend_state VALUES (NULL, 100, 'a', NULL)",
        insert("a", 1)
    ));
    let repository = server.repository();
    let lease = async || {
        let registry = loaded(&repository).await;
        assert_eq!(registry.skipped, []);
        let lease = registry.backends[0].lease.clone().expect("a lease");
        (lease.generation, lease.expires_at, lease.admin_state)
    };
    repository.renew(vec![renewal("a", 0, 200)]).await.expect("renewed");
    assert_eq!(lease().await, (0, Some(200), AdminState::Ready));
    assert!(repository.set_state(id("a"), AdminState::Maint).await.expect("set"));
    assert_eq!(repository.register(backend("a", "10.0.0.1"), FAR).await.expect("registered"), 1);
    assert_eq!(lease().await, (1, Some(FAR), AdminState::Maint));
    assert!(repository.remove(id("a")).await.expect("removed"));
    repository.renew(vec![renewal("a", 1, FAR + 1)]).await.expect("passed over");
    assert_eq!(lease().await, (1, None, AdminState::Ready));
    assert_eq!(repository.register(backend("a", "10.0.0.1"), FAR).await.expect("registered"), 2);
    assert!(repository.set_state(id("a"), AdminState::Ready).await.expect("set"));
    assert_eq!(lease().await, (2, Some(FAR), AdminState::Ready));
    assert_eq!(ids(&repository.get_healthy().await), ["a"]);
}

#[tokio::test]
async fn ids_of_numbers_are_taken_too() {
    let server = Postgres::start();
    server.sql(
        "SET ROLE edge;
         CREATE TABLE backends (id INTEGER PRIMARY KEY, app TEXT, region TEXT, wg_ip TEXT, port INT);
         CREATE TABLE edgeproxy_backend_state (id INTEGER PRIMARY KEY)",
    );
    let repository = server.repository();
    assert_eq!(repository.register(backend("7", "10.0.0.1"), 100).await.expect("registered"), 1);
    repository.renew(vec![renewal("7", 1, 200)]).await.expect("renewed");
    let lease = loaded(&repository).await.backends[0].lease.clone().expect("a lease");
    assert_eq!((lease.generation, lease.expires_at), (1, Some(200)));
}

#[tokio::test]
async fn many_who_register_renew_and_remove_the_same_do_not_wait_for_each_other_for_ever() {
    let server = Postgres::start();
    server.repository().initialize().await.expect("initialized");
    let name = |n: i32| format!("b{n}");
    let mut tasks = JoinSet::new();
    for worker in 0..6 {
        let repository = server.repository();
        tasks.spawn(async move {
            let mut counted = Vec::new();
            for round in 0..15 {
                let turn = |n: i32| if worker % 2 == 0 { n } else { 29 - n };
                let all = (0..30).map(|n| renewal(&name(turn(n)), 1 + round / 3, FAR + round));
                let n = turn(i32::try_from(round).expect("small"));
                let row = backend(&name(n), &format!("10.0.{worker}.{n}"));
                counted.push((n, repository.register(row, FAR).await.expect("registered")));
                repository.renew(all.collect()).await.expect("renewed");
                if round % 4 == 0 {
                    repository.remove(id(&name(n))).await.expect("removed");
                } else {
                    let state = if n % 2 == 0 { AdminState::Drain } else { AdminState::Ready };
                    repository.set_state(id(&name(n)), state).await.expect("set");
                }
            }
            counted
        });
    }
    let mut counted: Vec<_> = tasks.join_all().await.concat();
    counted.sort_unstable();
    let expected = (0..30).flat_map(|n| (1..=3).map(move |generation| (n, generation)));
    assert_eq!(counted, expected.collect::<Vec<_>>(), "each is counted once");
}

#[tokio::test]
async fn renewals_of_other_ids_lock_those_that_they_share_in_the_same_order() {
    let server = Postgres::start();
    server.repository().initialize().await.expect("initialized");
    // In the table in another order than by id, and read in that order.
    server.sql(
        "ALTER ROLE edge SET enable_nestloop = off; ALTER ROLE edge SET enable_mergejoin = off;
         INSERT INTO backends (id, app, region, country, wg_ip, port)
         SELECT 'b' || n, 'web', 'sa', '', '10.1.' || n / 250 || '.' || n % 250, 80
         FROM generate_series(0, 1499) AS n;
         INSERT INTO edgeproxy_backend_state
         SELECT id, 1, 100 FROM backends ORDER BY reverse(id) DESC; ANALYZE",
    );
    let mut tasks = JoinSet::new();
    for ids in [0..1_500, 0..1_000, 400..1_500, 700..1_400] {
        let repository = server.repository();
        tasks.spawn(async move {
            for round in 0..20 {
                let all = ids.clone().map(|n| renewal(&format!("b{n}"), 1, FAR + round));
                repository.renew(all.collect()).await.expect("renewed");
            }
        });
    }
    tasks.join_all().await;
    // Each would have been tried again, after a second.
    let deadlocks = "SELECT pg_stat_clear_snapshot(), deadlocks FROM pg_stat_database \
                     WHERE datname = current_database()";
    assert_eq!(server.sql(deadlocks), "|0");
    let ends = "SELECT DISTINCT lease_expires_at FROM edgeproxy_backend_state";
    assert_eq!(server.sql(ends), (FAR + 19).to_string());
}

#[tokio::test]
async fn thousands_are_renewed_in_a_moment() {
    let server = Postgres::start();
    let repository = server.repository();
    repository.initialize().await.expect("initialized");
    server.sql(
        "INSERT INTO backends (id, app, region, country, wg_ip, port)
         SELECT 'b' || n, 'web', 'sa', '', '10.1.' || n / 250 || '.' || n % 250, 80
         FROM generate_series(0, 9999) AS n;
         INSERT INTO edgeproxy_backend_state SELECT id, 1, 100 FROM backends",
    );
    let before = loaded(&repository).await;
    for end in [200, 300] {
        let all = (0..10_000).map(|n| renewal(&format!("b{n}"), 1, end)).collect();
        let (took, renewed) = timed(repository.renew(all)).await;
        renewed.expect("renewed");
        println!("10,000 renewals: {took:?}");
        assert!(took.as_secs() < 10, "{took:?}");
        let after = loaded(&repository).await;
        assert!(after.is_same_but_for_expiries(&before));
        let is_renewed = |lease: &edgeproxy::domain::Lease| lease.expires_at == Some(end);
        assert!(after.backends.iter().all(|b| b.lease.as_ref().is_some_and(is_renewed)));
    }
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_passes_them_on() {
    let server = Postgres::start();
    server.repository().initialize().await.expect("initialized");
    let pooler = PgBouncer::before(&server);
    let repository = PostgresBackendRepository::new(config(&pooler.url()));
    server.sql("DROP TABLE edgeproxy_backend_state");
    let (first, second) = tokio::join!(
        repository.register(backend("a", "10.0.0.1"), 100),
        repository.register(backend("b", "10.0.0.2"), 100),
    );
    assert_eq!((first.expect("registered"), second.expect("registered")), (1, 1));
    repository.renew(vec![renewal("a", 1, FAR), renewal("b", 1, FAR)]).await.expect("renewed");
    assert!(repository.set_state(id("b"), AdminState::Drain).await.expect("set"));
    assert_eq!(ids(&repository.get_healthy().await), ["a"]);
}

#[tokio::test]
async fn a_registration_that_is_given_up_is_not_counted() {
    let server = Postgres::start();
    let repository = server.repository();
    repository.initialize().await.expect("initialized");
    repository.register(backend("a", "10.0.0.1"), 100).await.expect("registered");
    let lock = "BEGIN; SELECT * FROM edgeproxy_backend_state FOR UPDATE; SELECT pg_sleep(60)";
    let mut other = server.session(lock);
    let sleeper = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    comes_true("the row is locked", async || (!server.sql(sleeper).is_empty()).then_some(())).await;
    let again = repository.register(backend("a", "10.0.0.2"), 200);
    tokio::time::timeout(Duration::from_millis(200), again).await.expect_err("it waits");
    server.sql(&format!("SELECT pg_terminate_backend(pid) FROM ({sleeper}) AS sleeper"));
    other.wait().expect("it ends");
    let read = loaded(&repository).await.backends;
    assert_eq!(read[0].wg_ip.to_string(), "10.0.0.1");
    let again = repository.register(backend("a", "10.0.0.2"), 200).await;
    assert_eq!(again.expect("registered"), 2);
}
