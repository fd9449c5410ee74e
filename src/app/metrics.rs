//! All metrics: what was counted, and how things stand.

mod process;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::certificates::{Standing as CertificateStanding, Validity};
use super::registry::RegistryState;
use super::reload::ReloadState;
use crate::adapters::inbound::metrics::Source;
use crate::adapters::inbound::worker::Worker;
use crate::adapters::outbound::PrometheusMetricsStore;
use crate::adapters::outbound::prometheus::{Kind, Open, Page, Seconds};
use crate::application::account::Reason;
use crate::application::proxy::{Shared, Snapshot};
use crate::application::upstreams::{AppTable, Row};
use crate::clock;
use crate::domain::balance::{Load, Standing};
use crate::domain::time::Time;
use crate::domain::{Country, Region};
use crate::infrastructure::circuit_breaker::State;
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::meters::DialFailure;

/// Where the numbers come from.
pub(super) struct Metrics {
    pub store: PrometheusMetricsStore,
    pub shared: Arc<Shared>,
    pub workers: Arc<Vec<Worker>>,
    pub access_log: LogSink,
    pub registry: Arc<RegistryState>,
    pub reloads: Arc<ReloadState>,
    /// `None` when no listener ends TLS.
    pub certificates: Option<Arc<CertificateStanding>>,
    pub pop: String,
    pub region: Region,
    /// Set when the process has been asked to stop.
    pub stopping: Arc<AtomicBool>,
}

/// Connections open now.
struct OpenNow {
    clients: usize,
    /// At each backend; one that has moved and still has connections at its old address has both.
    backends: HashMap<String, u64>,
}

impl Open for OpenNow {
    fn connections(&self) -> u64 {
        self.clients as u64
    }

    fn to_backend(&self, id: &str) -> u64 {
        self.backends.get(id).copied().unwrap_or_default()
    }
}

impl Source for Metrics {
    fn metrics(&self) -> String {
        let now = clock::now();
        let snapshot = self.shared.snapshot.load_full();
        let mut open =
            OpenNow { clients: self.shared.shutdown.open_connections(), backends: HashMap::new() };
        for upstream in self.registry.known() {
            *open.backends.entry(upstream.id.to_string()).or_default() +=
                u64::from(upstream.active());
        }
        let rows: HashSet<&str> =
            live_rows(&snapshot).map(|(_, row)| row.backend.id.as_str()).collect();
        self.store.meters().retain(|id| rows.contains(id) || open.to_backend(id) > 0);

        let mut page = Page::default();
        self.store.write(&mut page, &open);
        self.connections(&mut page);
        self.requests(&mut page);
        Self::backends(&mut page, &snapshot, now);
        self.standing(&mut page, now);
        process::write(&mut page);
        page.finish()
    }

    fn not_ready(&self) -> Option<&'static str> {
        let draining =
            self.stopping.load(Ordering::SeqCst) || self.shared.shutdown.drain().is_some();
        draining.then_some("draining")
    }
}

impl Metrics {
    /// What became of requests.
    fn requests(&self, page: &mut Page) {
        let meters = self.store.meters();
        page.family(
            "edgeproxy_http_requests_total",
            Kind::Counter,
            "Requests in http mode by the class of their answers' status; none = there was no answer.",
        );
        for (class, count) in meters.answers() {
            page.sample(&[("status", class)], count);
        }
        page.family(
            "edgeproxy_http_failures_total",
            Kind::Counter,
            "Requests in http mode that no backend has answered to the end, and why.",
        );
        for reason in Reason::ALL.iter().filter(|reason| reason.is_of_requests()) {
            let workers = self.workers.iter().map(|worker| worker.ended.requests_of(*reason));
            page.sample(&[("reason", reason.as_str())], workers.sum::<u64>());
        }
        page.family(
            "edgeproxy_http_request_seconds",
            Kind::Histogram,
            "Time from a request's head to the end of its answer.",
        )
        .histogram(&[], &meters.requests());
    }

