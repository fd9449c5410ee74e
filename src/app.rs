//! The composition root: the only place that knows everyone.
//! Configuration -> bind -> wire -> run -> drain.

mod health;
mod listeners;
mod metrics;
mod probes;
mod refusals;
mod registry;
mod rules;
mod store;
mod summary;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use listeners::AppError;
pub use rules::rules;
pub use store::{Store, open_once};

use crate::adapters::inbound::listener::{BindError, Listener};
use crate::adapters::inbound::metrics::{self as metrics_listener, Source};
use crate::adapters::inbound::worker::{Ending, Worker};
use crate::adapters::outbound::PrometheusMetricsStore;
use crate::adapters::outbound::geo::{EmbeddedGeo, GeoError, MmdbGeo};
use crate::application::account::Format;
use crate::application::admission::ClientCounts;
use crate::application::connect::Demotions;
use crate::application::locate::Geo;
use crate::application::proxy::{Shared, Snapshot};
use crate::application::upstreams::{Roster, Tables};
use crate::clock;
use crate::config::{Config, LogFormat, Settings};
use crate::domain::affinity::Affinity;
use crate::domain::ports::{CountryLookup, Registry, RepositoryError};
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::reactor::Reactor;
use crate::infrastructure::{ShutdownController, descriptors, shutdown_signal};
use health::Checks;
use listeners::Listening;
use metrics::Metrics;
use registry::RegistryState;

/// Clients whose backend is remembered, at about 100 bytes each.
const BINDINGS: usize = 1 << 19;
/// Demoted backends that may wait to be probed.
const DEMOTIONS: usize = 1_024;
/// How long after the drain's end workers may take to close what is left.
const LAST_CLOSES: Duration = Duration::from_millis(500);

/// Why the proxy did not start. Nothing is bound then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not fit the registry.
    #[error(transparent)]
    App(#[from] AppError),
    /// The country database.
    #[error(transparent)]
    Geo(#[from] GeoError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RepositoryError),
    /// A listening address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system itself.
    #[error("this process cannot get what it needs from the system")]
    System(#[from] io::Error),
}

/// Where a proxy listens, with the ports that the system chose.
#[derive(Clone, Debug, Default)]
pub struct Addrs {
    /// For clients.
    pub clients: Vec<SocketAddr>,
    /// For metrics.
    pub metrics: Vec<SocketAddr>,
}

/// A proxy that runs.
pub struct Edge {
    shared: Arc<Shared>,
    endings: Vec<Ending>,
    /// The control plane's tasks, which end with this.
    control: JoinSet<()>,
    access_log: LogSink,
    addrs: Addrs,
    /// Readiness turns at once, before the drain begins.
    stopping: Arc<AtomicBool>,
    config: Config,
}

impl Edge {
    /// Starts everything. Needs a tokio runtime, which becomes the control plane.
    ///
    /// # Errors
    /// Why it cannot start; nothing is left behind.
    pub async fn start(config: Config, access_log: LogSink) -> Result<Self, StartError> {
        let settings = &config.settings;
        let workers = settings.workers.map_or_else(cpu_count, |workers| workers.get() as usize);
        let descriptors = descriptors::raise_limit();
        let max_connections = max_connections(settings, workers, descriptors);

        let database = country_database(&config)?;
        let Store { repository, hints } = Store::open(settings).await?;
        let registry = repository.load().await?;
        summary::skipped(&registry);

        let mut listening = Listening::new(&config);
        let store = PrometheusMetricsStore::for_threads(workers);
        let mut roster = Roster::new(Arc::clone(store.meters()));
        let rules = rules(&config);
        let made_at = unix_now();
        let tables = roster.tables(&registry, &rules, made_at);
        roster.seat(&tables, clock::now());
        let apps = listening.at_start(&tables)?;
        let bound = listening.bind(settings, workers)?;

        let (demotions, demoted) = mpsc::channel(DEMOTIONS);
        let overrides = config.geo_overrides.iter().copied().collect();
        let snapshot = Snapshot {
            listeners: apps,
            tables,
            admission: Arc::new(rules::admission(settings, max_connections)),
            geo: Arc::new(Geo { overrides, database: Arc::clone(&database) }),
            dial: rules::dial(settings),
            warm: rules::warm(settings, workers, descriptors),
            user_timeout: settings.tcp_user_timeout_secs.get(),
            shortest_idle: rules.shortest_idle(),
        };
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            affinity: Affinity::new(BINDINGS),
            clients: Arc::new(ClientCounts::default()),
            shutdown: ShutdownController::new(),
            demotions: Demotions::new(demotions),
            format: match settings.log_format {
                LogFormat::Text => Format::Text,
                LogFormat::Json => Format::Json,
            },
            meters: Arc::clone(store.meters()),
            short_of_descriptors: AtomicU64::new(0),
        });
        let (workers, endings) = start_workers(bound.listeners, &shared, &access_log)?;

        let addrs = Addrs { clients: bound.addrs, metrics: bound.metrics_addrs };
        let started = summary::Started {
            config: &config,
            addrs: &addrs,
            registry: &registry,
            repository: &*repository,
            geo: &*database,
            max_connections,
            workers: workers.len(),
        };
        started.log();
        let state = Arc::new(RegistryState::default());
        state.is_good(registry.skipped.len(), clock::now());
        let stopping = Arc::new(AtomicBool::new(false));
        let metrics: Arc<dyn Source> = Arc::new(Metrics {
            store,
            shared: Arc::clone(&shared),
            workers: Arc::clone(&workers),
            access_log: access_log.clone(),
            registry: Arc::clone(&state),
            pop: summary::pop_name(&config),
            region: settings.region.clone(),
            geo_built: database.built(),
            stopping: Arc::clone(&stopping),
        });
        let checks = Checks::new(&config, Arc::clone(&shared), Arc::clone(&workers));
        let sync = registry::Sync {
            repository,
            hints,
            registry,
            roster,
            rules,
            listening,
            made_at,
            checks,
            state,
        };

        let mut control = JoinSet::new();
        for socket in bound.metrics {
            let path = settings.metrics_path.clone();
            control.spawn(metrics_listener::serve(socket, path, Arc::clone(&metrics))?);
        }
        control.spawn(sync.run(Arc::clone(&shared), Store::interval(settings)));
        let meters = Arc::clone(&shared.meters);
        control.spawn(probes::run(demoted, meters, settings.circuit_breaker_enabled));
        control.spawn(refusals::run(Arc::clone(&workers), access_log.clone()));
        control.spawn(sweep(Arc::clone(&shared), settings.binding_gc_interval_secs.get()));
        control.spawn(wake_for_drain(Arc::clone(&shared), workers));
        Ok(Self { shared, endings, control, access_log, addrs, stopping, config })
    }

    /// The addresses listened on.
    #[must_use]
    pub const fn addrs(&self) -> &Addrs {
        &self.addrs
    }

    /// Serves until `until` returns, then drains. A signal during the drain returns at once.
    pub async fn run(mut self, until: impl Future<Output = ()>) {
        tokio::select! {
            () = until => {}
            () = watch_control(&mut self.control) => {}
        }
        self.stopping.store(true, Ordering::SeqCst);
        let settings = &self.config.settings;
        let delay = settings.shutdown_delay_secs.get();
        let timeout = settings.shutdown_timeout_secs.get();
        tracing::info!("asked to stop: draining{}", after(delay));
        let drain = async {
            tokio::time::sleep(delay).await;
            self.drain(timeout).await;
        };
        tokio::select! {
            () = drain => {}
            () = shutdown_signal() => tracing::warn!("second signal: ending at once"),
        }
        self.access_log.flush();
    }

    async fn drain(&mut self, timeout: Duration) {
        let shutdown = self.shared.shutdown.clone();
        let open = shutdown.open_connections();
        tracing::info!(
            open,
            "no longer accepting; waiting for open connections, {timeout:?} at most"
        );
        let begun = clock::now();
        let _ = shutdown.wait_for_drain(timeout).await;
        // Workers end after the last connection that was waiting to be accepted, not before.
        let left = timeout.saturating_sub(clock::now().since(begun)) + LAST_CLOSES;
        let endings = async {
            for ending in &mut self.endings {
                ending.wait().await;
            }
        };
        let _ = tokio::time::timeout(left, endings).await;
        let forced = shutdown.forced_connections();
        tracing::info!("drained {}, forced {forced}", open.saturating_sub(forced));
    }
}

