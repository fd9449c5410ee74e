//! The checker as its users meet it, beside real backends on this machine.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::*;

/// How long anything may take that should happen; only a failing test waits as long.
const PATIENCE: Duration = Duration::from_secs(20);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it should have happened by now")
}

async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(ms(1)).await;
        }
    })
    .await;
}

/// A listener that answers the probe of each number (from 0) with some bytes, and closes.
struct Backend {
    addr: SocketAddr,
    /// Probes whose request was read.
    probes: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Backend {
    async fn answering(answer: impl Fn(usize) -> Vec<u8> + Send + 'static) -> Self {
        Self::at("127.0.0.1:0", answer).await.expect("a port of the loopback interface")
    }

    async fn at(
        addr: &str,
        answer: impl Fn(usize) -> Vec<u8> + Send + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let probes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&probes);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                request_of(&mut stream).await;
                let answer = answer(count.fetch_add(1, Ordering::SeqCst));
                // Whoever has seen enough closes before everything is written.
                let _ = stream.write_all(&answer).await;
            }
        });
        Ok(Self { addr, probes, _serving: serving })
    }

    /// Answers with these statuses in turn; the last one stays.
    async fn with_statuses(statuses: &'static [u16]) -> Self {
        let status = |nth: usize| statuses[nth.min(statuses.len() - 1)];
        Self::answering(move |nth| format!("HTTP/1.1 {} Text\r\n\r\n", status(nth)).into()).await
    }
}

async fn request_of(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8(request).unwrap()
}

fn http(path: &str, expected_status: u16) -> HealthCheckConfig {
    HealthCheckConfig {
        check_type: HealthCheckType::Http { path: path.into(), expected_status },
        interval: ms(20),
        timeout: Duration::from_secs(5),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    }
}

fn tcp() -> HealthCheckConfig {
    HealthCheckConfig { check_type: HealthCheckType::Tcp, ..http("/", 200) }
}

/// A checker that has been started, and what it says.
struct Watched {
    checker: HealthChecker,
    changes: mpsc::UnboundedReceiver<Change>,
}

fn watch(addr: &(impl ToString + ?Sized), cfg: HealthCheckConfig) -> Watched {
    watch_with(addr, cfg, Options::default())
}

fn watch_with(
    addr: &(impl ToString + ?Sized),
    cfg: HealthCheckConfig,
    options: Options,
) -> Watched {
    let (tell, changes) = mpsc::unbounded_channel();
    let observer: Observer = Arc::new(move |change: &Change| {
        let _ = tell.send(change.clone());
    });
    let options = Options { observer: Some(observer), ..options };
    let checker = HealthChecker::with("b1".into(), addr.to_string(), cfg, options);
    checker.start();
    Watched { checker, changes }
}

impl Watched {
    async fn change(&mut self) -> Change {
        soon(self.changes.recv()).await.expect("the task goes on")
    }

    /// Why the first probe failed.
    async fn first_failure(&mut self) -> String {
        let change = self.change().await;
        assert_eq!((change.from, change.to), (Health::Unknown, Health::Unhealthy), "{change:?}");
        let error = self.checker.status().last_error.expect("an error");
        assert_eq!(change.reason, format!("the first probe failed: {error}"));
        error
    }
}

#[tokio::test]
async fn the_first_result_decides_at_once_for_and_against() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let far = HealthCheckConfig { interval: Duration::from_secs(3600), ..tcp() };

    let mut open = watch(&addr, far.clone());
    assert!(open.checker.status().is_healthy && !open.checker.status().is_decided);
    let change = open.change().await;
    let expected = Change {
        id: "b1".into(),
        from: Health::Unknown,
        to: Health::Healthy,
        reason: "the first probe passed".into(),
    };
    assert_eq!(change, expected);
    let status = open.checker.status();
    assert!(status.is_healthy && status.is_decided);
    assert_eq!((status.checks, status.last_error, status.discarded), (1, None, 0));
    assert!(status.last_duration.is_some());

    drop(listener);
    let mut closed = watch(&addr, far);
    assert_eq!(closed.first_failure().await, "connection refused");
    let status = closed.checker.status();
    assert!(!status.is_healthy && status.is_decided);
    assert_eq!((status.checks, status.consecutive_failures), (1, 1));
}

