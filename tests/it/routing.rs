//! Which backend a client reaches, and how soon a change of the registry counts.

use std::collections::{BTreeMap, HashSet};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::{Backend, Edge, Refusing, Row, Site, Visit, eventually, within};

/// `EDGEPROXY_DB_RELOAD_SECS` of these tests is 1; the rest is for a busy machine.
const RELOAD: Duration = Duration::from_millis(2_500);

/// Who serves `count` connections made one after the other, and how many of them.
fn served(edge: &Edge, from: &str, count: usize) -> BTreeMap<String, usize> {
    let mut by_name = BTreeMap::new();
    for _ in 0..count {
        let visit = edge.visit_from(from).unwrap();
        *by_name.entry(visit.served_by).or_default() += 1;
    }
    by_name
}

fn only(name: &str, count: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(name.to_owned(), count)])
}

/// Within the reload interval new connections from `from` reach `name`, and from then on only it.
fn moves_to(edge: &Edge, from: &str, name: &str) {
    within(RELOAD, &format!("{name} serves"), || {
        (edge.visit_from(from).ok()?.served_by == name).then_some(())
    });
    assert_eq!(served(edge, from, 20), only(name, 20));
}

/// The same where `name` is one of those that serve already.
fn is_left_alone(edge: &Edge, from: &str, name: &str) {
    within(RELOAD, &format!("only {name} serves"), || {
        (served(edge, from, 20) == only(name, 20)).then_some(())
    });
}

/// Ends a visit, and waits until the proxy knows it.
fn end(edge: &Edge, visit: Visit) {
    let addr = visit.client.addr();
    drop(visit);
    edge.access_of_addr(addr);
}

#[test]
fn a_client_reaches_the_backend_of_its_country_else_of_its_region() {
    let [scl, gru, fra, nrt] = ["scl", "gru", "fra", "nrt"].map(Backend::named);
    let edge = Site::new()
        .with_geography()
        .toml("[[geo_override]]\ncidr = \"127.0.4.0/24\"\ncountry = \"FR\"")
        .backend(Row::new("scl", scl.addr()).place("sa", "CL"))
        .backend(Row::new("gru", gru.addr()).place("sa", "BR"))
        .backend(Row::new("fra", fra.addr()).place("eu", "DE"))
        .backend(Row::new("nrt", nrt.addr()).place("ap", "JP"))
        .start();
    for (from, name, tier, country, region) in [
        ("127.0.1.7", "scl", "0", "CL", "sa"),
        ("127.0.2.7", "fra", "0", "DE", "eu"),
        ("127.0.3.7", "nrt", "0", "JP", "ap"),
        ("127.0.4.7", "fra", "1", "FR", "eu"),
    ] {
        for _ in 0..5 {
            let visit = edge.visit_from(from).unwrap();
            assert_eq!(visit.served_by, name, "for the client at {from}");
            let addr = visit.client.addr();
            drop(visit);
            let line = edge.access_of_addr(addr);
            assert_eq!((&line["tier"], &line["country"]), (tier, country));
            assert_eq!(&line["region"], region);
        }
    }
}

#[test]
fn a_client_on_this_machine_counts_as_one_at_this_pop() {
    let [fra, gru] = ["fra", "gru"].map(Backend::named);
    let edge = Site::new()
        .env("EDGEPROXY_REGION", "eu")
        .without_affinity()
        .backend(Row::new("gru", gru.addr()).place("sa", "BR"))
        .backend(Row::new("fra", fra.addr()).place("eu", "DE"))
        .start();
    assert_eq!(served(&edge, "127.0.0.1", 10), only("fra", 10));
}

#[test]
fn at_the_soft_limit_clients_overflow_to_the_next_tier_and_come_back_when_there_is_room() {
    let [scl, gru] = ["scl", "gru"].map(Backend::named);
    let edge = Site::new()
        .with_geography()
        .without_affinity()
        .backend(Row::new("scl", scl.addr()).place("sa", "CL").soft_limit(2))
        .backend(Row::new("gru", gru.addr()).place("sa", "BR"))
        .start();
    let visit = || edge.visit_from("127.0.1.1").unwrap();
    let (first, second, third) = (visit(), visit(), visit());
    let names = [&first, &second, &third].map(|visit| visit.served_by.as_str());
    assert_eq!(names, ["scl", "scl", "gru"]);
    end(&edge, first);
    assert_eq!(visit().served_by, "scl");
    drop((second, third));
}

