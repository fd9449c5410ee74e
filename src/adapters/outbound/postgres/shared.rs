//! What the repository and its tasks share: the database, and the table that was read last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::PostgresConfig;
use super::address::Address;
use super::database::Database;
use super::dial::Dialer;
use super::failed::Failed;
use super::held::Held;
use super::listener::Listener;
use super::{leases, rows, schema, writes};
use crate::clock;
use crate::domain::ports::{Registry, Renewal, RepositoryError};
use crate::domain::{AdminState, Backend, BackendId};
use crate::infrastructure::backoff::Backoff;

/// Shortest time between two attempts, whatever the configuration says.
const SHORTEST: Duration = Duration::from_millis(10);

pub(super) struct Shared {
    name: String,
    /// What is wrong with the configuration, when something is.
    database: Result<Database, String>,
    connect_timeout: Duration,
    query_timeout: Duration,
    reload_interval: Duration,
    hints: watch::Sender<u64>,
    held: Held,
    /// Held by the one who reads for those that wait for a table.
    turn: tokio::sync::Mutex<()>,
    /// Readings that failed.
    failures: AtomicU64,
}

/// What an address is called; without its password, and without more when it is none.
pub(super) fn name(address: &Result<Address, String>) -> String {
    address.as_ref().map_or("PostgreSQL".into(), |address| address.shown.clone())
}

