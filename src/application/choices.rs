//! Clients that were not carried to the tier nearest to them, and why: the last of them, for whoever
//! asks afterwards.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::locate::Location;
use super::route::Routed;
use super::upstreams::{AppTable, Observed};
use crate::clock;
use crate::domain::balance::{FULL_SHARE, Load, Origin, Standing, Tier};
use crate::domain::time::Time;
use crate::domain::{App, BackendId, Country};

/// How many are remembered.
pub const KEPT: usize = 4_096;
/// How many nearer backends are named in one.
const NAMED: usize = 4;
/// How many may wait while the others are being read.
const WAITING: usize = 256;

/// Longest pause between two that count as one.
const SAME: Duration = Duration::from_secs(60);

/// A client that was carried farther than to its nearest tier.
#[derive(Clone, Debug)]
pub struct Choice {
    /// When that was, for the first and for the last time.
    pub times: (Duration, Duration),
    /// How often.
    pub count: u64,
    /// The client.
    pub client: IpAddr,
    /// Its country, if it is known.
    pub country: Option<Country>,
    /// What it asked for.
    pub app: App,
    /// Where it was carried.
    pub backend: BackendId,
    /// How near that is.
    pub tier: Tier,
    /// How near the app's nearest backends are.
    pub best: Tier,
    /// Why not to some of those that are nearer.
    pub reasons: Vec<(BackendId, Why)>,
    /// How many more of them there are.
    pub more: usize,
}

/// Why a nearer backend was not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It takes no connections, in one word.
    Out(&'static str),
    /// It is at its soft limit.
    Soft(u32, u32),
    /// It is at its hard limit.
    Hard(u32, u32),
    /// It gets only a part of its share yet, in thousandths.
    WarmsUp(u32),
    /// It had room: the client was bound to where it was carried.
    Bound,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Out(word) => f.write_str(word),
            Self::Soft(active, limit) => write!(f, "soft {active}/{limit}"),
            Self::Hard(active, limit) => write!(f, "hard {active}/{limit}"),
            Self::WarmsUp(share) => write!(f, "slow_start {}%", share / 10),
            Self::Bound => f.write_str("bound elsewhere"),
        }
    }
}

/// What one worker remembers. Only it writes.
#[derive(Debug, Default)]
pub struct Choices(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<Choice>,
    /// The number of the first that is kept.
    first: u64,
    /// The last of each client and app, by number.
    last: HashMap<(IpAddr, App), u64>,
}

impl Choices {
    /// What is remembered, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Choice> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.kept.iter().cloned().collect()
    }
}

/// What several workers remember, the latest first: what says the same within a minute is one.
#[must_use]
pub fn merged(all: impl Iterator<Item = Vec<Choice>>) -> Vec<Choice> {
    let mut merged: Vec<Choice> = Vec::new();
    let mut last: HashMap<(IpAddr, App, BackendId), usize> = HashMap::new();
    let mut each: Vec<Choice> = all.flatten().collect();
    each.sort_by_key(|choice| choice.times.0);
    for choice in each {
        let key = (choice.client, choice.app.clone(), choice.backend.clone());
        let known = last.get(&key).map(|place| &mut merged[*place]);
        let is_same = |k: &&mut Choice| k.is_like(&choice) && choice.times.0 <= k.times.1 + SAME;
        if let Some(known) = known.filter(is_same) {
            known.times.1 = known.times.1.max(choice.times.1);
            known.count += choice.count;
        } else {
            last.insert(key, merged.len());
            merged.push(choice);
        }
    }
    merged.sort_by_key(|choice| std::cmp::Reverse(choice.times.1));
    merged.truncate(KEPT);
    merged
}

impl Ring {
    fn keep(&mut self, choice: Choice) {
        let key = (choice.client, choice.app.clone());
        let last = self.last.get(&key).and_then(|number| number.checked_sub(self.first));
        let last = last.and_then(|place| self.kept.get_mut(usize::try_from(place).ok()?));
        if let Some(last) = last.filter(|last| last.is_like(&choice)) {
            last.times.1 = choice.times.1;
            last.count += 1;
            return;
        }
        if self.kept.len() == KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            let key = (oldest.client, oldest.app);
            if self.last.get(&key) == Some(&self.first) {
                self.last.remove(&key);
            }
            self.first += 1;
        }
        self.last.insert(key, self.first + self.kept.len() as u64);
        self.kept.push_back(choice);
    }
}

impl Choice {
    /// Whether the other says nothing new.
    fn is_like(&self, other: &Self) -> bool {
        let same_kind = |(a, b): (&(BackendId, Why), &(BackendId, Why))| {
            a.0 == b.0 && std::mem::discriminant(&a.1) == std::mem::discriminant(&b.1)
        };
        self.backend == other.backend
            && self.tier == other.tier
            && self.reasons.len() == other.reasons.len()
            && self.reasons.iter().zip(&other.reasons).all(same_kind)
    }
}

