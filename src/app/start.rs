//! The start, in three steps: everything is read, addresses are bound and workers started, the control
//! plane begins.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::api_tls::ApiTls;
use super::certificates::CertificateWatch;
use super::closings::Closings;
use super::control::{Control, Follow};
use super::denials::Denials;
use super::feed::Following;
use super::geo_watch::GeoWatch;
use super::health::Checks;
use super::heartbeats::{self, Heartbeats};
use super::in_force::InForce;
use super::listeners::Listening;
use super::metrics::Metrics;
use super::orders::{self, Order};
use super::origins::{self, Origins, Rereading};
use super::refusals::{self, RecentlyRefused};
use super::registry::RegistryState;
use super::reload::{Reload, ReloadState};
use super::rules::{self, Here, Machine};
use super::steering::Steering;
use super::store::{self, Store};
use super::tokens::Tokens;
use super::{
    Addrs, Edge, Process, StartError, country_database, probes, socket, summary, sweep, unix_now,
    wake_for_drain, whole_secs,
};
use crate::adapters::inbound::api::Api;
use crate::adapters::inbound::listener::Listener;
use crate::adapters::inbound::metrics::{self as metrics_listener, Source as Numbers};
use crate::adapters::inbound::worker::{Ending, Worker};
use crate::adapters::outbound::PrometheusMetricsStore;
use crate::application::account::Format;
use crate::application::admission::ClientCounts;
use crate::application::connect::Demotions;
use crate::application::proxy::{Shared, Snapshot};
use crate::application::upstreams::{Roster, Tables, Upstream};
use crate::clock;
use crate::config::{Config, LogFormat};
use crate::domain::affinity::Affinity;
use crate::domain::ports::{BackendRepository, CountryLookup};
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::meters::Meters;
use crate::infrastructure::reactor::Reactor;
use crate::infrastructure::{ConfigWatcher, ShutdownController};

/// Clients whose backend is remembered, at about 100 bytes each.
const BINDINGS: usize = 1 << 19;
/// Demoted backends that may wait to be probed.
const DEMOTIONS: usize = 1_024;
/// Leases that ended no longer ago than this when a process starts go on for as long as any: a backend
/// that is gone for longer is not coming back.
const SPARED: Duration = Duration::from_secs(3_600);

/// Everything that can be wrong with files and the registry, read before anything is bound.
struct Read {
    machine: Machine,
    geo_watch: Option<GeoWatch>,
    database: Arc<dyn CountryLookup>,
    certificates: Option<CertificateWatch>,
    origins: Origins,
    api_tls: Option<ApiTls>,
    store: Store,
    first: store::First,
}

impl Read {
    async fn all(config: &Arc<Config>) -> Result<Self, StartError> {
        let machine = Machine::new(&config.settings);
        machine.warn_of_max_connections(&config.settings);
        // Watched first, so that no change is missed.
        let geo_watch = GeoWatch::begin(config).await;
        let database = country_database(config)?;
        let certificates = CertificateWatch::begin(config)?;
        let api_tls = ApiTls::begin(&config.settings).map_err(StartError::ApiTls)?;
        let origins = origins::read(config, &Origins::new()).map_err(StartError::Origins)?;
        origins::warn_of_unverified(config);
        let mut store = Store::open(config)?;
        let first = store.first(config).await?;
        summary::skipped(first.registry.skipped.iter());
        Ok(Self { machine, geo_watch, database, certificates, origins, api_tls, store, first })
    }

    /// Up to when leases are looked at: none ends while the store says nothing, and none right at the
    /// start, since nobody could renew it while this process did not run.
    fn leases_at(&self) -> i64 {
        unix_now() - self.first.age.map_or(0, whole_secs).max(whole_secs(SPARED))
    }
}

/// The data plane at work, and what it was made with.
struct DataPlane {
    shared: Arc<Shared>,
    workers: Arc<Vec<Worker>>,
    endings: Vec<Ending>,
    addrs: Addrs,
    metrics: Vec<OwnedFd>,
    api: Vec<OwnedFd>,
    demoted: mpsc::Receiver<(Arc<Upstream>, Duration)>,
    store: PrometheusMetricsStore,
    listening: Listening,
    roster: Roster,
    tables: Tables,
    denials: Arc<Denials>,
}

