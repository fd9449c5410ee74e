//! Whose request it is, and which backend has it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::peers::{Asking, Origin, Then, before, get, ok, once, request, says, site};
use crate::support::{Row, Site, eventually};

fn asks_of(client: &mut Asking, host: &str) -> (u16, String) {
    let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    (answer.status(), answer.text())
}

#[test]
fn the_host_says_which_app_is_asked_however_it_is_written() {
    let names = ["shop", "any"];
    let origins = names.map(Origin::named);
    // That of the listener has hosts: it does not serve all others.
    let mut at = site().env("EDGEPROXY_APP", "shop");
    for (name, origin) in names.iter().zip(&origins) {
        at = at.backend(Row::new(name, origin.addr()).app(name));
    }
    let edge = at
        .toml("[app.shop]\nhosts = [\"shop.example\"]")
        .toml("[app.any]\nhosts = [\"*.shop.example\"]")
        .start();
    // One connection for all of them: each request is asked anew whose it is.
    let mut client = Asking::to(&edge);
    for (host, app) in [
        ("shop.example", "shop"),
        ("SHOP.Example", "shop"),
        ("shop.example.", "shop"),
        ("shop.example:8080", "shop"),
        ("Shop.Example.:80", "shop"),
        ("a.shop.example", "any"),
        ("A.SHOP.EXAMPLE.:443", "any"),
    ] {
        assert_eq!(asks_of(&mut client, host), (200, app.to_owned()), "{host}");
    }
    for host in
        ["other.example", "shop.example.org", "xshop.example", "192.0.2.8:80", "[::1]", "[::1]:80"]
    {
        let (status, body) = asks_of(&mut client, host);
        assert_eq!(status, 421, "{host}: {body}");
    }
    // The target says it, if it does.
    let answer = client.ask("GET http://a.shop.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(answer.text(), "any");
    // HTTP/1.0 may say nothing.
    assert_eq!(once(&edge, "GET / HTTP/1.0\r\n\r\n").status(), 421);
    let line = edge.access_line("host=other.example ");
    assert!(line.contains("reason=unknown_host") && line.contains("status=421"), "{line}");
}

#[test]
fn an_app_without_hosts_serves_all_of_them() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    for host in ["anything", "[::1]:80", "192.0.2.1"] {
        assert_eq!(asks_of(&mut client, host).0, 200, "{host}");
    }
    assert_eq!(once(&edge, "GET / HTTP/1.0\r\n\r\n").status(), 200);
}

#[test]
fn a_listeners_app_without_hosts_serves_those_of_no_other() {
    let [shop, rest] = ["shop", "rest"].map(Origin::named);
    let edge = site()
        .env("EDGEPROXY_APP", "rest")
        .backend(Row::new("s", shop.addr()).app("shop"))
        .backend(Row::new("r", rest.addr()).app("rest"))
        .toml("[app.shop]\nhosts = [\"shop.example\"]")
        .start();
    let mut client = Asking::to(&edge);
    for (host, app) in [("shop.example", "shop"), ("other.example", "rest"), ("[::1]:80", "rest")] {
        assert_eq!(asks_of(&mut client, host), (200, app.to_owned()), "{host}");
    }
    // One whose backends are gone is still not another.
    edge.site.sql("DELETE FROM backends WHERE app = 'shop'");
    eventually("it has none", || (asks_of(&mut client, "shop.example").0 == 503).then_some(()));
    assert_eq!(asks_of(&mut client, "other.example").1, "rest");
}

#[test]
fn a_new_host_is_known_after_a_reload_on_connections_that_are_open() {
    let [shop, blog] = ["shop", "blog"].map(Origin::named);
    let edge = site()
        .env("EDGEPROXY_APP", "shop")
        .backend(Row::new("s", shop.addr()).app("shop"))
        .backend(Row::new("b", blog.addr()).app("blog"))
        .toml("[app.shop]\nhosts = [\"shop.example\"]\n[app.blog]\nhosts = [\"blog.example\"]")
        .start();
    let mut client = Asking::to(&edge);
    assert_eq!(asks_of(&mut client, "new.example").0, 421);
    edge.reload("[app.shop]\nhosts = [\"shop.example\"]\n[app.blog]\nhosts = [\"new.example\"]");
    assert_eq!(asks_of(&mut client, "new.example").1, "blog");
    assert_eq!(asks_of(&mut client, "blog.example").0, 421);
}

