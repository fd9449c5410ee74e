//! Health checks of backends that expect a header.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::haproxy::answering;
use super::{LOCAL, v1, v2_of};
use crate::support::{Backend, Refusing, Row, Site, Web, eventually};

/// Probes every second.
fn probing(check: &str, version: &str, health: &str) -> Site {
    Site::new()
        .with_metrics()
        .env("EDGEPROXY_HEALTH_CHECK_ENABLED", "true")
        .env("EDGEPROXY_HEALTH_CHECK_TYPE", check)
        .env("EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS", "1")
        .env("EDGEPROXY_HEALTH_HEALTHY_THRESHOLD", "1")
        .toml(&format!("[app.web]\nproxy_protocol = \"{version}\"\n{health}"))
}

/// Who came, and what they said.
type Kept = Arc<Mutex<Vec<(SocketAddr, Vec<u8>)>>>;

/// A backend that keeps who came and what they said, and answers that all is well.
fn keeping() -> (Backend, Kept) {
    let kept = Kept::default();
    let keep = Arc::clone(&kept);
    let backend = Backend::serving(move |mut stream| {
        let peer = stream.peer_addr().unwrap();
        let (mut said, mut bytes) = (Vec::new(), [0; 1_024]);
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            said.extend_from_slice(&bytes[..read]);
            if said.ends_with(b"\r\n\r\n") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                break;
            }
        }
        keep.lock().unwrap().push((peer, said));
    });
    (backend, kept)
}

#[test]
fn a_probe_begins_with_a_header_that_says_it_is_nobody_elses() {
    for check in ["tcp", "http"] {
        for version in ["v1", "v2"] {
            let (backend, kept) = keeping();
            let edge = probing(check, version, "").backend(Row::new("a", backend.addr())).start();
            let (peer, said) = eventually("a probe", || kept.lock().unwrap().first().cloned());
            // Version 1 cannot say so, and says who asks.
            let header =
                if version == "v1" { v1(peer, backend.addr()) } else { v2_of(LOCAL, 0, b"") };
            let rest = said.strip_prefix(&*header).unwrap_or_else(|| panic!("{said:?}"));
            match check {
                "tcp" => assert_eq!(rest, b"", "{version}"),
                _ => assert!(rest.starts_with(b"GET /health HTTP/1.1\r\n"), "{version}"),
            }
            let eligible = edge.metrics().value("edgeproxy_backend_eligible", &[("backend", "a")]);
            assert_eq!(eligible, 1);
        }
    }
}

#[test]
fn haproxy_that_expects_a_header_is_found_healthy() {
    for check in ["tcp", "http"] {
        for version in ["v1", "v2"] {
            let port = Refusing::new();
            let edge = probing(check, version, "").backend(Row::new("a", port.addr())).start();
            edge.wait_for_log("unhealthy");
            let _back = answering(port);
            edge.wait_for_log("healthy again");
        }
    }
}

#[test]
fn a_port_of_its_own_for_probes_is_not_said_to_expect_a_header() {
    let (backend, web) = (Backend::echo(), Web::named("status"));
    let health = format!("health = {{ path = \"/up\", port = {} }}", web.addr().port());
    let edge = probing("http", "v2", &health).backend(Row::new("a", backend.addr())).start();
    let probe = eventually("a probe", || web.probes().first().cloned());
    assert!(probe.starts_with("GET /up HTTP/1.1\r\n"), "{probe:?}");
    let mut client = edge.client();
    client.finish();
    assert!(client.rest().unwrap().starts_with(super::SIGNATURE), "clients' connections have one");
}

#[test]
fn a_reload_changes_the_header_of_probes_and_keeps_the_verdict() {
    let (backend, kept) = keeping();
    let edge = probing("http", "off", "").backend(Row::new("a", backend.addr())).start();
    let probed = |begin: &'static [u8]| {
        eventually("a probe", || {
            kept.lock().unwrap().iter().any(|(_, said)| said.starts_with(begin)).then_some(())
        });
    };
    probed(b"GET /health");
    edge.reload("[app.web]\nproxy_protocol = \"v1\"");
    probed(b"PROXY TCP4 ");
    edge.reload("[app.web]\nproxy_protocol = \"v2\"");
    probed(super::SIGNATURE);
    assert_eq!(edge.times_logged("unhealthy"), 0);
}
