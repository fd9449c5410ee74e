//! The decision against the specification, told as a small model.

use proptest::prelude::*;

use super::*;
use crate::domain::time::Time;

const REGIONS: [&str; 5] = ["sa", "us", "eu", "ap", "lab"];
const COUNTRIES: [&str; 6] = ["", "BR", "CL", "US", "DE", "JP"];

struct Observed {
    active: Vec<u32>,
    standing: Vec<Standing>,
    share: Vec<u32>,
}

impl Observed {
    fn up(active: Vec<u32>) -> Self {
        let size = active.len();
        Self { active, standing: vec![Standing::Up; size], share: vec![FULL_SHARE; size] }
    }
}

impl Load for Observed {
    fn active(&self, member: usize) -> u32 {
        self.active[member]
    }
    fn standing(&self, member: usize) -> Standing {
        self.standing[member]
    }
    fn share(&self, member: usize) -> u32 {
        self.share[member]
    }
}

fn region(text: &str) -> Region {
    text.parse().unwrap()
}

fn country(text: &str) -> Option<Country> {
    text.parse().ok()
}

fn member(at: &str, of: &str, weight: u32, soft_limit: u32, hard_limit: u32) -> Member {
    Member { region: region(at), country: country(of), weight, soft_limit, hard_limit }
}

fn layout(members: &[Member], spill: Spill) -> Layout {
    Layout::new(members, &region("sa"), &Atlas::default(), spill).0
}

fn seeded(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    move |below| rng.u64(..below)
}

/// The specification in a few lines: how near a member is, `None` where it may not go.
fn model_nearness(from: Option<Country>, at: &Member, spill: Spill) -> Option<(u8, usize)> {
    let atlas = Atlas::default();
    let own = from.and_then(|c| atlas.region_of(c));
    let far = atlas.by_distance(own.as_ref().unwrap_or(&region("sa")), &REGIONS.map(region));
    let tier = match () {
        () if at.country.is_some() && at.country == from => 0,
        () if own.as_ref() == Some(&at.region) => 1,
        () if at.region == region("sa") => 2,
        () => 3,
    };
    let allowed = match spill {
        Spill::Any => true,
        Spill::Region => tier < 2 || (own.is_none() && tier == 2),
        Spill::Country => tier == 0,
    };
    let rank = far.iter().position(|r| *r == at.region).unwrap();
    allowed.then_some((tier, if tier == 3 { rank } else { 0 }))
}

fn members() -> impl Strategy<Value = Vec<(Member, u32, Standing)>> {
    let standing = prop_oneof![Just(Standing::Up), Just(Standing::Last), Just(Standing::Out)];
    let one =
        (0..REGIONS.len(), 0..COUNTRIES.len(), 1..9_u32, 0..4_u32, 0..6_u32, 0..6_u32, standing)
            .prop_map(|(r, c, weight, soft, hard, active, standing)| {
                (member(REGIONS[r], COUNTRIES[c], weight, soft, hard), active, standing)
            });
    proptest::collection::vec(one, 0..40)
}

