//! Counting in a program of one's own, and what Prometheus gets to read:
//! `cargo run --example metrics`

use std::thread;

use edgeproxy::adapters::outbound::PrometheusMetricsStore;

/// Every family, and its type.
const FAMILIES: [(&str, &str); 8] = [
    ("edgeproxy_connections_total", "counter"),
    ("edgeproxy_connections_active", "gauge"),
    ("edgeproxy_bytes_sent_total", "counter"),
    ("edgeproxy_bytes_received_total", "counter"),
    ("edgeproxy_backend_connections_total", "counter"),
    ("edgeproxy_backend_connections_active", "gauge"),
    ("edgeproxy_backend_errors_total", "counter"),
    ("edgeproxy_backend_rtt_seconds", "histogram"),
];

/// The value of the one sample of a family that is about a backend, or about nothing in particular.
fn value(page: &str, family: &str, backend: Option<&str>) -> Option<f64> {
    let mut samples = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let is_it = backend.map_or(labels.is_empty(), |id| labels.contains(&format!("{id:?}")));
        (name == family && is_it).then(|| value.parse().expect("a number"))
    });
    let value = samples.next();
    assert_eq!(samples.next(), None, "one sample a series");
    value
}

fn main() {
    let metrics = PrometheusMetricsStore::new();
    let empty = metrics.export_prometheus();
    for (family, kind) in FAMILIES {
        let line = format!("# TYPE {family} {kind}");
        assert!(empty.lines().any(|written| written == line), "{line}:\n{empty}");
    }
    assert_eq!(value(&empty, "edgeproxy_connections_total", None), Some(0.0));

    metrics.record_connection("backend-1");
    metrics.record_bytes_sent("backend-1", 1024);
    metrics.record_bytes_received("backend-1", 2048);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    metrics.record_connection("backend-2");
                    metrics.record_bytes_sent("backend-2", 1);
                    metrics.record_bytes_received("backend-2", 2);
                }
            });
        }
    });

    let output = metrics.export_prometheus();
    for (family, backend, expected) in [
        ("edgeproxy_connections_total", None, 4_001.0),
        ("edgeproxy_bytes_sent_total", None, 5_024.0),
        ("edgeproxy_bytes_received_total", None, 10_048.0),
        ("edgeproxy_backend_connections_total", Some("backend-1"), 1.0),
        ("edgeproxy_backend_connections_total", Some("backend-2"), 4_000.0),
        ("edgeproxy_backend_errors_total", Some("backend-1"), 0.0),
    ] {
        let found = value(&output, family, backend);
        assert_eq!(found, Some(expected), "{family} of {backend:?}:\n{output}");
    }
    let samples = output.lines().filter(|line| !line.starts_with('#'));
    println!("{} families, {} samples", FAMILIES.len(), samples.count());
    println!("OK");
}
