//! The composition root: the only place that knows everyone.
//! Configuration -> bind -> wire -> run -> drain.

mod certificates;
mod control;
mod feed;
mod geo_watch;
mod health;
mod in_force;
mod listeners;
mod metrics;
mod origins;
mod probes;
mod refusals;
mod registry;
mod reload;
mod rules;
mod snapshot;
mod store;
mod summary;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use certificates::{BadFiles, check as check_certificates};
pub use listeners::AppError;
pub use origins::check as check_origins;
pub use store::open_once;

use crate::adapters::inbound::listener::{BindError, Listener};
use crate::adapters::inbound::metrics::{self as metrics_listener, Source as Numbers};
use crate::adapters::inbound::worker::{Ending, Worker};
use crate::adapters::outbound::PrometheusMetricsStore;
use crate::adapters::outbound::geo::{EmbeddedGeo, GeoError, MmdbGeo};
use crate::application::account::Format;
use crate::application::admission::ClientCounts;
use crate::application::connect::Demotions;
use crate::application::proxy::{Shared, Snapshot};
use crate::application::upstreams::{Roster, Tables, Upstream};
use crate::clock;
use crate::config::{Config, LogFilter, LogFormat, Settings, Source};
use crate::domain::affinity::Affinity;
use crate::domain::ports::{CountryLookup, Registry, RepositoryError};
use crate::infrastructure::config_watcher::Changes;
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::meters::Meters;
use crate::infrastructure::reactor::Reactor;
use crate::infrastructure::{ConfigWatcher, ShutdownController, shutdown_signal};
use certificates::CertificateWatch;
use control::{Control, Follow};
use feed::Following;
use geo_watch::GeoWatch;
use health::Checks;
use in_force::InForce;
use listeners::Listening;
use metrics::Metrics;
use origins::{Origins, Rereading};
use registry::RegistryState;
use reload::{Reload, ReloadState};
use rules::Machine;
use store::Store;

/// Clients whose backend is remembered, at about 100 bytes each.
const BINDINGS: usize = 1 << 19;
/// Demoted backends that may wait to be probed.
const DEMOTIONS: usize = 1_024;
/// How often it is looked at whether bindings are to be swept.
const SWEEP_LOOK: Duration = Duration::from_secs(1);
/// How long after the drain's end workers may take to close what is left.
const LAST_CLOSES: Duration = Duration::from_millis(500);

