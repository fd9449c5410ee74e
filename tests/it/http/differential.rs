//! What is passed on is what nginx and `HAProxy` would pass on, where they pass it on as well.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::corpus::{Case, Expected, SECOND, cases};
use super::raw::{Recorder, Said, address, at_once, tell};
use crate::support::{Balancer, Refusing, Row, Site};

/// nginx that passes on what it gets, framed as it is.
fn nginx(to: SocketAddr) -> Balancer {
    let port = Refusing::new();
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = folders.map(|kind| format!("{kind}_temp_path {kind};")).join(" ");
    let text = format!(
        "http {{ access_log off; {folders} client_header_buffer_size 64k; \
         large_client_header_buffers 4 64k; upstream back {{ server {to}; keepalive 8; }} \
         server {{ listen {}; location / {{ proxy_pass http://back; proxy_http_version 1.1; \
         proxy_request_buffering off; proxy_set_header Host $http_host; \
         proxy_set_header Connection \"\"; proxy_set_header X-Forwarded-For $remote_addr; }} }} }}",
        port.addr()
    );
    Balancer::nginx(port, &text)
}

fn haproxy(to: SocketAddr) -> Balancer {
    let port = Refusing::new();
    let text = format!(
        "global\n  tune.bufsize 131072\n  tune.http.maxhdr 256\nlisten front\n  mode http\n  \
         bind {}\n  http-reuse always\n  \
         http-request set-header X-Forwarded-For %[src]\n  server back {to}",
        port.addr()
    );
    Balancer::haproxy(port, &text)
}

/// What a backend sees of each case through a proxy: `None` = the case was refused.
fn seen_through(
    proxy: SocketAddr,
    backend: &Recorder,
    cases: &[Case],
    end: impl FnOnce(),
) -> Vec<Option<Vec<String>>> {
    at_once(cases.len(), |number| {
        let bytes = [&cases[number].bytes, SECOND.as_bytes()].concat();
        tell(proxy, address(number), &bytes, Said::AtOnce, false)
    });
    end();
    let (requests, left) = backend.to_the_end();
    let why: Vec<String> = left.into_iter().filter_map(|left| left.why).collect();
    assert_eq!(why, Vec::<String>::new(), "{proxy} passed on what is no request");
    let mut seen: HashMap<IpAddr, Vec<String>> = HashMap::new();
    for request in &requests {
        let ip = request.one("x-forwarded-for").and_then(|ip| ip.parse().ok());
        seen.entry(ip.expect("an address")).or_default().push(request.summary());
    }
    (0..cases.len()).map(|number| seen.remove(&address(number))).collect()
}

/// Where another proxy passes on something else: which, in which case, what (without the second request),
/// and why that is its own affair.
const DIFFERENCES: [(&str, &str, &str, &str); 14] = {
    const FIELD: &str =
        "told to pass on the Host field; the target is what counts (RFC 9112, 3.2.2)";
    const WHOLE: &str = "passes on a target with its host; an origin needs none (RFC 9112, 3.2.1)";
    const PATH: &str = "knows no OPTIONS of a server as a whole";
    const CLOSE: &str = "takes any word with close in it for close";
    [
        ("nginx", "target \"http://web:80/a\"", "GET /a web none", FIELD),
        ("nginx", "target \"http://other/a\"", "GET /a web none", FIELD),
        ("nginx", "target \"http://other:8/\"", "GET / web none", FIELD),
        ("nginx", "target \"http://[::1]:8/\"", "GET / web none", FIELD),
        ("nginx", "target \"http://WEB/\"", "GET / web none", FIELD),
        ("nginx", "all of a named server", "OPTIONS / web none", PATH),
        ("nginx", "Connection: \"x, y, close2\"", "GET / web none", CLOSE),
        ("haproxy", "target \"http://web/\"", "GET http://web/ web none", WHOLE),
        ("haproxy", "target \"http://web\"", "GET http://web web none", WHOLE),
        ("haproxy", "target \"HTTP://web/a?b\"", "GET HTTP://web/a?b web none", WHOLE),
        ("haproxy", "target \"https://web/\"", "GET https://web/ web none", WHOLE),
        ("haproxy", "target \"http://web:80/a\"", "GET http://web/a web none", WHOLE),
        ("haproxy", "target \"http://WEB/\"", "GET http://WEB/ web none", WHOLE),
        ("haproxy", "all of a named server", "OPTIONS http://web web none", WHOLE),
    ]
};

/// How another proxy would write what ours writes like this, where it differs throughout.
fn written_by(peer: &str, ours: &str) -> String {
    match peer {
        // It reads out a short body before it passes it on, with its length, and forgets what is behind.
        "nginx" => {
            let body = ours.split_once(" +").map_or(ours, |(body, _)| body);
            body.replace(" chunked", " length")
        }
        _ => ours.to_owned(),
    }
}

/// What another proxy has passed on, without what it should not have.
fn without_excess(peer: &str, case: &str, theirs: &str) -> String {
    let named = case.strip_prefix("a trailer ").map(str::to_ascii_lowercase);
    match (peer, named) {
        // It passes on any field behind a body (RFC 9110, 6.5.1 forbids most of these).
        ("haproxy", Some(name)) => theirs.replace(&format!(" +{name}: 7"), ""),
        _ => theirs.to_owned(),
    }
}

#[test]
fn what_is_passed_on_is_what_nginx_and_haproxy_pass_on() {
    let is_passed = |case: &Case| matches!(case.expected, Expected::Passed(_) | Expected::Alone(_));
    let cases: Vec<Case> = cases().into_iter().filter(is_passed).collect();
    let backend = Recorder::new();
    let site = Site::new().env("EDGEPROXY_MODE", "http").backend(Row::new("a", backend.addr()));
    let edge = site.start();
    let ours = seen_through(edge.addr, &backend, &cases, || drop(edge));

    let mut faults = Vec::new();
    let mut found = BTreeSet::new();
    for peer in ["nginx", "haproxy"] {
        let backend = Recorder::lenient();
        let process = if peer == "nginx" { nginx(backend.addr()) } else { haproxy(backend.addr()) };
        let theirs = seen_through(process.addr(), &backend, &cases, || drop(process));
        let mut refused = Vec::new();
        for ((case, ours), theirs) in cases.iter().zip(&ours).zip(theirs) {
            let ours = ours.as_ref().expect("the edge passes it on");
            let Some(theirs) = theirs else {
                refused.push(&*case.name);
                continue;
            };
            let theirs: Vec<String> =
                theirs.iter().map(|seen| without_excess(peer, &case.name, seen)).collect();
            let expected: Vec<String> = ours.iter().map(|seen| written_by(peer, seen)).collect();
            let known = DIFFERENCES.iter().find(|(at, name, ..)| *at == peer && *name == case.name);
            let is_known = known.is_some_and(|(_, _, differs, _)| theirs[0] == *differs);
            if theirs == expected {
                continue;
            }
            if is_known {
                found.insert((peer, &*case.name));
            } else {
                faults.push(format!("{peer}, {}: {theirs:?}, and ours {ours:?}", case.name));
            }
        }
        if refused.len() > cases.len() / 10 {
            faults.push(format!(
                "{peer} refused {} of {}: {refused:?}",
                refused.len(),
                cases.len()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let known: BTreeSet<_> = DIFFERENCES.iter().map(|(peer, case, ..)| (*peer, *case)).collect();
    assert_eq!(found, known, "differences that are none");
}
