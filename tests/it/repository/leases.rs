//! Registrations, renewals and what operators ask: the side table, written by the repository.

use edgeproxy::domain::AdminState::{self, Drain, Maint, Ready};
use edgeproxy::domain::backend::{Backend, BackendId, Lease};
use edgeproxy::domain::ports::{BackendRepository, Renewal};

use super::store::{Database, Row};
use super::{backend, changed, ids};

/// What those do that can be written, with leases.
pub(super) async fn what_is_leased(store: &mut impl Database) {
    registrations_are_counted_over_removals_and_by_everybody(store).await;
    a_registration_replaces_the_row_and_serves(store).await;
    a_registration_that_fails_leaves_nothing(store).await;
    an_operators_word_outlives_a_registration_and_not_a_removal(store).await;
    what_is_removed_and_added_anew_has_no_lease(store).await;
    a_renewal_only_ever_prolongs(store).await;
    a_late_renewal_brings_nothing_back(store).await;
    thousands_are_renewed_at_once(store).await;
    a_state_is_set_with_and_without_a_lease(store).await;
    rows_that_are_put_keep_their_leases(store).await;
    a_side_table_that_is_missing_is_made(store).await;
    an_older_side_table_is_completed(store).await;
    several_register_one_id_at_the_same_time(store).await;
}

async fn registrations_are_counted_over_removals_and_by_everybody(store: &mut impl Database) {
    let name = store.fresh();
    let (one, other) = (store.open(&name).await, store.open(&name).await);
    assert_eq!(one.register(backend("a", 1), 100).await.unwrap(), 1);
    assert_eq!(other.register(backend("a", 1), 100).await.unwrap(), 2);
    assert_eq!(one.register(backend("b", 2), 100).await.unwrap(), 1, "each id has its own");
    assert!(one.remove(id("a")).await.unwrap());
    assert_eq!(other.register(backend("a", 1), 100).await.unwrap(), 3);
    // As somebody may who tidies up.
    store.sql(&name, "DELETE FROM backends");
    assert_eq!(one.register(backend("a", 1), 100).await.unwrap(), 4);
}

async fn a_registration_replaces_the_row_and_serves(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    let gone = Backend { healthy: false, deleted: true, ..backend("a", 1) };
    repository.put(vec![gone]).await.unwrap();
    let moment = "created_at = '2020-01-01 00:00:00', updated_at = '2020-01-01 00:00:00'";
    store.sql(&name, &format!("UPDATE backends SET {moment}"));
    changed(&repository).await;
    // Whatever the one that registers says of itself.
    let given = Backend { healthy: false, deleted: true, weight: 7, ..backend("a", 9) };
    assert_eq!(repository.register(given, FAR).await.unwrap(), 1);
    assert_eq!(changed(&repository).await, Some(vec!["a".into()]));
    let read = read(&repository, "a").await;
    assert_eq!((read.healthy, read.deleted, read.weight), (true, false, 7));
    assert_eq!(read.wg_ip, backend("a", 9).wg_ip);
    let says = |time: &Option<String>| time.as_deref().is_some_and(|t| t.starts_with("2020-"));
    assert!(says(&read.created_at) && !says(&read.updated_at), "{read:?}");
    assert_eq!(read.lease, lease(1, Some(FAR), Ready));
    assert_eq!(ids(&repository.get_healthy().await), ["a"]);
    repository.register(backend("a", 9), 100).await.unwrap();
    assert_eq!(ids(&repository.get_healthy().await), [""; 0], "its lease is of the past");
}

async fn a_registration_that_fails_leaves_nothing(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    repository.register(backend("a", 1), 100).await.unwrap();
    store.sql(&name, "CREATE UNIQUE INDEX one_weight ON backends(weight)");
    repository.register(backend("b", 2), 100).await.expect_err("one weight, one backend");
    repository.register(Backend { weight: 5, ..backend("b", 2) }, 100).await.unwrap();
    assert_eq!(leased(&repository, "b").await, lease(1, Some(100), Ready), "no count was lost");
}

async fn an_operators_word_outlives_a_registration_and_not_a_removal(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    for state in [Drain, Maint] {
        repository.register(backend("a", 1), 100).await.unwrap();
        assert!(repository.set_state(id("a"), state).await.unwrap());
        let generation = repository.register(backend("a", 1), 200).await.unwrap();
        assert_eq!(leased(&repository, "a").await, lease(generation, Some(200), state));
        assert!(repository.remove(id("a")).await.unwrap());
        let generation = repository.register(backend("a", 1), 300).await.unwrap();
        assert_eq!(leased(&repository, "a").await, lease(generation, Some(300), Ready));
    }
}

