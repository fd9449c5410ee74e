//! A moment on the monotonic clock, as a plain number that decisions can be given.

use std::ops::Add;
use std::time::Duration;

/// Nanoseconds since a fixed point in this process's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// The fixed point itself.
    pub const ZERO: Self = Self(0);

    /// The moment `nanos` nanoseconds after the fixed point.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the fixed point.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// The UTC date (year, month, day) of a Unix time in seconds.
///
/// Days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years
/// that begin in March put the leap day last, so that months have fixed offsets.
#[must_use]
pub const fn civil_date(unix_secs: u64) -> (u64, u64, u64) {
    let days = unix_secs / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, day)
}

/// An age for people: `45s`, `3m`, `2h 5m`, `4d 1h`.
#[must_use]
pub fn in_words(age: Duration) -> String {
    let secs = age.as_secs();
    let (mins, hours, days) = (secs / 60, secs / 3_600, secs / 86_400);
    match (days, hours, mins) {
        (0, 0, 0) => format!("{secs}s"),
        (0, 0, _) => format!("{mins}m"),
        (0, ..) => format!("{hours}h {}m", mins % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}
