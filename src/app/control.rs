//! What happens to what is in force: readings of the registry, reloads of the configuration, new
//! country data. One after the other, so that each is whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::{interval, timeout};

use super::feed::Following;
use super::geo_watch::GeoWatch;
use super::in_force::InForce;
use super::reload::{self, Reload};
use super::store::Store;
use super::{country_database, summary, unix_now};
use crate::clock;
use crate::domain::mass_change::{Guard, Verdict};
use crate::domain::ports::{Registry, RepositoryError};
use crate::domain::{Backend, BackendId};
use crate::infrastructure::config_watcher::Changes;
use crate::infrastructure::{ConfigChange, ConfigWatcher};

/// How often the log is reminded of a registry that cannot be read.
const REMINDER: Duration = Duration::from_secs(60);
/// Why a watched configuration is reloaded.
const FILE_CHANGED: &str = "the file has changed";
/// Backends named in a line.
const NAMED: usize = 10;

/// The control plane's main task.
pub(super) struct Control {
    pub in_force: InForce,
    pub following: Following,
    /// Why the registry could not be read at the start, when it could not.
    pub stale: Option<RepositoryError>,
    pub reload: Reload,
    pub watcher: Arc<ConfigWatcher>,
    pub geo_watch: Option<GeoWatch>,
    pub hangup: Option<Signal>,
}

/// What it knows besides.
struct Follow {
    guard: Guard,
    /// A reading that the guard holds.
    held: Option<Registry>,
    /// What was said of a store that cannot be read.
    complaint: Option<String>,
}

impl Control {
    /// For as long as the process lives.
    pub async fn run(mut self) {
        let complaint = self.stale.take().map(|error| error.to_string());
        let mut follow = Follow { guard: Guard::default(), held: None, complaint };
        if follow.complaint.is_none() {
            self.following.keep(&self.in_force.registry);
        }
        let mut config = self.watch_config().await;
        // It may have changed between its first reading and now.
        if config.is_some() && self.reload.has_news(&self.in_force.config()).await {
            self.reload(FILE_CHANGED, &mut follow).await;
        }
        let mut remind = interval(REMINDER);
        // The first is at once.
        remind.tick().await;
        loop {
            tokio::select! {
                reading = self.following.readings.recv() => match reading {
                    Some(Ok(read)) => self.read(read, &mut follow),
                    Some(Err(error)) => self.failed(&error, &mut follow),
                    None => return,
                },
                () = until_unix(self.in_force.next_expiry()) => self.following.look(),
                () = hung_up(&mut self.hangup) => self.reload("SIGHUP", &mut follow).await,
                change = next(config.as_mut()) => match change {
                    ConfigChange::FileModified(_) | ConfigChange::FullReload => {
                        self.reload(FILE_CHANGED, &mut follow).await;
                    }
                    // Our own.
                    ConfigChange::ValueChanged { .. } => {}
                },
                () = GeoWatch::changed(&mut self.geo_watch) => self.reload_geo(true).await,
                _ = remind.tick() => self.remind(&follow),
            }
        }
    }

    /// Takes up a reading, unless it would take away too much at once.
    fn read(&mut self, read: Option<Registry>, follow: &mut Follow) {
        if follow.complaint.take().is_some() {
            let age = summary::in_words(self.in_force.state.age(clock::now()));
            tracing::info!("the registry can be read again, after {age}");
        }
        // An unchanged reading says what is held once more.
        let read = read.or_else(|| follow.held.take());
        if let Some(fresh) = read.and_then(|fresh| self.judge(fresh, follow)) {
            let before = Arc::clone(&self.in_force.registry);
            self.in_force.take_registry(fresh);
            log_difference(&before, &self.in_force.registry);
        }
        if follow.held.is_some() {
            return self.in_force.state.holds();
        }
        self.in_force.end_leases();
        self.in_force.state.is_good(self.in_force.registry.skipped.len(), clock::now());
        self.following.keep(&self.in_force.registry);
    }

    /// The reading, if it is to be put in force: it is another one, and takes away too much neither at
    /// once nor for the first time.
    fn judge(&self, fresh: Registry, follow: &mut Follow) -> Option<Registry> {
        let apart = Store::interval(&self.in_force.config().settings);
        let was_held = follow.guard.holds();
        let in_force = &self.in_force.registry;
        match follow.guard.judge(in_force, &fresh, unix_now(), (clock::now(), apart)) {
            Verdict::Take => {
                follow.held = None;
                if was_held && fresh == **in_force {
                    tracing::info!("the registry says again what the table in force says");
                }
                Some(fresh).filter(|fresh| *fresh != **in_force)
            }
            Verdict::Hold { leaving, of, is_news } => {
                if is_news {
                    tracing::warn!(
                        "a change of the registry is held: it would take away {} of {of} eligible \
                         backends at once ({}); it is taken up if the registry still says so in \
                         {apart:?}",
                        leaving.len(),
                        named(&leaving)
                    );
                }
                follow.held = Some(fresh);
                None
            }
        }
    }

    /// The table in force stays, and no lease ends.
    fn failed(&self, error: &RepositoryError, follow: &mut Follow) {
        self.in_force.state.fails();
        let text = error.to_string();
        if follow.complaint.as_ref() != Some(&text) {
            let age = summary::in_words(self.in_force.state.age(clock::now()));
            tracing::warn!("{text}; serving from the last good table, {age} old");
            follow.complaint = Some(text);
        }
    }

