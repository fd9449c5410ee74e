//! What is seen of changes: another program's, our own, a file in place of another.

use std::process::Command;

use super::*;

#[test]
fn unchanged_data_is_not_read_again() {
    let shop = Shop::new();
    let mut store = shop.store();
    shop.row("a", 1, &[]);
    assert_eq!((store.refresh(), store.refresh()), (Ok(true), Ok(true)), "too young to rely on");
    shop.age();
    assert_eq!(
        (store.refresh(), store.refresh(), store.refresh()),
        (Ok(true), Ok(false), Ok(false))
    );
    assert_eq!(store.serial(), 1);
    let other = Connection::open(shop.path()).unwrap();
    insert(&other, "b", 2, &[]);
    assert_eq!(store.refresh(), Ok(true), "seen in the log of a program that has not left");
    assert_eq!(ids(&store.registry().backends), ["a", "b"]);
    store.put(&[backend("c", "10.0.0.3")]).unwrap();
    drop(other);
    shop.age();
    assert_eq!((store.refresh(), store.refresh()), (Ok(true), Ok(false)));
    assert_eq!(store.serial(), 3);
}

#[test]
fn a_change_right_before_the_file_is_replaced_does_no_harm() {
    let shop = Shop::new();
    let repo = shop.create();
    shop.row("old", 1, &[]);
    assert_eq!(changed(&repo), Some(vec!["old".into()]));
    let new = shop.folder.path().join("new.db");
    drop(SqliteBackendRepository::open(&new, Access::Create).unwrap());
    insert(&Connection::open(&new).unwrap(), "new", 2, &[]);
    shop.row("last", 3, &[]);
    std::fs::rename(&new, shop.path()).unwrap();
    assert_eq!(changed(&repo), Some(vec!["new".into()]));
}

#[test]
fn another_programs_change_is_seen_and_a_change_that_changes_nothing_is_not() {
    let shop = Shop::new();
    let repo = shop.create();
    assert_eq!(changed(&repo), Some(vec![]), "the first reading is always news");
    assert_eq!(changed(&repo), None);
    let other = Connection::open(shop.path()).unwrap();
    insert(&other, "a", 1, &[]);
    assert_eq!(changed(&repo), Some(vec!["a".into()]));
    assert_eq!(changed(&repo), None);
    other.execute_batch("UPDATE backends SET weight = 1; CREATE TABLE noise (x)").unwrap();
    assert_eq!(changed(&repo), None);
    other.execute_batch("UPDATE backends SET weight = 2").unwrap();
    assert_eq!(changed(&repo), Some(vec!["a".into()]));
    load(&repo);
    assert_eq!(changed(&repo), None, "what load gave is known");
}

#[test]
fn the_sqlite3_program_can_change_the_file() {
    let shop = Shop::new();
    let repo = shop.create();
    assert_eq!(changed(&repo), Some(vec![]));
    let sql = "INSERT INTO backends (id, app, region, country, wg_ip, port)
               VALUES ('a', 'web', 'sa', 'BR', '10.0.0.1', 80)";
    let Ok(status) = Command::new("sqlite3").arg(shop.path()).arg(sql).status() else {
        return;
    };
    assert!(status.success());
    assert_eq!(changed(&repo), Some(vec!["a".into()]));
    wait(repo.put(vec![backend("b", "10.0.0.2")])).unwrap();
    let seen = Command::new("sqlite3").arg(shop.path()).arg("SELECT id FROM backends").output();
    assert_eq!(seen.unwrap().stdout, b"a\nb\n");
}

#[test]
fn own_writes_are_seen_and_keep_the_time_of_creation() {
    let shop = Shop::new();
    let repo = shop.create();
    shop.row("a", 1, &[("created_at", "'2020-01-01 00:00:00'")]);
    shop.sql("UPDATE backends SET updated_at = '2020-01-01 00:00:00'");
    assert_eq!(changed(&repo), Some(vec!["a".into()]));
    let draining = Backend { healthy: false, ..backend("a", "2001:db8::1") };
    wait(repo.put(vec![draining, backend("b", "10.0.0.2")])).unwrap();
    assert_eq!(changed(&repo), Some(vec!["a".into(), "b".into()]));
    assert_eq!(changed(&repo), None);
    let read = load(&repo).backends;
    assert_eq!(read[0].created_at.as_deref(), Some("2020-01-01 00:00:00"));
    assert_ne!(read[0].updated_at.as_deref(), Some("2020-01-01 00:00:00"));
    assert_eq!(read[0].addr().to_string(), "[2001:db8::1]:443");
    assert_eq!(ids(&wait(repo.get_healthy())), ["b"]);
}

#[test]
fn a_put_is_all_or_none() {
    let shop = Shop::new();
    let repo = shop.create();
    shop.sql(
        "CREATE TRIGGER guard BEFORE INSERT ON backends WHEN new.id = 'bad'
         BEGIN SELECT RAISE(ABORT, 'not that one'); END",
    );
    let said = reason(wait(repo.put(vec![backend("a", "10.0.0.1"), backend("bad", "10.0.0.2")])));
    assert!(said.contains("not that one"), "{said}");
    assert_eq!(load(&repo), Registry::default());
}

