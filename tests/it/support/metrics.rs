//! A page of metrics, taken apart.

use std::collections::BTreeMap;

/// All samples of one page of the Prometheus text format.
#[derive(Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: String,
}

impl Metrics {
    pub fn parse(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self { samples: lines.map(Sample::parse).collect() }
    }

    /// Whether there is a sample with these labels, and any others.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.with(name, labels).next().is_some()
    }

    /// The whole number of a sample with these labels; of several that differ in others, the sum.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        assert!(self.has(name, labels), "no {name} {labels:?} in {self:#?}");
        self.sum(name, labels)
    }

    /// The seconds of the one sample of this name.
    pub fn seconds(&self, name: &str) -> f64 {
        let sample =
            self.with(name, &[]).next().unwrap_or_else(|| panic!("no {name} in {self:#?}"));
        sample.value.parse().unwrap_or_else(|_| panic!("not a number: {sample:?}"))
    }

    /// The same, and nothing counts as 0.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.with(name, labels).map(Sample::number).sum()
    }

    fn with(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            let same = |(key, value): &(&str, &str)| {
                sample.labels.get(*key).is_some_and(|given| given == value)
            };
            sample.name == name && labels.iter().all(same)
        })
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line:?}"));
        // No name in these tests holds a comma or a quote.
        let pairs = labels.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or_else(|| panic!("{pair:?}: {line:?}"));
            (key.to_owned(), value.trim_matches('"').to_owned())
        });
        Self { name: name.into(), labels: pairs.collect(), value: value.into() }
    }

    fn number(&self) -> u64 {
        self.value.parse().unwrap_or_else(|_| panic!("not a whole number: {self:?}"))
    }
}
