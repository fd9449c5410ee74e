//! Reads the configuration anew, as one transaction: everything that can fail is done before anything
//! changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::country_database;
use crate::config::{Change, Config, LogFilter, Source, diff, load};
use crate::domain::ports::CountryLookup;

/// Longest wait for files: what follows the registry waits as well, and a file system may hang.
pub(super) const LONGEST_READ: Duration = Duration::from_secs(10);
/// Readings that may hang, each in a thread of its own, before no other is begun.
const MOST_HANGING: usize = 8;
/// Lines of what is wrong, and of what has changed, that are logged one by one.
const NAMED: usize = 50;

/// Where a configuration comes from, and what is remembered of it.
pub(super) struct Reload {
    pub source: Arc<dyn Fn() -> Source + Send + Sync>,
    pub set_log: Arc<dyn Fn(&LogFilter) + Send + Sync>,
    pub state: Arc<ReloadState>,
    /// Readings that have not ended: a file system hangs, or a pipe says nothing.
    pub hanging: Vec<JoinHandle<Read>>,
}

/// What reading a configuration comes to: every error, if there is one.
pub(super) type Read = Result<Prepared, Vec<String>>;

/// A configuration that may be put in force: nothing about it can fail any more.
pub(super) struct Prepared {
    /// What will be in force.
    pub config: Config,
    /// What is different, what needs a restart included.
    pub changes: Vec<Change>,
    /// The country database, when it is another one.
    pub database: Option<Arc<dyn CountryLookup>>,
}

/// What reloads came to, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct ReloadState {
    successes: AtomicU64,
    failures: AtomicU64,
    last_failed: AtomicBool,
}

impl Reload {
    /// Whether reading everything anew would change anything, or fail.
    pub async fn has_news(&mut self, running: &Arc<Config>) -> bool {
        !self.read(running).await.is_ok_and(|prepared| prepared.changes.is_empty())
    }

    /// Reads and checks everything. `None`, and every error in the log, when anything is wrong.
    pub async fn prepare(&mut self, running: &Arc<Config>) -> Option<Prepared> {
        let errors = match self.read(running).await {
            Ok(prepared) => {
                self.state.succeeded();
                return Some(prepared);
            }
            Err(errors) => errors,
        };
        self.state.failed();
        for error in errors.iter().take(NAMED) {
            tracing::error!("configuration: {error}");
        }
        tracing::error!(
            errors = errors.len(),
            "the configuration was not reloaded: the one in force stays"
        );
        None
    }

    /// Reads everything off this thread, if that has an end.
    async fn read(&mut self, running: &Arc<Config>) -> Read {
        let late = || {
            let file = running.file.as_ref().map(|file| format!(" {}", file.display()));
            let file = file.unwrap_or_default();
            Err(vec![format!("configuration file{file}: was not read within {LONGEST_READ:?}")])
        };
        self.hanging.retain(|reading| !reading.is_finished());
        if self.hanging.len() >= MOST_HANGING {
            return late();
        }
        let (source, before) = (Arc::clone(&self.source), Arc::clone(running));
        let mut reading = tokio::task::spawn_blocking(move || prepare(&source(), &before));
        match timeout(LONGEST_READ, &mut reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => Err(vec![error.to_string()]),
            Err(_) => {
                self.hanging.push(reading);
                late()
            }
        }
    }
}

fn prepare(source: &Source, running: &Config) -> Read {
    let said = |errors: &[crate::config::ConfigError]| -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    };
    let new = load(source).map_err(|errors| said(&errors.0))?;
    let changes = diff(running, &new);
    let config = new.in_place_of(running);
    if let Some(problem) = config.refuses_all() {
        return Err(vec![problem]);
    }
    let database = if config.settings.geoip_path == running.settings.geoip_path {
        None
    } else {
        Some(country_database(&config).map_err(|error| vec![error.to_string()])?)
    };
    Ok(Prepared { config, changes, database })
}

/// Says what a reload has changed, and what it has not.
pub(super) fn log(changes: &[Change], why: &str) {
    for change in changes.iter().take(NAMED) {
        if change.reloadable && change.overridden_by.is_none() {
            tracing::info!("configuration: {change}");
        } else {
            tracing::warn!("configuration: {change}");
        }
    }
    let in_force = changes.iter().filter(|change| is_in_force(change)).count();
    tracing::info!(
        why,
        changes = in_force,
        not_in_force = changes.len() - in_force,
        "configuration reloaded"
    );
}

/// Whether a change is one of what the process goes by.
pub(super) const fn is_in_force(change: &Change) -> bool {
    change.reloadable && change.overridden_by.is_none()
}

impl ReloadState {
    fn succeeded(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
        self.last_failed.store(false, Ordering::Relaxed);
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.last_failed.store(true, Ordering::Relaxed);
    }

    /// Reloads that were put in force.
    pub fn successes(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    /// Those of a configuration that was wrong.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether the configuration last read is in force; so is the first.
    pub fn last_succeeded(&self) -> bool {
        !self.last_failed.load(Ordering::Relaxed)
    }
}