#[tokio::test]
async fn the_verdict_turns_at_exactly_the_third_failure_and_the_second_success_in_a_row() {
    let backend =
        Backend::with_statuses(&[200, 500, 500, 200, 500, 500, 500, 200, 500, 200, 200]).await;
    let probes = Arc::clone(&backend.probes);
    let (tell, mut changes) = mpsc::unbounded_channel();
    // The next probe begins only after the observer has returned.
    let observer: Observer = Arc::new(move |change: &Change| {
        let _ = tell.send((change.to, probes.load(Ordering::SeqCst), change.reason.clone()));
    });
    let options = Options { observer: Some(observer), ..Options::default() };
    let checker =
        HealthChecker::with("b1".into(), backend.addr.to_string(), http("/", 200), options);
    checker.start();
    for (to, after, why) in [
        (Health::Healthy, 1, "the first probe passed"),
        (Health::Unhealthy, 7, "3 failed probes in a row: status 500, expected 200"),
        (Health::Healthy, 11, "2 passed probes in a row"),
    ] {
        assert_eq!(soon(changes.recv()).await.unwrap(), (to, after, why.into()));
    }
    let status = checker.status();
    assert!(status.is_healthy && status.consecutive_successes >= 2);
}

#[tokio::test]
async fn only_the_expected_status_passes_and_the_reason_says_which_came() {
    let backend = Backend::with_statuses(&[200]).await;
    let mut checked = watch(&backend.addr, http("/", 204));
    assert_eq!(checked.first_failure().await, "status 200, expected 204");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let target = Backend::with_statuses(&[200]).await;
    let location = format!("HTTP/1.1 302 Found\r\nLocation: http://{}/\r\n\r\n", target.addr);
    let backend = Backend::answering(move |_| location.clone().into()).await;
    let mut checked = watch(&backend.addr, http("/", 200));
    assert_eq!(checked.first_failure().await, "status 302, expected 200");
    until(|| checked.checker.status().checks >= 3).await;
    assert_eq!(target.probes.load(Ordering::SeqCst), 0);
    assert_eq!(watch(&backend.addr, http("/", 302)).change().await.to, Health::Healthy);
}

#[tokio::test]
async fn the_request_names_the_host_and_asks_for_the_connection_to_be_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    for (host, said) in [(None, addr.to_string()), (Some("app.example"), "app.example".into())] {
        let options = Options { host: host.map(Into::into), ..Options::default() };
        let _checked = watch_with(&addr, http("up?deep=1", 200), options);
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            soon(request_of(&mut stream)).await,
            format!(
                "GET /up?deep=1 HTTP/1.1\r\nHost: {said}\r\nUser-Agent: \
                 edge-proxy-health/{version}\r\nConnection: close\r\n\r\n"
            )
        );
    }
}

#[tokio::test]
async fn what_is_no_http_answer_fails_with_the_reason() {
    let endless = format!("HTTP/1.1 200 {}", "a".repeat(100_000));
    for (answer, reason) in [
        (b"SSH-2.0-x\r\n".to_vec(), "the answer is not HTTP/1.0 or 1.1: \"SSH-2.0-x\""),
        (endless.into(), "the status line does not end within 1024 bytes"),
        (Vec::new(), "connection closed without an answer"),
        (b"HTTP/1.1 200".to_vec(), "connection closed within the status line"),
    ] {
        let backend = Backend::answering(move |_| answer.clone()).await;
        let mut checked = watch(&backend.addr, http("/", 200));
        assert_eq!(checked.first_failure().await, reason);
    }
}

#[tokio::test]
async fn a_silent_backend_fails_when_the_timeout_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cfg = HealthCheckConfig { timeout: ms(50), ..http("/", 200) };
    let mut checked = watch(&listener.local_addr().unwrap(), cfg);
    assert!(checked.first_failure().await.starts_with("no answer within 50ms"));
}

