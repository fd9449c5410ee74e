//! How the registry stands, for whoever asks.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::application::upstreams::Upstream;
use crate::clock;
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
