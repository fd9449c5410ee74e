//! What happens to what is in force: readings of the registry, reloads of the configuration, new
//! country data. One after the other, so that each is whole.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{interval, timeout};

use super::certificates::{self, CertificateWatch};
use super::feed::Following;
use super::geo_watch::GeoWatch;
use super::in_force::InForce;
use super::orders::{Order, Reloaded};
use super::origins::{self, Origins, Rereading};
use super::reload::{self, Reload};
use super::store::Store;
use super::{country_database, unix_now, whole_secs};
use crate::clock;
use crate::config::Change;
use crate::domain::BackendId;
use crate::domain::mass_change::{Guard, Verdict};
use crate::domain::ports::{Registry, RepositoryError};
use crate::domain::time::{Time, in_words};
use crate::infrastructure::config_watcher::Changes;
use crate::infrastructure::{ConfigChange, ConfigWatcher};

/// How often the log is reminded of a registry that cannot be read.
const REMINDER: Duration = Duration::from_secs(60);
/// Why a watched configuration is reloaded.
const FILE_CHANGED: &str = "the file has changed";
/// Why one is that failed before.
const AGAIN: &str = "what was wrong is not any more";
/// Backends named in a line.
const NAMED: usize = 10;

/// The control plane's main task.
pub(super) struct Control {
    pub in_force: InForce,
    pub following: Following,
    pub follow: Follow,
    pub reload: Reload,
    /// Tells whoever asks what has changed.
    pub watcher: Arc<ConfigWatcher>,
    pub geo_watch: Option<GeoWatch>,
    /// `None` when no listener ends TLS.
    pub certificates: Option<CertificateWatch>,
    pub rereading: Rereading,
    pub hangup: Option<Signal>,
    pub orders: mpsc::Receiver<Order>,
}

/// What is known of the registry besides what is in force.
pub(super) struct Follow {
    guard: Guard,
    /// A reading that the guard holds.
    held: Option<Registry>,
    /// What was said of a store that cannot be read.
    complaint: Option<String>,
    /// Until when, in seconds since the epoch, leases go on that ended while the store could not be
    /// read: nobody could renew one.
    grace_until: i64,
    /// Who waits for a reading, by the number of the look that was asked for.
    pub waiting: Vec<(u64, oneshot::Sender<bool>)>,
}

impl Follow {
    /// What a process starts with.
    pub fn begin(
        guard: Guard,
        held: Option<Registry>,
        error: Option<RepositoryError>,
        grace_until: i64,
    ) -> Self {
        let complaint = error.map(|error| error.to_string());
        Self { guard, held, complaint, grace_until, waiting: Vec::new() }
    }

    /// Tells those who wait for a reading that was begun after look number `asked`.
    fn tell(&mut self, asked: u64, could_be_read: bool) {
        for (number, answer) in std::mem::take(&mut self.waiting) {
            if number <= asked {
                let _ = answer.send(could_be_read);
            } else {
                self.waiting.push((number, answer));
            }
        }
    }
}

impl Control {
    /// For as long as the process lives.
    pub async fn run(mut self) {
        self.in_force.state.holds(self.follow.held.is_some());
        if self.follow.complaint.is_some() {
            self.in_force.state.fails();
        } else if self.follow.held.is_none() {
            self.following.keep(&self.in_force.registry);
        }
        let (_watching, mut config) = self.watch_config().await.unzip();
        // It may have changed between its first reading and now.
        if config.is_some() && self.reload.has_news(&self.in_force.running()).await {
            let _ = self.reload(FILE_CHANGED).await;
        }
        let mut remind = interval(REMINDER);
        // The first is at once.
        remind.tick().await;
        loop {
            let now = unix_now();
            let spared = Some(self.follow.grace_until).filter(|until| *until > now);
            let lease_ends = self.in_force.next_expiry(now).into_iter().chain(spared).min();
            let denial_ends = self.in_force.denials.next_end();
            let closes = self.in_force.closings.next();
            // Once it has passed, the next reading says, whenever the store can be read.
            let due = self.follow.guard.due(self.apart());
            let confirmed_at = due.filter(|due| *due > clock::now());
            tokio::select! {
                reading = self.following.readings.recv() => {
                    let Some((reading, asked)) = reading else { return };
                    let could_be_read = reading.is_ok();
                    match reading {
                        Ok(read) => self.read(read),
                        Err(error) => self.failed(&error),
                    }
                    self.follow.tell(asked, could_be_read);
                }
                Some(order) = self.orders.recv() => self.obey(order).await,
                () = until_unix(lease_ends) => self.following.look(),
                () = until(confirmed_at) => self.following.look(),
                () = until_unix(denial_ends) => {
                    if self.in_force.denials.expire(unix_now()) {
                        self.in_force.take_denials();
                    }
                }
                () = until(closes) => {
                    let Self { in_force, .. } = &mut self;
                    in_force.closings.close_due(&in_force.state, clock::now());
                }
                () = hung_up(&mut self.hangup) => {
                    let _ = self.reload("SIGHUP").await;
                    self.reload_geo(false).await;
                    self.following.look();
                }
                change = next(config.as_mut()) => {
                    self.watcher.publish(change);
                    let _ = self.reload(FILE_CHANGED).await;
                }
                () = GeoWatch::changed(&mut self.geo_watch) => self.reload_geo(true).await,
                reading = CertificateWatch::read(&mut self.certificates) => {
                    self.take_certificates(&reading);
                }
                read = self.rereading.end() => self.take_origins(read),
                _ = remind.tick() => self.remind().await,
            }
        }
    }

