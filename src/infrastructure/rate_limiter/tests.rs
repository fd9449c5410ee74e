//! What a user of the limiter sees. `exactness.rs` compares it with a bucket in whole numbers.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;

use super::*;

mod exactness;

const ALICE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn limits(max_requests: u32, window: Duration, burst_size: u32) -> RateLimitConfig {
    RateLimitConfig { max_requests, window, burst_size }
}

fn per_second(max_requests: u32, burst_size: u32) -> RateLimitConfig {
    limits(max_requests, Duration::from_secs(1), burst_size)
}

fn ms(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(n).into()
}

/// The `n`th /64 of the /48 numbered `site`.
fn v6(site: u16, n: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, site, n, 0, 0, 0, 1).into()
}

fn passing(limiter: &RateLimiter, ip: IpAddr, checks: usize, now: Time) -> usize {
    (0..checks).filter(|_| limiter.check_at(ip, now)).count()
}

#[test]
fn a_full_bucket_has_its_burst_and_not_one_more() {
    let limiter = RateLimiter::new(per_second(100, 10));
    assert_eq!(limiter.remaining_at(ALICE, ms(5)), 10);
    for left in (0..10).rev() {
        assert!(limiter.check_at(ALICE, ms(5)));
        assert_eq!(limiter.remaining_at(ALICE, ms(5)), left);
    }
    assert!(!limiter.check_at(ALICE, ms(5)));
    assert!(!limiter.check_at(ALICE, ms(14)));
    assert!(limiter.check_at(ALICE, ms(15)));
    assert_eq!(limiter.remaining_at(ALICE, ms(1_000_000)), 10);
}

#[test]
fn who_stays_below_the_rate_is_never_refused() {
    for period in [11, 13] {
        let limiter = RateLimiter::new(per_second(100, 10));
        let checks = (0..10_000).step_by(period);
        assert!(checks.into_iter().all(|at| limiter.check_at(ALICE, ms(at))), "{period} ms");
    }
}

#[test]
fn who_goes_above_the_rate_is_given_the_rate() {
    for period in [7, 9] {
        let limiter = RateLimiter::new(per_second(100, 10));
        assert_eq!(passing(&limiter, ALICE, 11, ms(0)), 10);
        let checks = (period..=10_000).step_by(usize::try_from(period).unwrap());
        let passed = checks.filter(|at| limiter.check_at(ALICE, ms(*at))).count();
        assert!((999..=1_001).contains(&passed), "{passed} in 10 s at {period} ms");
    }
}

#[test]
fn a_third_of_a_nanosecond_is_not_lost() {
    let limiter = RateLimiter::new(limits(3, Duration::from_nanos(10), 1));
    let passed = (0..=10_000).filter(|at| limiter.check_at(ALICE, Time::from_nanos(*at))).count();
    // One to begin with; then tokens come every 3.33 ns and are taken every fourth.
    assert_eq!(passed, 1 + 10_000 / 4);
    let limiter = RateLimiter::new(limits(3, Duration::from_nanos(10), 3_000));
    assert_eq!(passing(&limiter, ALICE, 4_000, Time::ZERO), 3_000);
    assert_eq!(limiter.remaining_at(ALICE, Time::from_nanos(9_999)), 2_999);
    assert_eq!(limiter.remaining_at(ALICE, Time::from_nanos(10_000)), 3_000);
}

#[test]
fn nothing_passes_without_a_burst() {
    for (rate, window) in [(100, 1), (0, 1), (100, 0), (0, 0)] {
        let limiter = RateLimiter::new(limits(rate, Duration::from_secs(window), 0));
        for ip in [ALICE, v6(1, 1)] {
            assert!(!limiter.check_at(ip, ms(0)) && !limiter.check_at(ip, ms(100_000)));
            assert_eq!(limiter.remaining_at(ip, ms(0)), 0);
            assert_eq!(limiter.retry_after_at(ip, ms(0)), Duration::MAX);
        }
        assert_eq!(limiter.clients(), 0);
    }
}

