//! The registry that the configuration names.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{unix_now, whole_secs};
use crate::adapters::outbound::snapshot_file::{Kept, SnapshotFile};
use crate::adapters::outbound::sqlite::{Access, SqliteBackendRepository};
use crate::adapters::outbound::{
    PostgresBackendRepository, PostgresConfig, StaticBackendRepository,
};
use crate::clock;
use crate::config::{Config, Settings};
use crate::domain::mass_change::{Guard, Verdict};
use crate::domain::ports::{BackendRepository, Registry, RepositoryError};
use crate::domain::time::in_words;
use crate::infrastructure::backoff::Backoff;

/// Longest pause between two tries of a store that is waited for at start.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How far apart two readings of a registry in the configuration file are. Reloads change it, so that
/// this only says when one that is held is confirmed.
const FILE_INTERVAL: Duration = Duration::from_secs(5);

/// A registry that is read again and again.
pub(super) struct Store {
    repository: Arc<dyn BackendRepository>,
    /// Fires when the store says that something has changed; `None` = it never does.
    pub hints: Option<watch::Receiver<u64>>,
    /// What is made ready by the first reading that succeeds.
    unready: Option<Arc<PostgresBackendRepository>>,
    /// Where the last good table outlives this process; `None` = the store is on this machine.
    pub snapshot: Option<SnapshotFile>,
    /// For a registry in the configuration file: what a reload replaces.
    pub file: Option<Arc<StaticBackendRepository>>,
}

/// The table that a process starts with.
pub(super) struct First {
    pub registry: Registry,
    /// For one that was kept: how long ago the store said so.
    pub age: Option<Duration>,
    /// Why the store says nothing now, when it does not.
    pub error: Option<RepositoryError>,
    /// What the store says, when that would take away too much of what was kept.
    pub held: Option<Registry>,
    pub guard: Guard,
}

impl Store {
    /// Opens a registry that is on this machine; what is missing in it is made. One that is elsewhere
    /// is asked nothing yet.
    pub fn open(config: &Config) -> Result<Self, RepositoryError> {
        let settings = &config.settings;
        if let Some(file) = static_file(config).map(Arc::new) {
            return Ok(Self { file: Some(Arc::clone(&file)), ..Self::of(file) });
        }
        let Some(postgres) = postgres(settings).map(Arc::new) else {
            let sqlite = SqliteBackendRepository::open(&settings.db_path, Access::Create)?;
            return Ok(Self::of(Arc::new(sqlite)));
        };
        let snapshot = SnapshotFile::new(&settings.state_folder(), postgres.describe());
        Ok(Self {
            hints: Some(postgres.hints()),
            unready: Some(Arc::clone(&postgres)),
            snapshot: Some(snapshot),
            ..Self::of(postgres)
        })
    }

    /// A store on this machine, ready and silent.
    fn of(repository: Arc<dyn BackendRepository>) -> Self {
        Self { repository, hints: None, unready: None, snapshot: None, file: None }
    }

    /// The store, as its user would name it.
    pub fn describe(&self) -> String {
        self.repository.describe()
    }

    /// The store itself, for writing.
    pub fn repository(&self) -> Arc<dyn BackendRepository> {
        Arc::clone(&self.repository)
    }

    /// What the store holds, or `None` when that is what was read the last time. What is missing in
    /// the store is made first.
    pub async fn read(&mut self) -> Result<Option<Registry>, RepositoryError> {
        if let Some(postgres) = &self.unready {
            postgres.initialize().await?;
            self.unready = None;
        }
        self.repository.load_if_changed().await
    }

    /// The table to start with: what the store says, or what it said last when it says nothing, or too
    /// much would go at once. Without either it waits as long as it is told to.
    pub async fn first(&mut self, config: &Config) -> Result<First, RepositoryError> {
        let settings = &config.settings;
        let give_up = clock::now() + settings.postgres_wait_secs.get();
        let mut backoff = Backoff::new(LONGEST_PAUSE);
        let mut complaint = None;
        let mut kept = self.kept();
        loop {
            let error = match self.read_in_time(settings).await {
                Ok(read) => return Ok(First::of(read, kept, Self::interval(config))),
                Err(error) => error,
            };
            if let Some(Kept { registry, age }) = kept.take() {
                let (held, guard) = (None, Guard::default());
                return Ok(First { registry, age: Some(age), error: Some(error), held, guard });
            }
            let now = clock::now();
            if now >= give_up {
                return Err(error);
            }
            let text = error.to_string();
            if complaint.as_ref() != Some(&text) {
                tracing::warn!(
                    "{text}; there is no snapshot to serve from, so it is waited for, {:?} at most",
                    give_up.since(now)
                );
                complaint = Some(text);
            }
            tokio::time::sleep(backoff.next().min(give_up.since(now))).await;
        }
    }