#[test]
fn a_host_of_two_apps_is_an_error_and_so_is_http_where_nothing_is_decrypted() {
    for (text, expected) in [
        (
            "[app.web]\nhosts = [\"x.test\"]\n[app.b]\nhosts = [\"y.test\", \"X.TEST.\"]",
            "config.toml:4:9: app.b.hosts = [\"y.test\", \"X.TEST.\"]: x.test leads to app.web already",
        ),
        (
            "[[listener]]\naddr = \"127.0.0.1:0\"\ntls = \"passthrough\"\nmode = \"http\"",
            "config.toml:4:8: listener.mode = \"http\": must not be http with tls = \"passthrough\"",
        ),
    ] {
        let failed = site().toml(text).prepared().run(&["check"]);
        assert_eq!(failed.code, Some(78), "{failed:?}");
        assert!(failed.err.contains(expected), "{expected} in {}", failed.err);
    }
    // A name and all below another are two, and so is what clients of TLS ask for.
    let fine =
        "[app.web]\nhosts = [\"x.test\"]\n[app.b]\nhosts = [\"*.x.test\"]\nsni = [\"x.test\"]";
    let checked = site().toml(fine).prepared().run(&["check"]);
    assert!(!checked.err.contains("already"), "{checked:?}");
}

/// Three backends, and clients that keep theirs.
fn with_affinity(origins: &[Origin]) -> Site {
    let mut at = site().env("EDGEPROXY_BINDING_TTL_SECS", "600");
    for (number, origin) in origins.iter().enumerate() {
        at = at.backend(Row::new(&format!("b{number}"), origin.addr()));
    }
    at
}

#[test]
fn a_client_keeps_its_backend_over_requests_and_connections() {
    let origins = ["a", "b", "c"].map(Origin::named);
    let edge = with_affinity(&origins).env("EDGEPROXY_POOL_ENABLED", "true").start();
    let mut used = HashSet::new();
    for number in 2..22 {
        let ip = format!("127.0.0.{number}");
        let served: HashSet<String> = (0..6)
            .map(|_| {
                let mut client = Asking::from(&ip, &edge);
                client.get("/");
                client.get("/").text()
            })
            .collect();
        assert_eq!(served.len(), 1, "{ip}: {served:?}");
        used.extend(served);
    }
    assert_eq!(used.len(), 3, "{used:?}");
}

#[test]
fn clients_behind_a_trusted_peer_keep_theirs() {
    let origins = ["a", "b", "c"].map(Origin::named);
    let edge = with_affinity(&origins).env("EDGEPROXY_HTTP_TRUSTED", "127.0.0.1").start();
    let mut balancer = Asking::to(&edge);
    let mut of = |client: usize| {
        let said = format!("X-Forwarded-For: 203.0.113.{client}\r\n");
        balancer.ask(&request("GET", "/", &said)).text()
    };
    let first: Vec<String> = (0..20).map(&mut of).collect();
    let again: Vec<String> = (0..20).map(&mut of).collect();
    assert_eq!(first, again);
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3, "{first:?}");
}

/// A backend that answers `/` at once, and `/held` with what it is given.
fn held(name: &'static str) -> (Origin, std::sync::mpsc::Sender<()>) {
    let (lets_go, let_go) = std::sync::mpsc::channel::<()>();
    let let_go = std::sync::Mutex::new(let_go);
    let origin = Origin::new(move |seen, reader| {
        if seen.message.path() == "/held" && let_go.lock().unwrap().recv().is_err() {
            return Then::Closes;
        }
        says(reader, ok(name))
    });
    (origin, lets_go)
}

