//! Which backend: the client's own first, else the best by rank. Each answer is a place reserved.

use std::time::Duration;

use super::account::Reason;
use super::upstreams::{AppTable, Keeper, Kept, Observed, Slot};
use crate::domain::affinity::{Affinity, Key};
use crate::domain::balance::{Avoid, Choice, Load, Origin, Standing, Tier};
use crate::domain::time::Time;
use crate::infrastructure::circuit_breaker::Permit;

/// How old a binding outside the best tier is before its client comes home.
const HOMECOMING: Duration = Duration::from_secs(30);
/// How often a place is asked for anew when others were faster. Each time, one of them got one.
const RACES: usize = 1_000;

/// A backend chosen, with a place reserved at it.
#[derive(Debug)]
pub struct Routed {
    /// The place.
    pub slot: Slot,
    /// That its breaker lets the connection through; `None` without breakers.
    pub permit: Option<Permit>,
    /// A warm connection to the backend, if there was one.
    pub kept: Option<Kept>,
    /// Where the backend stands in the layout.
    pub member: usize,
    /// How near it is.
    pub tier: Tier,
    /// Whether the client is bound to it once it has answered. It is not when its own backend is
    /// only full for the moment.
    pub binds: bool,
}

/// A client, as routing sees it.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// What affinity knows it by.
    pub key: Key,
    /// Where it is.
    pub origin: Origin,
    /// Whose warm connections it may have.
    pub keeper: Option<Keeper<'a>>,
}

/// The first backend to try.
///
/// # Errors
/// [`Reason::NoBackend`] when none takes such a client, [`Reason::AtHardLimit`] when all are full.
pub fn first(
    table: &AppTable,
    client: Client<'_>,
    affinity: &Affinity,
    now: Time,
    draw: &mut impl FnMut(u64) -> u64,
) -> Result<Routed, Reason> {
    let mut binds = !table.rules.affinity_ttl.is_zero();
    if binds {
        match bound(table, client, affinity, now, draw) {
            Bound::To(routed) => return Ok(routed),
            Bound::Full => binds = false,
            Bound::Nowhere => {}
        }
    }
    match next(table, client.origin, Avoid::default(), client.keeper, now, draw) {
        Some(routed) => Ok(Routed { binds, ..routed }),
        None if table.layout.serves(client.origin, &table.load(now)) => Err(Reason::AtHardLimit),
        None => Err(Reason::NoBackend),
    }
}

/// The best backend by rank, without those to avoid.
pub fn next(
    table: &AppTable,
    origin: Origin,
    avoid: Avoid<'_>,
    keeper: Option<Keeper<'_>>,
    now: Time,
    draw: &mut impl FnMut(u64) -> u64,
) -> Option<Routed> {
    table.layout.vacancy().refresh(now);
    let load = table.load(now);
    let mut reserved = |load: Observed<'_>| {
        for _ in 0..RACES {
            let choice = table.layout.pick(origin, &load, avoid, draw)?;
            if let Reserved::Yes(routed) = reserve(table, choice, &load, keeper) {
                return Some(routed);
            }
        }
        None
    };
    let next = reserved(load);
    if next.is_none() && table.breakers && load.all_out() {
        return reserved(load.early());
    }
    next
}

enum Bound {
    To(Routed),
    Full,
    Nowhere,
}

/// The backend that the client had last, unless it is gone, failing, forbidden or far from home.
fn bound(
    table: &AppTable,
    client: Client<'_>,
    affinity: &Affinity,
    now: Time,
    draw: &mut impl FnMut(u64) -> u64,
) -> Bound {
    let Some(choice) = kept(table, (client.key, client.origin), affinity, now, draw) else {
        return Bound::Nowhere;
    };
    match reserve(table, choice, &table.load(now), client.keeper) {
        Reserved::Yes(routed) => Bound::To(routed),
        Reserved::Full => Bound::Full,
        Reserved::Broken => Bound::Nowhere,
    }
}

/// Where a client is carried because it was before, if there is room.
pub(super) fn kept(
    table: &AppTable,
    (key, origin): (Key, Origin),
    affinity: &Affinity,
    now: Time,
    draw: &mut impl FnMut(u64) -> u64,
) -> Option<Choice> {
    let binding = affinity.lookup(key, now)?;
    let member = table.place(binding.backend)?;
    let tier = table.layout.tier_of(origin, member)?;
    let load = table.load(now);
    if load.standing(member) != Standing::Up {
        return None;
    }
    let homesick = now.since(binding.since) > HOMECOMING;
    if homesick && table.layout.nearer_has_room(origin, tier, &load, draw) {
        return None;
    }
    Some(Choice { member, tier })
}

/// What came of asking a backend for a place.
enum Reserved {
    Yes(Routed),
    /// It is at its hard limit.
    Full,
    /// Its breaker lets nobody through.
    Broken,
}

/// Asks for a place, then for the breaker's permit, and last for a warm connection.
fn reserve(
    table: &AppTable,
    choice: Choice,
    load: &Observed<'_>,
    keeper: Option<Keeper<'_>>,
) -> Reserved {
    let Choice { member, tier } = choice;
    let upstream = table.upstream(member);
    let hard_limit = table.layout.members()[member].hard_limit;
    let Some((slot, kept)) = upstream.try_reserve(hard_limit, keeper, load.now()) else {
        return Reserved::Full;
    };
    let permit = if table.breakers {
        let Some(permit) = load.permit(upstream) else { return Reserved::Broken };
        Some(permit)
    } else {
        None
    };
    let kept = kept.or_else(|| upstream.take_warm(keeper?, load.now()));
    let binds = !table.rules.affinity_ttl.is_zero();
    Reserved::Yes(Routed { slot, permit, kept, member, tier, binds })
}
