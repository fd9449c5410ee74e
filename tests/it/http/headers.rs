//! What of a head is for one hop only, and what backends are told of clients.

use super::peers::{Asking, Message, Origin, before, get, once, request};
use crate::support::Site;

/// What a backend gets of a request with these fields.
fn passed_on(site: Site, origin: &Origin, fields: &str) -> Message {
    let edge = site.start();
    assert_eq!(once(&edge, &request("GET", "/", fields)).status(), 200);
    origin.last()
}

#[test]
fn what_is_for_one_hop_stays_there_both_ways() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nConnection: X-Own , keep-alive,x-none\r\nKeep-Alive: timeout=5\r\n\
         X-Own: secret\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTE: trailers\r\n\
         X-Kept: kept\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 1\r\n\r\na",
    );
    let edge = before(&origin).start();
    let answer = once(
        &edge,
        &request(
            "GET",
            "/",
            "Connection: close, X-Mine\r\nConnection: x-other\r\nKeep-Alive: 5\r\nX-Mine: 1\r\n\
             X-Other: 2\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nTE: gzip;q=1\r\n\
             Proxy-Authorization: Basic eDp5\r\nX-Kept: kept\r\nCookie: c=1\r\n",
        ),
    );
    let asked = origin.last();
    for name in [
        "connection",
        "keep-alive",
        "x-mine",
        "x-other",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "te",
        "transfer-encoding",
        "content-length",
    ] {
        assert!(asked.all(name).is_empty(), "{name} in {asked:?}");
    }
    for name in ["keep-alive", "x-own", "proxy-connection", "upgrade", "te"] {
        assert!(answer.all(name).is_empty(), "{name} in {answer:?}");
    }
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!((asked.field("x-kept"), answer.field("x-kept")), (Some("kept"), Some("kept")));
    assert_eq!(asked.field("cookie"), Some("c=1"));
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"], "fields are not put together");
}

#[test]
fn nobody_can_have_a_field_removed_that_is_the_edges_own_or_the_messages() {
    let origin = Origin::named("a");
    let fields = "Connection: Host, X-Forwarded-For, Forwarded, Via, Traceparent, Content-Length\r\n\
                  Content-Length: 2\r\n";
    let edge = before(&origin).start();
    let answer = once(&edge, &(request("POST", "/", fields) + "hi"));
    assert_eq!(answer.status(), 200);
    let asked = origin.last();
    for name in ["host", "x-forwarded-for", "forwarded", "via", "traceparent", "content-length"] {
        assert_eq!(asked.all(name).len(), 1, "{name} in {asked:?}");
    }
    assert_eq!(asked.text(), "hi");
}

#[test]
fn the_host_is_kept_as_it_was_written_and_that_of_the_target_goes_before_it() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    for host in ["web", "WEB:8080", "[::1]:80", "sub.web.example."] {
        client.ask(&format!("GET /x?y=%20 HTTP/1.1\r\nhOsT: {host}\r\n\r\n"));
        let asked = origin.last();
        assert_eq!(asked.field("host"), Some(host));
        assert_eq!(asked.line, "GET /x?y=%20 HTTP/1.1");
        assert_eq!(asked.field("x-forwarded-host"), Some(host));
    }
    client.ask("GET http://other.example:81/x HTTP/1.1\r\nHost: web\r\n\r\n");
    let asked = origin.last();
    assert_eq!((&*asked.line, asked.field("host")), ("GET /x HTTP/1.1", Some("other.example:81")));
    client.ask("OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n");
    assert_eq!(origin.last().line, "OPTIONS * HTTP/1.1");
}

#[test]
fn via_says_by_which_version_each_side_came() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nVia: 1.0 inner\r\nContent-Length: 0\r\n\r\n");
    let edge = before(&origin).start();
    let answer = once(&edge, &request("GET", "/", "Via: 1.1 outer\r\n"));
    assert_eq!(answer.all("via"), ["1.0 inner", "1.1 edge-proxy"]);
    assert_eq!(origin.last().all("via"), ["1.1 outer", "1.1 edge-proxy"]);
    once(&edge, "GET / HTTP/1.0\r\nHost: web\r\n\r\n");
    assert_eq!(origin.last().all("via"), ["1.0 edge-proxy"]);
    assert!(origin.last().line.ends_with("HTTP/1.1"));
}

