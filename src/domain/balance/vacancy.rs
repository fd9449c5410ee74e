//! Which backends may have room, and which may be up.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::time::Time;

/// How long the search passes over members that were found not to be up, in nanoseconds.
const PASSED_OVER: u64 = 250_000_000;

/// Which members may have room, and which may be up: bits that are hints, verified by the decision.
///
/// A set bit may be stale, and is cleared by the decision that finds it so. A cleared bit is never
/// stale for long: whoever gives a place back calls [`Vacancy::left`] after counting itself out, and
/// whoever clears a bit looks at the count once more. Members come up again by themselves when a time
/// is over, so those bits are set again every now and then.
#[derive(Debug)]
pub struct Vacancy {
    pub(super) below_soft: Bits,
    pub(super) below_hard: Bits,
    pub(super) up: Bits,
    refreshed: AtomicU64,
}

impl Vacancy {
    pub(super) fn new(members: usize) -> Self {
        let all = || Bits::all(members);
        Self { below_soft: all(), below_hard: all(), up: all(), refreshed: AtomicU64::new(0) }
    }

    /// Has every member count as having room, until a decision finds otherwise.
    pub fn refill(&self) {
        self.below_soft.fill();
        self.below_hard.fill();
        self.up.fill();
    }

    /// Has every member count as up, when it is time to look at all of them again.
    pub fn refresh(&self, now: Time) {
        let now = now.nanos();
        let last = self.refreshed.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= PASSED_OVER;
        let (seen, set) = (Ordering::Relaxed, Ordering::Relaxed);
        if due && self.refreshed.compare_exchange(last, now, seen, set).is_ok() {
            self.up.fill();
        }
    }

    /// Says that a member may be up again.
    pub fn risen(&self, member: usize) {
        self.up.set(member);
    }

    /// Says that a connection of `member` has ended and is no longer counted.
    pub fn left(&self, member: usize) {
        self.below_soft.set(member);
        self.below_hard.set(member);
    }
}

#[derive(Debug)]
pub(super) struct Bits(Vec<AtomicU64>);

impl Bits {
    fn all(members: usize) -> Self {
        Self((0..members.div_ceil(64)).map(|_| AtomicU64::new(u64::MAX)).collect())
    }

    /// Reads before it writes: the bit is nearly always set, and a read does not take the line
    /// from the other workers.
    pub(super) fn set(&self, member: usize) {
        let (word, bit) = (&self.0[member / 64], 1 << (member % 64));
        if word.load(Ordering::SeqCst) & bit == 0 {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    pub(super) fn clear(&self, member: usize) {
        self.0[member / 64].fetch_and(!(1 << (member % 64)), Ordering::SeqCst);
    }

    /// Reads first, as [`set`](Self::set) does.
    fn fill(&self) {
        for word in &self.0 {
            if word.load(Ordering::SeqCst) != u64::MAX {
                word.store(u64::MAX, Ordering::SeqCst);
            }
        }
    }
}

/// Members with room that may also be up.
#[derive(Clone, Copy)]
pub(super) struct Hints<'a> {
    pub room: &'a Bits,
    pub up: Option<&'a Bits>,
}

impl Hints<'_> {
    pub fn any(self, part: &Range<usize>) -> bool {
        self.set_in(part).next().is_some()
    }

    /// The words that have bits set for members of `part`, with just those bits.
    fn set_in(&self, part: &Range<usize>) -> impl Iterator<Item = (usize, u64)> {
        let Range { start, end } = *part;
        let first = start / 64;
        let last = if start < end { end.div_ceil(64) } else { first };
        let up = self.up;
        self.room.0[first..last].iter().enumerate().filter_map(move |(offset, word)| {
            let mut set = word.load(Ordering::SeqCst);
            let word = first + offset;
            if set != 0
                && let Some(up) = up
            {
                set &= up.0[word].load(Ordering::SeqCst);
            }
            if set == 0 {
                return None;
            }
            let low = start.saturating_sub(word * 64);
            let high = (end - word * 64).min(64);
            let below = if high == 64 { u64::MAX } else { (1 << high) - 1 };
            let set = set & below & (u64::MAX << low);
            (set != 0).then_some((word, set))
        })
    }

    /// A member of `part` whose bits are set and that `fits` breaks with, looked for from `middle` on.
    /// `fits` may also break off the search.
    pub fn find(
        self,
        part: &Range<usize>,
        middle: usize,
        mut fits: impl FnMut(usize) -> ControlFlow<Option<usize>>,
    ) -> ControlFlow<Option<usize>> {
        if part.is_empty() {
            return ControlFlow::Continue(());
        }
        let (before, after) = (part.start..middle, middle..part.end);
        self.set_in(&after).chain(self.set_in(&before)).try_for_each(|(word, mut set)| {
            while set != 0 {
                fits(word * 64 + set.trailing_zeros() as usize)?;
                set &= set - 1;
            }
            ControlFlow::Continue(())
        })
    }
}