#[test]
fn nothing_comes_back_without_a_rate() {
    for window in [Duration::ZERO, Duration::from_secs(1)] {
        let limiter = RateLimiter::new(limits(0, window, 3));
        assert_eq!(passing(&limiter, ALICE, 9, ms(0)), 3);
        assert_eq!(passing(&limiter, ALICE, 9, Time::from_nanos(u64::MAX)), 0);
        assert_eq!(limiter.retry_after_at(ALICE, ms(0)), Duration::MAX);
        assert_eq!(limiter.retry_after_at(v4(1), ms(0)), Duration::ZERO);
    }
}

#[test]
fn everything_passes_without_a_window() {
    let limiter = RateLimiter::new(limits(1, Duration::ZERO, 2));
    for ip in [ALICE, v6(1, 1)] {
        assert_eq!(passing(&limiter, ip, 1_000, ms(0)), 1_000);
        assert_eq!(limiter.remaining_at(ip, ms(0)), 2);
        assert_eq!(limiter.retry_after_at(ip, ms(0)), Duration::ZERO);
    }
    assert_eq!(limiter.clients(), 0);
}

#[test]
fn a_mapped_address_is_the_ipv4_client() {
    let limiter = RateLimiter::new(per_second(1, 3));
    assert_eq!(passing(&limiter, "::ffff:192.0.2.1".parse().unwrap(), 2, ms(0)), 2);
    assert_eq!(limiter.remaining_at(ALICE, ms(0)), 1);
    assert_eq!(limiter.remaining_at(v4(7), ms(0)), 3);
}

#[test]
fn a_64_is_one_client_and_the_unspecified_one_is_like_any_other() {
    let limiter = RateLimiter::with_capacity(per_second(1, 3), 8);
    for (one, another) in [("2001:db8:1:2::1", "2001:db8:1:2:3::4"), ("::", "::1")] {
        assert_eq!(passing(&limiter, one.parse().unwrap(), 2, ms(0)), 2);
        assert_eq!(passing(&limiter, another.parse().unwrap(), 2, ms(0)), 1);
    }
    assert_eq!(limiter.clients(), 2);
}

#[test]
fn a_48_has_the_tokens_of_32_clients() {
    let limiter = RateLimiter::new(per_second(10, 2));
    let all = |now| (0..2_000).filter(|n| limiter.check_at(v6(1, *n), now)).count();
    assert_eq!(all(ms(0)), 64);
    assert_eq!(all(ms(100)), 32);
    assert!(limiter.check_at(v6(2, 1), ms(100)), "another /48 has its own");
}

#[test]
fn what_the_48_refuses_costs_the_64_nothing() {
    let limiter = RateLimiter::new(per_second(10, 2));
    for n in 0..32 {
        assert_eq!(passing(&limiter, v6(1, n), 2, ms(0)), 2);
    }
    let held = limiter.clients();
    assert_eq!(passing(&limiter, v6(1, 99), 5, ms(0)), 0);
    assert_eq!(limiter.remaining_at(v6(1, 99), ms(0)), 0);
    assert_eq!(limiter.clients(), held, "it is not even remembered");
    // After 10 ms the /48 has three tokens: both of this client's are still there.
    assert_eq!(passing(&limiter, v6(1, 99), 5, ms(10)), 2);
}

#[test]
fn what_the_64_refuses_costs_the_48_nothing() {
    let limiter = RateLimiter::new(per_second(10, 2));
    assert_eq!(passing(&limiter, v6(1, 0), 1_000, ms(0)), 2);
    let others = (1..100).filter(|n| limiter.check_at(v6(1, *n), ms(0))).count();
    assert_eq!(others, 62);
}

