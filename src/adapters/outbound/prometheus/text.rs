//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write};

use crate::infrastructure::meters::{BOUNDS, Reading};

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Spans of time by size.
    Histogram,
}

/// A label's name and value.
pub type Label<'a> = (&'a str, &'a str);

/// A page being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    /// Begins a family; the samples that follow are its own.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self.name = name;
        self
    }

    /// A sample of the family begun last.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Display) -> &mut Self {
        self.line("", labels, None, value);
        self
    }

    /// A histogram of the family begun last.
    pub fn histogram(&mut self, labels: &[Label<'_>], reading: &Reading) -> &mut Self {
        let mut below = 0;
        for ((_, bound), count) in BOUNDS.iter().zip(reading.buckets) {
            below += count;
            self.line("_bucket", labels, Some(bound), below);
        }
        self.line("_bucket", labels, Some("+Inf"), reading.count());
        self.line("_sum", labels, None, Seconds::from_nanos(reading.nanos));
        self.line("_count", labels, None, reading.count());
        self
    }

    /// The page.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], le: Option<&str>, value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut mark = '{';
        for (name, value) in labels.iter().copied().chain(le.map(|bound| ("le", bound))) {
            self.text.push(mark);
            self.text.push_str(name);
            self.text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
            mark = ',';
        }
        if mark == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// A span of time in seconds, written to the nanosecond.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(u64);

impl Seconds {
    /// From nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
}

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_are_escaped_and_buckets_are_cumulative() {
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "Help.").sample(&[("x", "q\"b\\n\n")], 7);
        let mut reading = Reading { nanos: 1_500_000_001, ..Reading::default() };
        (reading.buckets[0], reading.buckets[16]) = (2, 1);
        page.family("b_seconds", Kind::Histogram, "Help.").histogram(&[], &reading);
        let text = page.finish();
        assert!(text.contains("a_total{x=\"q\\\"b\\\\n\\n\"} 7\n"), "{text}");
        for line in [
            "b_seconds_bucket{le=\"0.0001\"} 2",
            "b_seconds_bucket{le=\"10\"} 2",
            "b_seconds_bucket{le=\"+Inf\"} 3",
            "b_seconds_sum 1.500000001",
            "b_seconds_count 3",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}: {text}");
        }
    }
}
