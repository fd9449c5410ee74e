//! Reads the configuration anew, as one transaction: everything that can fail is done before anything
//! changes.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::certificates::{self, Certificates};
use super::country_database;
use super::origins::{self, Origins};
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
    source: Arc<dyn Fn() -> Source + Send + Sync>,
    pub set_log: Arc<dyn Fn(&LogFilter) + Send + Sync>,
    pub state: Arc<ReloadState>,
    /// Readings that have not ended: a file system hangs, or a pipe says nothing.
    hanging: Vec<JoinHandle<Read>>,
    /// What was wrong the last time.
    complaint: Vec<String>,
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
    /// How connections to backends are secured.
    pub origins: Origins,
    /// The certificates, when any listener ends TLS.
    pub certificates: Option<certificates::Reading>,
}

/// What is in force, which a reload is in place of.
#[derive(Clone)]
pub(super) struct Running {
    pub config: Arc<Config>,
    pub origins: Origins,
    /// `None` when no listener ends TLS.
    pub certificates: Option<Arc<Certificates>>,
}

/// What reloads came to, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct ReloadState {
    successes: AtomicU64,
    failures: AtomicU64,
    last_failed: AtomicBool,
    last: Mutex<LastReload>,
}

/// What the last reload came to, in words.
#[derive(Clone, Debug, Default)]
pub(super) struct LastReload {
    /// Every error, if it failed.
    pub errors: Vec<String>,
    /// What is not in force, because it needs a restart or something else overrides it.
    pub waiting: Vec<String>,
    /// When the configuration was last put in force, as time since the epoch.
    pub at: Option<Duration>,
}

impl Reload {
    pub fn new(
        source: Arc<dyn Fn() -> Source + Send + Sync>,
        set_log: Arc<dyn Fn(&LogFilter) + Send + Sync>,
        state: Arc<ReloadState>,
    ) -> Self {
        Self { source, set_log, state, hanging: Vec::new(), complaint: Vec::new() }
    }

    /// Whether reading everything anew would change anything, or fail.
    pub async fn has_news(&mut self, running: &Running) -> bool {
        !self.read(running).await.is_ok_and(|prepared| prepared.changes.is_empty())
    }

    /// Reads and checks everything. `None`, and every error in the log, when anything is wrong; when it
    /// is tried `again` by itself, only what was not wrong before.
    pub async fn prepare(&mut self, running: &Running, again: bool) -> Option<Prepared> {
        let errors = match self.read(running).await {
            Ok(prepared) => {
                self.complaint.clear();
                self.state.succeeded();
                self.state.note(|last| last.errors.clear());
                return Some(prepared);
            }
            Err(errors) => errors,
        };
        if again && errors == self.complaint {
            return None;
        }
        self.state.failed();
        for error in errors.iter().take(NAMED) {
            tracing::error!("configuration: {error}");
        }
        tracing::error!(
            errors = errors.len(),
            "the configuration was not reloaded: the one in force stays"
        );
        self.state.note(|last| last.errors.clone_from(&errors));
        self.complaint = errors;
        None
    }

    /// Reads everything off this thread, if that has an end.
    async fn read(&mut self, running: &Running) -> Read {
        let late = || {
            let file = running.config.file.as_ref().map(|file| format!("{} ", file.display()));
            let file = file.unwrap_or_default();
            let text = format!("{file}and the files that it names were not read within");
            Err(vec![format!("{text} {LONGEST_READ:?}")])
        };
        self.hanging.retain(|reading| !reading.is_finished());
        if self.hanging.len() >= MOST_HANGING {
            return late();
        }
        let (source, before) = (Arc::clone(&self.source), running.clone());
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

fn prepare(source: &Source, running: &Running) -> Read {
    let Running { config: running, origins, certificates } = running;
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
    let origins = origins::read(&config, origins)?;
    let certificates = certificates.as_deref().map(|before| {
        let reading = certificates::Reading::new(&config, Some(before));
        reading.check().map(|()| reading)
    });
    let certificates = certificates
        .transpose()
        .map_err(|bad| bad.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(Prepared { config, changes, database, origins, certificates })
}

/// Takes those out of `changes` that the process does not go by: they need a restart, or the environment
/// overrides them.
pub(super) fn not_in_force(changes: &mut Vec<Change>) -> Vec<Change> {
    let (out, kept) = std::mem::take(changes).into_iter().partition(|change| !is_in_force(change));
    *changes = kept;
    out
}

/// Takes those of the registry out of `changes`.
pub(super) fn of_registry(changes: &mut Vec<Change>) -> Vec<Change> {
    let (out, kept) = std::mem::take(changes).into_iter().partition(Change::is_of_registry);
    *changes = kept;
    out
}

/// Says what a reload has changed, and what it has not.
pub(super) fn log(in_force: &[Change], waiting: &[Change], why: &str) {
    for change in in_force.iter().take(NAMED) {
        tracing::info!("configuration: {change}");
    }
    for change in waiting.iter().take(NAMED) {
        let held = if is_in_force(change) { " (held)" } else { "" };
        tracing::warn!("configuration: {change}{held}");
    }
    let (changes, not_in_force) = (in_force.len(), waiting.len());
    tracing::info!(why, changes, not_in_force, "configuration reloaded");
}

const fn is_in_force(change: &Change) -> bool {
    change.reloadable && change.overridden_by.is_none()
}

/// What a look at files comes to, if that has an end.
pub(super) async fn in_time<T>(look: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(LONGEST_READ, look).await.unwrap_or_else(|_| {
        Err(io::Error::other(format!("files cannot be looked at within {LONGEST_READ:?}")))
    })
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

    /// What the last one came to.
    pub fn last(&self) -> LastReload {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes that.
    pub fn note(&self, change: impl FnOnce(&mut LastReload)) {
        change(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner));
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
