//! Spans of time by size.

use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in nanoseconds, and as they are written in seconds: from 100 us to
/// 10 s. What is longer counts in one more bucket.
pub const BOUNDS: [(u64, &str); 16] = [
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// How many spans of time fell into each bucket, and their sum.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

/// What a histogram holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Per bucket, each without those below it; the last is for what is longer than all bounds.
    pub buckets: [u64; BUCKETS],
    /// Nanoseconds in all.
    pub nanos: u64,
}

impl Histogram {
    /// Counts a span.
    pub fn observe(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|(bound, _)| *bound < nanos);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What it holds now.
    #[must_use]
    pub fn read(&self) -> Reading {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Reading { buckets: self.buckets.each_ref().map(load), nanos: load(&self.nanos) }
    }
}

impl Reading {
    /// How many spans there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What has come since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut buckets = self.buckets;
        for (count, before) in buckets.iter_mut().zip(earlier.buckets) {
            *count = count.saturating_sub(before);
        }
        Self { buckets, nanos: self.nanos.saturating_sub(earlier.nanos) }
    }

    /// The span that a part of all, 0 to 1, does not exceed, as near as the buckets tell: between the bounds
    /// of one, spans are taken to be spread evenly. `None` when there are none.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "buckets tell less than that"
    )]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * part).ceil().max(1.0) as u64;
        let mut below = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            if below + count >= rank {
                let lower = place.checked_sub(1).map_or(0, |place| BOUNDS[place].0);
                let upper = BOUNDS.get(place).map_or(lower, |(bound, _)| *bound);
                let within = (rank - below) as f64 / *count as f64;
                let nanos = lower as f64 + (upper - lower) as f64 * within;
                return Some(Duration::from_nanos(nanos as u64));
            }
            below += count;
        }
        None
    }
}

impl Sum for Reading {
    fn sum<I: Iterator<Item = Self>>(readings: I) -> Self {
        readings.fold(Self::default(), |mut sum, reading| {
            for (into, from) in sum.buckets.iter_mut().zip(reading.buckets) {
                *into += from;
            }
            sum.nanos += reading.nanos;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_the_longest_spans_have_one_of_their_own() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let reading = histogram.read();
        assert_eq!((reading.buckets[0], reading.buckets[1]), (2, 1));
        assert_eq!((reading.buckets[15], reading.buckets[16]), (1, 1));
        assert_eq!((reading.count(), reading.nanos), (5, 20_000_202_000));
    }

    #[test]
    fn quantiles_are_of_what_has_come_since() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_secs(9));
        let before = histogram.read();
        assert_eq!(before.since(&before).quantile(0.5), None);
        for _ in 0..98 {
            histogram.observe(Duration::from_micros(80));
        }
        for _ in 0..2 {
            histogram.observe(Duration::from_millis(4));
        }
        let since = histogram.read().since(&before);
        assert!(since.quantile(0.5).unwrap() <= Duration::from_micros(100));
        let slow = since.quantile(0.99).unwrap();
        assert!(
            slow > Duration::from_micros(2_500) && slow <= Duration::from_millis(5),
            "{slow:?}"
        );
        histogram.observe(Duration::from_secs(99));
        let longest = histogram.read().since(&before).quantile(1.0);
        assert_eq!(longest, Some(Duration::from_secs(10)), "more than that is not known");
    }

    #[test]
    fn bounds_are_written_as_they_are() {
        for (nanos, text) in BOUNDS {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let written = format!("{whole}{fraction:0<9}").parse();
            assert_eq!(written, Ok(nanos), "{text}");
        }
    }
}