async fn what_is_removed_and_added_anew_has_no_lease(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    repository.register(backend("a", 1), 100).await.unwrap();
    repository.set_state(id("a"), Drain).await.unwrap();
    assert!(repository.remove(id("a")).await.unwrap());
    repository.put(vec![backend("a", 1)]).await.unwrap();
    assert_eq!(leased(&repository, "a").await, lease(1, None, Ready));
    assert_eq!(repository.register(backend("a", 1), 300).await.unwrap(), 2);
}

async fn a_renewal_only_ever_prolongs(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    for (name, octet) in [("a", 1), ("b", 2), ("c", 3)] {
        repository.register(backend(name, octet), 100).await.unwrap();
    }
    assert!(repository.set_state(id("b"), Drain).await.unwrap());
    let rows = repository.load().await.unwrap();
    let given = [("a", 1, 150), ("b", 1, 90), ("a", 1, 200), ("a", 1, 120), ("none", 1, 300)];
    repository.renew(renewals(&given)).await.unwrap();
    assert_eq!(leased(&repository, "a").await, lease(1, Some(200), Ready));
    assert_eq!(leased(&repository, "b").await, lease(1, Some(100), Drain), "it ended later");
    assert_eq!(leased(&repository, "c").await, lease(1, Some(100), Ready), "nobody renewed it");
    let renewed = repository.load().await.unwrap();
    assert!(renewed.is_same_but_for_expiries(&rows) && renewed != rows);
    repository.renew(renewals(&[("a", 1, 250)])).await.unwrap();
    assert!(changed(&repository).await.is_some(), "whoever follows it hears of it");
    repository.renew(vec![]).await.unwrap();
    // A lease that is of no time at all: it never ends.
    repository.put(vec![backend("d", 4)]).await.unwrap();
    assert!(repository.set_state(id("d"), Drain).await.unwrap());
    repository.renew(renewals(&[("d", 0, 300)])).await.unwrap();
    assert_eq!(leased(&repository, "d").await, lease(0, None, Drain));
}

async fn a_late_renewal_brings_nothing_back(store: &mut impl Database) {
    let name = store.fresh();
    let (one, other) = (store.open(&name).await, store.open(&name).await);
    for (name, octet) in [("gone", 1), ("moved", 2), ("stays", 3), ("lost", 4)] {
        one.register(backend(name, octet), FAR).await.unwrap();
    }
    assert!(one.remove(id("gone")).await.unwrap());
    one.register(backend("moved", 5), FAR).await.unwrap();
    store.sql(&name, "DELETE FROM backends WHERE id = 'lost'");
    let late = ["gone", "lost", "moved", "stays"].map(|id| (id, 1, FAR + 1));
    other.renew(renewals(&late)).await.unwrap();
    assert_eq!(leased(&one, "gone").await, lease(1, None, Ready));
    assert!(read(&one, "gone").await.deleted);
    assert_eq!(leased(&one, "moved").await, lease(2, Some(FAR), Ready));
    assert_eq!(leased(&one, "stays").await, lease(1, Some(FAR + 1), Ready));
    assert_eq!(ids(&one.load().await.unwrap().backends), ["gone", "moved", "stays"]);
    assert_eq!(ids(&one.get_healthy().await), ["moved", "stays"], "a lease alone is no place");
    assert_eq!(one.register(backend("lost", 4), FAR).await.unwrap(), 2);
    assert_eq!(leased(&one, "lost").await, lease(2, Some(FAR), Ready), "it was not prolonged");
}

async fn thousands_are_renewed_at_once(store: &mut impl Database) {
    let name = store.fresh();
    let (one, other) = (store.open(&name).await, store.open(&name).await);
    let ip = |n: u32| format!("10.1.{}.{}", n / 250, n % 250).parse().unwrap();
    let of = |n: u32| Backend { id: id(&format!("b{n}")), wg_ip: ip(n), ..backend("b", 1) };
    one.put((0..5_000).map(of).collect()).await.unwrap();
    store.sql(
        &name,
        "INSERT INTO edgeproxy_backend_state SELECT id, 3, 100, 'drain' FROM backends;
         UPDATE edgeproxy_backend_state SET generation = 4 WHERE id = 'b7';
         UPDATE backends SET deleted = 1 WHERE id = 'b8'",
    );
    let before = one.load().await.unwrap();
    let all =
        |end| -> Vec<Renewal> { (0..5_000).map(|n| renewal(&format!("b{n}"), 3, end)).collect() };
    let mut turned = all(300);
    turned.reverse();
    // By two at once, who begin at other ends.
    let (first, second) = tokio::join!(one.renew(all(200)), other.renew(turned));
    first.unwrap();
    second.unwrap();
    let after = one.load().await.unwrap();
    assert!(after.is_same_but_for_expiries(&before));
    let end =
        |b: &Backend| (b.lease.as_ref().unwrap().expires_at, b.id.as_str() == "b7" || b.deleted);
    let late = after.backends.iter().map(end).filter(|found| *found == (Some(300), false)).count();
    let passed = after.backends.iter().map(end).filter(|found| *found == (Some(100), true)).count();
    assert_eq!((late, passed), (4_998, 2));
}