#[test]
fn with_spill_region_a_client_is_refused_rather_than_sent_abroad() {
    let [fra, gru] = ["fra", "gru"].map(Backend::named);
    let edge = Site::new()
        .with_geography()
        .toml("[app.web]\nspill = \"region\"")
        .backend(Row::new("fra", fra.addr()).place("eu", "DE").hard_limit(1))
        .backend(Row::new("gru", gru.addr()).place("sa", "BR"))
        .start();

    assert_eq!(&edge.refusal_of("127.0.3.1")["reason"], "no_backend");

    let german = edge.visit_from("127.0.2.1").unwrap();
    assert_eq!(german.served_by, "fra");
    assert_eq!(&edge.refusal_of("127.0.2.2")["reason"], "at_hard_limit");
    assert_eq!(gru.accepted(), 0, "nobody was sent abroad");
}

#[test]
fn a_client_keeps_its_backend_and_clients_are_spread() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge =
        Site::new().backend(Row::new("a", a.addr())).backend(Row::new("b", b.addr())).start();
    let mut used = HashSet::new();
    for client in 1..=20 {
        let from = format!("127.0.7.{client}");
        let names = served(&edge, &from, 20);
        assert_eq!(names.len(), 1, "the client at {from} met {names:?}");
        used.extend(names.into_keys());
    }
    assert_eq!(used.len(), 2, "twenty clients have both backends between them");
}

#[test]
fn without_affinity_a_client_meets_every_backend() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = Site::new()
        .without_affinity()
        .backend(Row::new("a", a.addr()))
        .backend(Row::new("b", b.addr()))
        .start();
    assert_eq!(served(&edge, "127.0.0.1", 60).len(), 2);
}

#[test]
fn a_drained_backend_gets_no_new_connection_and_keeps_the_open_one() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge =
        Site::new().backend(Row::new("a", a.addr())).backend(Row::new("b", b.addr())).start();
    let mut open = edge.visit().unwrap();
    let (drained, other) = if open.served_by == "a" { ("a", "b") } else { ("b", "a") };

    let done = edge.site.run(&["backends", "drain", drained]);
    assert_eq!(done.code, Some(0), "{done:?}");
    // The client that is bound to it included.
    moves_to(&edge, "127.0.0.1", other);
    assert_eq!(served(&edge, "127.0.8.1", 20), only(other, 20));
    open.client.echo("the open one goes on").unwrap();
    drop(open);

    let undone = edge.site.run(&["backends", "set", drained, "--healthy", "true"]);
    assert_eq!(undone.code, Some(0), "{undone:?}");
    let names = eventually("it gets clients again", || {
        let newcomer = format!("127.9.{}.{}", fastrand::u8(..), fastrand::u8(1..255));
        let visit = edge.visit_from(&newcomer).unwrap();
        (visit.served_by == drained).then_some(visit.served_by)
    });
    assert_eq!(names, drained);
}

#[test]
fn a_change_by_another_program_is_live_within_the_reload_interval() {
    let [a, b, c] = ["a", "b", "c"].map(Backend::named);
    let edge = Site::new().without_affinity().backend(Row::new("a", a.addr())).start();
    assert_eq!(served(&edge, "127.0.0.1", 3), only("a", 3));

    let add = Row::new("b", b.addr()).insert();
    edge.site.sql(&format!("{add}; UPDATE backends SET healthy = 0 WHERE id = 'a'"));
    moves_to(&edge, "127.0.0.1", "b");
    edge.wait_for_log("registry changed added=1 removed=0 changed=1");

    let add = Row::new("c", c.addr()).insert();
    let statements = format!("{add}; DELETE FROM backends WHERE id = 'b'");
    let sqlite3 = Command::new("sqlite3").arg(edge.site.registry()).arg(&statements).output();
    match sqlite3 {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        // Not on every machine; then it is one more change by the library that it is made of.
        Err(_) => edge.site.sql(&statements),
    }
    moves_to(&edge, "127.0.0.1", "c");
    edge.wait_for_log("registry changed added=1 removed=1");
}

#[test]
fn a_registry_that_is_replaced_by_another_file_is_noticed() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = Site::new().without_affinity().backend(Row::new("a", a.addr())).start();
    let other = Site::new().backend(Row::new("b", b.addr())).prepared();
    let copy = edge.site.path("new.db");
    other.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::copy(other.registry(), &copy).unwrap();
    std::fs::rename(&copy, edge.site.registry()).unwrap();
    moves_to(&edge, "127.0.0.1", "b");
}

#[test]
fn a_registry_that_cannot_be_read_for_a_while_leaves_the_last_good_table() {
    let a = Backend::named("a");
    let edge = Site::new().without_affinity().backend(Row::new("a", a.addr())).start();
    let away = edge.site.path("away.db");
    std::fs::rename(edge.site.registry(), &away).unwrap();
    edge.wait_for_log("serving from the last good table");
    assert_eq!(served(&edge, "127.0.0.1", 5), only("a", 5));
    std::fs::rename(&away, edge.site.registry()).unwrap();
    edge.wait_for_log("the registry can be read again");
    assert_eq!(served(&edge, "127.0.0.1", 5), only("a", 5));
}