    async fn read_in_time(&mut self, settings: &Settings) -> Result<Registry, RepositoryError> {
        // One that accepts and then says nothing at each of several statements would take long.
        let limit = settings.postgres_connect_timeout_secs.get()
            + settings.postgres_query_timeout_secs.get();
        let store = self.describe();
        let read = tokio::time::timeout(limit, self.read()).await.unwrap_or_else(|_| {
            Err(RepositoryError { store, reason: format!("no answer within {limit:?}") })
        });
        Ok(read?.unwrap_or_default())
    }

    /// What the file of the last good table holds, and its age.
    fn kept(&self) -> Option<Kept> {
        let file = self.snapshot.as_ref()?;
        match file.read() {
            Ok(kept) => kept,
            Err(reason) => {
                tracing::warn!("the snapshot {} is not used: {reason}", file.path().display());
                None
            }
        }
    }

    /// How often the store is read without being told of a change.
    pub fn interval(config: &Config) -> Duration {
        let settings = &config.settings;
        if config.backends.is_some() {
            FILE_INTERVAL
        } else if settings.postgres_enabled {
            settings.postgres_reload_secs.get()
        } else {
            settings.db_reload_secs.get()
        }
    }
}

impl First {
    /// What was `read`, unless it would take away too much of what was kept.
    fn of(read: Registry, kept: Option<Kept>, apart: Duration) -> Self {
        let mut guard = Guard::default();
        if let Some(Kept { registry, age }) = kept {
            let now = unix_now();
            let before = (&registry, now - whole_secs(age));
            let verdict = guard.judge(before, (&read, now), (clock::now(), apart));
            if let Verdict::Hold { leaving, of, .. } = verdict {
                tracing::warn!(
                    "the registry lacks {} of {of} eligible backends that it had {} ago; serving \
                     from the snapshot until it says so for {apart:?}",
                    leaving.len(),
                    in_words(age)
                );
                return Self { registry, age: Some(age), error: None, held: Some(read), guard };
            }
        }
        Self { registry: read, age: None, error: None, held: None, guard }
    }
}

/// Opens the registry for one command, which makes what is missing only with [`Access::Create`].
///
/// # Errors
/// When the store cannot be reached, or not be used as it is.
pub async fn open_once(
    config: &Config,
    access: Access,
) -> Result<Box<dyn BackendRepository>, RepositoryError> {
    let settings = &config.settings;
    if let Some(file) = static_file(config) {
        return Ok(Box::new(file));
    }
    match postgres(settings) {
        Some(postgres) => {
            if access == Access::Create {
                postgres.initialize().await?;
            }
            Ok(Box::new(postgres))
        }
        None => Ok(Box::new(SqliteBackendRepository::open(&settings.db_path, access)?)),
    }
}

/// The registry in the configuration file, if it is there.
fn static_file(config: &Config) -> Option<StaticBackendRepository> {
    let backends = config.backends.clone()?;
    let file = config.file.as_deref().unwrap_or(Path::new("-"));
    Some(StaticBackendRepository::new(file, backends))
}

fn postgres(settings: &Settings) -> Option<PostgresBackendRepository> {
    // The configuration is refused without an address.
    let url = settings.postgres_url.as_ref().filter(|_| settings.postgres_enabled)?;
    Some(PostgresBackendRepository::new(PostgresConfig {
        url: url.expose().to_owned(),
        max_connections: settings.postgres_max_connections.get(),
        min_connections: settings.postgres_min_connections.get(),
        connect_timeout: settings.postgres_connect_timeout_secs.get(),
        query_timeout: settings.postgres_query_timeout_secs.get(),
        reload_interval: settings.postgres_reload_secs.get(),
    }))
}
