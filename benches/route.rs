//! The routing decision at 10, 1,000 and 10,000 backends, with its allocations.
//! `cargo bench --bench route`

use divan::{AllocProfiler, Bencher, black_box};
use edgeproxy::domain::balance::{Avoid, Layout, Load, Member, Spill, Standing};
use edgeproxy::domain::region::Atlas;
use edgeproxy::domain::{ClientKey, affinity::Affinity, time::Time};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const SIZES: [usize; 3] = [10, 1_000, 10_000];
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

fn layout(size: usize) -> Layout {
    let members: Vec<Member> = (0..size)
        .map(|i| {
            let (region, country) = PLACES[i % PLACES.len()];
            Member {
                region: region.parse().expect("a region"),
                country: country.parse().ok(),
                weight: 1 + u32::try_from(i % 7).unwrap_or(0),
                soft_limit: 100,
                hard_limit: 150,
            }
        })
        .collect();
    Layout::new(&members, &"sa".parse().expect("a region"), &Atlas::default(), Spill::Any).0
}

fn decide(bencher: Bencher, size: usize, active: impl Fn(usize) -> u32) {
    let layout = layout(size);
    let load = Active((0..size).map(active).collect());
    let mut rng = fastrand::Rng::with_seed(1);
    let countries = ["BR", "DE", "JP", "ZA", "MX"].map(|code| code.parse().ok());
    let mut turn = 0;
    bencher.bench_local(|| {
        turn += 1;
        let origin = layout.origin(countries[turn % countries.len()], false);
        layout.pick(black_box(origin), &load, Avoid::default(), &mut |n| rng.u64(..n))
    });
}

/// Every backend has room.
#[divan::bench(args = SIZES)]
fn with_room(bencher: Bencher, size: usize) {
    decide(bencher, size, |i| u32::try_from(i % 90).unwrap_or(0));
}

/// All but one in 997 are at their soft limit.
#[divan::bench(args = SIZES)]
fn nearly_all_at_soft(bencher: Bencher, size: usize) {
    decide(bencher, size, |i| if i % 997 == 3 { 50 } else { 120 });
}

/// Nobody has room.
#[divan::bench(args = SIZES)]
fn all_at_hard(bencher: Bencher, size: usize) {
    decide(bencher, size, |_| 150);
}

/// One client's binding, looked up, renewed and released, among 100,000.
#[divan::bench]
fn affinity(bencher: Bencher) {
    let table = Affinity::new(1 << 19);
    let key = |n: u32| (ClientKey::from(std::net::IpAddr::from(n.to_be_bytes())), 0);
    let ttl = std::time::Duration::from_secs(600);
    for n in 0..100_000 {
        table.release(table.bind(key(n), 1, ttl, Time::ZERO), ttl, Time::ZERO);
    }
    let mut n = 0;
    bencher.bench_local(|| {
        n = (n + 7_919) % 100_000;
        let bound = table.lookup(black_box(key(n)), Time::ZERO);
        table.release(table.bind(key(n), 1, ttl, Time::ZERO), ttl, Time::ZERO);
        bound
    });
}

fn main() {
    divan::main();
}
