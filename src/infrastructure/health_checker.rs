//! Active health checks: probes one backend at an interval, and says when enough of them agree.
//!
//! The first result decides at once; after it, `unhealthy_threshold` failures in a row turn the
//! verdict, and `healthy_threshold` successes turn it back. A backend that freezes is out within
//! `unhealthy_threshold` x 1.1 x interval + timeout (where the timeout is longer than 1.1 x
//! interval, it takes the interval's place), not counting waits at a [`Gate`] and probes that were
//! discarded.
//!
//! A probe that ran out of time while this process was kept from running is discarded: it says
//! nothing about the backend.

mod deadline;
mod gate;
mod probe;
mod status_line;
#[cfg(test)]
mod tests;
mod verdict;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;

use self::probe::{Outcome, Probe};
use self::verdict::{Thresholds, Verdict};
use crate::clock;
use crate::infrastructure::proxy_protocol::Version;

pub use self::gate::Gate;
pub use self::probe::own_header;
pub use self::verdict::Health;

/// How often one probe is repeated at once because this process was starved. The next one counts
/// whatever it was: a process that never gets its time must not keep a frozen backend for ever.
const REPEATS: u32 = 3;

/// Probes begin no closer to each other than this, unless one is repeated.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// How a backend is probed, and how many results in a row make a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckConfig {
    /// What a probe asks.
    pub check_type: HealthCheckType,
    /// From the start of one probe to the start of the next, give or take a tenth (drawn each time,
    /// so that probes of many backends do not meet). A probe that takes longer is followed by the
    /// next right away. 10 ms at least: less counts as 10 ms.
    pub interval: Duration,
    /// How long one probe may take, all of it: look-up, connection and answer. 1 ms at least: less
    /// counts as 1 ms.
    pub timeout: Duration,
    /// Successes in a row after which an unhealthy backend is healthy. Zero counts as one.
    pub healthy_threshold: u32,
    /// Failures in a row after which a healthy backend is unhealthy. Zero counts as one.
    pub unhealthy_threshold: u32,
}

/// What a probe asks of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheckType {
    /// That a connection opens. It is closed at once.
    Tcp,
    /// That `GET path` is answered with a status. Redirects are answers like any other and are not
    /// followed, nor is any proxy asked; what follows the status line is not read.
    Http {
        /// Path and query, in visible ASCII: with anything else in it (spaces, control characters,
        /// letters that should be percent-encoded) nothing is sent and the probe fails. A path
        /// without a leading `/` is given one.
        path: String,
        /// The one status that passes, 100 to 999.
        expected_status: u16,
    },
}

/// What is known of a backend at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthStatus {
    /// Whether it may be used. True before the first result.
    pub is_healthy: bool,
    /// Whether there has been a first result.
    pub is_decided: bool,
    /// Probes that counted.
    pub checks: u64,
    /// How many of the latest of them passed in a row.
    pub consecutive_successes: u32,
    /// How many of the latest of them failed in a row.
    pub consecutive_failures: u32,
    /// Probes that did not count: this process was starved, or out of descriptors or memory.
    pub discarded: u64,
    /// Why the latest probe did not pass, whether it counted or not; `None` when it passed.
    pub last_error: Option<String>,
    /// How long the latest probe that counted took, without what it waited at the gate.
    pub last_duration: Option<Duration>,
}

/// A verdict that has turned, or the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which backend, as it was given to [`HealthChecker::with`].
    pub id: String,
    /// What held before: [`Health::Unknown`] for the first verdict, and never after it.
    pub from: Health,
    /// What holds now.
    pub to: Health,
    /// Why, for people: "3 failed probes in a row: connection refused".
    pub reason: String,
}

/// Who is told of each [`Change`], by the task that probes, after the status shows it. It must
/// return soon: until it does, the backend is not probed. A panic in it ends the task.
pub type Observer = Arc<dyn Fn(&Change) + Send + Sync>;

/// When the first probes are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// At the start, or as soon as the gate lets it through.
    #[default]
    Immediate,
    /// Likewise, and the second at a moment drawn from the interval after it: for many that start
    /// together, so that they do not stay together.
    Spread,
}

/// What a checker among many shares with the others, and what is special about it.
#[derive(Clone, Default)]
pub struct Options {
    /// What caps the probes under way at once; `None` is no cap.
    pub gate: Option<Arc<Gate>>,
    /// When the first probes are made.
    pub phase: Phase,
    /// What an HTTP probe says for `Host`, in visible ASCII; `None` is the address with its port.
    pub host: Option<String>,
    /// The PROXY protocol header that each probe begins with; `None` is none.
    pub header: Option<Version>,
    /// How each probe is secured, behind that header, and the name of the server; `None` is not.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Who is told when the verdict turns.
    pub observer: Option<Observer>,
}

/// Probes one backend from a task of its own, which ends when this is dropped.
pub struct HealthChecker {
    shared: Arc<Shared>,
    /// One task at most; a set, because that aborts what it holds when it is dropped.
    task: Mutex<JoinSet<()>>,
}

/// What the checker and its task share.
struct Shared {
    id: String,
    probe: Probe,
    interval: Duration,
    thresholds: Thresholds,
    gate: Option<Arc<Gate>>,
    phase: Phase,
    observer: Option<Observer>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    verdict: Verdict,
    checks: u64,
    discarded: u64,
    last_error: Option<String>,
    last_duration: Option<Duration>,
}

impl HealthChecker {
    /// A checker of the backend at `addr` (`host:port`; an IPv6 address in brackets), which
    /// [`start`](Self::start) sets going. A host name is looked up at each probe, and its addresses
    /// are tried in turn. An `addr` that is none makes every probe fail.
    #[must_use]
    pub fn new(id: String, addr: String, cfg: HealthCheckConfig) -> Self {
        Self::with(id, addr, cfg, Options::default())
    }

