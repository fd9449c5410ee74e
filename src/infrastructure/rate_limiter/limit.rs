//! A token bucket as one number: the moment at which it will be full again.
//!
//! This is the generic cell rate algorithm (ITU-T I.371, annex A, virtual scheduling) seen from the
//! other end. Taking a token moves that moment on by the time in which a token comes back, and a
//! token is there while the moment is at most a whole burst away. Time is counted in ticks of
//! 1/`max_requests` ns, of which a token takes exactly as many as `window` has nanoseconds: nothing
//! is ever rounded, and a check divides nothing.
//!
//! Nothing overflows either. A tick count is below 2^101: 2^64 ns of 2^37 ticks each (`max_requests`
//! for a /48), and a burst of 2^37 tokens of 2^64 ticks each.

use std::time::Duration;

use super::RateLimitConfig;
use crate::domain::time::Time;

/// A moment in ticks. [`FULL`] is before all others, so it stands for a bucket never taken from.
pub(super) type Ticks = u128;

/// When a bucket that was never taken from was full.
pub(super) const FULL: Ticks = 0;

/// Rate and burst of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// Ticks in a nanosecond: none when nothing refills, so that time stands still.
    rate: u64,
    /// Ticks in which a token comes back: none when there is no limit.
    token: u64,
    /// Tokens in a full bucket.
    burst: u64,
}

impl Limit {
    /// The limit of `times` clients together.
    pub(super) fn new(config: RateLimitConfig, times: u32) -> Self {
        let rate = u64::from(config.max_requests) * u64::from(times);
        let burst = u64::from(config.burst_size) * u64::from(times);
        let window = u64::try_from(config.window.as_nanos()).unwrap_or(u64::MAX);
        // Without a burst or a rate a token must cost something: only then is it refused.
        let token = if rate == 0 || burst == 0 { window.max(1) } else { window };
        Self { rate, token, burst }
    }

    /// The time in ticks.
    pub(super) fn ticks(&self, now: Time) -> Ticks {
        Ticks::from(now.nanos()) * Ticks::from(self.rate)
    }

    /// When the bucket is full again once one token is taken from it; none when there is none.
    pub(super) fn after_one(&self, full_at: Ticks, now: Ticks) -> Option<Ticks> {
        let after = full_at.max(now) + Ticks::from(self.token);
        (after <= now + self.depth()).then_some(after)
    }

    /// Whole tokens in the bucket.
    pub(super) fn tokens(&self, full_at: Ticks, now: Ticks) -> u64 {
        let missing = full_at.saturating_sub(now);
        if missing == 0 {
            return self.burst;
        }
        // A part of a token that is missing is a whole one that is not there.
        let missing = missing.div_ceil(Ticks::from(self.token));
        self.burst.saturating_sub(u64::try_from(missing).unwrap_or(u64::MAX))
    }

    /// How long until there is a token.
    pub(super) fn wait(&self, full_at: Ticks, now: Ticks) -> Duration {
        let after = full_at.max(now) + Ticks::from(self.token);
        let ticks = after.saturating_sub(now + self.depth());
        if ticks == 0 {
            Duration::ZERO
        } else if self.rate == 0 || self.burst == 0 {
            Duration::MAX
        } else {
            let nanos = ticks.div_ceil(Ticks::from(self.rate));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        }
    }

    /// When a bucket of the `old` limit is full again under this one: as many tokens are missing as
    /// were, at most all of them. What is not a whole number of ticks is rounded against the client.
    pub(super) fn rescaled(&self, old: &Self, full_at: Ticks, now: Time) -> Ticks {
        let missing = full_at.saturating_sub(old.ticks(now));
        if missing == 0 {
            return FULL;
        }
        let (before, token) = (Ticks::from(old.token), Ticks::from(self.token));
        // Both factors of either product are below 2^64.
        let whole = (missing / before).min(Ticks::from(self.burst)) * token;
        let missing = (whole + (missing % before * token).div_ceil(before)).min(self.depth());
        if missing == 0 { FULL } else { self.ticks(now) + missing }
    }

    /// A whole burst, in ticks.
    fn depth(&self) -> Ticks {
        Ticks::from(self.burst) * Ticks::from(self.token)
    }
}