#[test]
fn a_hard_limit_counts_requests_under_way_and_not_connections() {
    let (origin, lets_go) = held("a");
    // One worker takes one after the other: whoever has been answered has no place any more.
    let edge = site()
        .env("EDGEPROXY_WORKERS", "1")
        .backend(Row::new("a", origin.addr()).hard_limit(2))
        .start();
    // Connections that have nothing under way take no place.
    let mut idle: Vec<Asking> = (0..10).map(|_| Asking::to(&edge)).collect();
    for client in &mut idle {
        // A place is given back a moment after the answer.
        eventually("it is served", || (client.get("/").status() == 200).then_some(()));
    }
    for client in &mut idle[..2] {
        client.say(get("/held"));
    }
    eventually("the backend has both", || {
        let held = origin.seen().iter().filter(|seen| seen.message.path() == "/held").count();
        (held == 2).then_some(())
    });
    for client in &mut idle[2..5] {
        let answer = client.get("/");
        assert_eq!(answer.status(), 503);
        let again: u64 = answer.field("retry-after").expect("when to come again").parse().unwrap();
        assert!((1..=60).contains(&again), "{answer:?}");
        assert!(answer.all("connection").is_empty(), "the connection goes on: {answer:?}");
    }
    lets_go.send(()).unwrap();
    lets_go.send(()).unwrap();
    for client in &mut idle[..2] {
        assert_eq!(client.answer("GET").unwrap().text(), "a");
    }
    for client in &mut idle {
        eventually("there is room again", || (client.get("/").status() == 200).then_some(()));
    }
    let line = edge.access_line("status=503");
    assert!(line.contains("reason=at_hard_limit"), "{line}");
}

#[test]
fn what_is_over_a_soft_limit_goes_on_to_where_there_is_room() {
    let (near, lets_go) = held("near");
    let far = Origin::named("far");
    let edge = site()
        .backend(Row::new("near", near.addr()).soft_limit(1))
        .backend(Row::new("far", far.addr()).place("ap", "JP"))
        .start();
    let [mut first, mut second] = [Asking::to(&edge), Asking::to(&edge)];
    assert_eq!(first.get("/").text(), "near");
    first.say(get("/held"));
    eventually("the backend has it", || (near.seen().len() == 2).then_some(()));
    assert_eq!(second.get("/").text(), "far");
    lets_go.send(()).unwrap();
    first.answer("GET").unwrap();
    eventually("there is room again", || (second.get("/").text() == "near").then_some(()));
}

#[test]
fn a_hard_limit_is_exact_under_a_rush_of_requests() {
    const LIMIT: u32 = 5;
    let under_way = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let counted = Arc::clone(&under_way);
    let origin = Origin::new(move |_, reader| {
        let (now, most) = &*counted;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(std::time::Duration::from_millis(1));
        now.fetch_sub(1, Ordering::SeqCst);
        says(reader, ok("a"))
    });
    for pool in ["true", "false"] {
        let edge = site()
            .env("EDGEPROXY_POOL_ENABLED", pool)
            .backend(Row::new("a", origin.addr()).hard_limit(LIMIT))
            .start();
        let (served, refused) = thread::scope(|scope| {
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = Asking::to(&edge);
                        let mut of = [0, 0];
                        for _ in 0..50 {
                            match client.get("/").status() {
                                200 => of[0] += 1,
                                503 => of[1] += 1,
                                other => panic!("{other}"),
                            }
                        }
                        of
                    })
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .fold((0, 0), |sum, of| (sum.0 + of[0], sum.1 + of[1]))
        });
        assert_eq!(served + refused, 1_000);
        assert_eq!(under_way.1.load(Ordering::SeqCst), 5, "as many as there may be, and no more");
        assert!(served > 0 && refused > 0, "{served} and {refused}, pool {pool}");
        let mut all: Vec<Asking> = (0..LIMIT).map(|_| Asking::to(&edge)).collect();
        for client in &mut all {
            eventually("no place is lost", || (client.get("/").status() == 200).then_some(()));
        }
    }
}
