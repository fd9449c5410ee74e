//! Active health checks: a checker for each backend that is in the tables, whose verdict decides
//! whether the backend is eligible.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::adapters::inbound::worker::Worker;
use crate::application::proxy::Shared;
use crate::application::upstreams::{Tables, Upstream};
use crate::clock;
use crate::config::{Config, HealthConfig, HealthType};
use crate::domain::App;
use crate::infrastructure::health_checker::{Change, Gate, HealthChecker, Options, Phase};
use crate::infrastructure::{HealthCheckConfig, HealthCheckType};

/// Probes under way at once, unless that many cannot keep the interval.
const CONCURRENT: usize = 64;

/// The checkers of all backends in the tables.
pub(super) struct Checks {
    rules: Rules,
    gate: Arc<Gate>,
    checkers: HashMap<u64, HealthChecker>,
    shared: Arc<Shared>,
    workers: Arc<Vec<Worker>>,
    began: bool,
}

/// How backends are checked, by app.
struct Rules {
    enabled: bool,
    close_connections: bool,
    default: HealthCheckConfig,
    path: String,
    expected_status: u16,
    apps: BTreeMap<App, HealthConfig>,
}

impl Checks {
    pub fn new(config: &Config, shared: Arc<Shared>, workers: Arc<Vec<Worker>>) -> Self {
        let gate = Arc::new(Gate::new(CONCURRENT));
        let rules = Rules::new(config);
        Self { rules, gate, checkers: HashMap::new(), shared, workers, began: false }
    }

    /// Checks who is in these tables, and nobody else.
    pub fn follow(&mut self, tables: &Tables) {
        if !self.rules.enabled {
            return;
        }
        let backends: Vec<&Arc<Upstream>> =
            tables.values().flat_map(|table| table.upstreams()).collect();
        self.gate.ensure(self.rules.concurrent(backends.len()));
        let phase = if self.began { Phase::Immediate } else { Phase::Spread };
        self.began = true;
        let mut before = std::mem::take(&mut self.checkers);
        for upstream in backends {
            let checker =
                before.remove(&upstream.number).unwrap_or_else(|| self.checker(upstream, phase));
            self.checkers.insert(upstream.number, checker);
        }
    }

    fn checker(&self, upstream: &Arc<Upstream>, phase: Phase) -> HealthChecker {
        let (config, host, port) = self.rules.of(&upstream.app);
        let addr = SocketAddr::new(upstream.addr.ip(), port.unwrap_or(upstream.addr.port()));
        let (shared, workers) = (Arc::clone(&self.shared), Arc::clone(&self.workers));
        let (about, closes) = (Arc::clone(upstream), self.rules.close_connections);
        let observer = Arc::new(move |change: &Change| {
            let believed = turned(&about, change, &shared);
            if closes && believed && !change.to.is_healthy() {
                workers.iter().for_each(|worker| worker.close_all_of(about.number));
            }
        });
        let gate = Some(Arc::clone(&self.gate));
        let options = Options { gate, phase, host, observer: Some(observer) };
        let checker =
            HealthChecker::with(upstream.id.to_string(), addr.to_string(), config, options);
        checker.start();
        checker
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
        let apps = config.apps.iter().map(|(app, c)| (app.clone(), c.health.clone())).collect();
        let close_connections = s.health_check_close_connections;
        let enabled = s.health_check_enabled;
        Self { enabled, close_connections, default, path, expected_status, apps }
    }

    /// How an app's backends are checked: the rules, the `Host` and the port.
    fn of(&self, app: &App) -> (HealthCheckConfig, Option<String>, Option<u16>) {
        let Some(own) = self.apps.get(app) else { return (self.default.clone(), None, None) };
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
        (HealthCheckConfig { check_type, ..self.default.clone() }, own.host.clone(), own.port)
    }

    /// Probes that must be able to be under way at once, if each takes its whole timeout.
    fn concurrent(&self, backends: usize) -> usize {
        let HealthCheckConfig { timeout, interval, .. } = self.default;
        let millis =
            |span: Duration| usize::try_from(span.as_millis()).unwrap_or(usize::MAX).max(1);
        backends.saturating_mul(millis(timeout)).div_ceil(millis(interval)).max(CONCURRENT)
    }
}