#[tokio::test]
async fn what_cannot_be_probed_fails_without_a_connection() {
    let backend = Backend::with_statuses(&[200]).await;
    let mut smuggling = watch(&backend.addr, http("/ HTTP/1.1\r\nX: y\r\n", 200));
    assert!(smuggling.first_failure().await.contains("cannot be sent"));
    assert_eq!(backend.probes.load(Ordering::SeqCst), 0);

    let mut nowhere = watch("no port", tcp());
    assert!(nowhere.first_failure().await.starts_with("no port is not to be found: "));
}

#[tokio::test]
async fn names_are_looked_up_and_ipv6_addresses_work() {
    let backend = Backend::with_statuses(&[200]).await;
    let name = format!("localhost:{}", backend.addr.port());
    assert_eq!(watch(&name, http("/", 200)).change().await.to, Health::Healthy);

    // Not every machine has an IPv6 loopback address.
    let answer = |_| b"HTTP/1.0 200 OK\n".to_vec();
    let Ok(backend) = Backend::at("[::1]:0", answer).await else { return };
    let written = format!("[::1]:{}", backend.addr.port());
    for cfg in [http("/", 200), tcp()] {
        assert_eq!(watch(&written, cfg).change().await.to, Health::Healthy);
    }
}

#[tokio::test]
async fn dropping_the_checker_ends_its_task_and_closes_the_probe_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let Watched { checker, .. } = watch(&listener.local_addr().unwrap(), http("/", 200));
    let task: Weak<Shared> = Arc::downgrade(&checker.shared);
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    soon(request_of(&mut stream)).await;
    drop(checker);
    assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap(), 0);
    until(|| task.upgrade().is_none()).await;
}

#[tokio::test]
async fn starting_twice_is_one_task() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let runtime = tokio::runtime::Handle::current().metrics();
    let before = runtime.num_alive_tasks();
    let Watched { checker, .. } = watch(&listener.local_addr().unwrap(), tcp());
    checker.start();
    checker.start();
    assert_eq!(runtime.num_alive_tasks(), before + 1);
    until(|| checker.status().checks >= 2).await;
    checker.start();
    assert_eq!(runtime.num_alive_tasks(), before + 1);
}

#[test]
fn a_checker_begins_anew_when_its_first_runtime_is_gone() {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let checker = HealthChecker::new("b1".into(), "127.0.0.1:1".into(), tcp());
    for _ in 0..2 {
        runtime().block_on(async {
            let before = checker.status().checks;
            checker.start();
            until(|| checker.status().checks > before).await;
        });
    }
}

#[tokio::test]
async fn a_probe_that_this_process_slept_through_is_discarded_and_repeated_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = Arc::new(Gate::new(1));
    let cfg = HealthCheckConfig {
        timeout: ms(200),
        interval: Duration::from_secs(3600),
        ..http("/", 200)
    };
    let options = Options { gate: Some(Arc::clone(&gate)), ..Options::default() };
    let mut checked = watch_with(&listener.local_addr().unwrap(), cfg, options);
    let silent = soon(listener.accept()).await.unwrap();
    // The thread of this whole runtime: nothing in it is on time.
    std::thread::sleep(ms(600));
    let (mut again, _) = soon(listener.accept()).await.unwrap();
    let status = checked.checker.status();
    assert!(status.discarded >= 1);
    assert!(status.is_healthy && !status.is_decided);
    assert_eq!((status.checks, status.consecutive_failures), (0, 0));
    assert!(status.last_error.unwrap().contains("this process was"));
    assert_eq!(gate.discarded(), status.discarded);

    again.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
    assert_eq!(checked.change().await.to, Health::Healthy);
    drop(silent);
}

#[tokio::test]
async fn the_interval_runs_from_start_to_start() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cfg = HealthCheckConfig { interval: ms(500), timeout: ms(450), ..http("/", 200) };
    let _checked = watch(&listener.local_addr().unwrap(), cfg);
    let mut open = Vec::new();
    let mut starts = Vec::new();
    for _ in 0..3 {
        open.push(soon(listener.accept()).await.unwrap());
        starts.push(clock::now());
    }
    // From end to start it would be 900 ms at least.
    let gap = starts[2].since(starts[0]) / 2;
    assert!(gap < ms(900), "{gap:?}");
}

