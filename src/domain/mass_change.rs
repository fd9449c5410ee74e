//! Whether a new reading of the registry may be taken for what its owner wants. One that would take
//! away most backends at once is more often a mistake: a `DELETE` without `WHERE`, a restored backup
//! that is empty. It is held until a later reading still says so.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use super::ports::Registry;
use super::time::Time;
use super::{App, BackendId};

/// Tables with fewer eligible backends than this change at once: half of a few is no mass.
const SMALLEST: usize = 10;

/// Holds mass changes.
#[derive(Debug, Default)]
pub struct Guard {
    held: Option<Held>,
}

/// A change that is held, and since when.
#[derive(Debug)]
struct Held {
    since: Time,
    leaving: BTreeSet<Member>,
}

/// A backend of an app.
type Member = (BackendId, App);

/// What is to be done with a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it up.
    Take,
    /// Leave the table as it is.
    Hold {
        /// The eligible backends that would leave, by id.
        leaving: Vec<BackendId>,
        /// How many backends are eligible.
        of: usize,
        /// Whether this is the first reading of them.
        is_news: bool,
    },
}

impl Guard {
    /// Judges a reading made at `now`, in the place of the registry in force. With each comes the time,
    /// in seconds since the epoch, at which its leases are looked at: who may serve then is eligible,
    /// whatever is observed of it.
    ///
    /// Of a table of 10 or more eligible backends, a change that takes away more than half is held
    /// until two readings at least `apart` from each other agree on more than half.
    pub fn judge(
        &mut self,
        in_force: (&Registry, i64),
        read: (&Registry, i64),
        (now, apart): (Time, Duration),
    ) -> Verdict {
        let before = eligible(in_force);
        let of = before.len();
        let is_mass = |leaving: usize| of >= SMALLEST && leaving * 2 > of;
        let after = eligible(read);
        let leaving = before.difference(&after).map(|(id, app)| ((*id).clone(), (*app).clone()));
        let leaving: BTreeSet<Member> = leaving.collect();
        if !is_mass(leaving.len()) {
            self.held = None;
            return Verdict::Take;
        }
        let agrees = |held: &&Held| is_mass(held.leaving.intersection(&leaving).count());
        let since = self.held.as_ref().filter(agrees).map(|held| held.since);
        if since.is_some_and(|since| now.since(since) >= apart) {
            self.held = None;
            return Verdict::Take;
        }
        let ids = leaving.iter().map(|(id, _)| id.clone()).collect();
        if since.is_none() {
            self.held = Some(Held { since: now, leaving });
        }
        Verdict::Hold { leaving: ids, of, is_news: since.is_none() }
    }

    /// When a reading that agrees is taken, if a change is held.
    #[must_use]
    pub fn due(&self, apart: Duration) -> Option<Time> {
        self.held.as_ref().map(|held| held.since + apart)
    }

    /// Whether a change is held.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.held.is_some()
    }
}

fn eligible((registry, unix_now): (&Registry, i64)) -> HashSet<(&BackendId, &App)> {
    let eligible = registry.backends.iter().filter(|b| b.eligible(unix_now).is_ok());
    eligible.map(|backend| (&backend.id, &backend.app)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::backend::{Number, RawRow};
    use crate::domain::{AdminState, Backend, Lease};

    const APART: Duration = Duration::from_secs(5);

    fn registry(ids: impl IntoIterator<Item = u32>) -> Registry {
        let backend = |id: u32| {
            Backend::try_from(RawRow {
                id: Some(format!("b{id}")),
                app: Some("web".into()),
                region: Some("sa".into()),
                wg_ip: Some(format!("10.0.0.{id}")),
                port: Some(Number::Whole(80)),
                ..RawRow::default()
            })
        };
        let backends = ids.into_iter().map(|id| backend(id).unwrap()).collect();
        Registry { backends, skipped: Vec::new() }
    }

    /// What becomes of readings one after the other, each at a second.
    fn verdicts(in_force: &Registry, readings: &[(u64, Registry)]) -> Vec<&'static str> {
        let mut guard = Guard::default();
        let judge = |(at, read): &(u64, Registry)| {
            let now = Time::ZERO + Duration::from_secs(*at);
            let verdict = guard.judge((in_force, 0), (read, 0), (now, APART));
            assert_eq!(guard.holds(), verdict != Verdict::Take);
            match verdict {
                Verdict::Take => "take",
                Verdict::Hold { is_news: true, .. } => "hold",
                Verdict::Hold { is_news: false, .. } => "still held",
            }
        };
        readings.iter().map(judge).collect()
    }

    #[test]
    fn half_of_ten_may_leave_at_once_and_six_may_not() {
        assert_eq!(verdicts(&registry(1..=10), &[(0, registry(1..=5))]), ["take"]);
        assert_eq!(verdicts(&registry(1..=10), &[(0, registry(1..=4))]), ["hold"]);
        assert_eq!(verdicts(&registry(1..=9), &[(0, registry([]))]), ["take"]);
    }

    #[test]
    fn it_is_taken_when_a_reading_an_interval_later_agrees() {
        let (full, none) = (registry(1..=10), registry([]));
        let readings = [(0, none.clone()), (4, none.clone()), (5, none)];
        assert_eq!(verdicts(&full, &readings), ["hold", "still held", "take"]);
    }

    #[test]
    fn a_mistake_that_is_undone_leaves_nothing() {
        let (full, none) = (registry(1..=10), registry([]));
        let readings = [(0, none.clone()), (1, full.clone()), (6, none)];
        assert_eq!(verdicts(&full, &readings), ["hold", "take", "hold"]);
    }

    #[test]
    fn readings_agree_on_those_who_leave_in_both() {
        let full = registry(1..=20);
        let growing = [(0, registry(1..=8)), (5, registry(1..=2))];
        assert_eq!(verdicts(&full, &growing), ["hold", "take"]);
        let others = [(0, registry(1..=8)), (5, registry(13..=20)), (10, registry(13..=20))];
        assert_eq!(verdicts(&full, &others), ["hold", "hold", "take"]);
    }

    #[test]
    fn leases_that_end_together_are_a_mass_change_as_well() {
        let mut leased = registry(1..=10);
        let lease = Lease { generation: 1, expires_at: Some(100), admin_state: AdminState::Ready };
        leased.backends.iter_mut().for_each(|backend| backend.lease = Some(lease.clone()));
        let mut guard = Guard::default();
        let at = |secs| (Time::ZERO + Duration::from_secs(secs), APART);
        let verdict = guard.judge((&leased, 99), (&leased, 100), at(0));
        assert!(matches!(verdict, Verdict::Hold { of: 10, is_news: true, .. }), "{verdict:?}");
        assert_eq!(guard.due(APART), Some(at(5).0));
        assert_eq!(guard.judge((&leased, 99), (&leased, 105), at(5)), Verdict::Take);
    }

    #[test]
    fn a_backend_of_another_app_has_left_its_own() {
        let mut moved = registry(1..=10);
        moved.backends.iter_mut().for_each(|backend| backend.app = "typo".parse().unwrap());
        assert_eq!(verdicts(&registry(1..=10), &[(0, moved)]), ["hold"]);
    }

    #[test]
    fn who_is_drained_leaves_and_who_was_not_eligible_does_not() {
        let mut drained = registry(1..=10);
        drained.backends.iter_mut().take(6).for_each(|backend| backend.healthy = false);
        assert_eq!(verdicts(&registry(1..=10), &[(0, drained.clone())]), ["hold"]);
        assert_eq!(verdicts(&drained, &[(0, registry(7..=10))]), ["take"]);
    }
}
