//! Active health checks: who is out, for how long, and who is checked at all.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::support::{
    Backend, Client, Edge, Metrics, PATIENCE, Refusing, Row, Site, Web, eventually,
};

/// One good or bad probe is enough, one a second.
fn site() -> Site {
    Site::new()
        .without_affinity()
        .with_metrics()
        .env("EDGEPROXY_SLOW_START_SECS", "0")
        .env("EDGEPROXY_HEALTH_CHECK_ENABLED", "true")
        .env("EDGEPROXY_HEALTH_CHECK_TYPE", "http")
        .env("EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS", "1")
        .env("EDGEPROXY_HEALTH_CHECK_TIMEOUT_SECS", "1")
        .env("EDGEPROXY_HEALTH_HEALTHY_THRESHOLD", "1")
        .env("EDGEPROXY_HEALTH_UNHEALTHY_THRESHOLD", "1")
}

fn is_down(metrics: &Metrics, backend: &str) -> bool {
    let why = [("backend", backend), ("reason", "probe_down")];
    metrics.sum("edgeproxy_backend_ineligible", &why) == 1
}

fn wait_until_down(edge: &Edge, backend: &str) {
    edge.metrics_when("it is out", |metrics| is_down(metrics, backend));
}

fn wait_until_up(edge: &Edge, backend: &str) {
    edge.metrics_when("it is back", |metrics| {
        metrics.value("edgeproxy_backend_eligible", &[("backend", backend)]) == 1
    });
}

/// Clients that come one after the other are all served by this backend.
fn assert_all_served_by(edge: &Edge, backend: &str) {
    for _ in 0..100 {
        assert_eq!(edge.fetch().unwrap(), backend);
    }
}

/// Clients that stay, each with who serves it: of two backends either gets about half.
fn clients(edge: &Edge) -> Vec<(Client, String)> {
    (0..20)
        .map(|_| {
            let mut client = edge.client();
            let served_by = client.fetch().unwrap();
            (client, served_by)
        })
        .collect()
}

fn assert_shared_by(edge: &Edge, backends: [&str; 2]) {
    let clients = clients(edge);
    for backend in backends {
        assert!(clients.iter().any(|(_, by)| by == backend), "nobody is served by {backend}");
    }
}

