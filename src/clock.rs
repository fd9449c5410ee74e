//! The only reader of time: everything that decides is handed a [`Time`].

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic moment: nanoseconds since this process first asked for the time.
pub use crate::domain::time::Time;

static START: LazyLock<Instant> = LazyLock::new(
    #[expect(clippy::disallowed_methods, reason = "this file is the one that may")]
    Instant::now,
);

/// The monotonic moment now. Never goes back, does not count suspended time.
#[must_use]
pub fn now() -> Time {
    Time::from_nanos(u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// Wall-clock time since the Unix epoch; zero when the clock stands before it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this file is the one that may")]
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
