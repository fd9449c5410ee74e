//! The side table of leases, which every store reads alike, and decides alike what to write to.

use std::collections::{BTreeMap, HashMap};

use crate::domain::backend::{Number, RawRow, SkippedRow, parse_rows};
use crate::domain::ports::{Registry, Renewal};
use crate::domain::{AdminState, Lease};

/// Leases by backend id; what is wrong with those that do not parse.
pub(super) type Leases = HashMap<String, Result<Lease, String>>;

/// Judges every row, and gives each backend its lease. A backend whose lease does not parse is left
/// out and named, like one whose row does not.
pub(super) fn registry(rows: Vec<RawRow>, mut leases: Leases) -> Registry {
    let (mut backends, mut skipped) = parse_rows(rows);
    backends.retain_mut(|backend| match leases.remove(backend.id.as_str()) {
        None => true,
        Some(Ok(lease)) => {
            backend.lease = Some(lease);
            true
        }
        Some(Err(reason)) => {
            skipped.push(SkippedRow { row: backend.id.to_string(), reason });
            false
        }
    });
    Registry { backends, skipped }
}

/// A row of the side table.
pub(super) fn lease(
    generation: Option<Number>,
    expires_at: Option<Number>,
    admin_state: Option<&str>,
) -> Result<Lease, String> {
    let admin_state = admin_state.map_or(Ok(AdminState::Ready), str::parse)?;
    let generation = whole(generation, "generation")?.unwrap_or(0);
    Ok(Lease { generation, expires_at: whole(expires_at, "lease_expires_at")?, admin_state })
}

/// The lease of a backend that registers, after what the side table holds of its id (columns
/// `generation` and `admin_state`; several rows only in a table made by hand). What an operator asked
/// counts while the backend is there: then `healthy` says what its row does, and is a drain when it is not.
pub(super) fn registered(
    held: Vec<(Option<Number>, Option<String>)>,
    healthy: Option<bool>,
    expires_at: i64,
) -> Result<Lease, String> {
    let mut lease =
        Lease { generation: 0, expires_at: Some(expires_at), admin_state: AdminState::Ready };
    for (generation, admin_state) in held {
        lease.generation = lease.generation.max(whole(generation, "generation")?.unwrap_or(0));
        // A word that is none of ours asks for nothing, and goes.
        let asked = admin_state.and_then(|state| state.parse().ok());
        if let Some(asked) = asked.filter(|asked| healthy.is_some() && *asked != AdminState::Ready)
        {
            lease.admin_state = asked;
        }
    }
    if healthy == Some(false) && lease.admin_state == AdminState::Ready {
        lease.admin_state = AdminState::Drain;
    }
    let next = lease.generation.checked_add(1);
    lease.generation = next.ok_or("the generation of its lease is as high as can be")?;
    Ok(lease)
}

/// Renewals in the order in which every process writes them, so that no two wait for each other; of
/// several of one lease the last to end.
pub(super) fn in_order(renewals: Vec<Renewal>) -> Vec<Renewal> {
    let mut latest = BTreeMap::new();
    for Renewal { id, generation, expires_at } in renewals {
        let end = latest.entry((id, generation)).or_insert(expires_at);
        *end = expires_at.max(*end);
    }
    let renewal = |((id, generation), expires_at)| Renewal { id, generation, expires_at };
    latest.into_iter().map(renewal).collect()
}

fn whole(given: Option<Number>, column: &str) -> Result<Option<i64>, String> {
    match given {
        None => Ok(None),
        Some(Number::Whole(whole)) => Ok(Some(whole)),
        Some(Number::Other(text)) => Err(format!("{column} = {text:?}: must be a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_counts_on_and_keeps_what_was_asked_of_one_that_is_there() {
        let held = |generation, state: &str| (Some(Number::Whole(generation)), Some(state.into()));
        let of = |held, is_there: bool| {
            let lease = registered(held, is_there.then_some(true), 9).unwrap();
            assert_eq!(lease.expires_at, Some(9));
            (lease.generation, lease.admin_state)
        };
        assert_eq!(of(vec![], true), (1, AdminState::Ready));
        assert_eq!(of(vec![held(4, "drain")], true), (5, AdminState::Drain));
        assert_eq!(of(vec![held(4, "maint")], false), (5, AdminState::Ready));
        assert_eq!(of(vec![held(4, "asleep")], true), (5, AdminState::Ready));
        assert_eq!(of(vec![(None, None)], true), (1, AdminState::Ready));
        assert_eq!(of(vec![held(7, "drain"), held(2, "ready")], true), (8, AdminState::Drain));
        let unhealthy = |held| registered(held, Some(false), 9).unwrap().admin_state;
        assert_eq!(unhealthy(vec![]), AdminState::Drain);
        assert_eq!(unhealthy(vec![held(1, "maint")]), AdminState::Maint);
    }

    #[test]
    fn a_generation_that_cannot_be_counted_on_is_an_error() {
        let of =
            |generation| registered(vec![(Some(generation), None)], Some(true), 9).unwrap_err();
        assert!(of(Number::Other("many".into())).contains("generation = \"many\""));
        assert!(of(Number::Whole(i64::MAX)).contains("as high as can be"));
    }

    #[test]
    fn of_several_renewals_of_one_lease_the_last_to_end_counts() {
        let renewal = |id: &str, generation, expires_at| Renewal {
            id: id.parse().unwrap(),
            generation,
            expires_at,
        };
        let given = [("b", 1, 5), ("a", 2, 1), ("b", 1, 9), ("a", 1, 3), ("b", 1, 7)];
        let given = given.map(|(id, generation, end)| renewal(id, generation, end));
        let expected = [renewal("a", 1, 3), renewal("a", 2, 1), renewal("b", 1, 9)];
        assert_eq!(in_order(given.into()), expected);
    }
}
