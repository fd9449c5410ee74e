//! Connections to one backend that have had requests and wait for the next. Each worker keeps its own;
//! together they are bounded, and at the bound any worker may close another's oldest to keep one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Keeper, Upstream};
use crate::application::relay::End;
use crate::domain::time::Time;
use crate::infrastructure::slab::Key;
use crate::infrastructure::tls::Originator;

/// A connection that waits for the next request.
#[derive(Debug)]
pub struct Rested {
    /// Its worker's key, and which of the key's sockets it is.
    pub id: Key,
    /// See `id`.
    pub part: usize,
    /// Its socket, and TLS on it where there is any.
    pub end: End,
    /// How it was secured, where it was.
    pub secured_by: Option<Arc<Originator>>,
    /// When it has lived long enough.
    pub dies: Time,
}

impl Rested {
    /// Whether it may have another request: its time is not over, it was begun as it would be now, and
    /// nothing has come on it.
    #[must_use]
    pub fn is_usable(&self, secured_by: Option<&Arc<Originator>>, now: Time) -> bool {
        let is_same = match (&self.secured_by, secured_by) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        is_same && now < self.dies && self.end.is_silent()
    }
}

#[derive(Debug, Default)]
pub(super) struct Resting {
    /// Over all workers.
    kept: AtomicU32,
    shelves: OnceLock<Box<[Mutex<Shelf>]>>,
}

/// One worker's, oldest first.
#[derive(Debug, Default)]
struct Shelf {
    rested: VecDeque<(Rested, Time)>,
    /// Keys of those that others have closed.
    lost: Vec<Key>,
}

impl Upstream {
    /// The connection that was kept last, if its time is not over.
    pub fn take_rested(&self, keeper: Keeper<'_>, now: Time) -> Option<Rested> {
        // Nearly always somebody's: a read first.
        if self.resting.kept.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut shelf = self.shelf_of(keeper.worker)?;
        // The last one has the longest to go but for its lifetime: what is over is swept.
        let at = shelf.rested.iter().rposition(|(rested, until)| now < rested.dies.min(*until))?;
        let (rested, _) = shelf.rested.remove(at)?;
        self.resting.kept.fetch_sub(1, Ordering::Relaxed);
        Some(rested)
    }

    /// Keeps a connection for the next request; until when.
    ///
    /// # Errors
    /// The connection, to be closed, when it has lived long enough or enough of them are kept.
    pub fn rest(&self, keeper: Keeper<'_>, rested: Rested, now: Time) -> Result<Time, Rested> {
        let Keeper { worker, rules } = keeper;
        let until = rested.dies.min(now + rules.idle_timeout);
        if now >= rested.dies {
            return Err(rested);
        }
        let begun = || (0..rules.workers).map(|_| Mutex::default()).collect();
        let shelves = self.resting.shelves.get_or_init(begun);
        let Some(own) = shelves.get(worker) else { return Err(rested) };
        let more = |kept| (kept < rules.most).then_some(kept + 1);
        let kept = &self.resting.kept;
        let has_room = kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !has_room {
            // Who has some already does with them.
            let asked_back = lock(own).rested.is_empty()
                && shelves.iter().enumerate().any(|(number, shelf)| {
                    number != worker && {
                        let mut shelf = lock(shelf);
                        let oldest = shelf.rested.pop_front();
                        shelf.lost.extend(oldest.iter().map(|(rested, _)| rested.id));
                        oldest.is_some()
                    }
                });
            if !asked_back {
                return Err(rested);
            }
        }
        lock(own).rested.push_back((rested, until));
        Ok(until)
    }

    /// Takes one of a worker's away, to be closed; `None` when it is in use or another has closed it.
    pub fn take_rested_away(&self, worker: usize, id: Key) -> Option<Rested> {
        let mut shelf = self.shelf_of(worker)?;
        let at = shelf.rested.iter().position(|(rested, _)| rested.id == id)?;
        let (rested, _) = shelf.rested.remove(at)?;
        self.resting.kept.fetch_sub(1, Ordering::Relaxed);
        Some(rested)
    }

    /// The keys of a worker's connections that others have closed since the last call.
    #[must_use]
    pub fn lost_rested(&self, worker: usize) -> Vec<Key> {
        let shelf = self.shelf_of(worker);
        shelf.map(|mut shelf| std::mem::take(&mut shelf.lost)).unwrap_or_default()
    }

    /// How many are kept.
    #[must_use]
    pub fn rested(&self) -> u32 {
        self.resting.kept.load(Ordering::Relaxed)
    }

    fn shelf_of(&self, worker: usize) -> Option<MutexGuard<'_, Shelf>> {
        self.resting.shelves.get()?.get(worker).map(lock)
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}
