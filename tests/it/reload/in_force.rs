//! What a reload puts in force for clients, while connections that are open go on.

use super::{NO_AFFINITY, Open, named, one, served, site};
use crate::support::{Client, Refusing, Row, eventually};

#[test]
fn who_is_denied() {
    let [a] = named(["a"]);
    let edge = one(&a).start();
    let mut denied = edge.visit_from("127.0.9.1").unwrap();
    edge.reload("deny = [\"127.0.9.0/24\"]");
    Client::refused("127.0.9.2", edge.addr);
    denied.client.echo("in before, in for good").unwrap();
    edge.reload("deny = [\"127.0.8.0/24\"]");
    Client::refused("127.0.8.2", edge.addr);
    edge.visit_from("127.0.9.2").unwrap();
    denied.client.echo("and still").unwrap();
}

#[test]
fn how_many_connections_there_may_be() {
    let [a] = named(["a"]);
    let edge = one(&a).start();
    let mut open = [Open::at(&edge), Open::at(&edge), Open::at(&edge)];
    edge.reload("max_connections = 2");
    Client::refused("127.0.0.1", edge.addr);
    assert_eq!(edge.metrics().value("edgeproxy_connections_limit", &[]), 2);
    open.iter_mut().for_each(Open::goes_on);
    edge.reload("max_connections = 4");
    let fourth = edge.visit().unwrap();
    Client::refused("127.0.0.1", edge.addr);
    open.iter_mut().for_each(Open::goes_on);
    edge.reload("");
    edge.visit().unwrap();
    drop(fourth);
}

#[test]
fn how_many_connections_a_client_may_have() {
    let [a] = named(["a"]);
    let edge = one(&a).toml("max_connections_per_client = 3").start();
    let mut open = [Open::at(&edge), Open::at(&edge)];
    edge.reload("max_connections_per_client = 1");
    Client::refused("127.0.99.1", edge.addr);
    let _other = edge.visit_from("127.0.7.1").unwrap();
    Client::refused("127.0.7.1", edge.addr);
    open.iter_mut().for_each(Open::goes_on);
    edge.reload("max_connections_per_client = 3");
    let _third = edge.visit_from("127.0.99.1").unwrap();
    Client::refused("127.0.99.1", edge.addr);
    edge.reload("");
    let more: Vec<_> = (0..5).map(|_| edge.visit_from("127.0.99.1").unwrap()).collect();
    open.iter_mut().for_each(Open::goes_on);
    drop(more);
}

#[test]
fn a_limit_for_each_client_counts_the_connections_that_are_open_already() {
    let [a] = named(["a"]);
    let edge = one(&a).start();
    for _ in 0..2 {
        let mut open = [Open::at(&edge), Open::at(&edge)];
        edge.reload("max_connections_per_client = 2");
        eventually("they are counted", || edge.visit_from("127.0.99.1").err());
        open.iter_mut().for_each(Open::goes_on);
        drop(open);
        eventually("they are counted no more", || edge.visit_from("127.0.99.1").ok());
        edge.reload("");
    }
}

#[test]
fn how_often_a_client_may_come() {
    let [a] = named(["a"]);
    let edge = one(&a).start();
    let mut open = Open::at(&edge);
    let hourly = |burst: u32| {
        format!(
            "[rate_limit]\nenabled = true\nmax_requests = 1\nwindow_secs = 3600\nburst = {burst}"
        )
    };
    let admitted = |ip: &str| (0..10).filter(|_| edge.visit_from(ip).is_ok()).count();
    assert_eq!(admitted("127.0.7.1"), 10);
    edge.reload(&hourly(3));
    assert_eq!(admitted("127.0.7.1"), 3);
    edge.reload(&hourly(5));
    assert_eq!(admitted("127.0.7.2"), 5);
    edge.reload(&format!("{}\nexempt = [\"127.0.7.3/32\"]", hourly(5)));
    assert_eq!(admitted("127.0.7.3"), 10);
    edge.reload(&format!("{}\ndry_run = true", hourly(5)));
    assert_eq!(admitted("127.0.7.2"), 10);
    edge.reload("");
    assert_eq!(admitted("127.0.7.1"), 10);
    open.goes_on();
}