#[test]
fn remove_marks_a_row_deleted_and_says_whether_there_was_one() {
    let shop = Shop::new();
    let repo = shop.create();
    shop.row("a", 1, &[]);
    assert!(wait(repo.remove("a".parse().unwrap())).unwrap());
    assert!(!wait(repo.remove("b".parse().unwrap())).unwrap());
    assert!(load(&repo).backends[0].deleted);
}

#[test]
fn reading_only_never_writes() {
    let shop = Shop::new();
    drop(shop.create());
    let repo = shop.open(Access::ReadOnly).unwrap();
    assert_eq!(load(&repo), Registry::default());
    let said = reason(wait(repo.put(vec![backend("a", "10.0.0.1")])));
    assert!(said.contains("opened for reading only"), "{said}");
    shop.row("a", 1, &[]);
    assert_eq!(changed(&repo), Some(vec!["a".into()]));
}

#[test]
fn a_replaced_file_is_noticed_and_stays_whole() {
    let shop = Shop::new();
    let repo = shop.create();
    shop.row("old", 1, &[]);
    assert_eq!(changed(&repo), Some(vec!["old".into()]));
    for round in ["new-1", "new-2"] {
        let new = shop.folder.path().join("new.db");
        drop(SqliteBackendRepository::open(&new, Access::Create).unwrap());
        insert(&Connection::open(&new).unwrap(), round, 2, &[]);
        std::fs::rename(&new, shop.path()).unwrap();
        assert_eq!(changed(&repo), Some(vec![round.into()]));
        let check = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
        let now = Connection::open(shop.path()).unwrap();
        assert_eq!(now.query_row("PRAGMA integrity_check", [], check).unwrap(), "ok");
    }
    shop.row("newer", 3, &[]);
    assert_eq!(changed(&repo), Some(vec!["new-2".into(), "newer".into()]));
}

#[test]
fn a_file_overwritten_in_place_is_noticed() {
    let shop = Shop::new();
    let repo = shop.create();
    shop.row("old", 1, &[]);
    assert_eq!(changed(&repo), Some(vec!["old".into()]));
    let new = Shop::new();
    drop(new.create());
    new.row("new", 1, &[]);
    std::fs::copy(new.path(), shop.path()).unwrap();
    assert_eq!(changed(&repo), Some(vec!["new".into()]));
}

#[test]
fn an_error_ends_with_its_cause() {
    let shop = Shop::new();
    let repo = shop.create();
    shop.row("a", 1, &[]);
    assert_eq!(changed(&repo), Some(vec!["a".into()]));
    let aside = shop.folder.path().join("aside.db");
    std::fs::rename(shop.path(), &aside).unwrap();
    for _ in 0..2 {
        assert!(reason(wait(repo.load_if_changed())).contains("no such file"));
    }
    assert_eq!(ids(&wait(repo.get_healthy())), ["a"], "the last reading still serves");
    assert!(reason(wait(repo.put(vec![]))).contains("no such file"));
    std::fs::write(shop.path(), "rubbish").unwrap();
    assert!(reason(wait(repo.load_if_changed())).contains("not a SQLite database"));
    std::fs::rename(&aside, shop.path()).unwrap();
    assert_eq!(changed(&repo), None, "the same rows are back");
    shop.row("b", 2, &[]);
    assert_eq!(changed(&repo), Some(vec!["a".into(), "b".into()]));
}

#[test]
fn a_locked_file_is_an_error_for_as_long_as_it_is_locked() {
    let shop = Shop::new();
    shop.sql(OLD_SCHEMA);
    let repo = shop.open(Access::Existing).unwrap();
    load(&repo);
    let other = Connection::open(shop.path()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert!(reason(wait(repo.load())).contains("locked by another program"));
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(load(&repo), Registry::default());
}

#[test]
fn a_change_whose_asker_went_away_is_given_to_the_next() {
    let shop = Shop::new();
    let repo = shop.create();
    load(&repo);
    shop.row("a", 1, &[]);
    let (open_gate, gate) = std::sync::mpsc::channel::<()>();
    let held = repo.ask(move |_| gate.recv().map_err(|error| error.to_string()));
    let asked = repo.load_if_changed();
    wait(async {
        // Both are on their way, the first keeps the thread busy, so neither has its answer.
        let (mut held, mut asked) = (Box::pin(held), asked);
        std::future::poll_fn(|context| {
            assert!(held.as_mut().poll(context).is_pending());
            assert!(asked.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        open_gate.send(()).unwrap();
        repo.ask(|_| Ok(())).await.unwrap();
        // Answered by now, and dropped unread.
    });
    assert_eq!(changed(&repo), Some(vec!["a".into()]));
}

#[test]
fn ten_thousand_rows_are_one_write_and_one_read() {
    let shop = Shop::new();
    let repo = shop.create();
    let many: Vec<_> = (0..10_000)
        .map(|n| backend(&format!("b{n}"), &format!("10.1.{}.{}", n / 250, n % 250)))
        .collect();
    let begun = clock::now();
    wait(repo.put(many.clone())).unwrap();
    assert_eq!(load(&repo).backends.len(), 10_000);
    wait(repo.put(many)).unwrap();
    let took = clock::now().since(begun);
    assert!(took.as_secs() < 10, "{took:?}");
}