proptest! {
    #[test]
    fn the_choice_is_one_that_the_model_ranks_first(
        rows in members(),
        from in 0..COUNTRIES.len(),
        spill in prop_oneof![Just(Spill::Any), Just(Spill::Region), Just(Spill::Country)],
        tried in proptest::collection::vec(0..40_usize, 0..3),
        seed: u64,
    ) {
        let from = country(COUNTRIES[from]);
        let given: Vec<Member> = rows.iter().map(|row| row.0.clone()).collect();
        let (layout, order) = Layout::new(&given, &region("sa"), &Atlas::default(), spill);
        let mut load = Observed::up(order.iter().map(|&i| rows[i].1).collect());
        load.standing = order.iter().map(|&i| rows[i].2).collect();
        let rank = |m: usize| {
            let row = &layout.members()[m];
            let near = model_nearness(from, row, spill)?;
            let out = load.standing[m] == Standing::Out;
            if out || tried.contains(&m) || !row.below_hard(load.active[m]) {
                return None;
            }
            let last = load.standing[m] == Standing::Last;
            Some((last, last || !row.below_soft(load.active[m]), near))
        };
        let best = (0..rows.len()).filter_map(rank).min();
        let avoid = Avoid { members: &tried, regions: &[] };
        let origin = layout.origin(from, false);
        // Twice: the first may clear hints, and they must not mislead the second.
        for round in 0..2 {
            let choice = layout.pick(origin, &load, avoid, &mut seeded(seed ^ round));
            prop_assert_eq!(choice.map(|c| rank(c.member).unwrap()), best);
            if let Some(choice) = choice {
                prop_assert_eq!(choice.tier.number(), rank(choice.member).unwrap().2.0);
            }
        }
        for (m, row) in layout.members().iter().enumerate() {
            let near = layout.nearness(origin, &row.region, row.country).map(|(t, _)| t.number());
            prop_assert_eq!(near, model_nearness(from, row, spill).map(|n| n.0), "{}", m);
            prop_assert_eq!(near, layout.tier_of(origin, m).map(Tier::number));
        }
    }

    #[test]
    fn a_place_given_back_is_found_again(soft in 1..5_u32, size in 1..200_usize, seed: u64) {
        let layout = layout(&vec![member("sa", "BR", 1, soft, soft); size], Spill::Any);
        let origin = layout.origin(country("BR"), false);
        let mut load = Observed::up(vec![soft; size]);
        prop_assert_eq!(layout.pick(origin, &load, Avoid::default(), &mut seeded(seed)), None);
        let lucky = usize::try_from(seed % size as u64).unwrap();
        load.active[lucky] -= 1;
        layout.vacancy().left(lucky);
        let choice = layout.pick(origin, &load, Avoid::default(), &mut seeded(seed));
        prop_assert_eq!(choice.map(|c| c.member), Some(lucky));
    }
}

fn shares(layout: &Layout, load: &Observed, rounds: usize) -> Vec<usize> {
    let mut draw = seeded(7);
    let mut counts = vec![0; layout.members().len()];
    for _ in 0..rounds {
        let origin = layout.origin(country("BR"), false);
        let choice = layout.pick(origin, load, Avoid::default(), &mut draw).unwrap();
        counts[choice.member] += 1;
    }
    counts
}

#[test]
fn idle_backends_share_in_proportion_to_weight() {
    let layout = layout(&[member("sa", "BR", 1, 0, 0), member("sa", "BR", 10, 0, 0)], Spill::Any);
    let load = Observed::up(vec![0; 2]);
    let counts = shares(&layout, &load, 11_000);
    assert!((900..1_100).contains(&counts[0]), "{counts:?}");
}

#[test]
fn long_connections_even_out_by_load_over_weight() {
    let given =
        vec![member("sa", "BR", 1, 0, 0), member("sa", "BR", 3, 0, 0), member("sa", "BR", 2, 0, 0)];
    let layout = layout(&given, Spill::Any);
    let mut load = Observed::up(vec![0; 3]);
    let mut draw = seeded(3);
    for _ in 0..600 {
        let origin = layout.origin(country("BR"), false);
        let choice = layout.pick(origin, &load, Avoid::default(), &mut draw).unwrap();
        load.active[choice.member] += 1;
    }
    for (active, ideal) in load.active.iter().zip([100_i64, 300, 200]) {
        assert!((i64::from(*active) - ideal).abs() < 15, "{:?}", load.active);
    }
}

#[test]
fn the_last_one_below_soft_among_ten_thousand_is_found() {
    let layout = layout(&vec![member("sa", "BR", 1, 5, 9); 10_000], Spill::Any);
    let mut load = Observed::up(vec![5; 10_000]);
    load.active[7_777] = 4;
    let counts = shares(&layout, &load, 50);
    assert_eq!(counts[7_777], 50);
}

