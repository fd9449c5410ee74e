//! The command line on a process that runs: over its socket, and over `--api`.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::api::TOKEN;
use crate::support::{Backend, Edge, Finished, Row, Site, eventually};

fn two() -> ([Backend; 2], Edge) {
    let backends = ["near", "far"].map(Backend::named);
    let site = Site::new()
        .with_api()
        .with_geography()
        .env("EDGEPROXY_SLOW_START_SECS", "0")
        .env("EDGEPROXY_DB_RELOAD_SECS", "3600")
        .backend(
            Row::new("near", backends[0].addr()).place("sa", "CL").soft_limit(100).hard_limit(150),
        )
        .backend(Row::new("far", backends[1].addr()).place("eu", "DE"));
    (backends, site.start())
}

fn json(done: &Finished) -> Value {
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

/// A command that does what it is asked, on the running process.
fn run(edge: &Edge, args: &[&str]) -> Finished {
    let done = edge.site.run(args);
    assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
    let first = done.err.lines().next().unwrap_or_default();
    assert!(first.starts_with(&format!("live, pid {}", edge.pid())), "{first}");
    done
}

#[test]
fn route_knows_load_and_whom_a_client_is_bound_to() {
    let (_backends, edge) = two();
    let open = edge.visit_from("127.0.1.1").unwrap();
    assert_eq!(open.served_by, "near");
    let said = run(&edge, &["route", "127.0.1.1"]);
    assert!(said.out.contains("chosen: it had the client before (affinity)"), "{}", said.out);
    assert!(said.out.contains("1/100/150"), "{}", said.out);
    let said = json(&run(&edge, &["route", "127.0.1.1", "--json"]));
    assert_eq!((&said["bound"], &said["backends"][0]["active"]), (&"near".into(), &1.into()));
    let said = json(&run(&edge, &["route", "127.0.1.1", "--json", "--without", "near"]));
    assert_eq!(said["backends"][0]["id"], "far");
    let unknown = edge.site.run(&["route", "127.0.1.1", "--without", "gone-9"]);
    assert!(unknown.code == Some(1) && unknown.err.contains("gone-9"), "{unknown:?}");
    let stranger = json(&run(&edge, &["route", "127.0.2.1", "--json"]));
    assert_eq!((&stranger["bound"], &stranger["backends"][0]["id"]), (&Value::Null, &"far".into()));
}

#[test]
fn route_exits_with_3_when_nobody_is_left() {
    let (_backends, edge) = two();
    let args = ["route", "127.0.1.1", "--without", "near", "--without", "far"];
    let done = edge.site.run(&args);
    assert_eq!(done.code, Some(3), "{done:?}");
}

#[test]
fn why_tells_afterwards_why_a_client_went_farther() {
    let (_backends, edge) = two();
    run(&edge, &["backends", "drain", "near"]);
    assert_eq!(edge.visit_from("127.0.1.7").unwrap().served_by, "far");
    assert_eq!(edge.visit_from("127.0.2.7").unwrap().served_by, "far");
    let said = run(&edge, &["why", "127.0.1.7", "--since", "6h"]);
    assert!(said.out.contains("near draining"), "{}", said.out);
    let said = json(&run(&edge, &["why", "127.0.0.0/16", "--json"]));
    let choices = said.as_array().unwrap();
    assert_eq!(choices.len(), 1, "who went to the nearest is not remembered: {said}");
    assert_eq!(
        (&choices[0]["client"], &choices[0]["backend"]),
        (&"127.0.1.7".into(), &"far".into())
    );
    let said = run(&edge, &["why", "192.0.2.1"]);
    assert!(said.out.contains("nothing is remembered of 192.0.2.1"), "{}", said.out);
}

#[test]
fn a_drain_waits_until_nothing_is_open_and_ready_undoes_it() {
    let (_backends, edge) = two();
    let open = edge.visit_from("127.0.1.1").unwrap();
    let done = edge.site.run(&["backends", "drain", "near", "--wait", "1s"]);
    assert_eq!(done.code, Some(4), "{done:?}");
    assert!(done.out.contains("1 still open after 1s"), "{}", done.out);

    let waiting = edge.site.command(&["backends", "drain", "near", "--wait", "1m"]).spawn();
    let waiting = waiting.expect("it starts");
    edge.wait_for_log("before=\"drain\" after=\"drain\"");
    drop(open);
    let done = waiting.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("nothing is open any more"), "{said}");

    assert_eq!(edge.visit_from("127.0.1.2").unwrap().served_by, "far");
    run(&edge, &["backends", "ready", "near"]);
    assert_eq!(edge.visit_from("127.0.1.3").unwrap().served_by, "near");
    run(&edge, &["backends", "drain", "near"]);
    run(&edge, &["backends", "set", "near", "--healthy", "true"]);
    assert_eq!(edge.visit_from("127.0.1.4").unwrap().served_by, "near");
}

