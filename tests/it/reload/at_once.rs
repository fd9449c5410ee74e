//! Signals that come early, and many of them.

use std::fs;
use std::io::Write;

use rustix::process::{Pid, Signal, kill_process};

use super::{named, site};
use crate::support::{Client, Edge, Row, eventually, handles, make_pipe, open_pipe};

#[test]
fn a_signal_while_the_process_starts_is_a_reload_and_no_end() {
    let [a] = named(["a"]);
    let site = site().backend(Row::new("a", a.addr())).prepared();
    let config = site.path("config.toml");
    fs::remove_file(&config).unwrap();
    // Its reading waits for this test.
    make_pipe(&config);
    let says = |text: &str| {
        let mut pipe = eventually("the configuration is read", || open_pipe(&config));
        pipe.write_all(text.as_bytes()).unwrap();
    };
    let edge = Edge::start_while(site, |pid| {
        eventually("it handles SIGHUP", || handles(pid, Signal::HUP).then_some(()));
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        says("");
    });
    says("deny = [\"127.0.8.0/24\"]");
    edge.wait_for_log("configuration reloaded why=\"SIGHUP\" changes=1");
    Client::refused("127.0.8.1", edge.addr);
    edge.visit().unwrap();
}

#[test]
fn of_many_signals_at_once_the_last_configuration_is_in_force() {
    let [a] = named(["a"]);
    let edge = site().backend(Row::new("a", a.addr())).start();
    for number in 1..=200 {
        edge.site.replace_configuration(&format!("max_connections = {number}"));
        edge.signal_at_once(Signal::HUP);
    }
    edge.metrics_when("the last one is in force", |metrics| {
        metrics.value("edgeproxy_connections_limit", &[]) == 200
    });
    assert_eq!(edge.metrics().reloads("failure"), 0);
}

#[test]
fn a_reload_during_the_drain_disturbs_it_not() {
    let [a] = named(["a"]);
    let mut edge = site().backend(Row::new("a", a.addr())).start();
    let mut open = edge.visit().unwrap();
    edge.signal(Signal::TERM);
    edge.wait_for_log("no longer accepting");
    edge.reload("connect_tries = 2\nmax_connections = 1");
    open.client.echo("goes on").unwrap();
    drop(open);
    let exit = edge.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.logged("drained 1, forced 0"), "{:#?}", exit.log);
}