/// A worker's hand in what it remembers: it never waits for whoever reads.
#[derive(Debug, Default)]
pub struct Noter {
    choices: Arc<Choices>,
    waiting: Vec<Choice>,
}

impl Noter {
    /// Notes in `choices`.
    #[must_use]
    pub const fn new(choices: Arc<Choices>) -> Self {
        Self { choices, waiting: Vec::new() }
    }

    /// Notes that a client was carried to a backend, unless that is in the tier nearest to it.
    pub fn note(
        &mut self,
        table: &AppTable,
        client: IpAddr,
        location: Location,
        routed: &Routed,
        now: Time,
    ) {
        let tier = routed.tier;
        let origin = table.layout.origin(location.country, location.at_pop);
        let Some((best, _)) = table.nearer(origin, tier).next() else { return };
        let (reasons, more) = reasons(table, origin, tier, now);
        let wall = clock::wall();
        let choice = Choice {
            times: (wall, wall),
            count: 1,
            client: client.to_canonical(),
            country: location.country,
            app: table.name.clone(),
            backend: routed.slot.upstream().id.clone(),
            tier,
            best,
            reasons,
            more,
        };
        match self.choices.0.try_lock() {
            Ok(mut ring) => {
                self.waiting.drain(..).for_each(|earlier| ring.keep(earlier));
                ring.keep(choice);
            }
            Err(_) if self.waiting.len() < WAITING => self.waiting.push(choice),
            Err(_) => {}
        }
    }
}

/// Why some of the backends nearer than `tier` were not chosen, and how many more there are.
fn reasons(
    table: &AppTable,
    origin: Origin,
    tier: Tier,
    now: Time,
) -> (Vec<(BackendId, Why)>, usize) {
    let load = table.load(now);
    let mut reasons: Vec<(BackendId, Why)> = Vec::with_capacity(NAMED);
    let (mut all, mut own) = (0, 0);
    for (nearer, rows) in table.nearer(origin, tier) {
        for row in rows.iter().take(NAMED - reasons.len()).map(|row| &table.rows[*row]) {
            let why = match row.place {
                Err(reason) => Why::Out(reason.as_str()),
                Ok(place) => why_not(table, &load, place),
            };
            // What lies in the client's own country lies in a region as well.
            if !reasons.iter().any(|(known, _)| *known == row.backend.id) {
                reasons.push((row.backend.id.clone(), why));
            }
        }
        match nearer {
            Tier::Country => own = rows.len(),
            _ => all += rows.len(),
        }
    }
    let more = all.max(own).saturating_sub(reasons.len());
    (reasons, more)
}

fn why_not(table: &AppTable, load: &Observed<'_>, place: usize) -> Why {
    let member = &table.layout.members()[place];
    let (active, share) = (load.active(place), load.share(place));
    match load.standing(place) {
        Standing::Out => Why::Out(load.why_out(place)),
        Standing::Last => Why::Out("dial_failed"),
        Standing::Up if !member.below_hard(active) => Why::Hard(active, member.hard_limit),
        Standing::Up if !member.below_soft(active) => Why::Soft(active, member.soft_limit),
        Standing::Up if share < FULL_SHARE => Why::WarmsUp(share),
        Standing::Up => Why::Bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(client: u32, backend: &str, why: Why) -> Choice {
        Choice {
            times: (Duration::ZERO, Duration::ZERO),
            count: 1,
            client: IpAddr::from(client.to_be_bytes()),
            country: None,
            app: "web".parse().unwrap(),
            backend: backend.parse().unwrap(),
            tier: Tier::Far,
            best: Tier::Region,
            reasons: vec![("near".parse().unwrap(), why)],
            more: 0,
        }
    }

    #[test]
    fn one_client_that_comes_again_and_again_pushes_nobody_out() {
        let mut ring = Ring::default();
        for other in 0..4_000 {
            ring.keep(choice(other, "far", Why::Out("probe_down")));
        }
        for second in 0..10_000 {
            let again = choice(7, "far", Why::Out("probe_down"));
            ring.keep(Choice { times: (Duration::ZERO, Duration::from_secs(second)), ..again });
        }
        assert_eq!(ring.kept.len(), 4_000);
        let seventh = &ring.kept[7];
        assert_eq!((seventh.count, seventh.times.1), (10_001, Duration::from_secs(9_999)));
        ring.keep(choice(7, "far", Why::Soft(100, 100)));
        ring.keep(choice(7, "farther", Why::Soft(100, 100)));
        assert_eq!(ring.kept.len(), 4_002, "another reason is another choice");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut ring = Ring::default();
        for client in 0..10_000 {
            ring.keep(choice(client, "far", Why::Bound));
        }
        assert_eq!((ring.kept.len(), ring.last.len()), (KEPT, KEPT));
        assert_eq!(ring.kept[0].client, IpAddr::from(5_904_u32.to_be_bytes()));
        ring.keep(choice(1, "far", Why::Bound));
        assert_eq!(ring.kept.back().unwrap().client, IpAddr::from(1_u32.to_be_bytes()));
    }
}
