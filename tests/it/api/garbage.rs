//! Requests that nobody would make: none of them is a panic, a 5xx, or the end of anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::edge_with;
use crate::support::api::TOKEN;
use crate::support::{Backend, Row};

const REQUESTS: usize = 3_000;

/// What is put together and bent.
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "PATCH", "\u{fc}"];
const PATHS: [&str; 14] = [
    "/",
    "/api/v1/register",
    "/api/v1/heartbeat/a",
    "/api/v1/backends/a",
    "/api/v1/backends/a/state",
    "/api/v1/backends/a/breaker",
    "/api/v1/route?client=192.0.2.1&without=%ff%fe",
    "/api/v1/choices?client=::/0&since_secs=99999999999999999999",
    "/api/v1/connections?client=0.0.0.0/0&limit=-1",
    "/api/v1/connections/0-ffffffffffffffff",
    "/api/v1/deny?cidr=%2e%2e%2f",
    "/api/v1/config/reload",
    "/api/v1/../../etc/passwd",
    "//%00",
];
const BODIES: [&str; 8] = [
    "",
    "{}",
    "[[[[[[[[[[[[[[[[",
    "{\"id\":\"x\",\"app\":\"w\",\"region\":\"sa\",\"ip\":\"127.0.0.1\",\"port\":1e308}",
    "{\"id\":\"\\ud800\",\"app\":\"w\",\"region\":\"sa\",\"ip\":\"fe80::1%eth0\",\"port\":-0}",
    "{\"state\":\"drain\",\"close_after_secs\":9223372036854775807}",
    "{\"cidr\":\"127.0.9.0/24\",\"for_secs\":-9223372036854775808,\"kill\":true}",
    "{\"generation\":1,\"generation\":2}",
];
const HEADERS: [&str; 7] = [
    "Content-Type: application/json\r\n",
    "Content-Type: application/json; charset=utf-16\r\n",
    "Authorization: Bearer\r\n",
    "Authorization: Bearer \u{fc}\r\n",
    "Host: [::1\r\n",
    "Accept: application/x-ndjsonx\r\n",
    "Expect: 100-continue\r\n",
];

fn request(rng: &mut fastrand::Rng) -> Vec<u8> {
    let body = BODIES[rng.usize(..BODIES.len())];
    let mut text = format!(
        "{} {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        METHODS[rng.usize(..METHODS.len())],
        PATHS[rng.usize(..PATHS.len())],
        body.len()
    );
    if rng.bool() {
        text.extend(["Authorization: Bearer ", TOKEN, "\r\n"]);
    }
    for _ in 0..rng.usize(..3) {
        text.push_str(HEADERS[rng.usize(..HEADERS.len())]);
    }
    let mut bytes = format!("{text}\r\n{body}").into_bytes();
    for _ in 0..rng.usize(..4) {
        let place = rng.usize(..bytes.len());
        match rng.u8(..3) {
            0 => bytes[place] = rng.u8(..),
            1 => drop(bytes.remove(place)),
            _ => bytes.insert(place, rng.u8(..)),
        }
    }
    bytes
}

#[test]
fn no_path_header_or_body_is_a_panic_or_a_failure() {
    let a = Backend::named("a");
    let edge = edge_with([Row::new("a", a.addr())]);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut answered = 0;
    for turn in 0..REQUESTS {
        let bytes = request(&mut rng);
        let mut stream = TcpStream::connect(edge.api_addr()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        // It may have answered and gone by now.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = [0; 64];
        let Ok(length) = stream.read(&mut answer) else { continue };
        if length == 0 {
            continue;
        }
        answered += 1;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        let said = String::from_utf8_lossy(&bytes);
        assert!(answer.starts_with("HTTP/1.1 "), "{turn}: {said:?}: {answer:?}");
        assert!(!answer.starts_with("HTTP/1.1 5"), "{turn}: {said:?}: {answer:?}");
    }
    assert!(answered > REQUESTS / 2, "only {answered} were answered");
    let log = edge.log_so_far().join("\n");
    assert!(!log.contains("panicked") && !log.contains("a bug in edge-proxy"), "{log}");
    assert!(!log.contains(TOKEN), "no token is logged");
    assert_eq!(edge.api().get("/health").status, 200);
}
