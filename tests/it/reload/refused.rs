//! Configurations that cannot be put in force, and what of one cannot.

use super::{named, site};
use crate::support::{Backend, Client, Edge, Metrics, Row, make_pipe};

/// What the running configuration of these tests is known by.
const GOOD: &str = "deny = [\"127.0.9.0/24\"]\n";

fn running() -> (Backend, Edge) {
    let [a] = named(["a"]);
    let edge = site().toml(GOOD).backend(Row::new("a", a.addr())).start();
    (a, edge)
}

fn last_was_good(metrics: &Metrics) -> bool {
    metrics.value("edgeproxy_config_last_reload_successful", &[]) == 1
}

/// The running configuration is in force, and nothing of one that denies 127.0.8.0/24.
fn assert_nothing_changed(edge: &Edge) {
    Client::refused("127.0.9.1", edge.addr);
    edge.visit_from("127.0.8.1").unwrap();
    let metrics = edge.metrics();
    assert!(!last_was_good(&metrics));
    assert_eq!(metrics.reloads("success"), 0);
    assert!(metrics.reloads("failure") > 0);
}

/// The next good one is in force, and all is well.
fn assert_recovers(edge: &Edge) {
    edge.reload("deny = [\"127.0.8.0/24\"]");
    Client::refused("127.0.8.1", edge.addr);
    edge.visit_from("127.0.9.1").unwrap();
    let metrics = edge.metrics();
    assert!(last_was_good(&metrics));
    assert_eq!(metrics.reloads("success"), 1);
}

/// A file with one thing wrong with it leaves all as it was, and is named with the place.
fn is_refused(toml: &str, place: &str, said: &[&str]) {
    let (_backend, edge) = running();
    assert!(last_was_good(&edge.metrics()), "the first one is in force");
    let mut open = edge.visit().unwrap();
    let error = edge.refuses(toml);
    let place = format!("{}:{place}: ", edge.site.path("config.toml").display());
    assert!(error.contains(&place), "no {place} in {error}");
    for said in said {
        assert!(error.contains(said), "no {said:?} in {error}");
    }
    assert_nothing_changed(&edge);
    assert_eq!(edge.metrics().reloads("failure"), 1);
    open.client.echo("goes on").unwrap();
    assert_recovers(&edge);
}

#[test]
fn a_file_that_ends_in_the_middle_of_a_word() {
    is_refused("deny = [\"127.0.8.0/24\"]\n[rate_limit]\nenabl", "3:6", &["not TOML"]);
}

#[test]
fn a_file_that_ends_in_the_middle_of_a_text() {
    is_refused("connect_tries = 2\ndeny = [\"127.0.8.0/2", "2:21", &["not TOML"]);
}

#[test]
fn a_value_that_is_not_accepted_beside_one_that_is() {
    is_refused(
        "deny = [\"127.0.8.0/24\"]\nconnect_tries = 9",
        "2:17",
        &["connect_tries = 9 (EDGEPROXY_CONNECT_TRIES): must be a whole number from 1 to 3"],
    );
}

#[test]
fn a_value_that_is_not_accepted_for_what_needs_a_restart() {
    is_refused("deny = [\"127.0.8.0/24\"]\nregion = 7", "2:10", &["region = 7", "in quotes"]);
}

#[test]
fn several_errors_are_all_named() {
    let (_backend, edge) = running();
    let error = edge.refuses(
        "deny = [\"127.0.8.0/24\", \"nonsense\"]\nconnect_tries = 0\nidle_timeout_secs = \"long\"\n\
         [app.web]\nspill = \"everywhere\"\n[[geo_override]]\ncidr = \"127.0.2.0/24\"\n",
    );
    for place in ["1:8: deny", "2:17: connect_tries", "3:21: idle_timeout_secs", "5:9: ", "6:"] {
        assert!(error.contains(&format!("config.toml:{place}")), "no {place:?} in {error}");
    }
    assert!(error.contains("errors=5"), "{error}");
    assert_nothing_changed(&edge);
    assert_recovers(&edge);
}

