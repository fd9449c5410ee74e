//! The reference is a bucket as it is drawn in textbooks: a level that rises with time and falls
//! with each token taken, counted in units of 1/window of a token.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;

use proptest::prelude::*;

use super::*;

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

struct Reference {
    level: u128,
    full: u128,
    token: u128,
    rate: u128,
    last: u64,
}

impl Reference {
    fn new(config: RateLimitConfig, times: u32, start: u64) -> Self {
        let token = config.window.as_nanos().min(u128::from(u64::MAX));
        let full = token * u128::from(config.burst_size) * u128::from(times);
        let rate = u128::from(config.max_requests) * u128::from(times);
        Self { level: full, full, token, rate, last: start }
    }

    fn refill(&mut self, now: u64) {
        self.level = (self.level + u128::from(now - self.last) * self.rate).min(self.full);
        self.last = now;
    }

    fn tokens(&self) -> u128 {
        self.level / self.token
    }
}

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1..2_000_u64).prop_map(Duration::from_nanos),
        (1..100_000_u64).prop_map(Duration::from_millis),
        Just(Duration::from_secs(1)),
        Just(Duration::MAX),
    ]
}

fn configs() -> impl Strategy<Value = RateLimitConfig> {
    let rate = prop_oneof![0..4_u32, 1..2_000_u32, Just(u32::MAX)];
    let burst = prop_oneof![0..4_u32, 1..40_u32, Just(u32::MAX)];
    (rate, durations(), burst).prop_map(|(rate, window, burst)| limits(rate, window, burst))
}

/// Pauses between checks, as parts of a million of the time that one token takes.
fn pauses() -> impl Strategy<Value = Vec<u64>> {
    let pause =
        prop_oneof![4 => Just(0), 4 => 0..3_000_000_u64, 2 => Just(1_000_000), 1 => any::<u64>()];
    proptest::collection::vec(pause, 1..120)
}

fn pause(config: RateLimitConfig, parts: u64) -> u64 {
    let token = config.window.as_nanos() / u128::from(config.max_requests.max(1));
    let nanos = token.min(u128::from(u64::MAX)) * u128::from(parts) / 1_000_000;
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

proptest! {
    #[test]
    fn every_answer_is_that_of_an_exact_bucket(
        config in configs(),
        start in prop_oneof![Just(0), any::<u64>()],
        pauses in pauses(),
    ) {
        let limiter = RateLimiter::with_capacity(config, 8);
        let mut bucket = Reference::new(config, 1, start);
        let mut now = start;
        for parts in pauses {
            now = now.saturating_add(pause(config, parts));
            bucket.refill(now);
            let at = Time::from_nanos(now);
            prop_assert_eq!(u128::from(limiter.remaining_at(ALICE, at)), bucket.tokens());
            let passes = bucket.tokens() > 0;
            prop_assert_eq!(limiter.retry_after_at(ALICE, at).is_zero(), passes);
            prop_assert_eq!(limiter.check_at(ALICE, at), passes);
            bucket.level -= if passes { bucket.token } else { 0 };
        }
    }

    #[test]
    fn a_check_passes_after_the_wait_and_not_a_nanosecond_sooner(
        rate in 1..5_000_u32,
        window in 1..100_000_000_000_u64,
        burst in 1..20_u32,
        pauses in pauses(),
    ) {
        let config = limits(rate, Duration::from_nanos(window), burst);
        let limiter = RateLimiter::with_capacity(config, 8);
        let mut now = 0;
        for parts in pauses {
            now += pause(config, parts % 3_000_000);
            let wait = limiter.retry_after_at(ALICE, Time::from_nanos(now));
            if !wait.is_zero() {
                now += u64::try_from(wait.as_nanos()).unwrap();
                prop_assert!(!limiter.check_at(ALICE, Time::from_nanos(now - 1)));
            }
            prop_assert!(limiter.check_at(ALICE, Time::from_nanos(now)));
        }
    }

    #[test]
    fn clients_of_a_48_are_limited_one_by_one_and_together(
        rate in 0..4_u32,
        window in 1..2_000_u64,
        burst in 0..3_u32,
        checks in proptest::collection::vec((0..40_u16, 0..20_u64), 1..400),
    ) {
        let config = limits(rate, Duration::from_nanos(window), burst);
        let limiter = RateLimiter::with_capacity(config, 1 << 12);
        let mut site = Reference::new(config, SITE_CLIENTS, 0);
        let mut clients: Vec<_> = (0..40).map(|_| Reference::new(config, 1, 0)).collect();
        let mut now = 0;
        for (n, pause) in checks {
            now += pause;
            let client = &mut clients[usize::from(n)];
            site.refill(now);
            client.refill(now);
            let tokens = client.tokens().min(site.tokens());
            let at = Time::from_nanos(now);
            prop_assert_eq!(u128::from(limiter.remaining_at(v6(7, n), at)), tokens);
            prop_assert_eq!(limiter.check_at(v6(7, n), at), tokens > 0);
            if tokens > 0 {
                client.level -= client.token;
                site.level -= site.token;
            }
        }
    }

    /// The reference's time only goes on.
    #[test]
    fn a_time_that_goes_back_grants_nothing(
        rate in 1..50_u32,
        burst in 1..10_u32,
        steps in proptest::collection::vec(-200..300_i64, 1..200),
    ) {
        let config = limits(rate, Duration::from_micros(10), burst);
        let limiter = RateLimiter::with_capacity(config, 8);
        let start = 1_000_000;
        let mut bucket = Reference::new(config, 1, start);
        let (mut now, mut latest) = (start, start);
        for step in steps {
            now = now.saturating_add_signed(step).clamp(start, u64::MAX);
            latest = latest.max(now);
            bucket.refill(latest);
            let tokens = bucket.tokens();
            let at = Time::from_nanos(now);
            prop_assert!(u128::from(limiter.remaining_at(ALICE, at)) <= tokens);
            if limiter.check_at(ALICE, at) {
                prop_assert!(tokens > 0);
                bucket.level -= bucket.token;
            }
        }
    }

    #[test]
    fn changed_limits_take_no_token_and_give_none(
        before in configs(),
        after in configs(),
        taken in 0..50_u32,
        start in any::<u64>(),
    ) {
        let at = Time::from_nanos(start);
        let limiter = RateLimiter::with_capacity(before, 8);
        let taken = (0..taken).filter(|_| limiter.check_at(ALICE, at)).count();
        limiter.set_config_at(after, at);
        let left = after.burst_size.saturating_sub(u32::try_from(taken).unwrap());
        prop_assert_eq!(limiter.remaining_at(ALICE, at), left);
        prop_assert_eq!(limiter.check_at(ALICE, at), left > 0);
    }
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

/// The table is as much smaller as the flood is. The whole of it is the next test.
#[test]
fn an_abuser_stays_limited_through_a_flood_of_others() {
    flood(&RateLimiter::with_capacity(limits(10, Duration::from_secs(60), 10), 1 << 13), 160_000);
}

#[test]
#[ignore = "seconds with optimisation, a minute without: cargo test --release -- --ignored"]
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
