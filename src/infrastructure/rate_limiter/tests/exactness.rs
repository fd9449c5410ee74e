//! The reference is a bucket as it is drawn in textbooks: a level that rises with time and falls
//! with each token taken, counted in units of 1/window of a token.

use proptest::prelude::*;

use super::*;

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
