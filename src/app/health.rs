//! Active health checks: a checker for each backend that is in the tables, whose verdict decides
//! whether the backend is eligible.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::rules;
use crate::adapters::inbound::worker::Worker;
use crate::application::proxy::Shared;
use crate::application::upstreams::{Tables, Upstream};
use crate::clock;
use crate::config::{AppConfig, Config, HealthType};
use crate::domain::App;
use crate::infrastructure::health_checker::{Change, Gate, Health, HealthChecker, Options, Phase};
use crate::infrastructure::proxy_protocol::Version;
use crate::infrastructure::tls::Originator;
use crate::infrastructure::{HealthCheckConfig, HealthCheckType};

/// Probes under way at once, unless that many cannot keep the interval.
const CONCURRENT: usize = 64;

/// The checkers of all backends in the tables.
pub(super) struct Checks {
    rules: Rules,
    gate: Arc<Gate>,
    /// By the numbers of their backends.
    checkers: HashMap<u64, Checker>,
    shared: Arc<Shared>,
    workers: Arc<Vec<Worker>>,
    /// Whether a backend that becomes unhealthy loses its open connections.
    closes: Arc<AtomicBool>,
    began: bool,
}

/// Who checks a backend, and how.
struct Checker {
    manner: Manner,
    checker: HealthChecker,
}

/// How a backend is checked.
#[derive(Clone, PartialEq, Eq)]
struct Manner {
    config: HealthCheckConfig,
    host: Option<String>,
    header: Option<Version>,
    tls: Option<Arc<Originator>>,
    addr: SocketAddr,
}

/// How backends are checked, by app.
struct Rules {
    enabled: bool,
    default: HealthCheckConfig,
    path: String,
    expected_status: u16,
    apps: BTreeMap<App, AppConfig>,
}

impl Checks {
    pub fn new(config: &Config, shared: Arc<Shared>, workers: Arc<Vec<Worker>>) -> Self {
        let gate = Arc::new(Gate::new(CONCURRENT));
        let closes = Arc::new(AtomicBool::new(config.settings.health_check_close_connections));
        let (rules, checkers) = (Rules::new(config), HashMap::new());
        Self { rules, gate, checkers, shared, workers, closes, began: false }
    }

    /// Checks who is in these tables, which are in force, and nobody else. Who is checked in another
    /// manner than before keeps the verdict.
    pub fn follow(&mut self, tables: &Tables) {
        if !self.rules.enabled {
            return self.stop(tables);
        }
        let backends: Vec<(&Arc<Upstream>, Option<&Arc<Originator>>)> = tables
            .values()
            .flat_map(|table| table.upstreams().iter().map(|up| (up, table.rules.tls.as_ref())))
            .collect();
        self.gate.ensure(self.rules.concurrent(backends.len()));
        let phase = if self.began { Phase::Immediate } else { Phase::Spread };
        self.began = true;
        let mut before = std::mem::take(&mut self.checkers);
        for (upstream, tls) in backends {
            let manner = self.rules.of(upstream, tls);
            let checker = match before.remove(&upstream.number) {
                Some(checker) if checker.manner == manner => checker,
                // Those who change together must not stay together.
                Some(earlier) => self.checker(upstream, manner, Phase::Spread, Some(&earlier)),
                None => self.checker(upstream, manner, phase, None),
            };
            self.checkers.insert(upstream.number, checker);
        }
    }

    /// Goes by another configuration from the next tables on.
    pub fn configure(&mut self, config: &Config) {
        self.closes.store(config.settings.health_check_close_connections, Ordering::Relaxed);
        self.rules = Rules::new(config);
    }

    /// Checks nobody, so that nothing is held against anybody.
    fn stop(&mut self, tables: &Tables) {
        self.checkers.clear();
        self.began = false;
        for table in tables.values() {
            for upstream in table.upstreams().iter().filter(|up| up.health().is_decided()) {
                table.checked(upstream, Health::Unknown, clock::now());
            }
        }
    }

