//! The metrics of connections, in the Prometheus text format.

mod text;

use std::sync::Arc;

use crate::infrastructure::meters::{BackendMeter, Meters};
pub use text::{Kind, Label, Page, Seconds};

/// Counts connections and bytes, and writes them out.
///
/// Recording is safe from any thread and waits for nobody but who looks up the same backend's name;
/// what records often looks it up once, see [`meters`](Self::meters).
#[derive(Clone, Debug, Default)]
pub struct PrometheusMetricsStore {
    meters: Arc<Meters>,
}

/// What is open at one moment.
pub trait Open {
    /// Connections of clients.
    fn connections(&self) -> u64;
    /// Connections to a backend, those being made included.
    fn to_backend(&self, id: &str) -> u64;
}

/// Nothing is open.
struct Nothing;

impl PrometheusMetricsStore {
    /// A store in which nothing was counted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that as many threads count in without meeting each other.
    #[must_use]
    pub fn for_threads(threads: usize) -> Self {
        Self { meters: Arc::new(Meters::new(threads)) }
    }

    /// The counts themselves, for what looks its backend up once and then counts often.
    #[must_use]
    pub const fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Counts a connection to a backend.
    pub fn record_connection(&self, backend: &str) {
        let share = self.meters.own_share();
        self.meters.accepted(share);
        self.meters.backend(backend).cell(share).connected();
    }

    /// Counts bytes sent to a backend.
    pub fn record_bytes_sent(&self, backend: &str, bytes: u64) {
        let share = self.meters.own_share();
        self.meters.moved(share, self.meters.backend(backend).cell(share), bytes, 0);
    }

    /// Counts bytes received from a backend.
    pub fn record_bytes_received(&self, backend: &str, bytes: u64) {
        let share = self.meters.own_share();
        self.meters.moved(share, self.meters.backend(backend).cell(share), 0, bytes);
    }

    /// The families about connections in text format. Nothing counts as open: this store counts what has
    /// happened, and whoever holds connections knows how many; see [`write`](Self::write).
    #[must_use]
    pub fn export_prometheus(&self) -> String {
        let mut page = Page::default();
        self.write(&mut page, &Nothing);
        page.finish()
    }

    /// Writes the families about connections: totals, and one series for each backend.
    pub fn write(&self, page: &mut Page, open: &impl Open) {
        let Self { meters } = self;
        let backends: Vec<(Arc<str>, Arc<str>, Arc<BackendMeter>)> = meters
            .all_backends()
            .into_iter()
            .map(|(id, meter)| (id, meter.region(), meter))
            .collect();
        let labels = |(id, region, _): &'_ (Arc<str>, Arc<str>, Arc<BackendMeter>)| {
            [("backend", Arc::clone(id)), ("region", Arc::clone(region))]
        };
        let each = |page: &mut Page, value: &dyn Fn(&str, &BackendMeter) -> u64| {
            for backend in &backends {
                let [(a, id), (b, region)] = labels(backend);
                page.sample(&[(a, &id), (b, &region)], value(&id, &backend.2));
            }
        };

        page.family(
            "edgeproxy_connections_total",
            Kind::Counter,
            "Client connections accepted, those refused afterwards included.",
        )
        .sample(&[], meters.connections());
        page.family("edgeproxy_connections_active", Kind::Gauge, "Client connections open now.")
            .sample(&[], open.connections());
        page.family("edgeproxy_bytes_sent_total", Kind::Counter, "Bytes sent to backends.")
            .sample(&[], meters.sent());
        page.family(
            "edgeproxy_bytes_received_total",
            Kind::Counter,
            "Bytes received from backends and passed on to clients.",
        )
        .sample(&[], meters.received());
        page.family(
            "edgeproxy_backend_connections_total",
            Kind::Counter,
            "Client connections carried to the backend.",
        );
        each(page, &|_, meter| meter.connections());
        page.family(
            "edgeproxy_backend_connections_active",
            Kind::Gauge,
            "Client connections at the backend now, those being dialled included; what its limits count.",
        );
        each(page, &|id, _| open.to_backend(id));
        page.family(
            "edgeproxy_backend_bytes_sent_total",
            Kind::Counter,
            "Bytes sent to the backend.",
        );
        each(page, &|_, meter| meter.sent());
        page.family(
            "edgeproxy_backend_bytes_received_total",
            Kind::Counter,
            "Bytes received from the backend and passed on to clients.",
        );
        each(page, &|_, meter| meter.received());
        page.family(
            "edgeproxy_backend_errors_total",
            Kind::Counter,
            "Dials to the backend that failed, and connections that it reset.",
        );
        each(page, &|_, meter| meter.errors());
        page.family(
            "edgeproxy_backend_rtt_seconds",
            Kind::Histogram,
            "Time from dialling the backend to its answer.",
        );
        for backend in &backends {
            let rtt = backend.2.rtt();
            // Nineteen lines for each backend are written when they say something.
            if rtt.count() > 0 {
                let [(a, id), (b, region)] = labels(backend);
                page.histogram(&[(a, &id), (b, &region)], &rtt);
            }
        }
    }
}

impl Open for Nothing {
    fn connections(&self) -> u64 {
        0
    }

    fn to_backend(&self, _: &str) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_exported_with_totals_over_all_backends() {
        let store = PrometheusMetricsStore::new();
        store.record_connection("backend-1");
        store.record_bytes_sent("backend-1", 1_024);
        store.record_bytes_received("backend-1", 2_048);
        store.record_bytes_received("backend-2", 1);
        let text = store.export_prometheus();
        for line in [
            "edgeproxy_connections_total 1",
            "edgeproxy_connections_active 0",
            "edgeproxy_bytes_sent_total 1024",
            "edgeproxy_bytes_received_total 2049",
            "edgeproxy_backend_connections_total{backend=\"backend-1\",region=\"\"} 1",
            "edgeproxy_backend_connections_active{backend=\"backend-1\",region=\"\"} 0",
            "edgeproxy_backend_errors_total{backend=\"backend-2\",region=\"\"} 0",
            "# TYPE edgeproxy_backend_rtt_seconds histogram",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}: {text}");
        }
    }
}