    fn remind(&self, follow: &Follow) {
        let age = summary::in_words(self.in_force.state.age(clock::now()));
        if let Some(complaint) = &follow.complaint {
            tracing::warn!("{complaint}; still serving from the last good table, {age} old");
        } else if follow.held.is_some() {
            tracing::warn!(
                "a change of the registry is still held; the table in force is {age} old"
            );
        }
    }

    /// Puts the configuration in force that the file and the environment give now, or leaves
    /// everything as it is.
    async fn reload(&mut self, why: &str, follow: &mut Follow) {
        let before = self.in_force.config();
        let Some(prepared) = self.reload.prepare(&before).await else { return };
        let reload::Prepared { config, changes, database } = prepared;
        let said: Vec<&String> = before.warnings.iter().chain(&before.notices).collect();
        for notice in config.warnings.iter().chain(&config.notices).filter(|n| !said.contains(n)) {
            tracing::warn!("{notice}");
        }
        if !changes.is_empty() {
            let registry = self.following.replace(&config);
            let registry = registry.and_then(|fresh| self.judge(fresh, follow));
            if follow.held.is_some() {
                self.in_force.state.holds();
            }
            self.in_force.take_config(config, database, registry);
            let config = self.in_force.config();
            if config.settings.log != before.settings.log {
                (self.reload.set_log)(&config.settings.log);
            }
            if config.settings.max_connections != before.settings.max_connections {
                self.in_force.machine.warn_of_max_connections(&config.settings);
            }
            if !self.geo_watch.as_ref().is_some_and(|watch| watch.is_of(&config)) {
                self.geo_watch = GeoWatch::begin(&config).await;
                if self.geo_watch.is_some() {
                    // It may have changed between its opening and now.
                    self.reload_geo(false).await;
                }
            }
        }
        reload::log(&changes, why);
        for change in changes.into_iter().filter(reload::is_in_force) {
            self.watcher.publish(ConfigChange::ValueChanged {
                key: change.what.to_string(),
                old_value: change.old_value,
                new_value: change.new_value,
            });
        }
    }

    /// Watches the configuration file, when that is asked for.
    async fn watch_config(&self) -> Option<Changes> {
        let config = self.in_force.config();
        if !config.settings.config_watch_enabled {
            return None;
        }
        let Some(file) = &config.file else {
            tracing::warn!("EDGEPROXY_CONFIG_WATCH_ENABLED=true: there is no file to watch");
            return None;
        };
        let changes = self.watcher.subscribe();
        if let Err(error) = self.watcher.watch_file(file).await {
            tracing::warn!("{error}; SIGHUP reloads all the same");
        }
        Some(changes)
    }

    /// Puts the country data in force that the file holds now. Unless a change was `told`, only those
    /// of another date.
    async fn reload_geo(&mut self, told: bool) {
        let config = self.in_force.config();
        let opening = tokio::task::spawn_blocking(move || country_database(&config));
        match timeout(reload::LONGEST_READ, opening).await {
            Ok(Ok(Ok(database))) => {
                if told || database.built() != self.in_force.database.built() {
                    tracing::info!("the geo database has changed: {}", database.describe());
                    self.in_force.take_database(database);
                }
            }
            Ok(Ok(Err(error))) => tracing::error!("{error}; the data in force stay"),
            Ok(Err(error)) => tracing::error!(%error, "the geo database was not read"),
            Err(_) => tracing::error!(
                "the geo database was not read within {:?}; the data in force stay",
                reload::LONGEST_READ
            ),
        }
    }
}

async fn next(changes: Option<&mut Changes>) -> ConfigChange {
    if let Some(changes) = changes
        && let Ok(change) = changes.recv().await
    {
        return change;
    }
    std::future::pending().await
}

async fn hung_up(hangup: &mut Option<Signal>) {
    if let Some(hangup) = hangup
        && hangup.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Until a second since the epoch has begun.
async fn until_unix(at: Option<i64>) {
    match at.and_then(|at| u64::try_from(at).ok()) {
        Some(at) => {
            tokio::time::sleep(Duration::from_secs(at).saturating_sub(clock::wall())).await;
        }
        None => std::future::pending().await,
    }
}

fn named(ids: &[BackendId]) -> String {
    let mut names: Vec<&str> = ids.iter().take(NAMED).map(BackendId::as_str).collect();
    if ids.len() > NAMED {
        names.push("...");
    }
    names.join(", ")
}

fn log_difference(before: &Registry, after: &Registry) {
    let by_id = |registry: &Registry| -> BTreeMap<BackendId, Backend> {
        registry.backends.iter().map(|b| (b.id.clone(), b.clone())).collect()
    };
    let (old, new) = (by_id(before), by_id(after));
    let added = new.keys().filter(|id| !old.contains_key(*id)).count();
    let removed = old.keys().filter(|id| !new.contains_key(*id)).count();
    let changed = new.iter().filter(|(id, b)| old.get(*id).is_some_and(|was| was != *b)).count();
    tracing::info!(added, removed, changed, backends = new.len(), "registry changed");
    summary::skipped(after);
}
