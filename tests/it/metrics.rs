//! Numbers for Prometheus: that they are right, and that they are there when it asks.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Backend, Client, Edge, Metrics, PATIENCE, Refusing, Row, Site, ask, noise, reset, within,
};

fn site(backend: &Backend) -> Site {
    Site::new().with_metrics().backend(Row::new("a", backend.addr()))
}

#[test]
fn the_page_is_clean_by_prometheus_own_rules_with_all_there_is_in_it() {
    let [near, far] = ["near", "far"].map(Backend::named);
    let dead = Refusing::new();
    let edge = Site::new()
        .with_metrics()
        .with_geography()
        .without_affinity()
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
        .env("EDGEPROXY_HEALTH_CHECK_ENABLED", "true")
        .env("EDGEPROXY_RATE_LIMIT_ENABLED", "true")
        .env("EDGEPROXY_DENY", "127.0.9.0/24")
        .backend(Row::new("near", near.addr()).hard_limit(100))
        .backend(Row::new("far", far.addr()).place("eu", "DE"))
        .backend(Row::new("dead", dead.addr()).place("ap", "JP"))
        .start();
    edge.wait_for_log("unhealthy");
    let open = [edge.visit_from("127.0.1.1").unwrap(), edge.visit_from("127.0.2.1").unwrap()];
    drop(edge.visit_from("127.0.3.1").unwrap());
    edge.visit_from("127.0.9.1").unwrap_err();
    assert_eq!(edge.refusal_count("denied"), 1);
    let page = edge.get("/metrics");
    assert_eq!(page.status, 200);
    let head = page.head.to_ascii_lowercase();
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    for family in ["setup_seconds_bucket", "backend_ineligible", "routed_total", "build_info"] {
        assert!(page.body.contains(&format!("\nedgeproxy_{family}{{")), "{family}: {}", page.body);
    }
    assert_promtool_is_content(&page.body);
    drop(open);
}

/// Has Prometheus' own tool look at a page; it finds names, types and units that are not as they
/// should be, as well as lines that are none.
fn assert_promtool_is_content(page: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed; scripts/test does that");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let found = promtool.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success() && text.is_empty(), "{}: {text}\n{page}", found.status);
}

impl Edge {
    /// Waits for the first refusal of this kind, and says how many there are.
    fn refusal_count(&self, reason: &str) -> u64 {
        let count = |m: &Metrics| m.value("edgeproxy_refused_total", &[("reason", reason)]);
        count(&self.metrics_when("a refusal is counted", |metrics| count(metrics) > 0))
    }
}

/// How a connection ends, as the first byte of it says.
const REASONS: [&str; 4] = ["client_closed", "backend_closed", "client_reset", "backend_reset"];
/// That byte, and how many bytes are sent and answered.
const ORDER: usize = 9;

/// What a party did, all connections together.
#[derive(Default)]
struct Done {
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Done {
    fn note(&self, sent: usize, received: usize) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        self.sent.fetch_add(sent as u64, Ordering::SeqCst);
        self.received.fetch_add(received as u64, Ordering::SeqCst);
    }

    fn all(&self) -> [u64; 3] {
        [&self.connections, &self.sent, &self.received].map(|count| count.load(Ordering::SeqCst))
    }
}

/// A backend that does what it is ordered to, and keeps its own books.
fn by_the_book() -> (Backend, Arc<Done>) {
    let done: Arc<Done> = Arc::default();
    let books = Arc::clone(&done);
    let backend = Backend::serving(move |mut stream| {
        let mut order = [0; ORDER];
        stream.read_exact(&mut order).unwrap();
        let length = |place: usize| {
            let four: [u8; 4] = order[place..place + 4].try_into().unwrap();
            usize::try_from(u32::from_le_bytes(four)).unwrap()
        };
        let (up, down) = (length(1), length(5));
        stream.read_exact(&mut vec![0; up]).unwrap();
        books.note(ORDER + up, down);
        stream.write_all(&vec![b'.'; down]).unwrap();
        match REASONS[usize::from(order[0])] {
            "backend_closed" => {}
            "backend_reset" => {
                // Once the client has it all.
                stream.read_exact(&mut [0]).unwrap();
                books.sent.fetch_add(1, Ordering::SeqCst);
                reset(stream);
            }
            _ => {
                let _ = stream.read(&mut [0]);
            }
        }
    });
    (backend, done)
}

