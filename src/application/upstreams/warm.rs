//! Warm connections of one backend: fresh, never used, waiting for a client. Each worker keeps its
//! own, and at the hard limit any worker may close another's to make room.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::io;

use super::Upstream;
use super::places::Places;
use crate::domain::time::Time;
use crate::infrastructure::connection_pool::book::{Book, Limits, Place};
use crate::infrastructure::slab::Key;

/// A backend that closed unused connections so many times in a row is not warmed for a while.
const GIVES_UP_AFTER: u32 = 3;
/// Those closed within such a time count as once: a backend that restarts closes all of them.
const ONCE: Duration = Duration::from_secs(1);
/// For how long.
const REST: Duration = Duration::from_secs(600);

/// How many warm connections are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmRules {
    /// Most for one backend, over all workers.
    pub most: u32,
    /// Workers, who share them.
    pub workers: usize,
    /// How long one waits for a client.
    pub idle_timeout: Duration,
    /// How long one lives; it is never used before, so that the shorter of the two counts.
    pub max_lifetime: Duration,
    /// Descriptors from this number on are left to clients.
    pub last_descriptor: i32,
}

impl WarmRules {
    fn limits(&self) -> Limits {
        Limits {
            max: (self.most as usize).div_ceil(self.workers.max(1)),
            idle_timeout: self.idle_timeout,
            max_lifetime: self.max_lifetime,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Warm {
    shelves: OnceLock<Box<[Mutex<Shelf>]>>,
    /// How often the backend closed connections before a client came, in a row.
    closed_unused: AtomicU32,
    /// When it did so last, in nanoseconds.
    closed_at: AtomicU64,
    /// Until when none are made, in nanoseconds.
    rests_until: AtomicU64,
}

/// One worker's warm connections to one backend.
#[derive(Debug, Default)]
struct Shelf {
    dialled: Vec<(Kept, Place)>,
    ready: Book<Kept>,
    /// Keys of those that others have given up.
    lost: Vec<Key>,
}

/// A worker that keeps warm connections.
#[derive(Clone, Copy, Debug)]
pub struct Keeper<'a> {
    /// Its number.
    pub worker: usize,
    /// What it may keep.
    pub rules: &'a WarmRules,
}

/// A warm connection, known to its worker by a key.
#[derive(Debug)]
pub struct Kept {
    /// Its worker's key.
    pub id: Key,
    /// Its socket.
    pub socket: OwnedFd,
}

impl Upstream {
    /// Begins to make a warm connection with `dial`, if one more may be kept: `None` if not.
    ///
    /// # Errors
    /// The dial's own.
    pub fn begin_warm(
        &self,
        Keeper { worker, rules }: Keeper<'_>,
        hard_limit: u32,
        (now, random): (Time, u16),
        dial: impl FnOnce() -> io::Result<Kept>,
    ) -> Option<io::Result<()>> {
        if now.nanos() < self.warm.rests_until.load(Ordering::Relaxed) {
            return None;
        }
        let begun = || (0..rules.workers).map(|_| Mutex::default()).collect();
        // Held during the dial, which does not wait: whoever looks for a place to give up finds it.
        let mut shelf = lock(self.warm.shelves.get_or_init(begun).get(worker)?);
        let place = shelf.ready.open(now, &rules.limits(), random)?;
        if !self.places().take_warm(rules.most, hard_limit) {
            shelf.ready.free(place);
            return None;
        }
        match dial() {
            Ok(kept) => {
                shelf.dialled.push((kept, place));
                Some(Ok(()))
            }
            Err(error) => {
                shelf.ready.free(place);
                self.places().give_warm_back();
                Some(Err(error))
            }
        }
    }

    /// Notes that the backend has answered. Gives the time at which the connection has waited long
    /// enough; `None` when it was given up in the meantime.
    pub fn warm_is_ready(&self, keeper: Keeper<'_>, id: Key, now: Time) -> Option<Time> {
        let Keeper { worker, rules } = keeper;
        let mut shelf = self.shelf(worker)?;
        let at = shelf.dialled.iter().position(|(kept, _)| kept.id == id)?;
        let (kept, place) = shelf.dialled.swap_remove(at);
        let kept = shelf.ready.put(now, &rules.limits(), place, kept, false);
        if kept.is_err() {
            self.places().give_warm_back();
        }
        kept.ok()
    }

    /// A warm connection for a client who has a place of its own already.
    #[must_use]
    pub fn take_warm(&self, keeper: Keeper<'_>, now: Time) -> Option<Kept> {
        self.take_ready(keeper, now, Places::give_warm_back)
    }

    /// A warm connection for a client, and its place with it.
    pub(super) fn take_warm_with_its_place(&self, keeper: Keeper<'_>, now: Time) -> Option<Kept> {
        self.take_ready(keeper, now, Places::warm_to_client)
    }

    /// Places change while the shelf is locked: who finds it unlocked finds what is counted.
    fn take_ready(&self, keeper: Keeper<'_>, now: Time, move_place: fn(&Places)) -> Option<Kept> {
        let Keeper { worker, rules } = keeper;
        // Nearly always there are none, and a read says so. What fails is not believed to be alive.
        if self.warm() == 0 || self.dials().demoted(now) {
            return None;
        }
        let mut shelf = self.shelf(worker)?;
        let mut retired = Vec::new();
        let usable = crate::infrastructure::connection_pool::is_usable;
        let check = |kept: &Kept, used| usable(&kept.socket, used);
        let taken = shelf.ready.take(now, &rules.limits(), check, &mut retired);
        let kept = taken.map(|(kept, place)| {
            shelf.ready.free(place);
            move_place(self.places());
            // A read first: no other worker's line is taken where there is nothing to forget.
            if self.warm.closed_unused.load(Ordering::Relaxed) != 0 {
                self.warm.closed_unused.store(0, Ordering::Relaxed);
            }
            kept
        });
        for _ in retired.drain(..) {
            self.places().give_warm_back();
        }
        kept
    }

    /// Takes one of a worker's warm connections away, to be closed; `None` when it was given up.
    pub fn close_warm(&self, worker: usize, id: Key) -> Option<Kept> {
        let mut shelf = self.shelf(worker)?;
        let kept = shelf.remove(|kept| kept.id == id)?;
        self.places().give_warm_back();
        Some(kept)
    }

    /// The keys of a worker's warm connections that others have given up since the last call.
    #[must_use]
    pub fn lost_warm(&self, worker: usize) -> Vec<Key> {
        self.shelf(worker).map(|mut shelf| std::mem::take(&mut shelf.lost)).unwrap_or_default()
    }

    /// Notes that the backend closed a warm connection before a client came. Whether that was once
    /// too often: it is not warmed for the next ten minutes.
    #[must_use]
    pub fn closed_unused(&self, now: Time) -> bool {
        let Warm { closed_unused, closed_at, rests_until, .. } = &self.warm;
        let last = Time::from_nanos(closed_at.load(Ordering::Relaxed));
        let times = closed_unused.load(Ordering::Relaxed);
        if times > 0 && now.since(last) < ONCE {
            return false;
        }
        closed_at.store(now.nanos(), Ordering::Relaxed);
        let gives_up = times + 1 >= GIVES_UP_AFTER;
        closed_unused.store(if gives_up { 0 } else { times + 1 }, Ordering::Relaxed);
        if gives_up {
            rests_until.store((now + REST).nanos(), Ordering::Relaxed);
        }
        gives_up
    }

    /// Whether warm connections to it make sense now.
    #[must_use]
    pub fn may_be_warm(&self, now: Time) -> bool {
        self.is_seated()
            && self.health().is_healthy()
            && !self.dials().demoted(now)
            && self.breaker().admits(now)
    }

    /// Closes a warm connection, whichever worker's, and makes its place a client's.
    pub(super) fn give_up_warm(&self) -> bool {
        if self.warm() == 0 {
            return false;
        }
        let shelves = self.warm.shelves.get().map(|shelves| &**shelves).unwrap_or_default();
        shelves.iter().any(|shelf| {
            let mut shelf = lock(shelf);
            let Some(kept) = shelf.remove(|_| true) else { return false };
            self.places().warm_to_client();
            shelf.lost.push(kept.id);
            true
        })
    }

    fn shelf(&self, worker: usize) -> Option<MutexGuard<'_, Shelf>> {
        self.warm.shelves.get()?.get(worker).map(lock)
    }
}

impl Shelf {
    fn remove(&mut self, is: impl Fn(&Kept) -> bool) -> Option<Kept> {
        if let Some(kept) = self.ready.discard(&is) {
            return Some(kept);
        }
        let at = self.dialled.iter().position(|(kept, _)| is(kept))?;
        let (kept, place) = self.dialled.swap_remove(at);
        self.ready.free(place);
        Some(kept)
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}
