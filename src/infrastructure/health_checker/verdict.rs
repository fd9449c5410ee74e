//! From single results to a verdict: so many in a row turn it, and the first one makes it.

/// What is known of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// No probe has counted yet; as good as healthy.
    #[default]
    Unknown,
    /// The first result was good, or enough good ones followed each other since.
    Healthy,
    /// The first result was bad, or enough bad ones followed each other since.
    Unhealthy,
}

impl Health {
    /// Whether the backend may be used: only a verdict against it says no.
    #[must_use]
    pub const fn is_healthy(self) -> bool {
        !matches!(self, Self::Unhealthy)
    }

    /// Whether any result has counted.
    #[must_use]
    pub const fn is_decided(self) -> bool {
        !matches!(self, Self::Unknown)
    }
}

/// How many results in a row turn a verdict. Zero counts as one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    pub healthy: u32,
    pub unhealthy: u32,
}

/// The verdict so far, and how long the latest results have been alike.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Verdict {
    health: Health,
    passed: u32,
    failed: u32,
}

impl Verdict {
    pub(super) fn health(self) -> Health {
        self.health
    }

    /// Good results since the last bad one.
    pub(super) fn passed_in_a_row(self) -> u32 {
        self.passed
    }

    /// Bad results since the last good one.
    pub(super) fn failed_in_a_row(self) -> u32 {
        self.failed
    }

    /// Takes in one result. When it turns the verdict, returns what the verdict was.
    pub(super) fn record(&mut self, passed: bool, thresholds: Thresholds) -> Option<Health> {
        let (streak, ended, needed, leads_to) = if passed {
            (&mut self.passed, &mut self.failed, thresholds.healthy, Health::Healthy)
        } else {
            (&mut self.failed, &mut self.passed, thresholds.unhealthy, Health::Unhealthy)
        };
        *streak = streak.saturating_add(1);
        *ended = 0;
        let from = self.health;
        let turns = from != leads_to && (!from.is_decided() || *streak >= needed);
        turns.then(|| {
            self.health = leads_to;
            from
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition read backwards: the latest place at which enough alike results end (or the
    /// first result) says what holds.
    fn by_definition(results: &[bool], thresholds: Thresholds) -> Health {
        let ends_a_run = |at: usize| {
            let needed = if results[at] { thresholds.healthy } else { thresholds.unhealthy };
            let needed = needed.max(1) as usize;
            at + 1 >= needed && results[at + 1 - needed..=at].iter().all(|r| *r == results[at])
        };
        match (0..results.len()).rev().find(|at| *at == 0 || ends_a_run(*at)) {
            None => Health::Unknown,
            Some(at) if results[at] => Health::Healthy,
            Some(_) => Health::Unhealthy,
        }
    }

    proptest! {
        #[test]
        fn the_verdict_is_what_the_definition_says_after_every_result(
            results in prop::collection::vec(any::<bool>(), 0..60),
            healthy in 0_u32..5,
            unhealthy in 0_u32..5,
        ) {
            let thresholds = Thresholds { healthy, unhealthy };
            let mut verdict = Verdict::default();
            for seen in 1..=results.len() {
                let before = verdict.health();
                let turned = verdict.record(results[seen - 1], thresholds);
                let expected = by_definition(&results[..seen], thresholds);
                prop_assert_eq!(verdict.health(), expected);
                prop_assert_eq!(turned, (before != expected).then_some(before));
            }
        }
    }

    #[test]
    fn before_the_first_result_a_backend_counts_as_healthy_but_undecided() {
        let verdict = Verdict::default();
        assert!(verdict.health().is_healthy());
        assert!(!verdict.health().is_decided());
    }
}