#[test]
fn one_that_warms_up_gets_its_share_of_its_share() {
    let given = vec![member("sa", "BR", 1, 0, 0); 2];
    let layout = layout(&given, Spill::Any);
    let mut load = Observed::up(vec![0; 2]);
    for (share, expected) in [(100, 500), (500, 2_500), (FULL_SHARE, 5_000)] {
        load.share[0] = share;
        let counts = shares(&layout, &load, 10_000);
        assert!(counts[0].abs_diff(expected) < 200, "{share}: {counts:?}");
    }
}

#[test]
fn what_a_tier_that_warms_up_does_not_get_goes_to_the_next_and_comes_back_when_there_is_none() {
    let near = member("sa", "BR", 1, 0, 0);
    let far = member("us", "US", 1, 0, 0);
    let two_tiers = layout(&[near.clone(), near.clone(), far], Spill::Any);
    let mut load = Observed::up(vec![0; 3]);
    (load.share[0], load.share[1]) = (100, 100);
    let counts = shares(&two_tiers, &load, 10_000);
    assert!(counts[2].abs_diff(9_000) < 200, "{counts:?}");

    let alone = layout(&[near.clone(), near], Spill::Any);
    let mut load = Observed::up(vec![0; 2]);
    (load.share[0], load.share[1]) = (100, 100);
    let counts = shares(&alone, &load, 10_000);
    assert!(counts[0].abs_diff(5_000) < 300, "{counts:?}");
}

#[test]
fn one_that_rises_is_found_at_once_when_told_of_and_else_when_hints_are_refreshed() {
    let layout = layout(&vec![member("sa", "BR", 1, 0, 0); 5_000], Spill::Any);
    let mut load = Observed::up(vec![0; 5_000]);
    load.standing.fill(Standing::Out);
    load.standing[0] = Standing::Last;
    assert_eq!(shares(&layout, &load, 20)[0], 20);
    for risen in [17, 4_711] {
        load.standing.fill(Standing::Out);
        load.standing[risen] = Standing::Up;
        if risen == 17 {
            layout.vacancy().risen(risen);
        } else {
            layout.vacancy().refresh(Time::ZERO + std::time::Duration::from_secs(1));
        }
        assert_eq!(shares(&layout, &load, 20)[risen], 20);
    }
}

#[test]
fn a_client_at_the_pop_and_an_unknown_one_start_at_home() {
    let layout = layout(&[member("us", "US", 1, 0, 0), member("sa", "BR", 1, 0, 0)], Spill::Any);
    let load = Observed::up(vec![0; 2]);
    let tier_of =
        |origin| layout.pick(origin, &load, Avoid::default(), &mut seeded(1)).unwrap().tier;
    assert_eq!(tier_of(layout.origin(None, true)), Tier::Region);
    assert_eq!(tier_of(layout.origin(None, false)), Tier::Pop);
    assert_eq!(tier_of(layout.origin(country("AR"), false)), Tier::Region);
    assert_eq!(tier_of(layout.origin(country("CA"), false)), Tier::Region);
    assert_eq!(tier_of(layout.origin(country("US"), false)), Tier::Country);
    assert_eq!(tier_of(layout.origin(country("DE"), false)), Tier::Pop);
}

#[test]
fn a_region_to_avoid_is_avoided() {
    let layout = layout(&[member("sa", "BR", 9, 0, 0), member("us", "US", 1, 0, 0)], Spill::Any);
    let load = Observed::up(vec![0; 2]);
    let tried = [region("sa")];
    let avoid = Avoid { members: &[0], regions: &tried };
    let origin = layout.origin(country("BR"), false);
    let choice = layout.pick(origin, &load, avoid, &mut seeded(1)).unwrap();
    assert_eq!((choice.member, choice.tier), (1, Tier::Far));
}
