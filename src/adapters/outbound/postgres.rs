//! The registry in `PostgreSQL`, which any other program may read and change at the same time.
//!
//! The whole table is read at an interval and compared. Notifications that a trigger sends are
//! hints that a reading is worth while now; where they do not work (a pooler in transaction mode,
//! an engine that only speaks the protocol) the interval does. Every statement is one of the simple
//! protocol and has no name, so that poolers can pass it on.

mod address;
mod database;
mod dial;
mod failed;
mod held;
mod leases;
mod listener;
mod rows;
mod schema;
mod shared;
mod tls;
mod writes;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::domain::ports::{BackendRepository, Pending, Registry, Renewal, RepositoryError};
use crate::domain::{AdminState, Backend, BackendId};

use self::address::Address;
use self::shared::Shared;

/// Which database, and how long it is waited for.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:5432/name?sslmode=verify-full&sslrootcert=/etc/ca.pem`, or
    /// `key=value` pairs, as libpq takes them. `sslmode` is libpq's: `disable`, `allow`, `prefer`
    /// (the default), `require`, `verify-ca`, `verify-full`; `sslrootcert` is a file or `system`.
    pub url: String,
    /// Most connections at once, 1 at least and 1,000 at most. One more hears of changes.
    pub max_connections: u32,
    /// Connections that are kept open between requests while changes are followed
    /// ([`start_sync`](PostgresBackendRepository::start_sync),
    /// [`hints`](PostgresBackendRepository::hints)).
    pub min_connections: u32,
    /// Longest wait for a new connection, and for one that is free.
    pub connect_timeout: Duration,
    /// Longest wait for an answer. The server is told as well (`statement_timeout`, in whole
    /// milliseconds).
    pub query_timeout: Duration,
    /// How often the whole table is read, whatever is heard of changes.
    pub reload_interval: Duration,
}

/// Shows no password.
impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = shared::name(&Address::parse(&self.url, self.connect_timeout));
        f.debug_struct("PostgresConfig")
            .field("url", &url)
            .field("max_connections", &self.max_connections)
            .field("min_connections", &self.min_connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("query_timeout", &self.query_timeout)
            .field("reload_interval", &self.reload_interval)
            .finish()
    }
}

/// Backends kept in `PostgreSQL`. Dropping it ends its tasks and closes its connections.
pub struct PostgresBackendRepository {
    shared: Arc<Shared>,
    /// What hears of changes and keeps connections open.
    attending: Mutex<JoinSet<()>>,
    /// What reads the table by itself.
    syncing: Mutex<JoinSet<()>>,
}

impl PostgresBackendRepository {
    /// A repository in the database that `cfg` names. Nothing is asked of it yet: an address that
    /// is none makes every request fail.
    #[must_use]
    pub fn new(cfg: PostgresConfig) -> Self {
        let shared = Arc::new(Shared::new(cfg));
        Self { shared, attending: Mutex::default(), syncing: Mutex::default() }
    }

    /// Makes the tables and the trigger that are missing. A table that is there stays as it is. Any
    /// number of processes may do this at once, and a role that may only read can, when the table
    /// is there.
    ///
    /// # Errors
    /// When the database does not answer, has no table `backends` and none can be made, or one
    /// without the columns that a backend cannot do without.
    pub async fn initialize(&self) -> Result<(), RepositoryError> {
        self.shared.initialize().await
    }

    /// Begins to keep the table that [`get_healthy`](BackendRepository::get_healthy) answers from in
    /// step with the database: reads it now, when something is heard of a change, and at
    /// `reload_interval`. While it cannot be read the last good table stays. Does nothing when it has
    /// begun already. Ends when the repository is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_sync(&self) {
        let hints = self.hints();
        start(&self.syncing, self.shared.clone().sync(hints));
    }

    /// Counts what is heard of changes: notifications of the trigger, and each time that listening
    /// begins, since something may have been missed before. A hint, not a promise: whoever follows
    /// the table reads it at an interval as well. The first call begins to listen, and to keep
    /// `min_connections` open, until the repository is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn hints(&self) -> watch::Receiver<u64> {
        start(&self.attending, self.shared.clone().attend());
        self.shared.hints()
    }
}

impl BackendRepository for PostgresBackendRepository {
    fn describe(&self) -> String {
        self.shared.name().into()
    }

    /// Answers from the table that was read last. It is read here when there is none yet, after a
    /// write of this repository's own, and, unless [`start_sync`](Self::start_sync) keeps it in step,
    /// when it is older than `reload_interval`.
    fn get_healthy(&self) -> Pending<'_, Vec<Backend>> {
        let is_synced = is_running(&mut lock(&self.syncing));
        Box::pin(async move { self.shared.healthy(is_synced).await })
    }

    fn load(&self) -> Pending<'_, Result<Registry, RepositoryError>> {
        Box::pin(async move {
            let registry = self.shared.load().await?;
            self.shared.deliver(&registry);
            Ok(Registry::clone(&registry))
        })
    }

    fn load_if_changed(&self) -> Pending<'_, Result<Option<Registry>, RepositoryError>> {
        Box::pin(async move {
            let registry = self.shared.load().await?;
            Ok(self.shared.deliver(&registry).then(|| Registry::clone(&registry)))
        })
    }

    fn put(&self, backends: Vec<Backend>) -> Pending<'_, Result<(), RepositoryError>> {
        Box::pin(async move { self.shared.put(&backends).await })
    }

    fn remove(&self, id: BackendId) -> Pending<'_, Result<bool, RepositoryError>> {
        Box::pin(async move { self.shared.remove(&id).await })
    }

    fn register(
        &self,
        backend: Backend,
        expires_at: i64,
    ) -> Pending<'_, Result<i64, RepositoryError>> {
        Box::pin(async move { self.shared.register(backend, expires_at).await })
    }

    fn renew(&self, renewals: Vec<Renewal>) -> Pending<'_, Result<(), RepositoryError>> {
        Box::pin(async move { self.shared.renew(renewals).await })
    }

    fn set_state(
        &self,
        id: BackendId,
        state: AdminState,
    ) -> Pending<'_, Result<bool, RepositoryError>> {
        Box::pin(async move { self.shared.set_state(&id, state).await })
    }
}

impl fmt::Debug for PostgresBackendRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBackendRepository")
            .field("store", &self.shared.name())
            .finish_non_exhaustive()
    }
}

/// Starts a task, unless it runs already. One whose runtime is gone is started anew.
fn start(tasks: &Mutex<JoinSet<()>>, task: impl Future<Output = ()> + Send + 'static) {
    let mut tasks = lock(tasks);
    if !is_running(&mut tasks) {
        tasks.spawn(task);
    }
}

fn is_running(tasks: &mut JoinSet<()>) -> bool {
    while tasks.try_join_next().is_some() {}
    !tasks.is_empty()
}

fn lock(tasks: &Mutex<JoinSet<()>>) -> MutexGuard<'_, JoinSet<()>> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}