#[test]
fn a_backend_that_takes_no_connection_of_a_probe_gets_no_client() {
    let dead = Refusing::new();
    let twin = Web::named("twin");
    let edge = site()
        .env("EDGEPROXY_HEALTH_CHECK_TYPE", "tcp")
        .backend(Row::new("dead", dead.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    edge.wait_for_log("the first probe failed");
    wait_until_down(&edge, "dead");
    assert_all_served_by(&edge, "twin");
    let metrics = edge.metrics();
    assert_eq!(metrics.sum("edgeproxy_dial_failures_total", &[]), 0, "no client found out");
    assert_eq!(metrics.value("edgeproxy_backend_eligible", &[("backend", "dead")]), 0);
    assert!(!is_down(&metrics, "twin"));

    let _back = dead.wake("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback");
    wait_until_up(&edge, "dead");
    assert_shared_by(&edge, ["back", "twin"]);
}

#[test]
fn with_204_expected_a_200_is_a_failure() {
    let [ok, no_content] = ["ok", "no-content"].map(Web::named);
    no_content.tells_probes(204);
    let edge = site()
        .env("EDGEPROXY_HEALTH_CHECK_EXPECTED_STATUS", "204")
        .backend(Row::new("ok", ok.addr()))
        .backend(Row::new("no-content", no_content.addr()))
        .start();
    edge.wait_for_log("status 200, expected 204");
    wait_until_down(&edge, "ok");
    assert_all_served_by(&edge, "no-content");
    assert_eq!(ok.visits(), 0);
    ok.tells_probes(204);
    wait_until_up(&edge, "ok");
    assert_shared_by(&edge, ["ok", "no-content"]);
}

/// Unhealthy threshold x 1.1 x interval + timeout.
const OUT: Duration = Duration::from_millis(3 * 1_100 + 1_000);
/// Healthy threshold x 1.1 x interval, after the probe that was under way has failed.
const BACK: Duration = Duration::from_millis(2 * 1_100 + 1_000);
/// For a machine that is busy with other tests.
const SLACK: Duration = Duration::from_millis(1_500);

#[test]
fn a_backend_that_freezes_is_out_after_three_probes_and_back_after_two_once_it_goes_on() {
    let [behind, twin] = ["behind", "twin"].map(Web::named);
    // A process of its own. While it stands still the system completes its handshakes.
    let process = Site::new().backend(Row::new("behind", behind.addr())).start();
    let edge = site()
        .env("EDGEPROXY_HEALTH_HEALTHY_THRESHOLD", "2")
        .env("EDGEPROXY_HEALTH_UNHEALTHY_THRESHOLD", "3")
        .backend(Row::new("frozen", process.addr))
        .backend(Row::new("twin", twin.addr()))
        .start();
    assert_shared_by(&edge, ["behind", "twin"]);
    // Until it has been probed, so that what it fails is not its first probe.
    eventually("it is probed", || (!behind.probes().is_empty()).then_some(()));

    process.freeze();
    let frozen = Instant::now();
    let reason = edge.wait_for_log_within(OUT + SLACK, "unhealthy: ");
    assert!(reason.contains("backend=frozen"), "{reason}");
    assert!(reason.contains("3 failed probes in a row: no answer within 1s"), "{reason}");
    let took = frozen.elapsed();
    assert!(took < OUT + SLACK, "out after {took:?}");
    assert!(is_down(&edge.metrics(), "frozen"));
    // Long enough for several more probes, each of which is still answered by the system.
    let out = Instant::now();
    while out.elapsed() < Duration::from_secs(2) {
        assert_all_served_by(&edge, "twin");
    }
    assert_eq!(edge.times_logged("health"), 1, "nothing turned since");

    process.thaw();
    let thawed = Instant::now();
    let reason = edge.wait_for_log_within(BACK + SLACK, "healthy again: ");
    assert!(reason.contains("backend=frozen"), "{reason}");
    assert!(reason.contains("2 passed probes in a row"), "{reason}");
    let took = thawed.elapsed();
    assert!(took < BACK + SLACK, "back after {took:?}");
    assert_shared_by(&edge, ["behind", "twin"]);
}

#[test]
fn a_backend_that_is_down_gets_nobody_new_and_keeps_those_it_has() {
    let [sick, twin] = ["sick", "twin"].map(Web::named);
    let edge = site()
        .backend(Row::new("sick", sick.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    let mut clients = clients(&edge);
    clients.retain(|(_, served_by)| served_by == "sick");
    assert!(!clients.is_empty());
    sick.tells_probes(503);
    wait_until_down(&edge, "sick");
    let visits = sick.visits();
    assert_all_served_by(&edge, "twin");
    assert_eq!(sick.visits(), visits);
    for _ in 0..3 {
        for (client, _) in &mut clients {
            assert_eq!(client.fetch().unwrap(), "sick");
        }
    }
    let active = [("backend", "sick")];
    let active = edge.metrics().value("edgeproxy_backend_connections_active", &active);
    assert_eq!(active, clients.len() as u64);

    drop(clients);
    sick.tells_probes(200);
    wait_until_up(&edge, "sick");
    assert_shared_by(&edge, ["sick", "twin"]);
}

#[test]
fn when_asked_to_it_closes_the_connections_of_a_backend_that_is_down_and_no_others() {
    let [sick, twin] = ["sick", "twin"].map(Web::named);
    let edge = site()
        .env("EDGEPROXY_HEALTH_CLOSE_CONNECTIONS", "true")
        .backend(Row::new("sick", sick.addr()))
        .backend(Row::new("twin", twin.addr()))
        .start();
    let clients = clients(&edge);
    sick.tells_probes(503);
    let (mut killed, mut kept) = (0, 0);
    for (mut client, served_by) in clients {
        if served_by == "sick" {
            assert_eq!(client.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
            let line = edge.access_of(&client);
            assert_eq!((&line["backend"], &line["reason"]), ("sick", "killed"));
            killed += 1;
        } else {
            assert_eq!(client.fetch().unwrap(), "twin");
            kept += 1;
        }
    }
    assert!(killed > 0 && kept > 0, "{killed} were killed, {kept} were kept");
    let reason = [("reason", "killed")];
    assert_eq!(edge.metrics().value("edgeproxy_connections_ended_total", &reason), killed);
}

#[test]
fn checks_that_nobody_passes_close_nothing() {
    let only = Web::named("only");
    let edge = site()
        .env("EDGEPROXY_HEALTH_CLOSE_CONNECTIONS", "true")
        .backend(Row::new("only", only.addr()))
        .start();
    let clients = clients(&edge);
    only.tells_probes(503);
    edge.metrics_when("probes are ignored", |m| {
        m.value("edgeproxy_fail_open", &[("app", "web")]) == 1
    });
    for (mut client, _) in clients {
        assert_eq!(client.fetch().unwrap(), "only");
    }
}

const IGNORED: &str = "health checks say that no backend at all is healthy";

#[test]
fn when_all_backends_are_down_they_are_used_all_the_same_until_one_recovers() {
    let [one, other, elsewhere] = ["one", "other", "elsewhere"].map(Web::named);
    let edge = site()
        .env("EDGEPROXY_APP", "web")
        .backend(Row::new("one", one.addr()))
        .backend(Row::new("other", other.addr()))
        .backend(Row::new("elsewhere", elsewhere.addr()).app("shop"))
        .start();
    let fails_open = |metrics: &Metrics, app| metrics.value("edgeproxy_fail_open", &[("app", app)]);
    let metrics = edge.metrics();
    assert_eq!((fails_open(&metrics, "web"), fails_open(&metrics, "shop")), (0, 0));

    one.tells_probes(500);
    wait_until_down(&edge, "one");
    assert_eq!(fails_open(&edge.metrics(), "web"), 0, "the other is still there");
    other.tells_probes(500);
    let metrics = edge.metrics_when("probes are ignored", |m| fails_open(m, "web") == 1);
    assert_eq!(fails_open(&metrics, "shop"), 0);
    assert!(!is_down(&metrics, "one") && !is_down(&metrics, "other"));
    assert!(edge.wait_for_log(IGNORED).contains("app=web"));
    assert_shared_by(&edge, ["one", "other"]);
    // Later failures are no news.
    let probes = other.probes().len();
    eventually("it is probed again", || (other.probes().len() >= probes + 3).then_some(()));
    assert_eq!(edge.times_logged(IGNORED), 1);

    other.tells_probes(200);
    edge.metrics_when("probes are believed", |metrics| fails_open(metrics, "web") == 0);
    edge.wait_for_log("health checks are believed again");
    assert!(is_down(&edge.metrics(), "one"));
    assert_all_served_by(&edge, "other");
}

#[test]
fn a_backend_that_is_added_is_probed_at_once_and_none_twice_in_an_interval() {
    let [old, new] = ["old", "new"].map(Web::named);
    let edge = site()
        .env("EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS", "86400")
        .backend(Row::new("old", old.addr()))
        .start();
    eventually("it is probed", || (old.probes().len() == 1).then_some(()));
    new.tells_probes(500);
    edge.site.sql(&Row::new("new", new.addr()).insert());
    edge.wait_for_log("registry changed added=1");
    eventually("it is probed", || (new.probes().len() == 1).then_some(()));
    wait_until_down(&edge, "new");
    assert_all_served_by(&edge, "old");
    assert_eq!((old.probes().len(), new.probes().len()), (1, 1));
}

#[test]
fn a_backend_that_is_removed_is_probed_no_more() {
    let [stays, leaves] = ["stays", "leaves"].map(Web::named);
    let edge = site()
        .backend(Row::new("stays", stays.addr()))
        .backend(Row::new("leaves", leaves.addr()))
        .start();
    let more_probes = |web: &Web, more: usize| {
        let before = web.probes().len();
        eventually("it is probed", || (web.probes().len() >= before + more).then_some(()));
    };
    more_probes(&leaves, 1);
    edge.site.sql("DELETE FROM backends WHERE id = 'leaves'");
    edge.wait_for_log("registry changed added=0 removed=1");
    // A connection that was under way then may still be accepted.
    more_probes(&stays, 1);
    let accepted = leaves.accepted();
    more_probes(&stays, 3);
    assert_eq!(leaves.accepted(), accepted);
}

#[test]
fn what_an_app_says_of_its_probes_is_honoured() {
    let [app, health] = ["app", "health"].map(Web::named);
    let port = health.addr().port();
    let edge = site()
        .env("EDGEPROXY_HEALTH_CHECK_TYPE", "tcp")
        .toml(&format!(
            "[app.web]\nhealth = {{ type = \"http\", path = \"/up?deep=1\", port = {port}, \
             host = \"x.example\", expected_status = 204 }}"
        ))
        .backend(Row::new("app", app.addr()))
        .start();
    let probe = eventually("it is probed", || health.probes().pop());
    let mut lines = probe.lines();
    assert_eq!(lines.next(), Some("GET /up?deep=1 HTTP/1.1"));
    assert!(lines.any(|line| line == "Host: x.example"), "{probe}");
    // Alone it is used all the same, so it is the log that tells.
    edge.wait_for_log("unhealthy: the first probe failed: status 200, expected 204");
    health.tells_probes(204);
    edge.wait_for_log("healthy again: 1 passed probe");
    assert_eq!(edge.fetch().unwrap(), "app");
    assert_eq!((app.accepted(), app.probes().len()), (1, 0), "probes go to the other port");
}

#[test]
fn without_health_checks_nobody_is_probed() {
    let web = Web::named("web");
    web.tells_probes(500);
    let edge = site()
        .env("EDGEPROXY_HEALTH_CHECK_ENABLED", "false")
        .backend(Row::new("web", web.addr()))
        .start();
    for _ in 0..5 {
        assert_eq!(edge.fetch().unwrap(), "web");
    }
    let other = site()
        .env("EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS", "86400")
        .backend(Row::new("web", web.addr()))
        .start();
    other.wait_for_log("the first probe failed");
    assert_eq!(web.probes().len(), 1, "of the other alone");
    assert!(!is_down(&edge.metrics(), "web"));
}

#[test]
fn a_probe_that_is_never_answered_does_not_hold_up_the_others() {
    let twin = Web::named("twin");
    let mute: Vec<_> = (0..5).map(|_| Backend::serving(|stream| hold(&stream))).collect();
    let mut site = site().backend(Row::new("twin", twin.addr()));
    for (number, backend) in mute.iter().enumerate() {
        site = site.backend(Row::new(&format!("mute-{number}"), backend.addr()));
    }
    let edge = site.start();
    for number in 0..mute.len() {
        wait_until_down(&edge, &format!("mute-{number}"));
    }
    assert_all_served_by(&edge, "twin");
}

/// Reads until the other side has gone.
fn hold(mut stream: &std::net::TcpStream) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}