#[test]
fn a_file_that_is_gone_and_what_is_no_file() {
    let (_backend, edge) = running();
    let path = edge.site.path("config.toml");
    std::fs::remove_file(&path).unwrap();
    let error = edge.refuses_to_reload();
    let gone = format!("configuration file {}: cannot be read: No such file", path.display());
    assert!(error.contains(&gone), "{error}");
    assert_nothing_changed(&edge);
    std::fs::create_dir(&path).unwrap();
    let error = edge.refuses_to_reload();
    assert!(error.contains("Is a directory"), "{error}");
    assert_nothing_changed(&edge);
    assert_eq!(edge.metrics().reloads("failure"), 2);
    std::fs::remove_dir(&path).unwrap();
    assert_recovers(&edge);
}

#[test]
fn a_file_that_is_never_read_to_its_end_holds_nothing_up() {
    let (_backend, edge) = running();
    let path = edge.site.path("config.toml");
    std::fs::remove_file(&path).unwrap();
    make_pipe(&path);
    let error = edge.refuses_to_reload();
    assert!(error.contains("were not read within"), "{error}");
    assert_nothing_changed(&edge);
    edge.site.sql("UPDATE backends SET weight = 2");
    edge.wait_for_log("registry changed");
    std::fs::remove_file(&path).unwrap();
    assert_recovers(&edge);
    assert_eq!(edge.stop().code, Some(0));
}

#[test]
fn a_country_database_that_cannot_be_opened() {
    let (_backend, edge) = running();
    let error =
        edge.refuses("geoip_path = \"none.mmdb\"\nconnect_tries = 1\ndeny = [\"127.0.8.0/24\"]");
    assert!(error.contains("geo database none.mmdb: No such file"), "{error}");
    assert_nothing_changed(&edge);
    assert_recovers(&edge);
}

#[test]
fn a_name_that_nobody_knows_is_pointed_out_and_keeps_nothing_from_being_in_force() {
    let (_backend, edge) = running();
    for _ in 0..2 {
        edge.reload("deny = [\"127.0.8.0/24\"]\nconect_tries = 2");
    }
    edge.wait_for_log("conect_tries");
    assert_eq!(edge.times_logged("connect_tries"), 1, "it is said once, with what was meant");
    Client::refused("127.0.8.1", edge.addr);
}

#[test]
fn what_the_environment_says_counts_for_more_and_the_log_says_so() {
    let [a] = named(["a"]);
    let edge =
        site().env("EDGEPROXY_DENY", "127.0.9.0/24").backend(Row::new("a", a.addr())).start();
    edge.reload("deny = [\"127.0.8.0/24\"]\nmax_connections_per_client = 1");
    edge.wait_for_log("deny: - -> 127.0.8.0/24 (overridden by EDGEPROXY_DENY)");
    edge.wait_for_log("changes=1 not_in_force=1");
    Client::refused("127.0.9.1", edge.addr);
    let _only = edge.visit_from("127.0.8.1").unwrap();
    Client::refused("127.0.8.1", edge.addr);
    edge.reload("deny = [\"127.0.8.0/24\"]");
    assert_eq!(edge.times_logged("overridden by"), 1, "it is said once");
}

#[test]
fn what_needs_a_restart_says_so_and_does_not_keep_the_rest_from_being_in_force() {
    let [gru, fra] = named(["gru", "fra"]);
    let edge = site()
        .backend(Row::new("gru", gru.addr()).place("sa", "BR"))
        .backend(Row::new("fra", fra.addr()).place("eu", "DE"))
        .start();
    edge.reload("region = \"eu\"\ndeny = [\"127.0.8.0/24\"]");
    edge.wait_for_log("region: sa -> eu (needs a restart)");
    edge.wait_for_log("changes=1 not_in_force=1");
    Client::refused("127.0.8.1", edge.addr);
    assert_eq!(edge.visit().unwrap().served_by, "gru");
    let metrics = edge.metrics();
    assert!(metrics.has("edgeproxy_build_info", &[("region", "sa")]));
    assert!(last_was_good(&metrics));
    edge.reload("region = \"sa\"\n");
    edge.visit_from("127.0.8.1").unwrap();
    assert_eq!(edge.times_logged("needs a restart"), 1);
}