    /// How far apart two readings are that confirm each other.
    fn apart(&self) -> Duration {
        Store::interval(&self.in_force.config())
    }

    /// Takes up a reading, unless it would take away too much at once.
    fn read(&mut self, read: Option<Registry>) {
        self.in_force.bury();
        let now = unix_now();
        if self.follow.complaint.take().is_some() {
            let age = in_words(self.in_force.state.age(clock::now()));
            tracing::info!("the registry can be read again, after {age}");
            let ttl = self.in_force.config().settings.api_heartbeat_ttl_secs.get();
            self.follow.grace_until = now + whole_secs(ttl);
            self.in_force.state.spares_until(self.follow.grace_until);
        }
        self.in_force.state.reads();
        let leases_at = if now < self.follow.grace_until { self.in_force.leases_at } else { now };
        // What a file says is known without the reading, which may be older than the last reload. An
        // unchanged reading says what is held once more, or that leases have ended.
        let read = read.map(|read| self.following.current().unwrap_or(read));
        let read = read.or_else(|| self.follow.held.take()).or_else(|| {
            let has_ended = self.in_force.has_ended_leases(leases_at);
            has_ended.then(|| Registry::clone(&self.in_force.registry))
        });
        if let Some(fresh) = read.and_then(|fresh| self.judge(fresh, leases_at)) {
            self.in_force.take_registry(fresh, leases_at);
        }
        if self.follow.held.is_none() {
            self.in_force.state.is_good(self.in_force.registry.skipped.len(), clock::now());
            self.following.keep(&self.in_force.registry);
        }
    }

