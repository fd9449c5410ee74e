//! Files that are reread when they change, without anybody asking.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use rustix::process::Signal;

use super::{named, site};
use crate::support::{
    Backend, Client, Edge, Row, Site, country_file, eventually, make_pipe, open_pipe,
};

const DENIES_8: &str = "deny = [\"127.0.8.0/24\"]\n";
const DENIES_9: &str = "deny = [\"127.0.9.0/24\"]\n";

fn watching() -> Site {
    site().env("EDGEPROXY_CONFIG_WATCH_ENABLED", "true")
}

fn start(site: Site) -> (Backend, Edge) {
    let [a] = named(["a"]);
    let edge = site.backend(Row::new("a", a.addr())).start();
    (a, edge)
}

/// Waits for the reload of such a number, which has this effect.
fn assert_taken_up(edge: &Edge, reload: usize, refused: &str, admitted: &str) {
    edge.wait_until_logged(reload, "configuration reloaded why=\"the file has changed\"");
    Client::refused(refused, edge.addr);
    edge.visit_from(admitted).unwrap();
}

#[test]
fn a_configuration_that_is_rewritten_or_replaced_is_put_in_force() {
    let (_a, edge) = start(watching());
    let mut open = edge.visit().unwrap();
    edge.site.configure(DENIES_8);
    assert_taken_up(&edge, 1, "127.0.8.1", "127.0.9.1");
    edge.site.replace_configuration(DENIES_9);
    assert_taken_up(&edge, 2, "127.0.9.1", "127.0.8.1");
    edge.site.configure("deny = [\"127.0.8");
    edge.wait_for_log("the configuration was not reloaded");
    Client::refused("127.0.9.1", edge.addr);
    fs::remove_file(edge.site.path("config.toml")).unwrap();
    edge.wait_until_logged(2, "the configuration was not reloaded");
    Client::refused("127.0.9.1", edge.addr);
    edge.site.configure(DENIES_8);
    assert_taken_up(&edge, 3, "127.0.8.1", "127.0.9.1");
    open.client.echo("goes on").unwrap();
}

#[test]
fn a_configuration_behind_links_as_kubernetes_changes_them_is_put_in_force() {
    let site = watching();
    let volume = |name: &str| site.path(name);
    fs::create_dir(volume("..2026_1")).unwrap();
    symlink("..2026_1", volume("..data")).unwrap();
    symlink("..data/config.toml", volume("config.toml")).unwrap();
    let (_a, edge) = start(site);
    for (number, (text, refused, admitted)) in
        [(DENIES_8, "127.0.8.1", "127.0.9.1"), (DENIES_9, "127.0.9.1", "127.0.8.1")]
            .into_iter()
            .enumerate()
    {
        let folder = format!("..2026_{}", number + 2);
        let path = |name: &str| edge.site.path(name);
        fs::create_dir(path(&folder)).unwrap();
        fs::write(path(&folder).join("config.toml"), text).unwrap();
        symlink(&folder, path("..data_tmp")).unwrap();
        fs::rename(path("..data_tmp"), path("..data")).unwrap();
        fs::remove_dir_all(path(&format!("..2026_{}", number + 1))).unwrap();
        assert_taken_up(&edge, number + 1, refused, admitted);
    }
    assert_eq!(edge.times_logged("was not reloaded"), 0);
}

#[test]
fn a_configuration_that_changes_while_the_process_starts_is_put_in_force() {
    let site = watching().toml("geoip_path = \"pipe.mmdb\"");
    let [a] = named(["a"]);
    let site = site.backend(Row::new("a", a.addr())).prepared();
    let (pipe, config) = (site.path("pipe.mmdb"), site.path("config.toml"));
    make_pipe(&pipe);
    let edge = Edge::start_while(site, |_| {
        // When it reads this, it has read that.
        let mut countries = eventually("it reads them", || open_pipe(&pipe));
        fs::write(&config, format!("geoip_path = \"pipe.mmdb\"\n{DENIES_8}")).unwrap();
        countries.write_all(&country_file(0, "BR")).unwrap();
    });
    edge.wait_for_log("configuration reloaded");
    Client::refused("127.0.8.1", edge.addr);
}