    /// The same, as one of many.
    #[must_use]
    pub fn with(id: String, addr: String, cfg: HealthCheckConfig, options: Options) -> Self {
        let Options { gate, phase, host, header, tls, observer } = options;
        let shared = Shared {
            id,
            probe: Probe::new(addr, cfg.check_type, host.as_deref(), cfg.timeout)
                .behind(header, tls),
            interval: cfg.interval.max(SHORTEST_INTERVAL),
            thresholds: Thresholds {
                healthy: cfg.healthy_threshold,
                unhealthy: cfg.unhealthy_threshold,
            },
            gate,
            phase,
            observer,
            progress: Mutex::default(),
        };
        Self { shared: Arc::new(shared), task: Mutex::default() }
    }

    /// Begins to probe, at once. Does nothing when it has begun
    /// already; a checker whose runtime is gone begins anew, with the verdict it had.
    ///
    /// Dropping the checker ends the task and closes the connection of a probe under way. On a
    /// runtime of several threads, what the task is doing at that moment may still be seen.
    ///
    /// # Panics
    /// Outside a tokio runtime. In one whose I/O or time is not enabled the task panics, and nothing
    /// is probed.
    pub fn start(&self) {
        let mut task = lock(&self.task);
        while task.try_join_next().is_some() {}
        if task.is_empty() {
            task.spawn(run(Arc::clone(&self.shared)));
        }
    }

    /// Takes over what `earlier` has found, to go on from there in another manner. For a checker that
    /// has not begun.
    pub fn go_on_from(&self, earlier: &Self) {
        let verdict = lock(&earlier.shared.progress).verdict;
        lock(&self.shared.progress).verdict = verdict;
    }

    /// What is known by now. Never waits for a probe.
    #[must_use]
    pub fn status(&self) -> HealthStatus {
        let progress = lock(&self.shared.progress);
        let health = progress.verdict.health();
        HealthStatus {
            is_healthy: health.is_healthy(),
            is_decided: health.is_decided(),
            checks: progress.checks,
            consecutive_successes: progress.verdict.passed_in_a_row(),
            consecutive_failures: progress.verdict.failed_in_a_row(),
            discarded: progress.discarded,
            last_error: progress.last_error.clone(),
            last_duration: progress.last_duration,
        }
    }
}

impl fmt::Debug for HealthChecker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { id, probe, interval, thresholds, .. } = &*self.shared;
        out.debug_struct("HealthChecker")
            .field("id", id)
            .field("probe", probe)
            .field("interval", interval)
            .field("thresholds", thresholds)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Options")
            .field("gate", &self.gate)
            .field("phase", &self.phase)
            .field("host", &self.host)
            .field("header", &self.header)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

async fn run(shared: Arc<Shared>) {
    if shared.phase == Phase::Spread {
        shared.check().await;
        tokio::time::sleep(shared.interval.mul_f64(fastrand::f64())).await;
    }
    loop {
        // Begun before the probe: the interval is from start to start. And before the wait at the
        // gate, which else would be added to every interval.
        let pause = tokio::time::sleep(jittered(shared.interval));
        shared.check().await;
        pause.await;
    }
}

impl Shared {
    /// Makes one probe that counts, or finds that none can be made.
    async fn check(&self) {
        let _permit = match &self.gate {
            Some(gate) => Some(gate.enter().await),
            None => None,
        };
        let mut repeats = 0;
        loop {
            let begun = clock::now();
            let error = match self.probe.run().await {
                Outcome::Starved(reason) if repeats < REPEATS => {
                    repeats += 1;
                    self.discard(reason);
                    continue;
                }
                // Not repeated: a moment later it would be no different.
                Outcome::Impossible(reason) => return self.discard(reason),
                Outcome::Passed => None,
                Outcome::Failed(reason) | Outcome::Starved(reason) => Some(reason),
            };
            return self.count(error, clock::now().since(begun));
        }
    }

    fn discard(&self, reason: String) {
        if let Some(gate) = &self.gate {
            gate.discard();
        }
        let mut progress = lock(&self.progress);
        progress.discarded += 1;
        progress.last_error = Some(reason);
    }

    /// Takes in a result: the error, or none.
    fn count(&self, error: Option<String>, took: Duration) {
        let mut progress = lock(&self.progress);
        let turned = progress.verdict.record(error.is_none(), self.thresholds);
        progress.checks += 1;
        progress.last_duration = Some(took);
        let verdict = progress.verdict;
        let told = turned.zip(self.observer.as_ref()).map(|(from, observer)| {
            let reason = reason(from, verdict, error.as_deref());
            (observer, Change { id: self.id.clone(), from, to: verdict.health(), reason })
        });
        progress.last_error = error;
        // The observer may ask for the status.
        drop(progress);
        if let Some((observer, change)) = told {
            observer(&change);
        }
    }
}

fn reason(from: Health, verdict: Verdict, error: Option<&str>) -> String {
    let (passed, failed) = (verdict.passed_in_a_row(), verdict.failed_in_a_row());
    match (error, from) {
        (None, Health::Unknown) => "the first probe passed".into(),
        (None, _) if passed == 1 => "1 passed probe".into(),
        (None, _) => format!("{passed} passed probes in a row"),
        (Some(error), Health::Unknown) => format!("the first probe failed: {error}"),
        (Some(error), _) if failed == 1 => format!("1 failed probe: {error}"),
        (Some(error), _) => format!("{failed} failed probes in a row: {error}"),
    }
}

/// The interval give or take a tenth.
fn jittered(interval: Duration) -> Duration {
    let tenth = interval / 10;
    interval.saturating_sub(tenth).saturating_add(tenth.mul_f64(2.0 * fastrand::f64()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
