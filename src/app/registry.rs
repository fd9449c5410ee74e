//! Keeps the tables in step with the registry.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::health::Checks;
use super::listeners::Listening;
use super::{summary, unix_now};
use crate::application::proxy::{Shared, Snapshot};
use crate::application::upstreams::{Roster, Rules, Tables, Upstream};
use crate::clock;
use crate::domain::ports::{BackendRepository, Registry};
use crate::domain::time::Time;
use crate::domain::{Backend, BackendId};

/// What is needed to make tables of what is read.
pub(super) struct Sync {
    pub repository: Box<dyn BackendRepository>,
    /// Tells of changes sooner than the next look, where the store can.
    pub hints: Option<watch::Receiver<u64>>,
    pub registry: Registry,
    pub roster: Roster,
    pub rules: Rules,
    pub listening: Listening,
    /// When the tables in force were made, in seconds since the epoch.
    pub made_at: i64,
    pub checks: Checks,
    pub state: Arc<RegistryState>,
}

impl Sync {
    /// Looks at the registry every `interval` and swaps in what has changed. When it cannot be read
    /// the table in force stays, and no lease expires.
    pub async fn run(mut self, shared: Arc<Shared>, interval: Duration) {
        let mut complaint: Option<String> = None;
        self.in_force(&shared.snapshot.load().tables);
        loop {
            self.wait(interval).await;
            match self.repository.load_if_changed().await {
                Ok(read) => {
                    if complaint.take().is_some() {
                        tracing::info!("the registry can be read again");
                    }
                    if let Some(fresh) = read.filter(|read| *read != self.registry) {
                        let old = std::mem::replace(&mut self.registry, fresh);
                        self.swap_in(&shared);
                        log_difference(&old, &self.registry);
                        summary::skipped(&self.registry);
                    } else if self.has_expired() {
                        self.swap_in(&shared);
                    }
                    self.state.is_good(self.registry.skipped.len(), clock::now());
                }
                Err(error) => {
                    self.state.fails();
                    let text = error.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::warn!("{text}; serving from the last good table");
                        complaint = Some(text);
                    }
                }
            }
        }
    }

    /// Until the next look is due, or the store says that something has changed.
    async fn wait(&mut self, interval: Duration) {
        let due = tokio::time::sleep(self.next_look(interval));
        let hint = async {
            let told = match &mut self.hints {
                Some(hints) => hints.changed().await.is_ok(),
                None => false,
            };
            if !told {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = due => {}
            () = hint => {}
        }
    }

    fn swap_in(&mut self, shared: &Shared) {
        let now = unix_now();
        let tables = self.roster.tables(&self.registry, &self.rules, now);
        let listeners = self.listening.resolve(&tables);
        let before = Snapshot::clone(&shared.snapshot.load());
        let seats = tables.clone();
        shared.snapshot.store(Arc::new(Snapshot { listeners, tables, ..before }));
        self.roster.seat(&seats, clock::now());
        self.in_force(&seats);
        self.made_at = now;
    }

    /// Lets those know who follow the tables.
    fn in_force(&mut self, tables: &Tables) {
        self.checks.follow(tables);
        self.state.knows(self.roster.known());
    }

    /// Whether a lease that the tables in force still count has ended.
    fn has_expired(&self) -> bool {
        let now = unix_now();
        self.expiries().any(|at| self.made_at < at && at <= now)
    }

    fn expiries(&self) -> impl Iterator<Item = i64> {
        self.registry.backends.iter().filter_map(|backend| backend.lease.as_ref()?.expires_at)
    }

    fn next_look(&self, interval: Duration) -> Duration {
        let now = unix_now();
        let next = self.expiries().filter(|at| *at > now).min();
        let until = next.and_then(|at| u64::try_from(at - now).ok()).map(Duration::from_secs);
        until.map_or(interval, |until| until.min(interval))
    }
}

/// How the registry stands, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct RegistryState {
    read_at: AtomicU64,
    failing: AtomicBool,
    skipped: AtomicUsize,
    known: Mutex<Vec<Weak<Upstream>>>,
}

impl RegistryState {
    /// The registry was read, or found unchanged.
    pub fn is_good(&self, skipped: usize, now: Time) {
        self.read_at.store(now.nanos(), Ordering::Relaxed);
        self.skipped.store(skipped, Ordering::Relaxed);
        self.failing.store(false, Ordering::Relaxed);
    }

    /// The registry could not be read.
    pub fn fails(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// New tables were put in force, and these are all backends that anything is observed of.
    pub fn knows(&self, upstreams: impl Iterator<Item = Arc<Upstream>>) {
        let all = upstreams.map(|upstream| Arc::downgrade(&upstream)).collect();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Time since the registry was last known to be as the tables in force say.
    pub fn age(&self, now: Time) -> Duration {
        now.since(Time::from_nanos(self.read_at.load(Ordering::Relaxed)))
    }

    /// Whether it could be read the last time.
    pub fn is_up(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    /// Rows that are left out.
    pub fn skipped(&self) -> usize {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Those of them that are still there.
    pub fn known(&self) -> Vec<Arc<Upstream>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter_map(Weak::upgrade).collect()
    }
}

fn log_difference(old: &Registry, new: &Registry) {
    let by_id = |registry: &Registry| -> BTreeMap<BackendId, Backend> {
        registry.backends.iter().map(|b| (b.id.clone(), b.clone())).collect()
    };
    let (old, new) = (by_id(old), by_id(new));
    let added = new.keys().filter(|id| !old.contains_key(*id)).count();
    let removed = old.keys().filter(|id| !new.contains_key(*id)).count();
    let changed = new.iter().filter(|(id, b)| old.get(*id).is_some_and(|was| was != *b)).count();
    tracing::info!(added, removed, changed, backends = new.len(), "registry changed");
}