async fn a_state_is_set_with_and_without_a_lease(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    repository.put(vec![backend("a", 1), backend("b", 2)]).await.unwrap();
    repository.register(backend("c", 3), FAR).await.unwrap();
    assert!(repository.remove(id("b")).await.unwrap());
    let moment = "updated_at = '2020-01-01 00:00:00'";
    store.sql(&name, &format!("UPDATE backends SET {moment}"));
    for state in [Drain, Maint, Ready] {
        assert!(!repository.set_state(id("none"), state).await.unwrap());
        assert!(!repository.set_state(id("b"), state).await.unwrap(), "it is deleted");
    }
    assert_eq!(leased(&repository, "b").await, None);
    for (name, generation, end) in [("a", 0, None), ("c", 1, Some(FAR))] {
        for state in [Drain, Maint, Ready] {
            assert!(repository.set_state(id(name), state).await.unwrap());
            assert_eq!(leased(&repository, name).await, lease(generation, end, state));
            let serves = ids(&repository.get_healthy().await).contains(&name.to_owned());
            assert_eq!(serves, state == Ready, "{name} {state:?}");
            assert_eq!(read(&repository, name).await.healthy, state == Ready, "{name} {state:?}");
        }
        let updated = read(&repository, name).await.updated_at.unwrap();
        assert!(!updated.starts_with("2020-"), "{updated}");
    }
    // Both ways of draining are undone, and neither of the others undoes one.
    let draining = Backend { healthy: false, ..backend("a", 1) };
    repository.put(vec![draining]).await.unwrap();
    assert!(repository.set_state(id("a"), Drain).await.unwrap());
    assert!(!read(&repository, "a").await.healthy);
    assert!(repository.set_state(id("a"), Ready).await.unwrap());
    assert!(read(&repository, "a").await.healthy);
    assert_eq!(ids(&repository.get_healthy().await), ["a", "c"]);
    assert_eq!(
        repository.register(backend("a", 1), FAR).await.unwrap(),
        1,
        "0 was no registration"
    );
}

async fn rows_that_are_put_keep_their_leases(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    repository.register(backend("a", 1), 100).await.unwrap();
    repository.set_state(id("a"), Maint).await.unwrap();
    let other = Lease { generation: 9, expires_at: None, admin_state: Ready };
    let given = Backend { lease: Some(other), deleted: true, ..backend("a", 2) };
    for _ in 0..2 {
        repository.put(vec![given.clone(), backend("b", 3)]).await.unwrap();
        assert_eq!(leased(&repository, "a").await, lease(1, Some(100), Maint));
        assert_eq!(leased(&repository, "b").await, None);
    }
    // Not deleted any more by a put, and not by a registration: what it had it has.
    repository.put(vec![backend("a", 1)]).await.unwrap();
    assert_eq!(leased(&repository, "a").await, lease(1, Some(100), Maint));
}

async fn a_side_table_that_is_missing_is_made(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    store.write(&name, &[Row::new("a", 1, &[])]);
    let drop = "DROP TABLE edgeproxy_backend_state";
    store.sql(&name, drop);
    repository.renew(renewals(&[("a", 1, 100)])).await.unwrap();
    assert_eq!(leased(&repository, "a").await, None, "there was nothing to renew");
    let drop = "DROP TABLE IF EXISTS edgeproxy_backend_state";
    store.sql(&name, drop);
    assert!(repository.set_state(id("a"), Drain).await.unwrap());
    assert_eq!(leased(&repository, "a").await, lease(0, None, Drain));
    store.sql(&name, drop);
    assert_eq!(repository.register(backend("a", 1), 100).await.unwrap(), 1);
    repository.renew(renewals(&[("a", 1, 200)])).await.unwrap();
    assert_eq!(leased(&repository, "a").await, lease(1, Some(200), Drain), "its row says so too");
}