    /// A checker that goes on from the verdict of an earlier one.
    fn checker(
        &self,
        upstream: &Arc<Upstream>,
        manner: Manner,
        phase: Phase,
        earlier: Option<&Checker>,
    ) -> Checker {
        let (shared, workers) = (Arc::clone(&self.shared), Arc::clone(&self.workers));
        let (about, closes) = (Arc::clone(upstream), Arc::clone(&self.closes));
        let observer = Arc::new(move |change: &Change| {
            let believed = turned(&about, change, &shared);
            if closes.load(Ordering::Relaxed) && believed && !change.to.is_healthy() {
                workers.iter().for_each(|worker| worker.close_all_of(about.number));
            }
        });
        let options = Options {
            gate: Some(Arc::clone(&self.gate)),
            phase,
            host: manner.host.clone(),
            header: manner.header,
            tls: manner.tls.as_ref().map(|tls| (tls.for_one(), tls.name(manner.addr.ip()))),
            observer: Some(observer),
        };
        let (id, addr) = (upstream.id.to_string(), manner.addr.to_string());
        let checker = HealthChecker::with(id, addr, manner.config.clone(), options);
        if let Some(earlier) = earlier {
            checker.go_on_from(&earlier.checker);
        }
        checker.start();
        Checker { manner, checker }
    }
}

/// Takes in that a verdict has turned; whether verdicts are believed now.
fn turned(upstream: &Upstream, change: &Change, shared: &Shared) -> bool {
    let snapshot = shared.snapshot.load();
    let Some(table) = snapshot.tables.get(&upstream.app) else { return false };
    let open_before = table.fails_open();
    table.checked(upstream, change.to, clock::now());
    let (backend, addr, reason) = (&upstream.id, &upstream.addr, &change.reason);
    if !change.to.is_healthy() {
        tracing::warn!(%backend, %addr, "unhealthy: {reason}");
    } else if change.from.is_decided() {
        tracing::info!(%backend, %addr, "healthy again: {reason}");
    }
    match (open_before, table.fails_open()) {
        (false, true) => tracing::warn!(
            app = %table.name,
            "health checks say that no backend at all is healthy; they are ignored until one is"
        ),
        (true, false) => tracing::info!(app = %table.name, "health checks are believed again"),
        _ => {}
    }
    !table.fails_open()
}

impl Rules {
    fn new(config: &Config) -> Self {
        let s = &config.settings;
        let path = s.health_check_path.clone();
        let expected_status = u16::try_from(s.health_check_expected_status.get()).unwrap_or(200);
        let check_type = match s.health_check_type {
            HealthType::Tcp => HealthCheckType::Tcp,
            HealthType::Http => HealthCheckType::Http { path: path.clone(), expected_status },
        };
        let default = HealthCheckConfig {
            check_type,
            interval: s.health_check_interval_secs.get(),
            timeout: s.health_check_timeout_secs.get(),
            healthy_threshold: s.health_check_healthy_threshold.get(),
            unhealthy_threshold: s.health_check_unhealthy_threshold.get(),
        };
        let apps = config.apps.clone();
        Self { enabled: s.health_check_enabled, default, path, expected_status, apps }
    }

    /// How a backend is checked.
    fn of(&self, upstream: &Upstream, tls: Option<&Arc<Originator>>) -> Manner {
        let addr = upstream.addr;
        let Some(app) = self.apps.get(&upstream.app) else {
            let config = self.default.clone();
            return Manner { config, host: None, header: None, tls: None, addr };
        };
        let own = &app.health;
        // Who says what is to be asked for or answered means a request.
        let asks = own.path.is_some() || own.expected_status.is_some() || own.host.is_some();
        let http = match own.check_type {
            Some(check_type) => check_type == HealthType::Http,
            None => asks || self.default.check_type != HealthCheckType::Tcp,
        };
        let check_type = if http {
            HealthCheckType::Http {
                path: own.path.clone().unwrap_or_else(|| self.path.clone()),
                expected_status: own.expected_status.unwrap_or(self.expected_status),
            }
        } else {
            HealthCheckType::Tcp
        };
        Manner {
            config: HealthCheckConfig { check_type, ..self.default.clone() },
            host: own.host.clone(),
            // Another port is somebody else, who was not said to expect them.
            header: if own.port.is_none() { rules::header(app) } else { None },
            tls: tls.filter(|_| own.port.is_none()).cloned(),
            addr: SocketAddr::new(addr.ip(), own.port.unwrap_or(addr.port())),
        }
    }

    /// Probes that must be able to be under way at once, if each takes its whole timeout.
    fn concurrent(&self, backends: usize) -> usize {
        let HealthCheckConfig { timeout, interval, .. } = self.default;
        let millis =
            |span: Duration| usize::try_from(span.as_millis()).unwrap_or(usize::MAX).max(1);
        backends.saturating_mul(millis(timeout)).div_ceil(millis(interval)).max(CONCURRENT)
    }
}