impl DataPlane {
    /// Binds every address and starts the workers.
    fn start(
        config: &Arc<Config>,
        read: &Read,
        access_log: &LogSink,
        leases_at: i64,
    ) -> Result<Self, StartError> {
        let Read { machine, database, certificates, origins, first, .. } = read;
        let settings = &config.settings;
        let standing = certificates.as_ref().map(CertificateWatch::standing);
        let mut listening = Listening::new(config, standing.as_deref());
        let store = PrometheusMetricsStore::for_threads(machine.workers);
        let mut roster = Roster::new(Arc::clone(store.meters()));
        let rules = rules::tables(config, origins, &Here::default());
        let tables = roster.tables(&first.registry, &rules, leases_at);
        roster.seat(&tables, clock::now());
        let listeners = listening.at_start(&tables)?;
        let bound = listening.bind(settings, machine.workers)?;

        let (demotions, demoted) = mpsc::channel(DEMOTIONS);
        let geo = rules::geo(config, database);
        let denials = Arc::new(Denials::kept(&settings.state_folder(), unix_now()));
        let snapshot = Snapshot {
            listeners,
            tables: tables.clone(),
            ..rules::snapshot(config, machine, geo, None, &denials)
        };
        let shared = shared(snapshot, demotions, settings.log_format, store.meters());
        let (workers, endings) = start_workers(bound.listeners, &shared, access_log)?;
        let addrs =
            Addrs { clients: bound.addrs, metrics: bound.metrics_addrs, api: bound.api_addrs };
        Ok(Self {
            shared,
            workers,
            endings,
            addrs,
            metrics: bound.metrics,
            api: bound.api,
            demoted,
            store,
            listening,
            roster,
            tables,
            denials,
        })
    }
}

impl Edge {
    /// Starts everything. Needs a tokio runtime, which becomes the control plane.
    ///
    /// # Errors
    /// Why it cannot start; nothing is left behind.
    pub async fn start(config: Config, process: Process) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let read = Read::all(&config).await?;
        let leases_at = read.leases_at();
        let Process { source, set_log, access_log, hangup } = process;
        let data = DataPlane::start(&config, &read, &access_log, leases_at)?;
        // Before anybody is told that this process is ready.
        let socket = socket::listen(&config.settings.state_folder());
        say_ready(&config, &read, &data);

        let mut control = JoinSet::new();
        let stopping = Arc::new(AtomicBool::new(false));
        let reloads = Arc::new(ReloadState::default());
        let Read { machine, geo_watch, database, certificates, origins, api_tls, store, first } =
            read;
        let store::First { registry, age, error, held, guard } = first;
        let state = Arc::new(RegistryState::at_start(age, registry.skipped.len()));
        let standing = certificates.as_ref().map(CertificateWatch::standing);
        let DataPlane { shared, workers, endings, addrs, tables, denials, .. } = data;
        let metrics = Metrics {
            store: data.store,
            shared: Arc::clone(&shared),
            workers: Arc::clone(&workers),
            access_log: access_log.clone(),
            registry: Arc::clone(&state),
            reloads: Arc::clone(&reloads),
            certificates: standing.clone(),
            pop: summary::pop_name(&config),
            region: config.settings.region.clone(),
            stopping: Arc::clone(&stopping),
        };
        serve_metrics(metrics, data.metrics, &config.settings.metrics_path, &mut control)?;

