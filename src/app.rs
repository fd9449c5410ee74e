//! The composition root: the only place that knows everyone.
//! Configuration -> bind -> wire -> run -> drain.

mod api_tls;
mod certificates;
mod closings;
mod control;
mod denials;
mod feed;
mod geo_watch;
mod health;
mod heartbeats;
mod in_force;
mod listeners;
mod metrics;
mod orders;
mod origins;
mod probes;
mod refusals;
mod registry;
mod reload;
mod rules;
mod snapshot;
mod socket;
mod start;
mod steering;
mod store;
mod summary;
mod tokens;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use certificates::{BadFiles, check as check_certificates};
pub use listeners::AppError;
pub use origins::check as check_origins;
pub use socket::FILE as SOCKET;
pub use store::open_once;
pub use tokens::kept as kept_token;

use crate::adapters::inbound::listener::BindError;
use crate::adapters::inbound::worker::{Ending, Worker};
use crate::adapters::outbound::geo::{EmbeddedGeo, GeoError, MmdbGeo};
use crate::application::proxy::Shared;
use crate::application::upstreams::{Roster, Tables};
use crate::clock;
use crate::config::{Config, LogFilter, Source};
use crate::domain::ports::{CountryLookup, Registry, RepositoryError};
use crate::infrastructure::config_watcher::Changes;
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::tls::BadFile;
use crate::infrastructure::{ConfigWatcher, shutdown_signal};
use origins::Origins;
use rules::Here;
use socket::Socket;

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
    /// The control API's certificate, its key, or its clients' CAs.
    #[error("the control API: {0}")]
    ApiTls(BadFile),
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
    /// For the control API.
    pub api: Vec<SocketAddr>,
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
    _socket: Option<Socket>,
}

impl Edge {
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

/// The second since the epoch by which `span` from now has passed: never less.
fn unix_after(span: Duration) -> i64 {
    let at = clock::wall() + span;
    whole_secs(at) + i64::from(at.subsec_nanos() > 0)
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
        &rules::tables(config, &Origins::new(), &Here::default()),
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