impl Shared {
    pub(super) fn new(cfg: PostgresConfig) -> Self {
        let PostgresConfig {
            url,
            max_connections,
            min_connections,
            connect_timeout,
            query_timeout,
            reload_interval,
        } = cfg;
        let address = Address::parse(&url, connect_timeout);
        let name = name(&address);
        let sizes = (min_connections, max_connections);
        let database =
            address.map_err(|reason| format!("its address: {reason}")).and_then(|address| {
                Database::new(Dialer::new(address), sizes, connect_timeout, query_timeout)
            });
        Self {
            name,
            database,
            connect_timeout,
            query_timeout,
            reload_interval: reload_interval.max(SHORTEST),
            hints: watch::Sender::new(0),
            held: Held::default(),
            turn: tokio::sync::Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn hints(&self) -> watch::Receiver<u64> {
        self.hints.subscribe()
    }

    pub(super) async fn initialize(&self) -> Result<(), RepositoryError> {
        let database = self.database()?;
        schema::create(database).await.map_err(|failed| self.error(failed))?;
        if let Err(failed) = schema::create_trigger(database).await {
            let Self { name, reload_interval, .. } = self;
            tracing::info!(
                "{name}: no trigger tells of changes ({}), so they are seen within \
                 {reload_interval:?}",
                failed.reason
            );
        }
        Ok(())
    }

    /// Reads everything, and keeps it for those who ask later.
    pub(super) async fn load(&self) -> Result<Arc<Registry>, RepositoryError> {
        self.read().await.map(|(registry, _)| registry)
    }

    /// The same, and what was held before when it differs.
    async fn read(&self) -> Result<(Arc<Registry>, Option<Arc<Registry>>), RepositoryError> {
        let number = self.held.number();
        let read = async {
            let database = self.database()?;
            rows::read(database).await.map_err(|failed| self.error(failed))
        };
        let registry = match read.await {
            Ok(registry) => Arc::new(registry),
            Err(error) => {
                self.held.missed(number, clock::now());
                self.failures.fetch_add(1, Ordering::SeqCst);
                return Err(error);
            }
        };
        let change = self.held.keep(number, &registry, clock::now());
        Ok((registry, change))
    }

    /// Marks a reading as given out; whether it is news.
    pub(super) fn deliver(&self, registry: &Arc<Registry>) -> bool {
        self.held.deliver(registry)
    }

    /// The backends that may take new connections, by the table that is held, which is read first
    /// when it does not answer for now.
    pub(super) async fn healthy(&self, is_synced: bool) -> Vec<Backend> {
        let oldest = (!is_synced).then_some(self.reload_interval);
        let is_current = || self.held.is_current(clock::now(), oldest);
        if !is_current() {
            let failures = self.failures.load(Ordering::SeqCst);
            let _turn = self.turn.lock().await;
            // Whoever had the turn before may have read it, or found that it cannot be read.
            if !is_current() && failures == self.failures.load(Ordering::SeqCst) {
                let _ = self.read().await;
            }
        }
        let now = i64::try_from(clock::wall().as_secs()).unwrap_or(i64::MAX);
        let registry = self.held.registry().unwrap_or_default();
        registry.backends.iter().filter(|b| b.eligible(now).is_ok()).cloned().collect()
    }

    pub(super) async fn put(&self, backends: &[Backend]) -> Result<(), RepositoryError> {
        self.wrote(writes::put(self.database()?, backends).await)
    }

    pub(super) async fn remove(&self, id: &BackendId) -> Result<bool, RepositoryError> {
        self.wrote(writes::remove(self.database()?, id).await)
    }

    pub(super) async fn register(
        &self,
        backend: Backend,
        end: i64,
    ) -> Result<i64, RepositoryError> {
        self.wrote(leases::register(self.database()?, backend, end).await)
    }

    pub(super) async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), RepositoryError> {
        self.wrote(leases::renew(self.database()?, renewals).await)
    }

    pub(super) async fn set_state(
        &self,
        id: &BackendId,
        state: AdminState,
    ) -> Result<bool, RepositoryError> {
        self.wrote(leases::set_state(self.database()?, id, state).await)
    }

    /// What was held from before a write is not current any more, whatever came of it.
    fn wrote<T>(&self, done: Result<T, Failed>) -> Result<T, RepositoryError> {
        self.held.wrote();
        done.map_err(|failed| self.error(failed))
    }

    /// Hears of changes and keeps connections open, for ever.
    pub(super) async fn attend(self: Arc<Self>) {
        let Ok(database) = &self.database else { return };
        let listener = Listener {
            database,
            hints: &self.hints,
            connect_timeout: self.connect_timeout,
            query_timeout: self.query_timeout,
            reload_interval: self.reload_interval,
        };
        tokio::join!(listener.run(), database.keep_warm(self.reload_interval));
    }

    /// Keeps the table in step, for ever.
    pub(super) async fn sync(self: Arc<Self>, mut hints: watch::Receiver<u64>) {
        let mut backoff = Backoff::new(self.reload_interval);
        let mut complaint: Option<String> = None;
        loop {
            // What is heard from now on may be of a change that this reading does not see.
            hints.mark_unchanged();
            let begun = clock::now();
            let pause = match self.read().await {
                Ok((registry, change)) => {
                    backoff.reset();
                    if complaint.take().is_some() {
                        tracing::info!("{}: can be read again", self.name);
                    }
                    if let Some(before) = change {
                        self.tell_skipped(&before, &registry);
                    }
                    // Hints that never end must not keep the database busy: it rests as long as it
                    // worked.
                    let rest = clock::now().since(begun).min(self.reload_interval);
                    sleep(rest).await;
                    // A little early, so that many who began together do not stay together.
                    let early = self.reload_interval / 100 * fastrand::u32(0..=10);
                    self.reload_interval.saturating_sub(early).saturating_sub(rest)
                }
                Err(error) => {
                    let text = error.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::warn!("{text}; serving from the last good table");
                        complaint = Some(text);
                    }
                    backoff.next()
                }
            };
            tokio::select! {
                () = sleep(pause.max(SHORTEST)) => {}
                _ = hints.changed() => {}
            }
        }
    }

    fn tell_skipped(&self, before: &Registry, now: &Registry) {
        for skipped in now.skipped.iter().filter(|skipped| !before.skipped.contains(skipped)) {
            tracing::warn!("{}: {skipped}; left out", self.name);
        }
    }

    fn database(&self) -> Result<&Database, RepositoryError> {
        self.database.as_ref().map_err(|reason| self.error(Failed::plain(reason)))
    }

    fn error(&self, failed: Failed) -> RepositoryError {
        RepositoryError { store: self.name.clone(), reason: failed.reason }
    }
}