#[test]
fn missing_tokens_stay_missing_when_the_limits_change() {
    let limiter = RateLimiter::new(per_second(10, 10));
    assert_eq!(passing(&limiter, ALICE, 8, ms(0)), 8);
    limiter.set_config_at(per_second(100, 20), ms(50));
    assert_eq!(limiter.config(), per_second(100, 20));
    // 7.5 are missing, and come back at 100 a second now.
    assert_eq!(limiter.remaining_at(ALICE, ms(50)), 12);
    assert_eq!(limiter.remaining_at(ALICE, ms(55)), 13);
    assert_eq!(limiter.remaining_at(ALICE, ms(124)), 19);
    assert_eq!(limiter.remaining_at(ALICE, ms(125)), 20);
    assert_eq!(limiter.remaining_at(v4(1), ms(50)), 20);
}

#[test]
fn a_smaller_burst_is_at_most_used_up() {
    let limiter = RateLimiter::new(per_second(10, 1_000));
    assert_eq!(passing(&limiter, ALICE, 900, ms(0)), 900);
    limiter.set_config_at(per_second(10, 5), ms(0));
    assert!(!limiter.check_at(ALICE, ms(99)));
    assert!(limiter.check_at(ALICE, ms(100)));
}

#[test]
fn where_there_is_no_limit_any_more_nothing_is_missing() {
    let limiter = RateLimiter::new(per_second(10, 5));
    for ip in [ALICE, v6(1, 1)] {
        assert_eq!(passing(&limiter, ip, 9, ms(0)), 5);
    }
    limiter.set_config_at(limits(10, Duration::ZERO, 5), ms(0));
    assert_eq!(limiter.clients(), 0);
    assert_eq!(passing(&limiter, ALICE, 9, ms(0)), 9);
    limiter.set_config_at(per_second(10, 5), ms(0));
    assert_eq!(passing(&limiter, ALICE, 9, ms(0)), 5);
}

#[test]
fn the_one_whose_bucket_is_full_soonest_goes_first() {
    let limiter = RateLimiter::with_capacity(per_second(10, 10), 8);
    let taken = [5, 3, 9, 4, 10, 6, 7, 8];
    for (n, taken) in (0..).zip(taken) {
        assert_eq!(passing(&limiter, v4(n), taken, ms(0)), taken);
    }
    assert_eq!((limiter.clients(), limiter.capacity(), limiter.evictions()), (8, 8, 0));
    let missing = |n, now| 10 - limiter.remaining_at(v4(n), now);
    assert_eq!(passing(&limiter, v4(100), 8, ms(0)), 8);
    assert_eq!((missing(1, ms(0)), limiter.evictions()), (0, 1));
    assert_eq!(passing(&limiter, v4(101), 9, ms(0)), 9);
    assert_eq!((missing(3, ms(0)), limiter.evictions()), (0, 2));
    // The first, which was missing five, is full again after half a second: its place is free.
    assert_eq!(passing(&limiter, v4(102), 7, ms(500)), 7);
    assert_eq!((limiter.clients(), limiter.evictions()), (8, 2));
    let still: Vec<u32> = [2, 4, 5, 6, 7, 100, 101].map(|n| missing(n, ms(500))).into();
    assert_eq!(still, [4, 5, 1, 2, 3, 3, 4]);
}

#[test]
fn a_table_grows_before_it_forgets_anyone() {
    let limiter = RateLimiter::new(per_second(1, 2));
    for n in 0..10_000 {
        assert!(limiter.check_at(v4(n), ms(0)));
        assert_eq!(limiter.clients(), usize::try_from(n + 1).unwrap());
    }
    assert!((0..10_000).all(|n| limiter.remaining_at(v4(n), ms(0)) == 1));
    assert_eq!((limiter.evictions(), limiter.capacity()), (0, 1 << 19));
}

