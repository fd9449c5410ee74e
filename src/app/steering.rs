//! What operators see and steer: what the control API asks of this process.

mod changes;
mod registration;
mod said;
mod view;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch as watched};

use super::denials::Denials;
use super::heartbeats::Heartbeats;
use super::orders::Order;
use super::refusals::RecentlyRefused;
use super::registry::RegistryState;
use super::reload::ReloadState;
use crate::adapters::inbound::api::wire::{
    Backend, Choice, Connection, Connections, Denied, Deny, Drain, Killed, Limits, Loss, Part,
    Refreshed, Refused, Register, Registered, Reloaded, Renewed, SetBreaker, SetState, Setting,
    Settings, Status,
};
use crate::adapters::inbound::api::{Done, Failure, Steering as Asked, Watching, Who};
use crate::adapters::inbound::worker::{Found, Worker};
use crate::application::account::Reason;
use crate::application::choices::Choice as Noted;
use crate::application::explain::{Explanation, explain};
use crate::application::proxy::{Listed, Shared, Wanted};
use crate::application::upstreams::AppTable;
use crate::clock;
use crate::config::Config;
use crate::domain::App;
use crate::domain::cidr::Cidr;
use crate::domain::ports::{BackendRepository, Pending};
use crate::domain::time::Time;

/// Longest wait for what was asked to be in force.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the store is asked about heartbeats of backends that nobody knows here.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What is asked and told.
pub(super) struct Steering {
    pub shared: Arc<Shared>,
    pub workers: Arc<Vec<Worker>>,
    pub config: watched::Receiver<Arc<Config>>,
    pub registry: Arc<RegistryState>,
    pub reloads: Arc<ReloadState>,
    pub denials: Arc<Denials>,
    pub refused: Arc<RecentlyRefused>,
    pub store: Arc<dyn BackendRepository>,
    pub heartbeats: Arc<Mutex<Heartbeats>>,
    pub orders: mpsc::Sender<Order>,
    pub stopping: Arc<AtomicBool>,
    pub pop: String,
    pub started: Time,
    /// When the store was last asked about a heartbeat, in nanoseconds.
    pub asked_store: AtomicU64,
    /// Where clients, metrics and the API are listened for.
    pub addrs: Vec<SocketAddr>,
    pub clients: Vec<SocketAddr>,
}