    /// The reading, if it is to be put in force: it is another one, and takes away too much neither at
    /// once nor for the first time.
    fn judge(&mut self, fresh: Registry, leases_at: i64) -> Option<Registry> {
        let apart = self.apart();
        let Self { in_force, follow, .. } = self;
        let was_held = follow.guard.holds();
        let before = (&*in_force.registry, in_force.leases_at);
        let verdict = follow.guard.judge(before, (&fresh, leases_at), (clock::now(), apart));
        in_force.state.holds(verdict != Verdict::Take);
        match verdict {
            Verdict::Take => {
                follow.held = None;
                let is_same = fresh == *in_force.registry;
                if was_held && is_same {
                    tracing::info!("the registry says again what the table in force says");
                } else if was_held {
                    tracing::warn!("the change of the registry that was held is confirmed");
                }
                (!is_same || in_force.has_ended_leases(leases_at)).then_some(fresh)
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
    fn failed(&mut self, error: &RepositoryError) {
        self.in_force.state.fails();
        let text = error.to_string();
        if self.follow.complaint.as_ref() != Some(&text) {
            let age = in_words(self.in_force.state.age(clock::now()));
            tracing::warn!("{text}; serving from the last good table, {age} old");
            self.follow.complaint = Some(text);
        }
    }

    /// Says what is still wrong, and tries again what failed and may have been for a passing reason.
    async fn remind(&mut self) {
        let age = in_words(self.in_force.state.age(clock::now()));
        if let Some(complaint) = &self.follow.complaint {
            tracing::warn!("{complaint}; still serving from the last good table, {age} old");
        } else if self.follow.held.is_some() {
            tracing::warn!(
                "a change of the registry is still held; the table in force is {age} old"
            );
        }
        if let Some(watch) = &mut self.certificates {
            watch.remind();
        }
        if !self.reload.state.last_succeeded() {
            let _ = self.reload(AGAIN).await;
        }
        if self.geo_watch.as_ref().is_some_and(|watch| watch.has_failed) {
            self.reload_geo(false).await;
        }
        self.rereading.begin(self.in_force.config(), self.in_force.origins.clone());
    }

    /// Puts in force what the files for TLS to backends hold now.
    fn take_origins(&mut self, read: Option<Origins>) {
        if let Some(origins) = read.filter(|origins| *origins != self.in_force.origins) {
            tracing::info!("the files for TLS to backends have changed");
            self.in_force.take_origins(origins);
        }
    }

    /// Puts the configuration in force that the file and the environment give now, or leaves
    /// everything as it is. What has changed.
    pub(super) async fn reload(&mut self, why: &str) -> Option<Reloaded> {
        let before = self.in_force.config();
        let running = self.in_force.running();
        let prepared = self.reload.prepare(&running, why == AGAIN).await?;
        let reload::Prepared { config, changes, database, certificates, origins } = prepared;
        let said: Vec<&String> = before.warnings.iter().chain(&before.notices).collect();
        for notice in config.warnings.iter().chain(&config.notices).filter(|n| !said.contains(n)) {
            tracing::warn!("{notice}");
        }
        let mut in_force = changes;
        let mut waiting = reload::not_in_force(&mut in_force);
        let resecured = origins != self.in_force.origins;
        if resecured {
            tracing::info!("the files for TLS to backends have changed");
            origins::warn_of_unverified(&config);
        }
        if !in_force.is_empty() || !waiting.is_empty() || resecured {
            let registry = self.following.replace(&config);
            let leases_at = self.in_force.leases_at;
            let is_file = registry.is_some();
            let registry = registry.and_then(|fresh| self.judge(fresh, leases_at));
            if is_file && self.follow.held.is_some() {
                waiting.extend(reload::of_registry(&mut in_force));
            }
            if let (Some(reading), Some(standing)) = (&certificates, &self.in_force.certificates) {
                standing.take(&reading.certificates);
            }
            self.rereading.forget();
            self.in_force.take_config(config, database, origins, registry);
            let config = self.in_force.config();
            if config.settings.log != before.settings.log {
                (self.reload.set_log)(&config.settings.log);
            }
            if config.settings.max_connections != before.settings.max_connections {
                self.in_force.machine.warn_of_max_connections(&config.settings);
            }
            if !self.geo_watch.as_ref().is_some_and(|watch| watch.is_of(&config)) {
                self.geo_watch = GeoWatch::begin(&config).await;
                // It may have changed between its opening and now.
                self.reload_geo(false).await;
            }
        }
        if let Some(reading) = certificates {
            self.take_certificates(&reading);
            let config = self.in_force.config();
            self.certificates.iter_mut().for_each(|watch| watch.follow(Arc::clone(&config)));
        }
        reload::log(&in_force, &waiting, why);
        let said = |changes: &[Change]| changes.iter().map(ToString::to_string).collect();
        let reloaded = Reloaded { changes: said(&in_force), waiting: said(&waiting) };
        self.reload.state.note(|last| {
            last.waiting.clone_from(&reloaded.waiting);
            last.at = Some(clock::wall());
        });
        for change in in_force {
            self.watcher.publish(ConfigChange::ValueChanged {
                key: change.what.to_string(),
                old_value: change.old_value,
                new_value: change.new_value,
            });
        }
        Some(reloaded)
    }

    /// Puts the certificates in force that were found.
    fn take_certificates(&mut self, reading: &certificates::Reading) {
        self.in_force.take_certificates(&reading.certificates);
        if let Some(watch) = &mut self.certificates {
            watch.judge(&reading.problems, clock::now());
        }
    }

    /// Watches the configuration file, when that is asked for: for as long as the first lives.
    async fn watch_config(&self) -> Option<(ConfigWatcher, Changes)> {
        let config = self.in_force.config();
        if !config.settings.config_watch_enabled {
            return None;
        }
        let Some(file) = &config.file else {
            tracing::warn!("EDGEPROXY_CONFIG_WATCH_ENABLED=true: there is no file to watch");
            return None;
        };
        let watcher = ConfigWatcher::new(config.settings.config_watch_interval_secs.get());
        let changes = watcher.subscribe();
        if let Err(error) = reload::in_time(watcher.watch_file(file)).await {
            tracing::warn!("{error}; SIGHUP reloads all the same");
        }
        Some((watcher, changes))
    }

    /// Puts the country data in force that the file holds now. Unless a change was `told`, only those
    /// of another date.
    pub(super) async fn reload_geo(&mut self, told: bool) {
        let Some(watch) = &mut self.geo_watch else { return };
        let config = self.in_force.config();
        let opening = tokio::task::spawn_blocking(move || country_database(&config));
        let opened = match timeout(reload::LONGEST_READ, opening).await {
            Ok(Ok(opened)) => opened.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(format!("the geo database was not read: {error}")),
            Err(_) => {
                Err(format!("the geo database was not read within {:?}", reload::LONGEST_READ))
            }
        };
        watch.has_failed = opened.is_err();
        match opened {
            Ok(database) if told || database.built() != self.in_force.database.built() => {
                tracing::info!("the geo database has changed: {}", database.describe());
                self.in_force.take_database(database);
            }
            Ok(_) => {}
            Err(reason) => tracing::error!("{reason}; the data in force stay"),
        }
    }
}

/// Until a moment.
async fn until(at: Option<Time>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(clock::now())).await,
        None => std::future::pending().await,
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