/// What the settings or the descriptors allow.
fn max_connections(settings: &Settings, workers: usize, descriptors: u64) -> usize {
    let enough_for = descriptors::connections_within(descriptors, workers);
    let limit = settings.max_connections.map_or(enough_for, |limit| limit.get() as usize);
    if limit > enough_for {
        tracing::warn!(
            "EDGEPROXY_MAX_CONNECTIONS={limit}: {descriptors} descriptors are enough for about \
             {enough_for}; past them clients wait in the accept queue"
        );
    }
    limit
}

fn start_workers(
    bound: Vec<Vec<Listener>>,
    shared: &Arc<Shared>,
    access_log: &LogSink,
) -> io::Result<(Arc<Vec<Worker>>, Vec<Ending>)> {
    // All descriptors first: a worker that serves already could take another's last one.
    let reactors: Vec<Reactor> =
        bound.iter().map(|_| Reactor::new()).collect::<Result<_, _>>().map_err(io::Error::from)?;
    let started =
        bound.into_iter().zip(reactors).enumerate().map(|(number, (listeners, reactor))| {
            Worker::start(number, listeners, reactor, Arc::clone(shared), access_log)
        });
    let (workers, endings) = started.collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
    Ok((Arc::new(workers), endings))
}

/// Never returns: connections go on without the control plane, but somebody must hear of it.
async fn watch_control(control: &mut JoinSet<()>) {
    loop {
        match control.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(%error, "a bug in edge-proxy ended a task of its control plane; please report it and restart");
            }
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

fn after(delay: Duration) -> String {
    if delay.is_zero() { String::new() } else { format!(" after {delay:?}") }
}

fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn unix_now() -> i64 {
    i64::try_from(clock::wall().as_secs()).unwrap_or(i64::MAX)
}

/// The country database that the configuration names.
///
/// # Errors
/// When it cannot be read.
pub fn country_database(config: &Config) -> Result<Arc<dyn CountryLookup>, GeoError> {
    Ok(match &config.settings.geoip_path {
        Some(path) => Arc::new(MmdbGeo::open(path)?),
        None => Arc::new(EmbeddedGeo::new()),
    })
}

/// The tables of a registry that nobody serves from, for the command line.
#[must_use]
pub fn offline_tables(config: &Config, registry: &Registry) -> Tables {
    Roster::new(Arc::default()).tables(registry, &rules(config), unix_now())
}

async fn sweep(shared: Arc<Shared>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        shared.affinity.sweep(clock::now());
    }
}

async fn wake_for_drain(shared: Arc<Shared>, workers: Arc<Vec<Worker>>) {
    shared.shutdown.drain_started().await;
    for worker in workers.iter() {
        worker.wake();
    }
}
