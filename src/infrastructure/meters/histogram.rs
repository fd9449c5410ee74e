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
    fn bounds_are_written_as_they_are() {
        for (nanos, text) in BOUNDS {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let written = format!("{whole}{fraction:0<9}").parse();
            assert_eq!(written, Ok(nanos), "{text}");
        }
    }
}