/// A connection that carries so much each way and ends like this.
fn carry(edge: &Edge, ip: &str, reason: usize, up: usize, down: usize, books: &Done) {
    let mut client = edge.try_client_from(ip).unwrap();
    let mut order = vec![u8::try_from(reason).unwrap()];
    for length in [up, down] {
        order.extend(u32::try_from(length).unwrap().to_le_bytes());
    }
    order.resize(ORDER + up, b'.');
    client.stream.write_all(&order).unwrap();
    client.stream.read_exact(&mut vec![0; down]).unwrap();
    let more = match REASONS[reason] {
        "backend_closed" => {
            assert_eq!(client.rest().unwrap(), b"");
            0
        }
        "backend_reset" => {
            client.stream.write_all(b"!").unwrap();
            assert_eq!(client.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
            1
        }
        "client_reset" => {
            client.reset();
            0
        }
        _ => 0,
    };
    books.note(ORDER + up + more, down);
}

const THREADS: u64 = 4;
/// Of each thread.
const CONNECTIONS: u64 = 2_500;

#[test]
fn after_ten_thousand_connections_every_counter_is_right_to_the_byte() {
    let places = [("sa", "BR"), ("eu", "DE"), ("ap", "JP")];
    let backends = places.map(|place| (place, by_the_book()));
    let mut site = Site::new()
        .with_metrics()
        .with_geography()
        .without_affinity()
        .env("EDGEPROXY_DENY", "127.0.9.0/24");
    for ((region, country), (backend, _)) in &backends {
        site = site.backend(Row::new(region, backend.addr()).place(region, country));
    }
    let edge = site.start();

    let books = Done::default();
    let ends: [AtomicU64; 4] = Default::default();
    let denied = AtomicU64::new(0);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (edge, books, ends, denied) = (&edge, &books, &ends, &denied);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(number);
                for turn in 0..CONNECTIONS {
                    let net = random.u8(0..=3);
                    let ip = format!("127.0.{net}.{}", number + 1);
                    if turn % 50 == 0 {
                        edge.visit_from("127.0.9.1").unwrap_err();
                        denied.fetch_add(1, Ordering::SeqCst);
                        continue;
                    }
                    let reason = random.usize(..REASONS.len());
                    // Some are bulk, which goes another way.
                    let most = if turn % 100 == 1 { 500_000 } else { 3_000 };
                    let (up, down) = (random.usize(..most), random.usize(..most));
                    carry(edge, &ip, reason, up, down, books);
                    ends[reason].fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let metrics = edge.metrics_when("all have ended", |metrics| {
        let ended = metrics.sum("edgeproxy_connections_ended_total", &[]);
        ended >= THREADS * CONNECTIONS && metrics.value("edgeproxy_connections_active", &[]) == 0
    });

    let denied = denied.into_inner();
    let [carried, sent, received] = books.all();
    assert_eq!(carried + denied, THREADS * CONNECTIONS);
    for (name, expected) in [
        ("connections_total", THREADS * CONNECTIONS),
        ("connections_ended_total", THREADS * CONNECTIONS),
        ("connections_active", 0),
        ("backend_connections_total", carried),
        ("backend_connections_active", 0),
        ("backend_rtt_seconds_count", carried),
        ("setup_seconds_count", carried),
        ("routed_total", carried),
        ("bytes_sent_total", sent),
        ("bytes_received_total", received),
        ("refused_total", denied),
        ("dial_failures_total", 0),
        ("access_log_dropped_total", 0),
    ] {
        assert_eq!(metrics.sum(&format!("edgeproxy_{name}"), &[]), expected, "{name}");
    }
    let ended = |reason| metrics.value("edgeproxy_connections_ended_total", &[("reason", reason)]);
    for (reason, count) in REASONS.iter().zip(&ends) {
        assert_eq!(ended(reason), count.load(Ordering::SeqCst), "{reason}");
    }
    assert_eq!(ended("denied"), denied);
    let errors = metrics.sum("edgeproxy_backend_errors_total", &[]);
    assert_eq!(errors, ends[3].load(Ordering::SeqCst), "each backend_reset is the backend's error");

    for ((region, _), (_, done)) in &backends {
        let [carried, ..] = done.all();
        let of = |name: &str, label| metrics.value(name, &[(label, *region)]);
        assert_eq!(of("edgeproxy_backend_connections_total", "backend"), carried, "{region}");
        assert_eq!(of("edgeproxy_backend_connections_total", "region"), carried, "{region}");
        assert_eq!(of("edgeproxy_backend_rtt_seconds_count", "backend"), carried, "{region}");
        assert_eq!(of("edgeproxy_routed_total", "backend_region"), carried, "{region}");
    }
    let all = backends.each_ref().map(|(_, (_, done))| done.all());
    let sum = |place: usize| all.iter().map(|done| done[place]).sum::<u64>();
    assert_eq!([sum(0), sum(1), sum(2)], [carried, sent, received], "the backends' own books");

    // And the log says of each backend what that says of itself.
    let access = edge.stop().access();
    assert_eq!(access.len() as u64, carried);
    for ((region, _), (_, done)) in &backends {
        let of = |key: &str| -> u64 {
            let lines = access.iter().filter(|line| &line["backend"] == *region);
            lines.map(|line| line[key].parse::<u64>().unwrap()).sum()
        };
        let [_, sent, received] = done.all();
        assert_eq!((of("sent"), of("received")), (sent, received), "{region}");
    }
}

#[test]
fn routes_are_told_apart_by_where_clients_and_backends_are_and_how_near_that_is() {
    let [br, de] = ["br", "de"].map(Backend::named);
    let edge = Site::new()
        .with_metrics()
        .with_geography()
        .backend(Row::new("br", br.addr()).place("sa", "BR"))
        .backend(Row::new("de", de.addr()).place("eu", "DE"))
        .start();
    for (ip, times) in [("127.0.1.1", 2), ("127.0.2.1", 3), ("127.0.3.1", 4)] {
        for _ in 0..times {
            edge.visit_from(ip).unwrap();
        }
    }
    let metrics = edge.metrics();
    let routed = |client: &str, backend: &str, tier: &str| {
        let labels = [("client_region", client), ("backend_region", backend), ("tier", tier)];
        metrics.value("edgeproxy_routed_total", &labels)
    };
    assert_eq!(routed("sa", "sa", "1"), 2, "from Chile to Brazil");
    assert_eq!(routed("eu", "eu", "0"), 3, "within Germany");
    assert_eq!(routed("ap", "sa", "2"), 4, "from Japan to where this proxy is");
    assert_eq!(metrics.sum("edgeproxy_routed_total", &[]), 9);
}

/// A second, as promised, and something for a machine that is busy with other tests.
const COUNTED_WITHIN: Duration = Duration::from_millis(2_500);

#[test]
fn bytes_of_a_connection_that_goes_on_are_counted_while_it_is_open() {
    let backend = Backend::echo();
    let edge = site(&backend).start();
    let mut client = edge.client();
    let text = String::from_utf8(vec![b'.'; 10_000]).unwrap();
    for round in 1..=3 {
        client.echo(&text).unwrap();
        let bytes = within(COUNTED_WITHIN, "its bytes are counted", || {
            let metrics = edge.metrics();
            assert_eq!(metrics.value("edgeproxy_connections_active", &[]), 1);
            let both = ["edgeproxy_bytes_sent_total", "edgeproxy_bytes_received_total"]
                .map(|name| metrics.value(name, &[]));
            (both[0] >= round * 10_000 && both[1] >= round * 10_000).then_some(both)
        });
        assert_eq!(bytes, [round * 10_000; 2]);
    }
    drop(client);
    let metrics = edge.metrics_when("it has ended", |metrics| {
        metrics.sum("edgeproxy_connections_ended_total", &[]) == 1
    });
    assert_eq!(metrics.value("edgeproxy_bytes_sent_total", &[]), 30_000, "none counts twice");
}

#[test]
fn bytes_of_a_long_transfer_are_counted_as_it_goes_on() {
    const LENGTH: usize = 64 << 20;
    let backend = Backend::serving(|mut stream| {
        let _ = stream.write_all(&noise(1, LENGTH));
    });
    let edge = site(&backend).start();
    let mut client = edge.client();
    let received = |metrics: &Metrics| metrics.value("edgeproxy_bytes_received_total", &[]);
    let mut seen = 0;
    let mut bytes = vec![0; LENGTH / 4];
    for _ in 0..3 {
        client.stream.read_exact(&mut bytes).unwrap();
        seen += bytes.len() as u64;
        // What the client has not read yet may be counted too: it is in the system's buffers.
        let metrics = within(COUNTED_WITHIN, "what it has read is counted", || {
            Some(edge.metrics()).filter(|metrics| received(metrics) >= seen)
        });
        assert_eq!(metrics.value("edgeproxy_connections_active", &[]), 1);
    }
    client.rest().unwrap();
    drop(client);
    let metrics = edge.metrics_when("it has ended", |metrics| {
        metrics.sum("edgeproxy_connections_ended_total", &[]) == 1
    });
    assert_eq!(received(&metrics), LENGTH as u64);
}

#[test]
fn the_series_of_a_backend_that_is_removed_go_with_its_last_connection_and_the_totals_stay() {
    let [stays, leaves] = ["stays", "leaves"].map(Backend::named);
    let edge = Site::new()
        .with_metrics()
        .with_geography()
        .backend(Row::new("stays", stays.addr()).place("sa", "CL"))
        .backend(Row::new("leaves", leaves.addr()).place("eu", "DE"))
        .start();
    drop(edge.visit_from("127.0.1.1").unwrap());
    let mut last = edge.visit_from("127.0.2.1").unwrap();
    assert_eq!(last.served_by, "leaves");
    edge.site.sql("DELETE FROM backends WHERE id = 'leaves'");
    edge.wait_for_log("registry changed added=0 removed=1");

    let connections = "edgeproxy_backend_connections_total";
    let metrics = edge.metrics();
    assert_eq!(metrics.value(connections, &[("backend", "leaves")]), 1, "one is still open");
    let active = [("backend", "leaves")];
    assert_eq!(metrics.value("edgeproxy_backend_connections_active", &active), 1);
    assert!(!metrics.has("edgeproxy_backend_eligible", &[("backend", "leaves")]));
    last.client.echo("still served").unwrap();
    drop(last);
    let page = edge.metrics_when("its series are gone", |metrics| {
        !metrics.has(connections, &[("backend", "leaves")])
    });
    assert!(!edge.get("/metrics").body.contains("\"leaves\""));
    assert_eq!(page.value(connections, &[("backend", "stays")]), 1);
    assert_eq!(page.value("edgeproxy_connections_total", &[]), 2);
    let greetings = "stays\nleaves\n".len() + "still served".len();
    assert_eq!(page.value("edgeproxy_bytes_received_total", &[]), greetings as u64);
    assert_eq!(page.sum("edgeproxy_routed_total", &[("backend_region", "eu")]), 1);
}

#[test]
fn how_the_registry_stands_is_told() {
    let backend = Backend::named("a");
    let edge = site(&backend).start();
    let up = |metrics: &Metrics| metrics.value("edgeproxy_registry_up", &[]);
    let skipped = |metrics: &Metrics| metrics.value("edgeproxy_registry_rows_skipped", &[]);
    let metrics = edge.metrics();
    assert_eq!((up(&metrics), skipped(&metrics)), (1, 0));

    let row = Row::new("bad", backend.addr()).insert();
    edge.site.sql(&format!("{row}; UPDATE backends SET port = 70000 WHERE id = 'bad'"));
    edge.metrics_when("a row is skipped", |metrics| skipped(metrics) == 1);
    let registry = std::fs::read(edge.site.registry()).unwrap();
    std::fs::write(edge.site.registry(), "no database at all").unwrap();
    edge.metrics_when("it cannot be read", |metrics| up(metrics) == 0);
    assert_eq!(edge.visit().unwrap().served_by, "a");
    std::fs::write(edge.site.registry(), registry).unwrap();
    edge.metrics_when("it can be read again", |metrics| up(metrics) == 1);
}

/// What nobody would call a delay, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_millis(500);

#[test]
fn it_is_ready_until_it_is_asked_to_stop_and_metrics_are_served_to_the_end() {
    let backend = Backend::named("a");
    let mut edge = site(&backend).env("EDGEPROXY_SHUTDOWN_DELAY_SECS", "2").start();
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = edge.get(path);
        assert_eq!((answer.status, &*answer.body), (200, body), "{path}");
    }
    assert_eq!(edge.metrics().value("edgeproxy_draining", &[]), 0);
    let mut open = edge.visit().unwrap();

    edge.signal(Signal::TERM);
    let signalled = Instant::now();
    within(AT_ONCE, "it is not ready", || (edge.get("/readyz").status == 503).then_some(()));
    assert_eq!(edge.get("/readyz").body, "draining\n");
    assert_eq!(edge.get("/healthz").status, 200, "it lives");
    drop(edge.visit().expect("it accepts until the delay is over"));

    edge.wait_for_log("no longer accepting");
    assert!(signalled.elapsed() >= Duration::from_secs(2));
    assert_eq!(edge.get("/readyz").status, 503);
    assert_eq!(edge.get("/healthz").status, 200);
    open.client.echo("still served").unwrap();
    let metrics = edge.metrics();
    assert_eq!(metrics.value("edgeproxy_draining", &[]), 1);
    assert_eq!(metrics.value("edgeproxy_connections_active", &[]), 1);
    assert_eq!(metrics.value("edgeproxy_connections_total", &[]), 2);
    drop(open);
    assert_eq!(edge.exit().code, Some(0));
}

#[test]
fn what_is_not_there_is_404_and_what_is_no_reading_is_405() {
    let backend = Backend::named("a");
    let edge = site(&backend).start();
    for path in ["/", "/metrics/", "/metric", "/admin"] {
        let answer = edge.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("/metrics, /healthz and /readyz"), "{}", answer.body);
    }
    assert_eq!(edge.get("/metrics?name[]=up").status, 200);
    for method in ["POST", "PUT", "DELETE"] {
        for path in ["/metrics", "/healthz", "/readyz", "/"] {
            let answer = ask(edge.metrics_addr(), method, path).unwrap();
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.to_ascii_lowercase().contains("allow: get, head"));
        }
    }
}

