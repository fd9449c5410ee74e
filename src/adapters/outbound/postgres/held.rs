//! The table that was read last, and who has seen it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Time;
use crate::domain::ports::Registry;

/// What was read last. Readings and own writes draw numbers from one row, so that of two readings
/// that overlap the one begun later stays, and a reading from before a write is known as such.
#[derive(Default)]
pub(super) struct Held {
    numbers: AtomicU64,
    /// The number of the latest write of our own.
    written: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The latest good reading, with its number.
    reading: Option<(u64, Arc<Registry>)>,
    /// The number of the latest attempt to read, good or not, and when it ended.
    tried: Option<(u64, Time)>,
    /// What `load` or `load_if_changed` gave last.
    delivered: Option<Arc<Registry>>,
}

impl Held {
    /// A number for a reading that is about to begin.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::SeqCst)
    }

    /// Something was written just now.
    pub(super) fn wrote(&self) {
        self.written.fetch_max(self.number(), Ordering::SeqCst);
    }

    /// Keeps a reading, unless one that began later is kept. Returns what was held before, when it
    /// differs.
    pub(super) fn keep(
        &self,
        number: u64,
        registry: &Arc<Registry>,
        now: Time,
    ) -> Option<Arc<Registry>> {
        let mut state = self.state();
        state.try_ended(number, now);
        match &mut state.reading {
            Some((latest, _)) if *latest > number => None,
            Some((latest, held)) if **held == **registry => {
                *latest = number;
                None
            }
            reading => {
                let before = reading.replace((number, Arc::clone(registry)));
                Some(before.map(|(_, registry)| registry).unwrap_or_default())
            }
        }
    }

    /// A reading failed.
    pub(super) fn missed(&self, number: u64, now: Time) {
        self.state().try_ended(number, now);
    }

    /// Marks a reading as given out; whether it differs from what was given out before.
    pub(super) fn deliver(&self, registry: &Arc<Registry>) -> bool {
        let mut state = self.state();
        let is_news = state.delivered.as_ref().is_none_or(|before| **before != **registry);
        state.delivered = Some(Arc::clone(registry));
        is_news
    }

    pub(super) fn registry(&self) -> Option<Arc<Registry>> {
        self.state().reading.as_ref().map(|(_, registry)| Arc::clone(registry))
    }

    /// Whether to answer from what is held, rather than to read: that was tried after our own
    /// writes and not longer than `oldest` ago. `None`: somebody else keeps trying, so that nobody
    /// need wait even when nothing could be read yet.
    pub(super) fn is_current(&self, now: Time, oldest: Option<Duration>) -> bool {
        let written = self.written.load(Ordering::SeqCst);
        let state = self.state();
        let Some((number, at)) = state.tried else { return false };
        let is_recent = oldest.is_none_or(|oldest| now.since(at) < oldest);
        number >= written && is_recent && (state.reading.is_some() || oldest.is_none())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn try_ended(&mut self, number: u64, now: Time) {
        if self.tried.is_none_or(|(latest, _)| latest <= number) {
            self.tried = Some((number, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::backend::SkippedRow;

    const NOW: Time = Time::ZERO;

    fn reading(row: &str) -> Arc<Registry> {
        let skipped = vec![SkippedRow { row: row.into(), reason: String::new() }];
        Arc::new(Registry { backends: Vec::new(), skipped })
    }

    #[test]
    fn of_two_readings_that_overlap_the_later_begun_one_stays() {
        let held = Held::default();
        let (first, second) = (held.number(), held.number());
        assert_eq!(held.keep(second, &reading("new"), NOW), Some(Arc::default()));
        assert_eq!(held.keep(first, &reading("old"), NOW), None);
        assert_eq!(held.registry(), Some(reading("new")));
        assert_eq!(held.keep(held.number(), &reading("new"), NOW), None, "nothing changed");
    }

    #[test]
    fn a_reading_from_before_a_write_is_not_current() {
        let held = Held::default();
        assert!(!held.is_current(NOW, None));
        let number = held.number();
        held.wrote();
        held.keep(number, &reading("a"), NOW);
        assert!(!held.is_current(NOW, None));
        held.keep(held.number(), &reading("b"), NOW);
        assert!(held.is_current(NOW, None));
        let oldest = Some(Duration::from_secs(5));
        assert!(held.is_current(NOW + Duration::from_secs(4), oldest));
        assert!(!held.is_current(NOW + Duration::from_secs(5), oldest));
        held.wrote();
        held.missed(held.number(), NOW);
        assert!(held.is_current(NOW, oldest), "what was read before, when it cannot be read now");
    }

    #[test]
    fn who_has_nothing_tries_again_unless_somebody_else_does() {
        let held = Held::default();
        assert!(!held.is_current(NOW, None), "nobody has tried yet");
        held.missed(held.number(), NOW);
        assert!(!held.is_current(NOW, Some(Duration::MAX)));
        assert!(held.is_current(NOW, None));
    }

    #[test]
    fn what_was_given_out_is_no_news() {
        let held = Held::default();
        assert!(held.deliver(&reading("a")));
        assert!(!held.deliver(&reading("a")));
        assert!(held.deliver(&reading("b")));
    }
}