/// Why the proxy did not start. Nothing is bound then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not fit the registry.
    #[error(transparent)]
    App(#[from] AppError),
    /// A certificate, or its key.
    #[error(transparent)]
    Tls(#[from] BadFiles),
    /// The country database.
    #[error(transparent)]
    Geo(#[from] GeoError),
    /// Files for TLS to backends.
    #[error("{}", .0.join("; "))]
    Origins(Vec<String>),
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

/// What a proxy is given of the process that it runs in.
pub struct Process {
    /// Where the configuration is read anew.
    pub source: Arc<dyn Fn() -> Source + Send + Sync>,
    /// Changes what is logged.
    pub set_log: Arc<dyn Fn(&LogFilter) + Send + Sync>,
    /// Where a line about each connection goes.
    pub access_log: LogSink,
    /// Each one asks for a reload; `None` = nobody asks.
    pub hangup: Option<Signal>,
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
    config: watch::Receiver<Arc<Config>>,
    watcher: Arc<ConfigWatcher>,
}

impl Edge {
    /// Starts everything. Needs a tokio runtime, which becomes the control plane.
    ///
    /// # Errors
    /// Why it cannot start; nothing is left behind.
    pub async fn start(config: Config, process: Process) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let settings = &config.settings;
        let machine = Machine::new(settings);
        machine.warn_of_max_connections(settings);
        // Watched first, so that no change is missed.
        let geo_watch = GeoWatch::begin(&config).await;
        let database = country_database(&config)?;
        let certificates = CertificateWatch::begin(&config)?;
        let origins = origins::read(&config, &Origins::new()).map_err(StartError::Origins)?;
        origins::warn_of_unverified(&config);
        let mut store = Store::open(&config)?;
        let store::First { registry, age, error, held, guard } = store.first(&config).await?;
        summary::skipped(registry.skipped.iter());

        let standing = certificates.as_ref().map(CertificateWatch::standing);
        let mut listening = Listening::new(&config, standing.as_deref());
        let metrics_store = PrometheusMetricsStore::for_threads(machine.workers);
        let mut roster = Roster::new(Arc::clone(metrics_store.meters()));
        // No lease ends while the store says nothing.
        let leases_at = unix_now() - age.map_or(0, whole_secs);
        let tables = roster.tables(&registry, &rules::tables(&config, &origins), leases_at);
        roster.seat(&tables, clock::now());
        let listeners = listening.at_start(&tables)?;
        let bound = listening.bind(settings, machine.workers)?;

        let (demotions, demoted) = mpsc::channel(DEMOTIONS);
        let geo = rules::geo(&config, &database);
        let snapshot = Snapshot {
            listeners,
            tables: tables.clone(),
            ..rules::snapshot(&config, &machine, geo, None)
        };
        let shared = shared(snapshot, demotions, settings.log_format, metrics_store.meters());
        let Process { source, set_log, access_log, hangup } = process;
        let (workers, endings) = start_workers(bound.listeners, &shared, &access_log)?;

        let addrs = Addrs { clients: bound.addrs, metrics: bound.metrics_addrs };
        summary::Started {
            config: &config,
            addrs: &addrs,
            registry: &registry,
            store: &store.describe(),
            stale: age.zip(error.as_ref()),
            geo: &*database,
            max_connections: machine.max_connections(settings),
            workers: workers.len(),
        }
        .log();
        let state = Arc::new(RegistryState::at_start(age, registry.skipped.len()));
        let stopping = Arc::new(AtomicBool::new(false));
        let reloads = Arc::new(ReloadState::default());
        let metrics: Arc<dyn Numbers> = Arc::new(Metrics {
            store: metrics_store,
            shared: Arc::clone(&shared),
            workers: Arc::clone(&workers),
            access_log: access_log.clone(),
            registry: Arc::clone(&state),
            reloads: Arc::clone(&reloads),
            certificates: standing.clone(),
            pop: summary::pop_name(&config),
            region: settings.region.clone(),
            stopping: Arc::clone(&stopping),
        });
        let mut control = JoinSet::new();
        serve_metrics(bound.metrics, settings, &metrics, &mut control)?;

        let checks = Checks::new(&config, Arc::clone(&shared), Arc::clone(&workers));
        let watcher = Arc::new(ConfigWatcher::new(settings.config_watch_interval_secs.get()));
        let mut in_force = InForce {
            config: watch::Sender::new(Arc::clone(&config)),
            registry: Arc::new(registry),
            database,
            certificates: standing,
            roster,
            listening,
            origins,
            checks,
            shared: Arc::clone(&shared),
            machine,
            state,
            leases_at,
            retired: Vec::new(),
        };
        in_force.tell(&tables);
        let config = in_force.config.subscribe();
        let following = Following::begin(store, config.clone(), &mut control);
        let planned = Control {
            in_force,
            following,
            follow: Follow::begin(guard, held, error),
            rereading: Rereading::default(),
            reload: Reload::new(source, set_log, reloads),
            watcher: Arc::clone(&watcher),
            geo_watch,
            certificates,
            hangup,
        };
        control.spawn(planned.run());
        control.spawn(probes::run(demoted, Arc::clone(&shared)));
        control.spawn(refusals::run(Arc::clone(&workers), access_log.clone()));
        control.spawn(sweep(Arc::clone(&shared), config.clone()));
        control.spawn(wake_for_drain(Arc::clone(&shared), workers));
        Ok(Self { shared, endings, control, access_log, addrs, stopping, config, watcher })
    }

    /// What changes of the configuration from now on: files that are watched, and each value that a
    /// reload puts in force.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.watcher.subscribe()
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
        let config = Arc::clone(&self.config.borrow());
        let delay = config.settings.shutdown_delay_secs.get();
        let timeout = config.settings.shutdown_timeout_secs.get();
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

fn serve_metrics(
    sockets: Vec<OwnedFd>,
    settings: &Settings,
    metrics: &Arc<dyn Numbers>,
    control: &mut JoinSet<()>,
) -> io::Result<()> {
    for socket in sockets {
        let path = settings.metrics_path.clone();
        control.spawn(metrics_listener::serve(socket, path, Arc::clone(metrics))?);
    }
    Ok(())
}

fn shared(
    snapshot: Snapshot,
    demotions: mpsc::Sender<(Arc<Upstream>, Duration)>,
    log_format: LogFormat,
    meters: &Arc<Meters>,
) -> Arc<Shared> {
    Arc::new(Shared {
        snapshot: ArcSwap::from_pointee(snapshot),
        affinity: Affinity::new(BINDINGS),
        clients: Arc::new(ClientCounts::default()),
        shutdown: ShutdownController::new(),
        demotions: Demotions::new(demotions),
        format: match log_format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        },
        meters: Arc::clone(meters),
        short_of_descriptors: AtomicU64::new(0),
    })
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

fn unix_now() -> i64 {
    whole_secs(clock::wall())
}

fn whole_secs(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
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
    Roster::new(Arc::default()).tables(
        registry,
        &rules::tables(config, &Origins::new()),
        unix_now(),
    )
}

async fn sweep(shared: Arc<Shared>, config: watch::Receiver<Arc<Config>>) {
    let interval = || config.borrow().settings.binding_gc_interval_secs.get();
    let mut swept = clock::now();
    loop {
        // Looked at every second: it may be another interval meanwhile.
        let left = (swept + interval()).since(clock::now());
        tokio::time::sleep(left.min(SWEEP_LOOK)).await;
        let now = clock::now();
        if now.since(swept) >= interval() {
            swept = now;
            shared.affinity.sweep(now);
        }
    }
}

async fn wake_for_drain(shared: Arc<Shared>, workers: Arc<Vec<Worker>>) {
    shared.shutdown.drain_started().await;
    for worker in workers.iter() {
        worker.wake();
    }
}