    /// What became of connections.
    fn connections(&self, page: &mut Page) {
        let total = |reason| self.workers.iter().map(|worker| worker.ended.of(reason)).sum::<u64>();
        page.family(
            "edgeproxy_refused_total",
            Kind::Counter,
            "Connections turned away without being carried anywhere.",
        );
        for reason in Reason::ALL.iter().filter(|reason| reason.is_refusal()) {
            page.sample(&[("reason", reason.as_str())], total(*reason));
        }
        page.family(
            "edgeproxy_connections_ended_total",
            Kind::Counter,
            "Connections that have ended, those refused included.",
        );
        for reason in Reason::ALL {
            page.sample(&[("reason", reason.as_str())], total(*reason));
        }
        let meters = self.store.meters();
        page.family(
            "edgeproxy_routed_total",
            Kind::Counter,
            "Connections carried from clients of one region to backends of another (tier 0 = same country, 1 = same region, 2 = this POP's region, 3 = elsewhere).",
        );
        for (route, count) in meters.all_routes() {
            let tier = route.tier.to_string();
            let (client, backend) = (&route.client_region, &route.backend_region);
            page.sample(
                &[("client_region", client), ("backend_region", backend), ("tier", &tier)],
                count,
            );
        }
        page.family(
            "edgeproxy_setup_seconds",
            Kind::Histogram,
            "Time from accepting a client to its backend's answer.",
        )
        .histogram(&[], &meters.setup());
        page.family(
            "edgeproxy_tls_handshakes_total",
            Kind::Counter,
            "Handshakes of TLS with clients that came to their end; those that failed are in edgeproxy_refused_total (tls_failed).",
        );
        for (version, resumed, count) in meters.handshakes() {
            let resumed = if resumed { "true" } else { "false" };
            page.sample(&[("version", version), ("resumed", resumed)], count);
        }
        page.family(
            "edgeproxy_dial_failures_total",
            Kind::Counter,
            "Dials to the backend that failed, those included by which it is found out whether it is back.",
        );
        for (id, meter) in meters.all_backends() {
            for reason in DialFailure::ALL {
                let failures = meter.dial_failures(reason);
                if failures > 0 {
                    page.sample(&[("backend", &id), ("reason", reason.as_str())], failures);
                }
            }
        }
        let admission = &self.shared.snapshot.load().admission;
        let evictions = admission.rate().map_or(0, |rate| rate.limiter.evictions());
        page.family(
            "edgeproxy_rate_limit_evictions_total",
            Kind::Counter,
            "Clients forgotten by the rate limit before their buckets were full again.",
        )
        .sample(&[], evictions);
        let dry_run: u64 = self.workers.iter().map(|worker| worker.ended.dry_run()).sum();
        page.family(
            "edgeproxy_rate_limit_dry_run_total",
            Kind::Counter,
            "Connections that the rate limit would have refused, were it not a dry run.",
        )
        .sample(&[], dry_run);
        page.family(
            "edgeproxy_access_log_dropped_total",
            Kind::Counter,
            "Access log lines dropped because standard output was not read fast enough.",
        )
        .sample(&[], self.access_log.dropped());
        page.family("edgeproxy_connections_limit", Kind::Gauge, "Most client connections at once.")
            .sample(&[], admission.max_connections);
    }

    /// How each backend stands.
    fn backends(page: &mut Page, snapshot: &Snapshot, now: Time) {
        let rows: Vec<(&AppTable, &Row)> = live_rows(snapshot).collect();
        let reasons: Vec<Option<&str>> =
            rows.iter().map(|(table, row)| why_ineligible(table, row, now)).collect();
        page.family(
            "edgeproxy_backend_eligible",
            Kind::Gauge,
            "Whether the backend can be chosen now.",
        );
        for ((_, row), reason) in rows.iter().zip(&reasons) {
            page.sample(&[("backend", row.backend.id.as_str())], u8::from(reason.is_none()));
        }
        page.family(
            "edgeproxy_backend_ineligible",
            Kind::Gauge,
            "Why the backend cannot be chosen now.",
        );
        for ((_, row), reason) in rows.iter().zip(&reasons) {
            if let Some(reason) = reason {
                page.sample(&[("backend", row.backend.id.as_str()), ("reason", reason)], 1);
            }
        }
        let mut limits = |name, help, value: fn(&Row) -> u32| {
            page.family(name, Kind::Gauge, help);
            for (_, row) in &rows {
                page.sample(&[("backend", row.backend.id.as_str())], value(row));
            }
        };
        limits(
            "edgeproxy_backend_soft_limit",
            "Connections from which farther backends are preferred; 0 = none.",
            |row| row.backend.soft_limit,
        );
        limits(
            "edgeproxy_backend_hard_limit",
            "Connections that are never exceeded; 0 = none.",
            |row| row.backend.hard_limit,
        );
        page.family(
            "edgeproxy_backend_info",
            Kind::Gauge,
            "What the registry says of the backend.",
        );
        for (_, row) in &rows {
            let backend = &row.backend;
            let country = backend.country.as_ref().map_or("", Country::as_str);
            let labels = [
                ("backend", backend.id.as_str()),
                ("app", backend.app.as_str()),
                ("region", backend.region.as_str()),
                ("country", country),
                ("address", &backend.addr().to_string()),
            ];
            page.sample(&labels, 1);
        }
        page.family(
            "edgeproxy_breaker_state",
            Kind::Gauge,
            "The backend's circuit breaker: 0 = closed, 1 = half-open, 2 = open.",
        );
        for upstream in tables(snapshot).filter(|t| t.breakers).flat_map(AppTable::upstreams) {
            let state = match upstream.breaker().state_at(now) {
                State::Closed => 0,
                State::HalfOpen => 1,
                State::Open => 2,
            };
            page.sample(&[("backend", upstream.id.as_str())], state);
        }
        page.family(
            "edgeproxy_pool_idle_connections",
            Kind::Gauge,
            "Connections to the backend that wait for a client, those being made included.",
        );
        let warm = tables(snapshot).flat_map(AppTable::upstreams).map(|up| (up, up.warm()));
        for (upstream, warm) in warm.filter(|(_, warm)| *warm > 0 || snapshot.warm.is_some()) {
            page.sample(&[("backend", upstream.id.as_str())], warm);
        }
        page.family(
            "edgeproxy_fail_open",
            Kind::Gauge,
            "Whether health checks are ignored, because they say that no backend of the app is healthy.",
        );
        for table in tables(snapshot) {
            page.sample(&[("app", table.name.as_str())], u8::from(table.fails_open()));
        }
    }

