//! When a change is reported: once the file has been quiet. Given the time, and what is seen.

use std::time::Duration;

use super::look::Content;
use crate::domain::time::Time;

/// A change is reported when there has been no other for so long ...
pub(super) const QUIET: Duration = Duration::from_millis(250);
/// ... or, for a file that is never quiet, so long after the first.
pub(super) const LONGEST: Duration = Duration::from_secs(5);

/// What is known of one file, and the signs that it may not be true any more.
#[derive(Debug)]
pub(super) struct Settle {
    /// What was reported last; `None` when it could never be read.
    known: Option<Content>,
    unrest: Option<Unrest>,
}

/// Signs of a change that has not been reported.
#[derive(Debug)]
struct Unrest {
    began: Time,
    last: Time,
    /// What the latest look found, when it is itself a sign.
    seen: Option<Content>,
}

impl Settle {
    pub(super) const fn new(known: Option<Content>) -> Self {
        Self { known, unrest: None }
    }

    /// Takes in a sign that the file may have changed.
    pub(super) fn stir(&mut self, now: Time) {
        let unrest = self.unrest.get_or_insert(Unrest { began: now, last: now, seen: None });
        unrest.last = now;
    }

    /// When the file is to be looked at, if there was a sign of a change.
    pub(super) fn due(&self) -> Option<Time> {
        self.unrest.as_ref().map(|unrest| (unrest.last + QUIET).min(unrest.began + LONGEST))
    }

    /// Takes in what a look found that began at `began`; `None` when it could not tell. Says
    /// whether a change is to be reported now.
    pub(super) fn seen(&mut self, began: Time, found: Option<Content>) -> bool {
        let Some(due) = self.due() else {
            if found.is_some() && found != self.known {
                self.unrest = Some(Unrest { began, last: began, seen: found });
            }
            return false;
        };
        // There were signs while it looked, or shortly before: what it found may be half written.
        if began < due {
            return false;
        }
        if let Some(unrest) = &mut self.unrest
            && began < unrest.began + LONGEST
            && found.is_some()
            && unrest.seen.as_ref().is_some_and(|seen| found.as_ref() != Some(seen))
        {
            unrest.last = began;
            unrest.seen = found;
            return false;
        }
        let later = self.unrest.take().map(|unrest| unrest.last).filter(|last| *last > began);
        self.unrest = later.map(|last| Unrest { began: last, last, seen: None });
        if found.is_none() || found == self.known {
            return false;
        }
        self.known = found;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    const fn held(hash: u64) -> Content {
        Content::Held { hash, length: 0, beyond: None }
    }

    #[test]
    fn a_burst_is_one_change_after_a_quarter_of_a_second_of_quiet() {
        let mut file = Settle::new(Some(held(0)));
        assert_eq!(file.due(), None);
        file.stir(at(0));
        file.stir(at(100));
        assert_eq!(file.due(), Some(at(350)));
        // A look that was under way counts for nothing.
        assert!(!file.seen(at(99), Some(held(1))));
        assert!(file.seen(at(350), Some(held(2))));
        assert_eq!(file.due(), None);
        assert!(!file.seen(at(5_000), Some(held(2))));
    }

    #[test]
    fn signs_without_a_change_come_to_nothing() {
        let mut file = Settle::new(Some(held(0)));
        file.stir(at(0));
        assert!(!file.seen(at(250), Some(held(0))));
        assert_eq!(file.due(), None);
        file.stir(at(1_000));
        assert!(!file.seen(at(1_250), None));
        assert_eq!(file.due(), None);
    }

    #[test]
    fn what_only_a_look_has_seen_is_looked_at_until_it_stays() {
        let mut file = Settle::new(Some(held(0)));
        assert!(!file.seen(at(0), Some(held(1))));
        assert_eq!(file.due(), Some(at(250)));
        assert!(!file.seen(at(250), Some(held(2))));
        assert_eq!(file.due(), Some(at(500)));
        assert!(file.seen(at(500), Some(held(2))));
    }

    #[test]
    fn a_file_that_is_never_quiet_is_reported_every_five_seconds() {
        let mut file = Settle::new(Some(held(0)));
        let mut reported = Vec::new();
        for now in (0..12_000).step_by(100) {
            file.stir(at(now));
            if file.due().is_some_and(|due| due <= at(now)) && file.seen(at(now), Some(held(now))) {
                reported.push(now);
            }
        }
        assert_eq!(reported, [5_000, 10_100]);

        // And so is one that only looks can see.
        let mut file = Settle::new(Some(held(0)));
        let mut reported = Vec::new();
        for now in (100..12_000).step_by(250) {
            if file.seen(at(now), Some(held(now))) {
                reported.push(now);
            }
        }
        assert_eq!(reported, [5_100, 10_350]);
    }

    #[test]
    fn a_sign_that_comes_while_a_change_is_read_is_not_lost() {
        let mut file = Settle::new(Some(held(0)));
        for now in (0..=5_100).step_by(100) {
            file.stir(at(now));
        }
        assert!(file.seen(at(5_000), Some(held(1))));
        assert_eq!(file.due(), Some(at(5_350)));
    }

    #[test]
    fn a_file_that_is_gone_has_changed_and_has_again_when_it_is_back() {
        let mut file = Settle::new(Some(held(0)));
        file.stir(at(0));
        assert!(file.seen(at(250), Some(Content::Missing)));
        file.stir(at(1_000));
        assert!(file.seen(at(1_250), Some(held(0))));
    }

    #[test]
    fn what_becomes_readable_at_last_has_changed() {
        let mut file = Settle::new(None);
        assert!(!file.seen(at(0), None));
        file.stir(at(0));
        assert!(file.seen(at(250), Some(held(0))));
    }
}