#[test]
fn a_bad_row_is_skipped_and_named_while_the_others_serve() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let site = Site::new().without_affinity().backend(Row::new("a", a.addr())).prepared();
    site.sql(
        "INSERT INTO backends (id, app, region, country, wg_ip, port)
         VALUES ('bad-port', 'web', 'sa', '', '10.0.0.1', 70000),
                ('bad-ip', 'web', 'sa', '', 'db.internal', 80)",
    );
    let edge = site.start();
    let named = edge.wait_for_log("bad-port");
    assert!(named.contains("skipped") && named.contains("70000"), "{named}");
    let named = edge.wait_for_log("bad-ip");
    assert!(named.contains("skipped") && named.contains("db.internal"), "{named}");
    assert!(edge.wait_for_log("edge-proxy is ready").contains("skipped_rows=2"));
    assert_eq!(served(&edge, "127.0.0.1", 5), only("a", 5));

    // And one that goes bad later.
    let add = Row::new("b", b.addr()).insert();
    edge.site.sql(&format!("{add}; UPDATE backends SET weight = -1 WHERE id = 'a'"));
    moves_to(&edge, "127.0.0.1", "b");
    edge.wait_for_log("skipped backend a");
}

#[test]
fn a_backend_of_weight_zero_gets_nothing() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = Site::new()
        .without_affinity()
        .backend(Row::new("a", a.addr()))
        .backend(Row::new("b", b.addr()).weight(0))
        .start();
    assert_eq!(served(&edge, "127.0.0.1", 40), only("a", 40));
    assert_eq!(b.accepted(), 0);
}

#[test]
fn short_connections_are_shared_in_proportion_to_weight() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = Site::new()
        .without_affinity()
        .backend(Row::new("a", a.addr()).weight(1))
        .backend(Row::new("b", b.addr()).weight(4))
        .start();
    for _ in 0..300 {
        let visit = edge.visit().unwrap();
        end(&edge, visit);
    }
    // 60 are expected; five standard deviations are 35.
    assert!((25..=95).contains(&a.accepted()), "a had {} of 300", a.accepted());
}

#[test]
fn several_apps_and_no_word_which_to_serve_is_a_configuration_error_that_names_them() {
    let a = Backend::named("a");
    let site = Site::new()
        .backend(Row::new("a", a.addr()).app("shop"))
        .backend(Row::new("b", a.addr()).app("mail"))
        .prepared();
    let refused = site.run(&[]);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    for word in ["shop", "mail", "EDGEPROXY_APP"] {
        assert!(refused.err.contains(word), "{word}: {}", refused.err);
    }
}

#[test]
fn with_an_app_named_only_its_backends_serve() {
    let [shop, mail] = ["shop", "mail"].map(Backend::named);
    let edge = Site::new()
        .env("EDGEPROXY_APP", "mail")
        .backend(Row::new("a", shop.addr()).app("shop"))
        .backend(Row::new("b", mail.addr()).app("mail"))
        .start();
    assert_eq!(served(&edge, "127.0.0.1", 10), only("mail", 10));
}

#[test]
fn a_second_app_that_appears_later_is_warned_about_and_not_served() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge = Site::new().without_affinity().backend(Row::new("a", a.addr()).app("shop")).start();
    edge.site.sql(&Row::new("b", b.addr()).app("mail").insert());
    let warning = edge.wait_for_log("apps that no listener serves");
    assert!(warning.contains("mail") && warning.contains("WARN"), "{warning}");
    assert_eq!(served(&edge, "127.0.0.1", 20), only("a", 20));
}

#[test]
fn an_app_that_was_misspelt_at_first_is_served_once_its_rows_are_corrected() {
    let a = Backend::named("a");
    let edge = Site::new().backend(Row::new("a", a.addr()).app("wbe")).start();
    assert_eq!(served(&edge, "127.0.0.1", 3), only("a", 3));
    edge.site.sql("UPDATE backends SET app = 'web'");
    edge.wait_for_log("registry changed");
    let visit = within(RELOAD, "the app by its right name is served", || edge.visit().ok());
    let addr = visit.client.addr();
    drop(visit);
    assert_eq!(&edge.access_of_addr(addr)["app"], "web");
    assert_eq!(served(&edge, "127.0.0.1", 10), only("a", 10));
}

