//! Which backends may have room.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which members may have room: one bit each, a hint that the decision verifies.
///
/// A set bit may be stale, and is cleared by the decision that finds it so. A cleared bit is never
/// stale for long: whoever gives a place back calls [`Vacancy::left`] after counting itself out, and
/// whoever clears a bit looks at the count once more.
#[derive(Debug)]
pub struct Vacancy {
    pub(super) below_soft: Bits,
    pub(super) below_hard: Bits,
}

impl Vacancy {
    pub(super) fn new(members: usize) -> Self {
        Self { below_soft: Bits::all(members), below_hard: Bits::all(members) }
    }

    /// Has every member count as having room, until a decision finds otherwise.
    pub fn refill(&self) {
        for word in self.below_soft.0.iter().chain(&self.below_hard.0) {
            word.store(u64::MAX, Ordering::SeqCst);
        }
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

    pub(super) fn any(&self, part: &Range<usize>) -> bool {
        self.set_in(part).next().is_some()
    }

    /// The words that have bits set for members of `part`, with just those bits.
    fn set_in(&self, part: &Range<usize>) -> impl Iterator<Item = (usize, u64)> {
        let Range { start, end } = *part;
        let first = start / 64;
        let last = if start < end { end.div_ceil(64) } else { first };
        self.0[first..last].iter().enumerate().filter_map(move |(offset, word)| {
            let set = word.load(Ordering::SeqCst);
            if set == 0 {
                return None;
            }
            let word = first + offset;
            let low = start.saturating_sub(word * 64);
            let high = (end - word * 64).min(64);
            let below = if high == 64 { u64::MAX } else { (1 << high) - 1 };
            let set = set & below & (u64::MAX << low);
            (set != 0).then_some((word, set))
        })
    }

    /// A member of `part` whose bit is set and that `fits`, from a random start.
    pub(super) fn find(
        &self,
        part: &Range<usize>,
        draw: &mut impl FnMut(u64) -> u64,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if part.is_empty() {
            return None;
        }
        let middle = part.start + usize::try_from(draw(part.len() as u64)).unwrap_or_default();
        let (before, after) = (part.start..middle, middle..part.end);
        self.set_in(&after).chain(self.set_in(&before)).find_map(|(word, mut set)| {
            while set != 0 {
                let member = word * 64 + set.trailing_zeros() as usize;
                if fits(member) {
                    return Some(member);
                }
                set &= set - 1;
            }
            None
        })
    }
}