async fn an_older_side_table_is_completed(store: &mut impl Database) {
    let name = store.fresh();
    let repository = store.open(&name).await;
    // Both made by hand, and without an index.
    store.sql(
        &name,
        "DROP TABLE edgeproxy_backend_state; DROP TABLE backends;
         CREATE TABLE edgeproxy_backend_state (id TEXT, lease_expires_at INTEGER);
         INSERT INTO edgeproxy_backend_state VALUES ('a', 100);
         CREATE TABLE backends (id TEXT, app TEXT, region TEXT, wg_ip TEXT, port INTEGER);
         INSERT INTO backends VALUES ('a', 'web', 'sa', '10.0.0.1', 80)",
    );
    assert_eq!(leased(&repository, "a").await, lease(0, Some(100), Ready));
    repository.renew(renewals(&[("a", 0, 200)])).await.unwrap();
    assert_eq!(leased(&repository, "a").await, lease(0, Some(200), Ready));
    assert!(repository.set_state(id("a"), Maint).await.unwrap());
    assert_eq!(repository.register(backend("a", 1), 300).await.unwrap(), 1);
    assert_eq!(leased(&repository, "a").await, lease(1, Some(300), Maint));
    store.sql(
        &name,
        "DROP TABLE edgeproxy_backend_state; CREATE TABLE edgeproxy_backend_state (name TEXT)",
    );
    let error = repository.register(backend("a", 1), 300).await.unwrap_err().to_string();
    assert!(error.contains("table edgeproxy_backend_state has no column id"), "{error}");
}

async fn several_register_one_id_at_the_same_time(store: &mut impl Database) {
    let name = store.fresh();
    let (one, other) = (store.open(&name).await, store.open(&name).await);
    concurrent_registrations(&one, &other).await;
    // Tables made by hand; one unique index of two is enough.
    let state = "CREATE TABLE edgeproxy_backend_state (id TEXT";
    let backends = "CREATE TABLE backends (id TEXT";
    let more = ", app TEXT, region TEXT, wg_ip TEXT, port INTEGER)";
    for (first, second) in [(" PRIMARY KEY", ""), ("", " PRIMARY KEY")] {
        store.sql(
            &name,
            &format!(
                "DROP TABLE edgeproxy_backend_state; DROP TABLE backends;
                 {state}{first}); {backends}{second}{more}"
            ),
        );
        concurrent_registrations(&one, &other).await;
    }
}

async fn concurrent_registrations(one: &impl BackendRepository, other: &impl BackendRepository) {
    // The first time there is no row to lock, so it is tried with several.
    for round in 0..24_u8 {
        let name = &format!("b{}", round / 3);
        let expected = i64::from(round % 3 * 4);
        if round % 3 == 1 {
            assert!(one.remove(id(name)).await.unwrap());
        }
        let octets = [1, 2, 3, 4].map(|n| round / 3 * 4 + n);
        let (first, second, third, fourth) = tokio::join!(
            one.register(backend(name, octets[0]), 100),
            other.register(backend(name, octets[1]), 200),
            one.register(backend(name, octets[2]), 300),
            other.register(backend(name, octets[3]), 400),
        );
        let all = [first, second, third, fourth].map(Result::unwrap);
        let mut sorted = all;
        sorted.sort_unstable();
        assert_eq!(sorted, [1, 2, 3, 4].map(|n| expected + n), "round {round}");
        let last = all.iter().position(|generation| *generation == expected + 4).unwrap();
        let end = 100 * (i64::try_from(last).unwrap() + 1);
        assert_eq!(leased(one, name).await, lease(expected + 4, Some(end), Ready));
        assert_eq!(read(one, name).await.wg_ip, backend(name, octets[last]).wg_ip);
    }
}

/// The end of a lease that will not be seen.
const FAR: i64 = 99_999_999_999;

fn id(name: &str) -> BackendId {
    name.parse().unwrap()
}

fn renewal(name: &str, generation: i64, expires_at: i64) -> Renewal {
    Renewal { id: id(name), generation, expires_at }
}

fn renewals(given: &[(&str, i64, i64)]) -> Vec<Renewal> {
    given.iter().map(|(name, generation, end)| renewal(name, *generation, *end)).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "as a backend has it")]
fn lease(generation: i64, expires_at: Option<i64>, admin_state: AdminState) -> Option<Lease> {
    Some(Lease { generation, expires_at, admin_state })
}

/// A backend as it is in the store.
async fn read(repository: &impl BackendRepository, name: &str) -> Backend {
    let registry = repository.load().await.unwrap();
    assert_eq!(registry.skipped, []);
    registry.backends.into_iter().find(|backend| backend.id.as_str() == name).unwrap()
}

async fn leased(repository: &impl BackendRepository, name: &str) -> Option<Lease> {
    read(repository, name).await.lease
}
