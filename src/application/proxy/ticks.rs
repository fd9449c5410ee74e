//! The ages in the slab: in ticks, which 32 bits hold for 17 years.

use std::time::Duration;

use crate::domain::time::Time;

/// Ticks a second.
pub(super) const TICKS_PER_SEC: u32 = 8;

/// A time limit.
pub(super) fn idle_ticks(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).saturating_mul(TICKS_PER_SEC)
}

/// A moment.
pub(super) fn ticks(now: Time) -> u32 {
    let ticks = now.nanos() / (1_000_000_000 / u64::from(TICKS_PER_SEC));
    u32::try_from(ticks & u64::from(u32::MAX)).unwrap_or_default()
}
