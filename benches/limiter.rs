//! A check of the rate limiter: a client among many, a refused one, a flood of new ones.
//! `cargo bench --bench limiter`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use divan::{Bencher, black_box};
use edgeproxy::domain::time::Time;
use edgeproxy::infrastructure::{RateLimitConfig, RateLimiter};

const CLIENTS: u32 = 250_000;
const HOUR: Duration = Duration::from_secs(3_600);
/// Nobody runs out.
const PLENTY: RateLimitConfig =
    RateLimitConfig { max_requests: 10, window: HOUR, burst_size: u32::MAX };
/// Everybody has.
const NOTHING_LEFT: RateLimitConfig =
    RateLimitConfig { max_requests: 1, window: HOUR, burst_size: 1 };

/// IPv6 takes two look-ups, the /48's and the client's.
#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

const BOTH: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// The `n`th client, eight of them in each /48.
    fn client(self, n: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(n).into(),
            Self::V6 => Ipv6Addr::from_bits(
                (0x2a00 << 112) | u128::from(n / 8) << 80 | u128::from(n % 8) << 64,
            )
            .into(),
        }
    }
}

fn among_many(family: Family) -> RateLimiter {
    let limiter = RateLimiter::new(PLENTY);
    for n in 0..CLIENTS {
        limiter.check_at(family.client(n), Time::ZERO);
    }
    limiter
}

/// One client over and over, its entry in the cache.
#[divan::bench(args = BOTH, sample_size = 1_000)]
fn known(bencher: Bencher, family: Family) {
    let limiter = among_many(family);
    let ip = family.client(7);
    bencher.bench_local(|| limiter.check_at(black_box(ip), Time::ZERO));
}

/// The same with the clock read.
#[divan::bench(args = BOTH, sample_size = 1_000)]
fn known_with_clock(bencher: Bencher, family: Family) {
    let limiter = among_many(family);
    let ip = family.client(7);
    bencher.bench_local(|| limiter.check(black_box(ip)));
}

/// How many tokens are left.
#[divan::bench(args = BOTH, sample_size = 1_000)]
fn remaining(bencher: Bencher, family: Family) {
    let limiter = among_many(family);
    let ip = family.client(7);
    bencher.bench_local(|| limiter.remaining_at(black_box(ip), Time::ZERO));
}

/// Any of 250,000 clients: the table is larger than most caches.
#[divan::bench(args = BOTH, threads = [1, 2], sample_size = 10_000)]
fn random(bencher: Bencher, family: Family) {
    let limiter = among_many(family);
    bencher
        .with_inputs(|| family.client(fastrand::u32(..CLIENTS)))
        .bench_values(|ip| limiter.check_at(black_box(ip), Time::ZERO));
}

/// A client without tokens.
#[divan::bench(args = BOTH, sample_size = 1_000)]
fn refused(bencher: Bencher, family: Family) {
    let limiter = RateLimiter::new(NOTHING_LEFT);
    let ip = family.client(7);
    limiter.check_at(ip, Time::ZERO);
    bencher.bench_local(|| limiter.check_at(black_box(ip), Time::ZERO));
}

/// A client never seen before, in a full table: somebody is forgotten for each.
#[divan::bench(args = BOTH, sample_size = 10_000)]
fn flood(bencher: Bencher, family: Family) {
    let limiter = RateLimiter::new(PLENTY);
    let mut n = 0;
    let mut check = || {
        n += 1;
        limiter.check_at(black_box(family.client(n)), Time::ZERO)
    };
    for _ in 0..4_000_000 {
        check();
    }
    bencher.bench_local(check);
}

fn main() {
    divan::main();
}
