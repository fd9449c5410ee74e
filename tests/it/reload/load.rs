//! A thousand reloads under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::site;
use crate::support::{Backend, Edge, Metrics, Row, eventually};

const WARM_UP: usize = 100;
const RELOADS: usize = 1_000;
const CLIENTS: usize = 3;
/// Between two connections of a client, so that the machine is not all theirs.
const REST: Duration = Duration::from_millis(5);
/// What a process may have more of after a thousand reloads, in KiB.
const GROWTH: u64 = 4 << 10;

/// Two configurations that differ in all that is made anew.
const CONFIGURATIONS: [&str; 2] = [
    "deny = [\"127.0.8.0/24\"]\nconnect_tries = 2\nslow_start_secs = 0\nmax_connections = 5000\n\
     max_connections_per_client = 1000\n[rate_limit]\nenabled = true\nmax_requests = 1000000\n\
     burst = 1000000\n[circuit_breaker]\nenabled = true\n[health_check]\nenabled = true\n\
     [pool]\nenabled = true\n[[geo_override]]\ncidr = \"127.0.2.0/24\"\ncountry = \"DE\"\n",
    "deny = [\"127.0.9.0/24\"]\nconnect_tries = 3\nslow_start_secs = 5\nidle_timeout_secs = 60\n\
     [rate_limit]\nenabled = true\nmax_requests = 2000000\nburst = 1000000\n\
     [circuit_breaker]\nenabled = true\nfailure_threshold = 9\n\
     [health_check]\nenabled = true\ntimeout_secs = 1\n[regions.eu]\ncountries = [\"CL\"]\n\
     [app.web]\nspill = \"any\"\naffinity_ttl_secs = 5\n",
];

/// Has it reload so often while clients come and go all the time; how many came.
fn reload_under_load(edge: &Edge, times: usize) -> usize {
    let over = AtomicBool::new(false);
    let clients = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 1..=CLIENTS {
            let (over, clients) = (&over, &clients);
            scope.spawn(move || {
                let ip = format!("127.0.2.{client}");
                while !over.load(Ordering::SeqCst) {
                    let mut visit = edge.visit_from(&ip).expect("every client is served");
                    visit.client.echo("and what it sends is carried").expect("to its end");
                    clients.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(REST);
                }
            });
        }
        for configuration in CONFIGURATIONS.iter().cycle().take(times) {
            edge.reload(configuration);
        }
        over.store(true, Ordering::SeqCst);
    });
    clients.load(Ordering::SeqCst)
}

/// Waits until no connection is open, at either side.
fn wait_for_rest(edge: &Edge) {
    let open = |metrics: &Metrics| {
        metrics.value("edgeproxy_connections_active", &[])
            + metrics.sum("edgeproxy_pool_idle_connections", &[])
    };
    edge.metrics_when("no connection is left", |metrics| open(metrics) == 0);
}

#[test]
fn a_thousand_reloads_fail_no_client_and_leave_nothing_behind() {
    let names = ["a", "b", "c", "d"];
    let backends = names.map(Backend::named);
    let site = names
        .into_iter()
        .zip(&backends)
        .fold(site(), |site, (name, backend)| site.backend(Row::new(name, backend.addr())));
    let edge = site.start();
    reload_under_load(&edge, WARM_UP);
    wait_for_rest(&edge);
    let (memory, threads) = (edge.memory_kib(), edge.threads());
    let descriptors = edge.descriptors();

    let clients = reload_under_load(&edge, RELOADS);
    assert!(clients > RELOADS, "only {clients} clients came");
    wait_for_rest(&edge);
    let after = edge.memory_kib();
    assert!(after <= memory + GROWTH, "{memory} KiB became {after} KiB");
    // Those that read files end when there has been nothing to read for a while.
    eventually("no thread is left over", || (edge.threads() <= threads).then_some(()));
    eventually("no descriptor is left over", || (edge.descriptors() <= descriptors).then_some(()));
    let metrics = edge.metrics();
    assert_eq!(metrics.reloads("success"), (WARM_UP + RELOADS) as u64);
    let ended = |labels: &[_]| metrics.sum("edgeproxy_connections_ended_total", labels);
    assert_eq!(ended(&[]), ended(&[("reason", "client_closed")]), "there was no other end");
}