#[test]
fn the_path_of_the_metrics_can_be_another() {
    let backend = Backend::named("a");
    let edge = site(&backend).env("EDGEPROXY_METRICS_PATH", "/internal/numbers").start();
    let page = edge.get("/internal/numbers");
    assert_eq!(page.status, 200);
    assert_eq!(Metrics::parse(&page.body).value("edgeproxy_connections_total", &[]), 0);
    let answer = edge.get("/metrics");
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("/internal/numbers"), "{}", answer.body);
    assert_eq!(edge.get("/healthz").status, 200);
}

#[test]
fn clients_of_the_metrics_that_are_slow_or_read_nothing_hold_up_nobody_else() {
    let backend = Backend::named("a");
    let edge = site(&backend).start();
    let slow: Vec<TcpStream> = (0..40)
        .map(|number| {
            let mut stream = TcpStream::connect_timeout(&edge.metrics_addr(), PATIENCE).unwrap();
            let asked = match number % 4 {
                0 => "",
                1 => "GET /met",
                2 => "GET /metrics HTTP/1.1\r\nHost: x\r\n",
                // And the answers are left to lie.
                _ => "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            };
            stream.write_all(asked.as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(edge.get("/metrics").status, 200);
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        assert_eq!(edge.visit().unwrap().served_by, "a");
    }
    drop(slow);
}

#[test]
fn whether_the_process_lives_is_answered_however_many_slow_clients_there_are() {
    let backend = Backend::named("a");
    let edge = site(&backend).start();
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect_timeout(&edge.metrics_addr(), PATIENCE).unwrap())
        .collect();
    let asked = Instant::now();
    assert_eq!(edge.get("/healthz").status, 200);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    drop(slow);
}

#[test]
fn metrics_that_cannot_be_served_where_they_should_be_are_an_error_at_the_start() {
    let other = Backend::echo();
    let addr = other.addr().to_string();
    let site = Site::new()
        .with_metrics()
        .env("EDGEPROXY_METRICS_LISTEN_ADDR", &addr)
        .backend(Row::new("a", other.addr()))
        .prepared();
    let failed = site.run(&[]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let expected = format!("cannot listen on {addr}: the address is in use by another process");
    assert!(failed.err.contains(&expected), "{failed:?}");
}

#[test]
fn without_metrics_nothing_listens_for_them() {
    let backend = Backend::named("a");
    let reserved = Refusing::new();
    let edge = Site::new()
        .env("EDGEPROXY_METRICS_LISTEN_ADDR", &reserved.addr().to_string())
        .backend(Row::new("a", backend.addr()))
        .start();
    assert!(edge.wait_for_log("edge-proxy is ready").contains("metrics=\"off\""));
    let refused = Client::connect("127.0.0.1", reserved.addr()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}