impl Steering {
    /// Gives an order, and waits for what comes of it.
    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.ok()?;
        tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
    }

    /// Has what the registry says now put in force; whether it is.
    async fn look(&self) -> bool {
        self.order(Order::Look).await == Some(true)
    }

    fn draining(&self) -> Option<&'static str> {
        let drains = self.stopping.load(Ordering::SeqCst) || self.shared.shutdown.drain().is_some();
        drains.then_some("draining")
    }

    /// Whether the store may be asked about a heartbeat that is not understood: now and then.
    fn may_ask_store(&self) -> bool {
        let (now, last) = (clock::now(), &self.asked_store);
        let before = last.load(Ordering::Relaxed);
        now.since(Time::from_nanos(before)) >= ASK_AGAIN
            && last
                .compare_exchange(before, now.nanos(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn heartbeats(&self) -> std::sync::MutexGuard<'_, Heartbeats> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table of the app that is meant.
    fn table(&self, app: Option<&App>) -> Done<Arc<AppTable>> {
        let snapshot = self.shared.snapshot.load();
        let config = self.config.borrow();
        let tables = &snapshot.tables;
        let names = || tables.keys().map(App::as_str).collect::<Vec<_>>().join(", ");
        let wanted = app.or(config.settings.app.as_ref());
        let table = match wanted {
            Some(app) => tables.get(app),
            None if tables.len() > 1 => {
                let reason = format!("must be given, there are several apps: {}", names());
                return Err(Failure::field("app", reason));
            }
            None => tables.values().next(),
        };
        table.cloned().ok_or_else(|| match wanted {
            Some(app) => Failure::NotFound(format!("no app {app}; there are: {}", names())),
            None => Failure::NotFound("the registry is empty".into()),
        })
    }
}

impl Asked for Steering {
    fn not_ready(&self, app: Option<&App>) -> Done<Option<&'static str>> {
        let snapshot = self.shared.snapshot.load();
        let table = app.map(|app| {
            let missing = || Failure::NotFound(format!("no app {app} in the registry"));
            snapshot.tables.get(app).ok_or_else(missing)
        });
        let table = table.transpose()?;
        let has_none = table.is_some_and(|table| view::eligible(table, clock::now()) == 0);
        Ok(self.draining().or_else(|| has_none.then_some("no_backend")))
    }

    fn status(&self) -> Status {
        view::status(self)
    }

    fn watch(self: Arc<Self>) -> Box<dyn Watching> {
        Box::new(watch::Watch::new(self))
    }

    fn backends(&self) -> Vec<Backend> {
        view::backends(self)
    }

    fn backend(&self, id: &str) -> Option<Backend> {
        view::backend(self, id)
    }

    fn route(&self, client: IpAddr, app: Option<&App>, without: &[String]) -> Done<Explanation> {
        let table = self.table(app)?;
        let is_known = |gone: &String| {
            table.rows.iter().any(|row| {
                row.backend.id.as_str() == gone
                    || row.backend.region.as_str().eq_ignore_ascii_case(gone)
            })
        };
        if let Some(gone) = without.iter().find(|gone| !is_known(gone)) {
            let reason = format!("{gone:?}: neither a backend nor a region of app {}", table.name);
            return Err(Failure::NotFound(reason));
        }
        let location = self.shared.snapshot.load().geo.locate(client);
        let affinity = Some(&self.shared.affinity);
        Ok(explain(&table, (client, location), affinity, without, clock::now()))
    }

    fn choices(&self, client: Option<Cidr>, since_secs: Option<u64>, most: usize) -> Vec<Choice> {
        let all = crate::application::choices::merged(self.workers.iter().map(|w| w.choices.all()));
        let from = since_secs.map(|secs| clock::wall().saturating_sub(Duration::from_secs(secs)));
        all.into_iter()
            .filter(|choice| client.is_none_or(|cidr| cidr.contains(choice.client)))
            .filter(|choice| from.is_none_or(|from| choice.times.1 >= from))
            .take(most)
            .map(|noted| choice(&noted))
            .collect()
    }

    fn losses(&self, app: Option<&App>) -> Done<Vec<Loss>> {
        let snapshot = self.shared.snapshot.load();
        if app.is_some() {
            self.table(app)?;
        }
        let tables =
            snapshot.tables.values().filter(|table| app.is_none_or(|app| table.name == *app));
        let mut losses: Vec<Loss> =
            tables.flat_map(|table| view::losses(table, clock::now())).collect();
        losses.sort_by_key(|loss| match loss.verdict.as_str() {
            "too_much" => 0,
            "over_soft" => 1,
            _ => 2,
        });
        Ok(losses)
    }

    fn connections(&self, wanted: Wanted, most: usize) -> Pending<'_, Connections> {
        Box::pin(async move {
            let wanted = Arc::new(wanted);
            let asked: Vec<_> =
                self.workers.iter().map(|worker| worker.list(&wanted, most)).collect();
            let mut all = Found::default();
            let mut connections = Vec::new();
            for (number, found) in asked.into_iter().enumerate() {
                let Ok(Ok(found)) = tokio::time::timeout(PATIENCE, found).await else { continue };
                all.total += found.total;
                connections.extend(found.listed.into_iter().map(|listed| (number, listed)));
            }
            connections.sort_by_key(|(_, listed)| std::cmp::Reverse(listed.age));
            connections.truncate(most);
            let connections = connections.into_iter().map(connection).collect();
            Connections { total: all.total, connections }
        })
    }

    fn limits(&self) -> Limits {
        let snapshot = self.shared.snapshot.load();
        let rate = snapshot.admission.rate();
        let config = rate.map(|rate| rate.limiter.config());
        Limits {
            enabled: rate.is_some(),
            dry_run: rate.is_some_and(|rate| rate.dry_run),
            max_requests: config.map_or(0, |config| config.max_requests),
            window_secs: config.map_or(0.0, |config| config.window.as_secs_f64()),
            burst: config.map_or(0, |config| config.burst_size),
            evictions: rate.map_or(0, |rate| rate.limiter.evictions()),
            refused: self
                .refused
                .top()
                .into_iter()
                .map(|(reason, client, count)| Refused {
                    client: client.to_string(),
                    reason: Reason::as_str(reason).into(),
                    count,
                })
                .collect(),
        }
    }

    fn denied(&self) -> Vec<Denied> {
        let config = self.config.borrow();
        let configured = config.settings.deny.get().iter().map(|cidr| Denied {
            cidr: cidr.to_string(),
            expires_at: None,
            note: None,
            configured: true,
        });
        configured.chain(self.denials.all().into_iter().map(changes::denied)).collect()
    }

    fn settings(&self) -> Settings {
        let config = self.config.borrow();
        Settings {
            file: config.file.as_ref().map(|file| file.display().to_string()),
            settings: config
                .effective
                .iter()
                .map(|row| Setting {
                    name: row.setting.env.into(),
                    toml: row.setting.toml.into(),
                    value: row.value.clone(),
                    origin: row.origin.to_string(),
                    reloadable: row.setting.reloadable,
                })
                .collect(),
            parts: crate::config::parts_of(&config)
                .into_iter()
                .map(|(name, value)| Part { name, value })
                .collect(),
        }
    }

    fn register<'a>(&'a self, who: &'a Who, asked: Register) -> Pending<'a, Done<Registered>> {
        Box::pin(registration::register(self, who, asked))
    }

    fn heartbeat<'a>(&'a self, id: &'a str, generation: Option<i64>) -> Pending<'a, Done<Renewed>> {
        Box::pin(registration::heartbeat(self, id, generation))
    }

    fn remove<'a>(&'a self, who: &'a Who, id: &'a str) -> Pending<'a, Done<Drain>> {
        Box::pin(registration::remove(self, who, id))
    }

    fn set_state<'a>(
        &'a self,
        who: &'a Who,
        id: &'a str,
        asked: SetState,
    ) -> Pending<'a, Done<Drain>> {
        Box::pin(changes::set_state(self, who, id, asked))
    }

    fn set_breaker(&self, who: &Who, id: &str, asked: SetBreaker) -> Done<Backend> {
        changes::set_breaker(self, who, id, asked)
    }

    fn kill<'a>(&'a self, who: &'a Who, id: &'a str) -> Pending<'a, Done<Killed>> {
        Box::pin(changes::kill(self, who, id))
    }

    fn kill_all<'a>(&'a self, who: &'a Who, wanted: Wanted) -> Pending<'a, Killed> {
        Box::pin(changes::kill_all(self, who, wanted))
    }

    fn deny<'a>(&'a self, who: &'a Who, asked: Deny) -> Pending<'a, Done<Denied>> {
        Box::pin(changes::deny(self, who, asked))
    }

    fn undeny<'a>(&'a self, who: &'a Who, cidr: Cidr) -> Pending<'a, Done<()>> {
        Box::pin(changes::undeny(self, who, cidr))
    }

    fn refresh<'a>(&'a self, who: &'a Who) -> Pending<'a, Done<Refreshed>> {
        Box::pin(changes::refresh(self, who))
    }

    fn reload<'a>(&'a self, who: &'a Who) -> Pending<'a, Done<Reloaded>> {
        Box::pin(changes::reload(self, who))
    }
}

fn choice(noted: &Noted) -> Choice {
    Choice {
        at: noted.times.1.as_secs_f64(),
        since: noted.times.0.as_secs_f64(),
        count: noted.count,
        client: noted.client,
        country: noted.country.map(|country| country.to_string()),
        app: noted.app.to_string(),
        backend: noted.backend.to_string(),
        tier: noted.tier.number(),
        best_tier: noted.best.number(),
        reasons: noted.reasons.iter().map(|(id, why)| format!("{id} {why}")).collect(),
        more: noted.more,
    }
}

fn connection((worker, listed): (usize, Listed)) -> Connection {
    let Listed { number, client, country, app, backend, state, age, idle, moved, server_name } =
        listed;
    Connection {
        id: format!("{worker}-{number:x}"),
        client: SocketAddr::new(client.ip().to_canonical(), client.port()).to_string(),
        country: country.map(|country| country.to_string()),
        app: app.map(|app| app.to_string()),
        backend: backend.map(|backend| backend.to_string()),
        state: state.into(),
        age_secs: age.as_secs_f64(),
        idle_secs: idle.as_secs_f64(),
        sent: moved.map(|moved| moved.0),
        received: moved.map(|moved| moved.1),
        server_name: server_name.map(Into::into),
    }
}
