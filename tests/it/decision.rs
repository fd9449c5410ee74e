//! What the routing decision costs.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use allocation_counter::measure;
use edgeproxy::domain::affinity::Affinity;
use edgeproxy::domain::balance::{Avoid, Layout, Load, Member, Spill, Standing};
use edgeproxy::domain::region::Atlas;
use edgeproxy::domain::time::Time;

const BACKENDS: usize = 10_000;
const PICKS: usize = 1_000;
const PLACES: [(&str, &str); 8] = [
    ("sa", "BR"),
    ("sa", "CL"),
    ("us", "US"),
    ("us", "CA"),
    ("eu", "DE"),
    ("eu", "FR"),
    ("ap", "JP"),
    ("ap", "SG"),
];

struct Active(Vec<u32>);

impl Load for Active {
    fn active(&self, member: usize) -> u32 {
        self.0[member]
    }

    fn standing(&self, _: usize) -> Standing {
        Standing::Up
    }
}

fn layout() -> Layout {
    let members: Vec<Member> = (0..BACKENDS)
        .map(|i| {
            let (region, country) = PLACES[i % PLACES.len()];
            Member {
                region: region.parse().unwrap(),
                country: country.parse().ok(),
                weight: 1 + u32::try_from(i % 7).unwrap(),
                soft_limit: 100,
                hard_limit: 150,
            }
        })
        .collect();
    Layout::new(&members, &"sa".parse().unwrap(), &Atlas::default(), Spill::Any).0
}

/// Picks for clients of many places, when each backend has so many connections: all succeed, and
/// nothing is allocated.
fn assert_picks_without_allocating(active: impl Fn(usize) -> u32) {
    let layout = layout();
    let load = Active((0..BACKENDS).map(active).collect());
    let mut random = fastrand::Rng::with_seed(1);
    let countries = ["BR", "DE", "JP", "ZA", "MX", "??"].map(|code| code.parse().ok());
    let mut picked = 0;
    let cost = measure(|| {
        for turn in 0..PICKS {
            let origin = layout.origin(countries[turn % countries.len()], turn % 2 == 0);
            let mut draw = |below| random.u64(..below);
            let choice = layout.pick(black_box(origin), &load, Avoid::default(), &mut draw);
            picked += usize::from(choice.is_some());
        }
    });
    assert_eq!(picked, PICKS);
    assert_eq!(cost.count_total, 0, "{cost:?}");
}

#[test]
fn an_allocation_would_be_counted() {
    let cost = measure(|| drop(black_box(Box::new(1))));
    assert_eq!(cost.count_total, 1);
}

#[test]
fn a_decision_among_ten_thousand_backends_with_room_allocates_nothing() {
    assert_picks_without_allocating(|i| u32::try_from(i % 90).unwrap());
}

#[test]
fn a_decision_with_nearly_all_backends_at_their_soft_limit_allocates_nothing() {
    assert_picks_without_allocating(|i| if i % 997 == 3 { 50 } else { 120 });
}

#[test]
fn looking_up_a_binding_allocates_nothing() {
    const CLIENTS: u32 = 10_000;
    let affinity = Affinity::new(1 << 16);
    let key = |n: u32| (IpAddr::from(Ipv4Addr::from_bits(n)).into(), 0);
    let ttl = Duration::from_secs(600);
    for n in 0..CLIENTS {
        affinity.release(affinity.bind(key(n), n.into(), ttl, Time::ZERO), ttl, Time::ZERO);
    }
    let mut found = 0;
    let cost = measure(|| {
        for n in 0..CLIENTS {
            let binding = affinity.lookup(black_box(key(n)), Time::ZERO);
            found += u32::from(binding.is_some_and(|binding| binding.backend == u64::from(n)));
        }
        // A client that was never there.
        found += u32::from(affinity.lookup(key(CLIENTS), Time::ZERO).is_some());
    });
    assert_eq!(found, CLIENTS);
    assert_eq!(cost.count_total, 0, "{cost:?}");
}