/// What somebody says of clients who may say it, or not.
const SAID: &str = "X-Forwarded-For: 203.0.113.7\r\nX-FORWARDED-FOR: 198.51.100.3, 127.0.0.9\r\n\
                    X-Forwarded-Proto: https\r\nX-Forwarded-Host: said.example\r\n\
                    X-Forwarded-Port: 444\r\nX-Real-IP: 203.0.113.7\r\n\
                    Forwarded: for=203.0.113.7;proto=https\r\n";

#[test]
fn what_an_untrusted_peer_says_of_clients_is_replaced_by_what_is_known() {
    let origin = Origin::named("a");
    let asked = passed_on(before(&origin), &origin, SAID);
    assert_eq!(asked.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(asked.field("x-forwarded-proto"), Some("http"));
    assert_eq!(asked.field("x-forwarded-host"), Some("web"));
    assert_eq!(asked.field("forwarded"), Some("for=127.0.0.1;proto=http;host=\"web\""));
    assert!(asked.all("x-forwarded-port").is_empty() && asked.all("x-real-ip").is_empty());
    assert!(!format!("{asked:?}").contains("203.0.113.7"), "{asked:?}");
}

#[test]
fn what_a_trusted_peer_says_of_clients_is_kept_and_the_peer_put_behind_it() {
    let origin = Origin::named("a");
    let site = before(&origin).env("EDGEPROXY_HTTP_TRUSTED", "127.0.0.0/8");
    let asked = passed_on(site, &origin, SAID);
    let list = asked.all("x-forwarded-for").join(", ");
    assert_eq!(list, "203.0.113.7, 198.51.100.3, 127.0.0.9, 127.0.0.1");
    assert_eq!(asked.field("x-forwarded-proto"), Some("https"));
    assert_eq!(asked.field("x-forwarded-host"), Some("said.example"));
    assert_eq!(asked.field("x-forwarded-port"), Some("444"));
    // Both families say the same: the younger is written anew.
    let client = "for=198.51.100.3;proto=https;host=\"said.example\"";
    assert_eq!(
        asked.field("forwarded").unwrap(),
        format!("for=203.0.113.7, {client}, for=127.0.0.9, for=127.0.0.1;proto=http;host=\"web\"")
    );
}

#[test]
fn what_a_trusted_peer_says_in_the_standard_field_counts_as_much() {
    let origin = Origin::named("a");
    let edge = before(&origin)
        .with_geography()
        .env("EDGEPROXY_HTTP_TRUSTED", "127.0.0.1, 10.0.0.0/8")
        .env("EDGEPROXY_DENY", "6.6.6.0/24")
        .start();
    let itself = "for=127.0.0.1;proto=http;host=\"web\"";
    for (number, (said, client, country, addresses, elements)) in [
        (
            "Forwarded: for=127.0.2.5;proto=https;host=pub.example",
            "127.0.2.5",
            "DE",
            "127.0.2.5, 127.0.0.1",
            "for=127.0.2.5;proto=https;host=\"pub.example\", ",
        ),
        (
            "Forwarded: for=6.6.6.6\r\nForwarded: for=\"127.0.3.1:4711\", for=10.1.1.1;proto=http",
            "127.0.3.1",
            "JP",
            "6.6.6.6, 127.0.3.1, 10.1.1.1, 127.0.0.1",
            "for=6.6.6.6, for=127.0.3.1, for=10.1.1.1, ",
        ),
        (
            "Forwarded: for=\"[2001:db8::7]:4711\"",
            "[2001:db8::7]",
            "-",
            "2001:db8::7, 127.0.0.1",
            "for=\"[2001:db8::7]\", ",
        ),
        // Nobody knows who that is: whoever says so is the client.
        (
            "Forwarded: for=127.0.2.5, for=_hidden, for=10.1.1.1",
            "10.1.1.1",
            "-",
            "127.0.2.5, unknown, 10.1.1.1, 127.0.0.1",
            "for=127.0.2.5, for=unknown, for=10.1.1.1, ",
        ),
        ("Forwarded: for=\"127.0.2.5", "127.0.0.1", "-", "127.0.0.1", ""),
        // Hops that write the older only pass on what anybody says in the other.
        (
            "Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 127.0.2.5",
            "127.0.2.5",
            "DE",
            "127.0.2.5, 127.0.0.1",
            "for=127.0.2.5, ",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{number}");
        once(&edge, &request("GET", &path, &format!("{said}\r\n")));
        let asked = origin.last();
        assert_eq!(asked.path(), path, "{said}");
        assert_eq!(asked.field("x-forwarded-for"), Some(addresses), "{said}");
        let has_proto = elements.contains("proto");
        let (proto, host) = if has_proto { ("https", "pub.example") } else { ("http", "web") };
        assert_eq!(asked.field("x-forwarded-proto"), Some(proto), "{said}");
        assert_eq!(asked.field("x-forwarded-host"), Some(host), "{said}");
        assert_eq!(asked.field("forwarded"), Some(&*format!("{elements}{itself}")), "{said}");
        let line = edge.access_line(&format!(" path={path} "));
        assert!(line.contains(&format!("client={client}:")), "{client} of {said:?}: {line}");
        assert!(line.contains(&format!("country={country} ")), "{country} of {said:?}: {line}");
    }
    let denied = once(&edge, &request("GET", "/", "Forwarded: for=6.6.6.6;proto=https\r\n"));
    assert_eq!(denied.status(), 403);
    // How it came to the peer is said where no client is.
    once(&edge, &request("GET", "/", "X-Forwarded-Proto: https\r\n"));
    assert_eq!(origin.last().field("forwarded"), Some("for=127.0.0.1;proto=https;host=\"web\""));
}

/// Names by which hops say who asks, and how.
const NAMES: [&str; 18] = [
    "Forwarded",
    "X-Forwarded",
    "X-Forwarded-For",
    "X_Forwarded_For",
    "X-Forwarded-Prefix",
    "X-Forwarded_Scheme",
    "X-Forwarded-User",
    "X-Forwarded-Client-Cert",
    "x-forwarded-port",
    "X-Original-Forwarded-For",
    "X-Real-IP",
    "X_Real_IP",
    "X-Client-IP",
    "True-Client-IP",
    "X-Cluster-Client-IP",
    "CF-Connecting-IP",
    "Fastly-Client-IP",
    "Fly-Client-IP",
];

#[test]
fn by_whatever_name_an_untrusted_peer_says_who_asks_it_is_taken_out() {
    let origin = Origin::named("a");
    let edge = before(&origin).env("EDGEPROXY_HTTP_TRUSTED", "127.0.0.2").start();
    let fields = NAMES.map(|name| format!("{name}: evil\r\n")).concat();
    once(&edge, &request("GET", "/", &format!("{fields}X-Forward: kept\r\n")));
    let asked = origin.last();
    assert!(!format!("{asked:?}").contains("evil"), "{asked:?}");
    assert_eq!(asked.field("x-forward"), Some("kept"));
    // Nor do they come behind a body.
    let chunks = format!("1\r\nx\r\n0\r\n{fields}X-Sum: 1\r\n\r\n");
    once(&edge, &(request("POST", "/", "Transfer-Encoding: chunked\r\n") + &chunks));
    assert_eq!(origin.last().trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    // Whose word counts may use them, but for what is written anew.
    Asking::from("127.0.0.2", &edge).ask(&request("GET", "/", &fields));
    let asked = origin.last();
    let passed: Vec<&str> =
        asked.fields.iter().filter(|(_, value)| value == "evil").map(|(name, _)| &**name).collect();
    let anew = ["Forwarded", "X-Forwarded-For", "X_Forwarded_For"];
    let expected: Vec<&str> = NAMES.into_iter().filter(|name| !anew.contains(name)).collect();
    assert_eq!(passed, expected);
}

#[test]
fn the_client_is_the_last_that_is_no_hop_of_ours() {
    let origin = Origin::named("a");
    let edge = before(&origin)
        .with_geography()
        .env("EDGEPROXY_HTTP_TRUSTED", "127.0.0.1, 127.0.0.9, 10.0.0.0/8, fd00::/8")
        .start();
    for (number, (said, client, country)) in [
        ("203.0.113.7, 127.0.2.5", "127.0.2.5", "DE"),
        // Whatever is before the last is only said.
        ("127.0.3.1, 127.0.2.5", "127.0.2.5", "DE"),
        ("127.0.3.1, 127.0.9.9, 10.1.2.3,127.0.0.9", "127.0.9.9", "-"),
        ("127.0.3.1 ,10.1.2.3 , 127.0.0.9", "127.0.3.1", "JP"),
        ("2001:db8::7, fd00::1", "2001:db8::7", "-"),
        // All of them are ours: the first.
        ("10.1.2.3, 127.0.0.9", "10.1.2.3", "-"),
        // Nobody knows who that is.
        ("unknown", "127.0.0.1", "-"),
        ("127.0.2.5, unknown", "127.0.0.1", "-"),
        ("", "127.0.0.1", "-"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{number}");
        once(&edge, &request("GET", &path, &format!("X-Forwarded-For: {said}\r\n")));
        let line = edge.access_line(&format!(" path={path} "));
        let wanted = if client.contains(':') {
            format!("client=[{client}]:")
        } else {
            format!("client={client}:")
        };
        assert!(line.contains(&wanted), "{wanted} of {said:?}: {line}");
        assert!(line.contains(&format!("country={country} ")), "{country} of {said:?}: {line}");
    }
    // From elsewhere, nobody's word counts.
    Asking::from("127.0.0.2", &edge).ask(&request(
        "GET",
        "/other",
        "X-Forwarded-For: 127.0.2.5\r\n",
    ));
    assert!(edge.access_line("path=/other ").contains("client=127.0.0.2:"));
}

#[test]
fn a_trace_is_passed_on_or_begun_and_is_the_requests_name() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    let given = format!("00-{TRACE}-00f067aa0ba902b7-01");
    once(&edge, &request("GET", "/1", &format!("traceparent: {given}\r\ntracestate: a=b\r\n")));
    let asked = origin.last();
    assert_eq!(
        (asked.field("traceparent"), asked.field("tracestate")),
        (Some(&*given), Some("a=b"))
    );
    assert!(edge.access_line("path=/1 ").contains(TRACE));

    for wrong in [
        "",
        "traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01\r\n",
        "traceparent: 00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01\r\n",
        "traceparent: ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra\r\n",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\r\n",
        "traceparent: nonsense\r\n",
        // Nobody knows which of two it is.
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    ] {
        once(&edge, &request("GET", "/2", wrong));
        let asked = origin.last();
        let begun = asked.field("traceparent").expect("it is begun").to_owned();
        let parts: Vec<&str> = begun.split('-').collect();
        assert_eq!(
            parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
            [2, 32, 16, 2],
            "{wrong}"
        );
        assert_eq!(parts[0], "00");
        assert!(parts[1] != TRACE && asked.all("tracestate").is_empty(), "{wrong}: {asked:?}");
        assert!(edge.access_line(parts[1]).contains("path=/2 "), "{wrong}");
    }
}

#[test]
fn fields_come_through_byte_for_byte_in_their_order() {
    let origin = Origin::named("a");
    let edge = before(&origin).start();
    let mut client = Asking::to(&edge);
    let long = "x".repeat(40_000);
    let fields =
        format!("X-A: 1\r\nx-empty:\r\nX-Quoted: \"a, b\"; c=\\\"\r\nX-A: 2\r\nX-Long: {long}\r\n");
    client.ask(&request("GET", "/", &fields));
    let asked = origin.last();
    let own: Vec<(&str, &str)> = asked
        .fields
        .iter()
        .filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-") && !name.starts_with("x-f"))
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let expected = [
        ("X-A", "1"),
        ("x-empty", ""),
        ("X-Quoted", "\"a, b\"; c=\\\""),
        ("X-A", "2"),
        ("X-Long", &long),
    ];
    assert_eq!(own, expected);
    client.get("/again");
    let _ = get("/");
}