#[test]
fn a_client_sent_elsewhere_because_its_backend_was_full_comes_back_to_it() {
    let [own, third] = ["own", "third"].map(Backend::named);
    let dead = Refusing::new();
    let edge = Site::new()
        .with_geography()
        .backend(Row::new("own", own.addr()).place("sa", "CL").hard_limit(1))
        .backend(Row::new("dead", dead.addr()).place("sa", "BR"))
        .backend(Row::new("third", third.addr()).place("ap", "JP"))
        .start();
    let visit = |from: &str| edge.visit_from(from).unwrap();
    let first = visit("127.0.1.1");
    assert_eq!(first.served_by, "own");
    end(&edge, first);

    let other = visit("127.0.1.2");
    assert_eq!(other.served_by, "own");
    let elsewhere = visit("127.0.1.1");
    assert_eq!(elsewhere.served_by, "third");
    let addr = elsewhere.client.addr();
    drop(elsewhere);
    assert_eq!(&edge.access_of_addr(addr)["tries"], "2", "the dead one was tried before");
    end(&edge, other);

    assert_eq!(visit("127.0.1.1").served_by, "own");
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

fn set_lease(id: &str, expires_at: i64) -> String {
    format!(
        "INSERT OR REPLACE INTO edgeproxy_backend_state (id, generation, lease_expires_at)
         VALUES ('{id}', 1, {expires_at});"
    )
}

#[test]
fn a_backend_whose_lease_ends_gets_no_new_connection_while_another_renews_its_own() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let site = Site::new()
        .without_affinity()
        .env("EDGEPROXY_HEARTBEAT_TTL_SECS", "1")
        .backend(Row::new("a", a.addr()))
        .backend(Row::new("b", b.addr()))
        .prepared();
    site.sql(&set_lease("a", unix_now() + 2));
    let edge = site.start();
    eventually("the lease of a ends", || {
        (served(&edge, "127.0.0.1", 20) == only("b", 20)).then_some(())
    });
    let before = a.accepted();
    assert_eq!(served(&edge, "127.0.0.1", 40), only("b", 40));
    assert_eq!(a.accepted(), before);

    // Any change, to know when the registry has just been looked at: the next look finds that a
    // is renewed, the one after it that b has ended, so that as many have ended as before.
    edge.site.sql(&set_lease("b", unix_now() + 3_600));
    edge.wait_for_log("registry changed");
    let ends = unix_now() + 2;
    let both = set_lease("a", ends + 3_600) + &set_lease("b", ends);
    edge.site.sql(&format!("BEGIN; {both} COMMIT"));
    within(RELOAD, "the renewed one serves again", || {
        (edge.visit().unwrap().served_by == "a").then_some(())
    });
    eventually("the last second of b comes", || (unix_now() >= ends).then_some(()));
    is_left_alone(&edge, "127.0.0.1", "a");

    edge.site.sql(&set_lease("b", ends + 3_600));
    eventually("it serves again once it is renewed", || {
        (edge.visit().unwrap().served_by == "b").then_some(())
    });
}

#[test]
fn a_lease_that_ends_between_two_looks_at_the_registry_ends_at_its_second() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let site = Site::new()
        .without_affinity()
        .env("EDGEPROXY_DB_RELOAD_SECS", "3600")
        .env("EDGEPROXY_HEARTBEAT_TTL_SECS", "1")
        .backend(Row::new("a", a.addr()))
        .backend(Row::new("b", b.addr()))
        .prepared();
    let ends = unix_now() + 3;
    site.sql(&set_lease("b", ends));
    let edge = site.start();
    eventually("it serves while its lease lasts", || {
        (edge.visit().unwrap().served_by == "b").then_some(())
    });
    eventually("its last second comes", || (unix_now() >= ends).then_some(()));
    is_left_alone(&edge, "127.0.0.1", "a");
}

#[test]
fn a_backend_drained_by_the_side_table_gets_no_new_connection_and_keeps_the_open_one() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let edge =
        Site::new().backend(Row::new("a", a.addr())).backend(Row::new("b", b.addr())).start();
    let mut open = edge.visit().unwrap();
    let (drained, other) = if open.served_by == "a" { ("a", "b") } else { ("b", "a") };
    let set = |state: &str| {
        edge.site.sql(&format!(
            "INSERT OR REPLACE INTO edgeproxy_backend_state (id, admin_state)
             VALUES ('{drained}', '{state}')"
        ));
    };
    set("drain");
    // The client that is bound to it included.
    moves_to(&edge, "127.0.0.1", other);
    assert_eq!(served(&edge, "127.0.8.1", 20), only(other, 20));
    open.client.echo("the open one goes on").unwrap();
    drop(open);
    set("ready");
    eventually("it gets clients again", || {
        let newcomer = format!("127.9.{}.{}", fastrand::u8(..), fastrand::u8(1..255));
        (edge.visit_from(&newcomer).unwrap().served_by == drained).then_some(())
    });
}