#[tokio::test]
async fn no_more_probes_are_under_way_than_the_gate_lets_through_and_it_can_grow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answers = Arc::new(Semaphore::new(0));
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut serving = JoinSet::new();
    let held = (Arc::clone(&answers), Arc::clone(&open), Arc::clone(&most));
    serving.spawn(async move {
        let mut probes = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (answers, open, most) = held.clone();
            probes.spawn(async move {
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                request_of(&mut stream).await;
                answers.acquire().await.unwrap().forget();
                open.fetch_sub(1, Ordering::SeqCst);
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
            });
        }
    });

    let gate = Arc::new(Gate::new(2));
    let cfg = HealthCheckConfig {
        timeout: PATIENCE,
        interval: Duration::from_secs(3600),
        ..http("/", 200)
    };
    let options = || Options { gate: Some(Arc::clone(&gate)), ..Options::default() };
    let mut all: Vec<_> = (0..8).map(|_| watch_with(&addr, cfg.clone(), options())).collect();

    until(|| open.load(Ordering::SeqCst) == 2).await;
    answers.add_permits(2);
    until(|| all.iter().filter(|one| one.checker.status().is_decided).count() == 2).await;
    until(|| open.load(Ordering::SeqCst) == 2).await;
    assert_eq!(most.load(Ordering::SeqCst), 2);

    gate.ensure(1);
    assert_eq!(gate.cap(), 2);
    gate.ensure(4);
    assert_eq!(gate.cap(), 4);
    until(|| open.load(Ordering::SeqCst) == 4).await;
    answers.add_permits(6);
    for checked in &mut all {
        assert_eq!(checked.change().await.to, Health::Healthy);
    }
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn waiting_for_the_gate_is_not_part_of_the_timeout() {
    let backend = Backend::with_statuses(&[200]).await;
    let gate = Arc::new(Gate::new(1));
    let taken = gate.enter().await;
    let cfg = HealthCheckConfig { timeout: ms(500), ..http("/", 200) };
    let options = Options { gate: Some(Arc::clone(&gate)), ..Options::default() };
    let mut checked = watch_with(&backend.addr, cfg, options);
    let waited = tokio::time::timeout(ms(700), checked.changes.recv()).await;
    assert!(waited.is_err(), "{waited:?}");
    drop(taken);
    assert_eq!(checked.change().await.to, Health::Healthy);
}

#[test]
fn intervals_vary_by_a_tenth_and_no_length_overflows() {
    let interval = Duration::from_secs(10);
    let drawn: Vec<_> = (0..1_000).map(|_| jittered(interval)).collect();
    let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
    assert!((9.0..9.2).contains(&least.as_secs_f64()), "{least:?}");
    assert!((10.8..=11.0).contains(&most.as_secs_f64()), "{most:?}");
    assert!(jittered(Duration::MAX) > Duration::MAX / 2);
}

#[tokio::test]
async fn of_many_that_start_together_all_probe_at_once_and_again_at_moments_of_their_own() {
    let refused = HealthCheckConfig { interval: Duration::from_secs(3600), ..tcp() };
    let options = || Options { phase: Phase::Spread, ..Options::default() };
    let mut all: Vec<_> =
        (0..20).map(|_| watch_with("127.0.0.1:1", refused.clone(), options())).collect();
    for one in &mut all {
        one.first_failure().await;
    }
    let again = all.iter().filter(|one| one.checker.status().checks > 1).count();
    assert!(again <= 2, "{again} of 20 went on at once");
}

#[test]
fn a_checker_among_thousands_takes_less_than_two_kib() {
    let checker = HealthChecker::new("b1".into(), "127.0.0.1:1".into(), http("/", 200));
    let task = size_of_val(&run(Arc::clone(&checker.shared)));
    assert!(task + size_of::<Shared>() < 2048, "{task}");
}