        let grace_until = unix_now() + whole_secs(config.settings.api_heartbeat_ttl_secs.get());
        let registry = Arc::new(registry);
        state.takes(&registry, leases_at);
        state.spares_until(grace_until);
        let mut in_force = InForce {
            config: watch::Sender::new(Arc::clone(&config)),
            registry,
            database,
            certificates: standing,
            roster: data.roster,
            listening: data.listening,
            origins,
            checks: Checks::new(&config, Arc::clone(&shared), Arc::clone(&workers)),
            shared: Arc::clone(&shared),
            machine,
            state,
            leases_at,
            here: Here::default(),
            denials,
            closings: Closings::new(Arc::clone(&workers)),
            retired: Vec::new(),
        };
        in_force.tell(&tables);
        in_force.follow_closings();
        let interval = config.settings.config_watch_interval_secs.get();
        let watcher = Arc::new(ConfigWatcher::new(interval));
        let config = in_force.config.subscribe();
        let (orders, ordered) = mpsc::channel(orders::WAITING);
        let refused = Arc::new(RecentlyRefused::default());
        let told = (&reloads, &refused, &stopping);
        let place = (&workers, &addrs);
        let steering = steering(&in_force, place, told, store.repository(), orders);
        let following = Following::begin(store, config.clone(), &mut control);
        let (listener, socket) = socket.unzip();
        let most = in_force.machine.api_connections();
        steer(steering, (data.api, most, listener), api_tls, &mut control)?;
        let planned = Control {
            in_force,
            following,
            follow: Follow::begin(guard, held, error, grace_until),
            rereading: Rereading::default(),
            reload: Reload::new(source, set_log, reloads),
            watcher: Arc::clone(&watcher),
            geo_watch,
            certificates,
            hangup,
            orders: ordered,
        };
        control.spawn(planned.run());
        control.spawn(probes::run(data.demoted, Arc::clone(&shared)));
        control.spawn(refusals::run(Arc::clone(&workers), access_log.clone(), refused));
        control.spawn(sweep(Arc::clone(&shared), config.clone()));
        control.spawn(wake_for_drain(Arc::clone(&shared), workers));
        Ok(Self {
            shared,
            endings,
            control,
            access_log,
            addrs,
            stopping,
            config,
            watcher,
            _socket: socket,
        })
    }
}

fn say_ready(config: &Config, read: &Read, data: &DataPlane) {
    summary::Started {
        config,
        addrs: &data.addrs,
        registry: &read.first.registry,
        store: &read.store.describe(),
        stale: read.first.age.zip(read.first.error.as_ref()),
        geo: &*read.database,
        max_connections: read.machine.max_connections(&config.settings),
        workers: data.workers.len(),
    }
    .log();
}

fn serve_metrics(
    metrics: Metrics,
    sockets: Vec<OwnedFd>,
    path: &str,
    control: &mut JoinSet<()>,
) -> io::Result<()> {
    let metrics: Arc<dyn Numbers> = Arc::new(metrics);
    for socket in sockets {
        control.spawn(metrics_listener::serve(socket, path.into(), Arc::clone(&metrics))?);
    }
    Ok(())
}

fn steering(
    in_force: &InForce,
    (workers, addrs): (&Arc<Vec<Worker>>, &Addrs),
    (reloads, refused, stopping): (&Arc<ReloadState>, &Arc<RecentlyRefused>, &Arc<AtomicBool>),
    store: Arc<dyn BackendRepository>,
    orders: mpsc::Sender<Order>,
) -> Steering {
    Steering {
        shared: Arc::clone(&in_force.shared),
        workers: Arc::clone(workers),
        config: in_force.config.subscribe(),
        registry: Arc::clone(&in_force.state),
        reloads: Arc::clone(reloads),
        denials: Arc::clone(&in_force.denials),
        refused: Arc::clone(refused),
        store,
        heartbeats: Arc::new(Mutex::new(Heartbeats::default())),
        orders,
        stopping: Arc::clone(stopping),
        pop: summary::pop_name(&in_force.config()),
        started: clock::now(),
        asked_store: AtomicU64::new(0),
        addrs: [&addrs.clients[..], &addrs.metrics, &addrs.api].concat(),
        clients: addrs.clients.clone(),
    }
}

/// Has heartbeats written, and serves the API over TCP, where that is asked for, and on the socket in the
/// state folder.
fn steer(
    steering: Steering,
    (sockets, most, listener): (Vec<OwnedFd>, usize, Option<UnixListener>),
    tls: Option<ApiTls>,
    control: &mut JoinSet<()>,
) -> io::Result<()> {
    control.spawn(heartbeats::write(
        Arc::clone(&steering.heartbeats),
        Arc::clone(&steering.store),
        steering.config.clone(),
    ));
    let tokens = (!sockets.is_empty()).then(|| Tokens::of(&steering.config));
    let tokens = move || tokens.as_ref().map(Tokens::in_force).unwrap_or_default();
    let api = Api::new(Arc::new(steering), tokens);
    for socket in sockets {
        control.spawn(api.serve(socket, most, tls.as_ref().map(ApiTls::terminates))?);
    }
    if let Some(tls) = tls {
        control.spawn(tls.follow());
    }
    if let Some(listener) = listener {
        control.spawn(api.serve_socket(listener));
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
