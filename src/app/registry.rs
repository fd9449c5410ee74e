//! How the registry stands, for whoever asks.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::application::upstreams::Upstream;
use crate::clock;
use crate::domain::ports::Registry;
use crate::domain::time::Time;

/// How the registry stands.
#[derive(Debug, Default)]
pub(super) struct RegistryState {
    read_at: AtomicU64,
    /// How old the table was at that time, in nanoseconds.
    older_by: AtomicU64,
    failing: AtomicBool,
    held: AtomicBool,
    times_held: AtomicU64,
    skipped: AtomicUsize,
    in_force: ArcSwap<Registry>,
    /// Up to when leases have been looked at, and until when those go on that ended while nobody could
    /// renew them, in seconds since the epoch.
    leases_at: AtomicI64,
    grace_until: AtomicI64,
    known: Mutex<Vec<Weak<Upstream>>>,
}

impl RegistryState {
    /// As it is after the first reading, with so many rows left out; of tables that were true so long
    /// `ago` when it could not be read.
    pub fn at_start(ago: Option<Duration>, skipped: usize) -> Self {
        let state = Self::default();
        match ago {
            Some(age) => state.starts_stale(age, clock::now()),
            None => state.is_good(skipped, clock::now()),
        }
        state
    }

    /// The registry says what the tables in force say.
    pub fn is_good(&self, skipped: usize, now: Time) {
        self.read_at.store(now.nanos(), Ordering::Relaxed);
        self.older_by.store(0, Ordering::Relaxed);
        self.skipped.store(skipped, Ordering::Relaxed);
        self.reads();
    }

    /// The registry could be read.
    pub fn reads(&self) {
        self.failing.store(false, Ordering::Relaxed);
    }

    /// The tables in force are what the registry said `age` ago.
    fn starts_stale(&self, age: Duration, now: Time) {
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        self.read_at.store(now.nanos(), Ordering::Relaxed);
        self.older_by.store(age, Ordering::Relaxed);
    }

    /// Whether what the registry says is not taken up for now; it counts how often that begins.
    pub fn holds(&self, held: bool) {
        if !self.held.swap(held, Ordering::Relaxed) && held {
            self.times_held.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often a change was held.
    pub fn times_held(&self) -> u64 {
        self.times_held.load(Ordering::Relaxed)
    }

    /// The registry could not be read.
    pub fn fails(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// This is in force, with the leases that have not ended at `leases_at`.
    pub fn takes(&self, registry: &Arc<Registry>, leases_at: i64) {
        self.in_force.store(Arc::clone(registry));
        self.leases_at.store(leases_at, Ordering::Relaxed);
    }

    /// Leases that ended go on until then.
    pub fn spares_until(&self, grace_until: i64) {
        self.grace_until.store(grace_until, Ordering::Relaxed);
    }

    /// What is in force.
    pub fn in_force(&self) -> Arc<Registry> {
        self.in_force.load_full()
    }

    /// The moment from which on leases have ended, in seconds since the epoch: earlier than `unix_now` while
    /// those go on that nobody could renew.
    pub fn leases_at(&self, unix_now: i64) -> i64 {
        if unix_now < self.grace_until.load(Ordering::Relaxed) {
            self.leases_at.load(Ordering::Relaxed)
        } else {
            unix_now
        }
    }

    /// New tables were put in force, and these are all backends that anything is observed of.
    pub fn knows(&self, upstreams: impl Iterator<Item = Arc<Upstream>>) {
        let all = upstreams.map(|upstream| Arc::downgrade(&upstream)).collect();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Time since the registry was last known to be as the tables in force say.
    pub fn age(&self, now: Time) -> Duration {
        let since = now.since(Time::from_nanos(self.read_at.load(Ordering::Relaxed)));
        since.saturating_add(Duration::from_nanos(self.older_by.load(Ordering::Relaxed)))
    }

    /// Whether it could be read the last time.
    pub fn is_up(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    /// Whether a change of it is held.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
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