#[test]
fn how_long_a_connection_may_be_silent_and_an_open_one_keeps_what_it_began_with() {
    let [a] = named(["a"]);
    let edge = one(&a).start();
    let mut open = Open::at(&edge);
    edge.reload("idle_timeout_secs = 1");
    let mut silent = edge.visit().unwrap();
    edge.reload("idle_timeout_secs = 3600");
    assert_eq!(silent.client.rest().unwrap(), b"");
    assert_eq!(&edge.access_of(&silent.client)["reason"], "idle");
    // It has been silent for longer.
    open.goes_on();
}

#[test]
fn how_many_backends_are_tried() {
    let [alive] = named(["alive"]);
    let dead = [Refusing::new(), Refusing::new()];
    let edge = site()
        .with_geography()
        .backend(Row::new("alive", alive.addr()).place("us", "US"))
        .backend(Row::new("scl", dead[0].addr()).place("sa", "CL"))
        .backend(Row::new("fra", dead[1].addr()).place("eu", "DE"))
        .start();
    let mut open = edge.visit_from("127.0.3.1").unwrap();
    assert_eq!(edge.visit_from("127.0.1.1").unwrap().served_by, "alive");
    let geography = std::fs::read_to_string(edge.site.path("config.toml")).unwrap();
    edge.reload(&format!("connect_tries = 1\n{geography}"));
    assert_eq!(&edge.refusal_of("127.0.2.1")["reason"], "connect_failed");
    open.client.echo("goes on").unwrap();
}

#[test]
fn what_is_logged_of_connections_and_of_everything_else() {
    let [a] = named(["a"]);
    let edge = one(&a).start();
    let mut open = Open::at(&edge);
    let visitor = || edge.visit().unwrap().client.addr();
    edge.access_of_addr(visitor());
    edge.reload("log = \"info,access=off\"");
    let unseen = visitor();
    edge.metrics_when("it has ended", |metrics| {
        metrics.value("edgeproxy_connections_ended_total", &[("reason", "client_closed")]) == 2
    });
    edge.reload_in_silence("log = \"error\"");
    edge.reload_in_silence("log = \"error\"\nconnect_tries = 2");
    edge.reload("log = \"info\"\nconnect_tries = 1");
    edge.access_of_addr(visitor());
    open.goes_on();
    drop(open);

    let exit = edge.stop();
    let unseen = format!("client={unseen} ");
    assert!(!exit.access_lines.iter().any(|line| line.contains(&unseen)), "{exit:#?}");
    assert!(!exit.logged("connect_tries: 3 -> 2"), "{:#?}", exit.log);
    assert!(exit.logged("connect_tries: 2 -> 1"), "{:#?}", exit.log);
}

#[test]
fn what_is_logged_in_json() {
    let [a] = named(["a"]);
    let edge = one(&a).env("EDGEPROXY_LOG_FORMAT", "json").start();
    edge.reload_in_silence("log = \"error\"");
    edge.reload_in_silence("log = \"error\"\nconnect_tries = 2");
    edge.reload("log = \"info\"\nconnect_tries = 1");
    assert_eq!(edge.times_logged("connect_tries: 3 -> 2"), 0);
    assert_eq!(edge.times_logged("connect_tries: 2 -> 1"), 1);
}

#[test]
fn where_clients_are() {
    let [gru, fra] = named(["gru", "fra"]);
    let edge = site()
        .toml(NO_AFFINITY)
        .backend(Row::new("gru", gru.addr()).place("sa", "BR"))
        .backend(Row::new("fra", fra.addr()).place("eu", "DE"))
        .start();
    let mut open = Open::at(&edge);
    assert_eq!(served(&edge, "127.0.2.1", 20), ["gru"]);
    let germany = "[[geo_override]]\ncidr = \"127.0.0.0/16\"\ncountry = \"DE\"";
    edge.reload(&format!("{NO_AFFINITY}{germany}"));
    assert_eq!(served(&edge, "127.0.2.1", 20), ["fra"]);
    edge.reload(NO_AFFINITY);
    assert_eq!(served(&edge, "127.0.2.1", 20), ["gru"]);
    open.goes_on();
}