#[test]
fn a_capacity_is_never_passed_and_nearly_reached() {
    for asked in [0, 1, 8, 100, 2_048, 2_056, 10_000, 65_535, 600_000, 1 << 20] {
        let capacity = RateLimiter::with_capacity(per_second(1, 1), asked).capacity();
        assert!(capacity <= asked.max(8), "{asked} became {capacity}");
        assert!(capacity * 100 >= asked * 99 || asked - capacity < 8, "{asked} became {capacity}");
    }
    let limiter = RateLimiter::with_capacity(per_second(1, 1), 100);
    assert!((0..10_000).all(|n| limiter.check_at(v4(n), ms(0))));
    assert_eq!(limiter.clients(), 96);
    assert_eq!(limiter.evictions(), 10_000 - 96);
}

/// One abuser, who is to be answered as if it were alone, among `others` random /64s in as many
/// /48s, each there once within ten seconds.
fn flood(limiter: &RateLimiter, others: u32) {
    let config = limiter.config();
    let alone = RateLimiter::with_capacity(config, 8);
    let abuser = v6(1, 1);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut passed = 0;
    for n in 0..others {
        let now = Time::from_nanos(10_000_000_000 * u64::from(n) / u64::from(others));
        let prefix = rng.u64(0x2002 << 48..0x4000 << 48);
        let other = Ipv6Addr::from_bits(u128::from(prefix) << 64 | 1);
        assert!(limiter.check_at(other.into(), now));
        if n.is_multiple_of(16) {
            let passes = limiter.check_at(abuser, now);
            assert_eq!(passes, alone.check_at(abuser, now), "after {n} others");
            passed += u32::from(passes);
        }
    }
    assert_eq!(passed, config.burst_size + 1, "a burst, and what comes back before ten seconds");
    assert!(limiter.clients() <= limiter.capacity());
    let overflow = u64::from(others) - u64::try_from(limiter.capacity()).unwrap();
    assert!(limiter.evictions() >= overflow, "{} were forgotten", limiter.evictions());
}

#[test]
fn an_abuser_stays_limited_through_a_flood_of_ten_million() {
    flood(&RateLimiter::new(limits(10, Duration::from_secs(60), 10)), 10_000_000);
}

#[test]
fn threads_share_a_burst_exactly() {
    for ip in [ALICE, v6(1, 1)] {
        let limiter = RateLimiter::new(per_second(1, 1_000));
        let passed: usize = thread::scope(|scope| {
            let check = || passing(&limiter, ip, 700, ms(0));
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(check)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 1_000);
        assert_eq!(limiter.remaining_at(ip, ms(0)), 0);
    }
}

#[test]
fn threads_share_a_48_exactly() {
    let limiter = &RateLimiter::new(per_second(1, 2));
    let passed: usize = thread::scope(|scope| {
        let check =
            |from| move || (from..from + 500).filter(|n| limiter.check_at(v6(1, *n), ms(0)));
        let threads: Vec<_> =
            (0..4).map(|n| scope.spawn(move || check(n * 300)().count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 64);
}

#[test]
fn limits_may_change_under_checks() {
    let limiter = RateLimiter::with_capacity(per_second(1, 5), 1 << 10);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..2_000).for_each(|n| _ = limiter.check_at(v4(n % 99), ms(0))));
        }
        for n in 0..50 {
            limiter.set_config_at(per_second(1 + n % 2, 5), ms(0));
        }
    });
    assert_eq!(limiter.config(), per_second(2, 5));
    assert!((0..99).all(|n| limiter.remaining_at(v4(n), ms(0)) == 0));
}

#[test]
fn without_a_time_the_clock_is_read() {
    let limiter = RateLimiter::new(limits(1, Duration::from_secs(3_600), 2));
    assert!(limiter.check(ALICE) && limiter.check(ALICE) && !limiter.check(ALICE));
    assert_eq!(limiter.remaining(ALICE), 0);
    limiter.set_config(limits(1, Duration::from_secs(3_600), 3));
    assert_eq!(limiter.remaining(ALICE), 1);
}