#[test]
fn a_configuration_that_is_not_watched_waits_for_the_signal() {
    let (_a, edge) = start(site().env("EDGEPROXY_CONFIG_WATCH_INTERVAL_SECS", "1"));
    edge.site.configure(DENIES_8);
    // Longer than a watcher would take.
    for weight in [2, 3] {
        edge.site.sql(&format!("UPDATE backends SET weight = {weight}"));
        edge.wait_until_logged(weight - 1, "registry changed");
    }
    assert_eq!(edge.metrics().reloads("success"), 0);
    edge.visit_from("127.0.8.1").unwrap();
    edge.signal(Signal::HUP);
    edge.wait_for_log("configuration reloaded why=\"SIGHUP\"");
    Client::refused("127.0.8.1", edge.addr);
}

const FIRST: u64 = 1_790_812_800;
const SECOND: u64 = FIRST + 86_400;

/// With a country database in its folder, whether or not the configuration is watched.
fn with_countries() -> (Backend, Edge) {
    let site = site().env("EDGEPROXY_GEOIP_PATH", "countries.mmdb");
    fs::write(site.path("countries.mmdb"), country_file(FIRST, "BR")).unwrap();
    start(site)
}

fn wait_for_build(edge: &Edge, built: u64) {
    edge.metrics_when("the country data are those", |metrics| {
        metrics.value("edgeproxy_geo_build_timestamp_seconds", &[]) == built
    });
}

#[test]
fn country_data_that_are_replaced_are_put_in_force_and_bad_ones_are_not() {
    let (_a, edge) = with_countries();
    let mut open = edge.visit().unwrap();
    wait_for_build(&edge, FIRST);
    let path = |name: &str| edge.site.path(name);
    fs::write(path("new"), country_file(SECOND, "DE")).unwrap();
    fs::rename(path("new"), path("countries.mmdb")).unwrap();
    let said = edge.wait_for_log("the geo database has changed");
    assert!(said.contains("Test-Country countries.mmdb (built 2026-10-02)"), "{said}");
    wait_for_build(&edge, SECOND);

    let whole = country_file(FIRST, "BR");
    fs::write(path("countries.mmdb"), &whole[..whole.len() / 2]).unwrap();
    let said = edge.wait_for_log("the data in force stay");
    assert!(said.contains("countries.mmdb"), "{said}");
    wait_for_build(&edge, SECOND);
    fs::remove_file(path("countries.mmdb")).unwrap();
    edge.wait_until_logged(2, "the data in force stay");
    wait_for_build(&edge, SECOND);

    fs::write(path("countries.mmdb"), &whole).unwrap();
    wait_for_build(&edge, FIRST);
    open.client.echo("goes on").unwrap();
    assert_eq!(edge.metrics().reloads("success"), 0, "the configuration is another matter");
}

#[test]
fn a_reload_that_names_another_country_database_opens_and_watches_it() {
    let (_a, edge) = start(site());
    let embedded = edge.metrics().sum("edgeproxy_geo_build_timestamp_seconds", &[]);
    let path = edge.site.path("other.mmdb");
    fs::write(&path, country_file(FIRST, "BR")).unwrap();
    edge.reload("geoip_path = \"other.mmdb\"");
    wait_for_build(&edge, FIRST);
    fs::write(&path, country_file(SECOND, "DE")).unwrap();
    wait_for_build(&edge, SECOND);
    edge.reload("");
    let now = edge.metrics().sum("edgeproxy_geo_build_timestamp_seconds", &[]);
    assert_eq!(now, embedded);
    // Nobody's file any more: what becomes of it is no news.
    fs::write(&path, "nonsense").unwrap();
    edge.reload("connect_tries = 2");
    assert_eq!(edge.times_logged("the data in force stay"), 0);
}
