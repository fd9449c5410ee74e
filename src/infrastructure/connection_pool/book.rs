//! What one backend's pool of connections holds and may hold: bookkeeping without I/O, clock or lock.
//!
//! Whoever keeps a [`Book`] dials, closes, and says what time it is. A connection that must go is
//! always handed back to be closed; no call drops one on its own.

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::time::Time;

/// Lifetimes are shortened by up to one part in this many, so that connections that were made
/// together do not end together.
const JITTER_PART: u32 = 5;

/// What a book may hold. Handed to every call that asks, so that it may change between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections, idle and out together; 0 allows none.
    pub max: usize,
    /// How long a connection may be idle; one that is given back at zero goes at the next look.
    pub idle_timeout: Duration,
    /// How long a connection may live, counted from its dial and shortened by up to 20 %.
    pub max_lifetime: Duration,
}

/// One backend's connections: those that are idle, and a count of those that are out, which are
/// being dialled or in use. Idle and out together are at most [`Limits::max`]. When that shrinks no
/// places are given out, and the oldest idle connections go at the next [`take`](Self::take) or
/// [`expire`](Self::expire).
///
/// The times of successive calls must not go back.
#[derive(Debug)]
pub struct Book<C> {
    /// Oldest first: in the order in which they became idle.
    idle: VecDeque<Idle<C>>,
    out: usize,
}

/// The place of one connection that is out. It ends with [`Book::put`] or [`Book::free`] of the book
/// it came from; one that is dropped stays counted.
#[must_use = "a place that is not given back stays counted"]
#[derive(Debug)]
pub struct Place {
    made: Time,
    /// How much of the jitter its lifetime is cut by, in parts of 65,536.
    jitter: u16,
    used: bool,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    place: Place,
    since: Time,
}

impl Place {
    /// When a connection in this place has lived long enough.
    fn dies(&self, limits: &Limits) -> Time {
        let step = limits.max_lifetime / (JITTER_PART << u16::BITS);
        self.made + limits.max_lifetime.saturating_sub(step * u32::from(self.jitter))
    }
}

impl<C> Idle<C> {
    fn ends(&self, limits: &Limits) -> Time {
        self.place.dies(limits).min(self.since + limits.idle_timeout)
    }
}

impl<C> Book<C> {
    /// Holds nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { idle: VecDeque::new(), out: 0 }
    }

    /// How many connections are idle.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// How many connections are in use or being dialled.
    #[must_use]
    pub const fn out(&self) -> usize {
        self.out
    }

    /// Whether nothing is idle and nothing out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out == 0 && self.idle.is_empty()
    }

    /// The idle connection that was given back last, if it is within its times and `usable` (which is
    /// told whether it was ever used) says that it is; otherwise the one before it, and so on. Those
    /// passed over are added to `retired`: the caller closes them.
    pub fn take(
        &mut self,
        now: Time,
        limits: &Limits,
        mut usable: impl FnMut(&C, bool) -> bool,
        retired: &mut Vec<C>,
    ) -> Option<(C, Place)> {
        self.trim(limits, retired);
        while let Some(idle) = self.idle.pop_back() {
            if now < idle.ends(limits) && usable(&idle.connection, idle.place.used) {
                self.out += 1;
                return Some((idle.connection, idle.place));
            }
            retired.push(idle.connection);
        }
        None
    }

    /// A place for a connection that is dialled now; `None` when there is no room.
    /// [`evict_oldest`](Self::evict_oldest) may make some. `random` (evenly drawn) decides by how much
    /// its lifetime is shortened.
    pub fn open(&mut self, now: Time, limits: &Limits, random: u16) -> Option<Place> {
        if self.idle.len() + self.out >= limits.max {
            return None;
        }
        self.out += 1;
        Some(Place { made: now, jitter: random, used: false })
    }

    /// The dial failed, or the connection is closed: its place is free.
    pub fn free(&mut self, _place: Place) {
        debug_assert!(self.out > 0, "the place is of another book");
        self.out = self.out.saturating_sub(1);
    }

    /// Makes a connection idle; `used` says whether bytes of anybody's went over it since it was taken
    /// or dialled (one that was ever used stays so). Returns when it has to be retired.
    ///
    /// # Errors
    /// The connection, to be closed, when it has lived long enough or the book holds more than its
    /// limit. Its place is free either way.
    pub fn put(
        &mut self,
        now: Time,
        limits: &Limits,
        mut place: Place,
        connection: C,
        used: bool,
    ) -> Result<Time, C> {
        let crowded = self.idle.len() + self.out > limits.max;
        if crowded || now >= place.dies(limits) {
            self.free(place);
            return Err(connection);
        }
        place.used |= used;
        let idle = Idle { connection, place, since: now };
        let ends = idle.ends(limits);
        self.idle.push_back(idle);
        self.out = self.out.saturating_sub(1);
        Ok(ends)
    }

    /// Adds to `retired` what must be closed by `now`: connections past their idle timeout or lifetime,
    /// and the oldest of those above the limit.
    pub fn expire(&mut self, now: Time, limits: &Limits, retired: &mut Vec<C>) {
        self.trim(limits, retired);
        for _ in 0..self.idle.len() {
            let Some(idle) = self.idle.pop_front() else { return };
            if now < idle.ends(limits) {
                self.idle.push_back(idle);
            } else {
                retired.push(idle.connection);
            }
        }
    }

    /// When the first of the idle connections has to be retired. Looks at each of them.
    #[must_use]
    pub fn next_expiry(&self, limits: &Limits) -> Option<Time> {
        self.idle.iter().map(|idle| idle.ends(limits)).min()
    }

    /// Takes out the idle connection that `is` says yes to, which has died: the caller closes it.
    #[must_use = "the caller closes it"]
    pub fn discard(&mut self, mut is: impl FnMut(&C) -> bool) -> Option<C> {
        let at = self.idle.iter().position(|idle| is(&idle.connection))?;
        self.idle.remove(at).map(|idle| idle.connection)
    }

    /// Takes out the connection that has been idle longest, to make room: the caller closes it.
    #[must_use = "the caller closes it"]
    pub fn evict_oldest(&mut self) -> Option<C> {
        self.idle.pop_front().map(|idle| idle.connection)
    }

    /// Takes out all idle connections, oldest first: the caller closes them. What is out stays counted.
    pub fn drain(&mut self) -> impl Iterator<Item = C> {
        self.idle.drain(..).map(|idle| idle.connection)
    }

    /// Idle connections above the limit go first when it has shrunk.
    fn trim(&mut self, limits: &Limits, retired: &mut Vec<C>) {
        while self.idle.len() + self.out > limits.max {
            let Some(oldest) = self.evict_oldest() else { return };
            retired.push(oldest);
        }
    }
}

impl<C> Default for Book<C> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