#[test]
fn a_drain_closes_what_is_left_when_that_is_said() {
    let (_backends, edge) = two();
    let mut open = edge.visit_from("127.0.1.1").unwrap();
    let begun = Instant::now();
    let args = ["backends", "drain", "near", "--wait", "1m", "--close-after", "1s"];
    let done = run(&edge, &args);
    assert!(done.out.contains("1 open here, closed after 1s"), "{}", done.out);
    assert!(done.out.contains("nothing is open any more"), "{}", done.out);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(open.client.echo("still there").is_err());
}

#[test]
fn here_is_this_pop_only() {
    let (_backends, edge) = two();
    run(&edge, &["backends", "drain", "near", "--here"]);
    assert_eq!(edge.visit_from("127.0.1.1").unwrap().served_by, "far");
    let rows = json(&run(&edge, &["backends", "list", "--json"]));
    let near = rows.as_array().unwrap().iter().find(|row| row["id"] == "near").unwrap();
    assert_eq!((&near["healthy"], &near["state_here"]), (&true.into(), &"drain".into()));
    run(&edge, &["backends", "ready", "near", "--here"]);
    assert_eq!(edge.visit_from("127.0.1.2").unwrap().served_by, "near");
}

#[test]
fn what_is_written_is_in_force_at_once() {
    let (_backends, edge) = two();
    let new = Backend::named("new");
    let addr = new.addr().to_string();
    let add = ["backends", "add", "new", "--app", "web", "--region", "ap", "--country", "JP"];
    run(&edge, &[&add[..], &["--addr", &addr]].concat());
    assert_eq!(edge.visit_from("127.0.3.1").unwrap().served_by, "new");
    let removed = run(&edge, &["backends", "remove", "new"]);
    assert!(removed.out.contains("new removed"), "{}", removed.out);
    assert_ne!(edge.visit_from("127.0.3.2").unwrap().served_by, "new");
    let unknown = edge.site.run(&["backends", "remove", "new"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
}

#[test]
fn the_list_has_what_the_process_sees() {
    let (_backends, edge) = two();
    let _open = edge.visit_from("127.0.1.1").unwrap();
    let list = run(&edge, &["backends", "list"]);
    let near = list.out.lines().find(|line| line.starts_with("near")).unwrap();
    let cells: Vec<&str> = near.split_whitespace().collect();
    assert_eq!(cells[6..10], ["1", "1", "100", "150"], "weight, open, soft and hard: {near}");
}

#[test]
fn capacity_names_the_loss_that_would_not_fit() {
    let (_backends, edge) = two();
    edge.site.run(&["backends", "set", "far", "--soft-limit", "1", "--hard-limit", "1"]);
    let open: Vec<_> = (0..3).map(|_| edge.visit_from("127.0.1.1").unwrap()).collect();
    let losses = json(&run(&edge, &["capacity", "--json"]));
    let verdict = |name: &str| {
        let losses = losses.as_array().unwrap().iter();
        let of = |loss: &&Value| loss["kind"] == "backend" && loss["name"] == name;
        losses.clone().find(of).map(|loss| loss["verdict"].clone()).unwrap()
    };
    assert_eq!((verdict("near"), verdict("far")), ("too_much".into(), "fits".into()));
    assert!(run(&edge, &["capacity"]).out.contains("do not fit"));
    drop(open);
}

#[test]
fn top_prints_one_picture_without_a_terminal() {
    let (_backends, edge) = two();
    let _open = edge.visit_from("127.0.1.1").unwrap();
    let picture = run(&edge, &["top"]);
    assert!(picture.out.contains(&format!("pid {}", edge.pid())), "{}", picture.out);
    assert!(picture.out.contains("connections 1 of"), "{}", picture.out);
    let near = picture.out.lines().find(|line| line.starts_with("near")).unwrap();
    assert!(near.contains("sa CL") && near.ends_with("ready"), "{near}");
}

#[test]
fn config_is_that_of_the_process_and_check_says_what_a_file_would_change() {
    let (_backends, edge) = two();
    let file = edge.site.path("config.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let changed =
        format!("workers = 9\n{before}\n[rate_limit]\nburst = 77\n[app.web]\nspill = \"region\"");
    std::fs::write(&file, changed).unwrap();
    let shown = run(&edge, &["config"]);
    let burst = shown.out.lines().find(|line| line.contains("RATE_LIMIT_BURST")).unwrap();
    assert!(burst.ends_with("= 10  (default)"), "the process has not read it yet: {burst}");
    let said = run(&edge, &["check", file.to_str().unwrap()]);
    for change in ["rate_limit.burst: 10 -> 77", "app.web.spill: - -> region"] {
        assert!(said.out.contains(change), "{}", said.out);
    }
    assert!(!said.out.contains("workers: 2 -> 9"), "its environment says 2: {}", said.out);
    assert!(said.out.contains("EDGEPROXY_WORKERS overrides 9 in the file"), "{}", said.out);
    edge.api().ask("POST", "/api/v1/config/reload", None).ok();
    let said = run(&edge, &["check", file.to_str().unwrap()]);
    assert!(!said.out.contains("77"), "it is in force: {}", said.out);
}

#[test]
fn a_process_elsewhere_is_asked_by_its_address_with_the_token() {
    let (_backends, edge) = two();
    let url = format!("http://{}", edge.api_addr());
    let elsewhere = |token: &str| Site::new().env("EDGEPROXY_API_TOKEN", token).prepared();
    let operator = elsewhere(TOKEN);
    let drained = operator.run(&["backends", "drain", "near", "--api", &url]);
    assert_eq!(drained.code, Some(0), "{drained:?}");
    assert!(drained.err.starts_with(&format!("live, pid {}", edge.pid())), "{}", drained.err);
    assert_eq!(edge.visit_from("127.0.1.1").unwrap().served_by, "far");
    let stranger = elsewhere("wrong").run(&["backends", "ready", "near", "--api", &url]);
    assert_eq!(stranger.code, Some(1), "{stranger:?}");
    assert!(stranger.err.contains("no such token"), "{}", stranger.err);
    assert!(!stranger.err.contains("wrong"), "no token is shown: {}", stranger.err);
    for wrong in ["ftp://x", "http://127.0.0.1:1/path", "http://127.0.0.1:99999"] {
        let refused = operator.run(&["top", "--api", wrong]);
        assert!(refused.code == Some(2) && refused.err.contains("http://HOST:PORT"), "{refused:?}");
    }
    let nobody = operator.run(&["top", "--api", "http://127.0.0.1:1"]);
    assert!(nobody.code == Some(1) && nobody.err.contains("127.0.0.1:1"), "{nobody:?}");
}

#[test]
fn without_a_process_what_only_one_can_tell_is_an_error_that_says_so() {
    let site = Site::new().prepared();
    site.run(&["backends", "add", "a", "--app", "web", "--region", "sa", "--addr", "10.0.0.1:80"]);
    for args in [
        &["why"][..],
        &["top"],
        &["capacity"],
        &["backends", "drain", "a", "--wait", "1s"],
        &["backends", "drain", "a", "--here"],
    ] {
        let done = site.run(args);
        assert_eq!(done.code, Some(1), "{args:?}: {done:?}");
        assert!(done.err.contains("offline: no process listens on"), "{args:?}: {}", done.err);
    }
    let list = site.run(&["backends", "list"]);
    assert!(list.err.lines().next().unwrap().contains("offline"), "{}", list.err);
    let drained = site.run(&["backends", "drain", "a"]);
    assert_eq!(drained.code, Some(0), "{drained:?}");
    eventually("it is drained", || {
        let list = site.run(&["backends", "list"]);
        list.out.contains("draining").then_some(())
    });
}

#[test]
fn a_token_that_was_made_here_goes_nowhere_else() {
    let site = Site::new().env("EDGEPROXY_API_ENABLED", "true");
    let edge = site.env("EDGEPROXY_API_LISTEN_ADDR", "127.0.0.1:0").start();
    edge.wait_for_log("edge-proxy.token");
    let here = format!("http://{}", edge.api_addr());
    assert_eq!(edge.site.run(&["backends", "list", "--api", &here]).code, Some(0));
    // An address of this machine that is none of its loopback's stands for any other machine.
    let stranger = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = stranger.connect("192.0.2.1:9").ok().and_then(|()| stranger.local_addr().ok());
    let Some(own) = own.filter(|own| !own.ip().is_loopback()) else { return };
    let listener = std::net::TcpListener::bind((own.ip(), 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let hears = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("it asks");
        let mut head = [0; 4_096];
        let length = stream.read(&mut head).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        String::from_utf8_lossy(&head[..length]).to_ascii_lowercase()
    });
    assert_eq!(edge.site.run(&["top", "--api", &url]).code, Some(1));
    let head = hears.join().unwrap();
    assert!(head.contains("get /api/v1/status") && !head.contains("authorization"), "{head}");
}

#[test]
fn secrets_of_the_process_are_no_difference() {
    let site = Site::new()
        .with_api()
        .env("EDGEPROXY_API_REGISTER_TOKEN", "for-apps-only")
        .env("EDGEPROXY_POSTGRES_URL", "postgres://edge:hunter2@db.invalid:5432/edge");
    let edge = site.start();
    let file = edge.site.path("config.toml");
    let plain = Site::new().env("EDGEPROXY_STATE_DIR", edge.site.path("").to_str().unwrap());
    let said = plain.prepared().run(&["check", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("no difference from the running process"), "{said:?}");
}

#[test]
fn a_typo_in_an_app_is_an_error() {
    let (_backends, edge) = two();
    for args in [&["capacity", "--app", "wbe"][..], &["route", "127.0.1.1", "--app", "wbe"]] {
        let done = edge.site.run(args);
        assert!(done.code == Some(1) && done.err.contains("wbe"), "{done:?}");
    }
}