#[test]
fn which_region_a_country_is_in_and_which_regions_are_near() {
    let [gru, fra, nrt, sfo] = named(["gru", "fra", "nrt", "sfo"]);
    let edge = site()
        .with_geography()
        .toml(NO_AFFINITY)
        .backend(Row::new("gru", gru.addr()).place("sa", "BR"))
        .backend(Row::new("fra", fra.addr()).place("eu", "FR"))
        .backend(Row::new("nrt", nrt.addr()).place("ap", "JP"))
        .backend(Row::new("sfo", sfo.addr()).place("us", "US"))
        .start();
    let before = std::fs::read_to_string(edge.site.path("config.toml")).unwrap();
    let mut open = Open::at(&edge);
    assert_eq!(served(&edge, "127.0.1.1", 20), ["gru"]);
    edge.reload(&format!("{before}\n[regions.eu]\ncountries = [\"CL\"]"));
    assert_eq!(served(&edge, "127.0.1.1", 20), ["fra"]);
    edge.site.sql("DELETE FROM backends WHERE id IN ('gru', 'fra')");
    edge.wait_for_log("removed=2");
    assert_eq!(served(&edge, "127.0.2.1", 20), ["sfo"]);
    edge.reload(&format!("{before}\n[regions.eu]\nnear = [\"ap\", \"us\"]"));
    assert_eq!(served(&edge, "127.0.2.1", 20), ["nrt"]);
    open.goes_on();
}

#[test]
fn how_far_clients_may_be_carried() {
    let [gru, fra] = named(["gru", "fra"]);
    let edge = site()
        .with_geography()
        .backend(Row::new("gru", gru.addr()).place("sa", "BR"))
        .backend(Row::new("fra", fra.addr()).place("eu", "DE"))
        .start();
    let before = std::fs::read_to_string(edge.site.path("config.toml")).unwrap();
    let mut open = edge.visit_from("127.0.3.1").unwrap();
    edge.reload(&format!("{before}\n[app.web]\nspill = \"region\""));
    assert_eq!(&edge.refusal_of("127.0.3.1")["reason"], "no_backend");
    assert_eq!(edge.visit_from("127.0.2.1").unwrap().served_by, "fra");
    open.client.echo("abroad as before").unwrap();
    edge.reload(&before);
    edge.visit_from("127.0.3.1").unwrap();
}

#[test]
fn how_long_a_client_keeps_its_backend() {
    let [a, b] = named(["a", "b"]);
    let edge = one(&a).backend(Row::new("b", b.addr())).start();
    let mut open = Open::at(&edge);
    assert_eq!(served(&edge, "127.0.7.1", 40).len(), 1);
    edge.reload(NO_AFFINITY);
    assert_eq!(served(&edge, "127.0.7.1", 40).len(), 2);
    edge.reload("[app.web]\naffinity_ttl_secs = 600");
    assert_eq!(served(&edge, "127.0.7.1", 40).len(), 1);
    edge.reload("[app.web]\naffinity_ttl_secs = 0");
    assert_eq!(served(&edge, "127.0.7.1", 40).len(), 2);
    open.goes_on();
}

#[test]
fn how_long_a_drain_may_take() {
    let [a] = named(["a"]);
    let mut edge = one(&a).toml("[shutdown]\ntimeout_secs = 3600").start();
    let mut open = Open::at(&edge);
    edge.reload("[shutdown]\ntimeout_secs = 1");
    open.goes_on();
    edge.signal(rustix::process::Signal::TERM);
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.logged("drained 0, forced 1"), "{:#?}", exit.log);
}