    /// How this process stands.
    fn standing(&self, page: &mut Page, now: Time) {
        let registry = &self.registry;
        let age = registry.age(now);
        let mut gauge = |name, help, value: &dyn std::fmt::Display| {
            page.family(name, Kind::Gauge, help).sample(&[], value);
        };
        gauge(
            "edgeproxy_registry_up",
            "Whether the registry could be read the last time.",
            &u8::from(registry.is_up()),
        );
        gauge(
            "edgeproxy_registry_age_seconds",
            "Time since the registry was last known to be as the table in force says.",
            &seconds(age),
        );
        gauge(
            "edgeproxy_registry_rows_skipped",
            "Rows of the registry that are left out because something is wrong with them.",
            &registry.skipped(),
        );
        gauge(
            "edgeproxy_registry_change_held",
            "Whether a change of the registry is held back because it would remove too much.",
            &u8::from(registry.is_held()),
        );
        gauge(
            "edgeproxy_config_last_reload_successful",
            "Whether the configuration last read could be put in force, but for what needs a restart.",
            &u8::from(self.reloads.last_succeeded()),
        );
        gauge(
            "edgeproxy_draining",
            "Whether this process is about to end.",
            &u8::from(self.not_ready().is_some()),
        );
        if let Some(built) = self.shared.snapshot.load().geo.database.built() {
            gauge(
                "edgeproxy_geo_build_timestamp_seconds",
                "When the country database was made, in seconds since the Unix epoch.",
                &built,
            );
        }
        page.family(
            "edgeproxy_registry_changes_held_total",
            Kind::Counter,
            "Changes of the registry that were held back because they would have removed too much.",
        )
        .sample(&[], registry.times_held());
        page.family(
            "edgeproxy_config_reloads_total",
            Kind::Counter,
            "Times that the configuration was read anew.",
        )
        .sample(&[("result", "success")], self.reloads.successes())
        .sample(&[("result", "failure")], self.reloads.failures());
        if let Some(certificates) = &self.certificates {
            Self::certificates(page, certificates);
        }
        page.family(
            "edgeproxy_worker_lag_seconds",
            Kind::Gauge,
            "Longest time in the last 10 to 20 s that a worker was busy between two looks at its events.",
        );
        for (number, worker) in self.workers.iter().enumerate() {
            let lag = worker.lag.longest(now);
            page.sample(&[("worker", &number.to_string())], seconds(lag));
        }
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("pop", self.pop.as_str()),
            ("region", self.region.as_str()),
        ];
        page.family("edgeproxy_build_info", Kind::Gauge, "What runs, and where.")
            .sample(&labels, 1);
    }
}

impl Metrics {
    /// What is shown to clients where TLS ends here.
    fn certificates(page: &mut Page, standing: &CertificateStanding) {
        page.family(
            "edgeproxy_certificate_not_after_timestamp_seconds",
            Kind::Gauge,
            "Until when the certificate is valid, in seconds since the Unix epoch.",
        );
        for Validity { certificate, not_after } in standing.validities() {
            page.sample(&[("name", &certificate)], not_after);
        }
        page.family(
            "edgeproxy_tls_certificate_reloads_total",
            Kind::Counter,
            "Times that certificates were replaced, and files that could not be used for it.",
        )
        .sample(&[("result", "success")], standing.successes())
        .sample(&[("result", "failure")], standing.failures());
    }
}

fn seconds(span: std::time::Duration) -> Seconds {
    Seconds::from_nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

fn tables(snapshot: &Snapshot) -> impl Iterator<Item = &AppTable> {
    snapshot.tables.values().map(|table| &**table)
}

/// Rows that are not deleted.
fn live_rows(snapshot: &Snapshot) -> impl Iterator<Item = (&AppTable, &Row)> {
    tables(snapshot)
        .flat_map(|table| table.rows.iter().map(move |row| (table, row)))
        .filter(|(_, row)| !row.backend.deleted)
}

/// Why a backend cannot be chosen now, if so.
pub(super) fn why_ineligible(table: &AppTable, row: &Row, now: Time) -> Option<&'static str> {
    let place = match row.place {
        Ok(place) => place,
        Err(reason) => return Some(reason.as_str()),
    };
    let load = table.load(now);
    if load.standing(place) == Standing::Out {
        return Some(load.why_out(place));
    }
    let full = !table.layout.members()[place].below_hard(load.active(place));
    full.then_some("hard_limit")
}
