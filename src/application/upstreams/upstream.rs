//! One backend as this process observes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::{ClientConfig, Error as TlsError};

use super::places::Places;
use super::resting::Resting;
use super::warm::{Keeper, Kept, Warm};
use crate::domain::balance::{FULL_SHARE, Layout, Standing};
use crate::domain::time::Time;
use crate::domain::{App, BackendId, Region};
use crate::infrastructure::circuit_breaker::{Hold, Permit, State, Transition};
use crate::infrastructure::health_checker::Health;
use crate::infrastructure::meters::BackendMeter;
use crate::infrastructure::tls::{Originator, Session};
use crate::infrastructure::{CircuitBreaker, CircuitBreakerConfig};

/// First time that a backend ranks last after a failed dial.
const FIRST_DEMOTION: Duration = Duration::from_secs(1);
/// Longest time that a backend ranks last without another dial.
const LONGEST_DEMOTION: Duration = Duration::from_secs(30);
/// How much longer than that, so that a probing dial has had its answer.
pub const PROBE_TIME: Duration = Duration::from_millis(500);

/// What of its share a backend gets when slow start begins, in thousandths.
const FIRST_SHARE: u32 = 100;

/// One backend's place in this process: what is observed of it.
#[derive(Debug)]
pub struct Upstream {
    /// Its name.
    pub id: BackendId,
    /// Where it is dialled.
    pub addr: SocketAddr,
    /// The app that it serves.
    pub app: App,
    /// Its number in this process: never used again for another.
    pub number: u64,
    /// The region that it was in when it was first seen.
    pub region: Region,
    /// What is counted about it.
    pub meter: Arc<BackendMeter>,
    hot: Hot,
    breaker: CircuitBreaker,
    pub(super) warm: Warm,
    pub(super) resting: Resting,
    seat: ArcSwapOption<Seat>,
    tls: ArcSwapOption<OwnTls>,
}

/// How connections to one backend are secured: with sessions of its own to go on from.
#[derive(Debug)]
struct OwnTls {
    originator: Arc<Originator>,
    config: Arc<ClientConfig>,
}

/// What every decision reads, in one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Hot {
    places: Places,
    health: AtomicU8,
    /// Whether the breaker has ever opened. Until then nobody looks at it to decide.
    tripped: AtomicBool,
    dials: Dials,
    /// When slow start began, in nanoseconds; 0 = it gets its full share.
    warms_since: AtomicU64,
}

/// Which observations a decision goes by.
#[derive(Clone, Copy, Debug)]
pub struct Believed {
    /// What health checks say.
    pub probes: bool,
    /// What breakers say.
    pub breakers: bool,
    /// With breakers: whether open ones may be tried before their timeout.
    pub early: bool,
}

/// Where a backend stands in the table in force.
#[derive(Debug)]
struct Seat {
    layout: Arc<Layout>,
    member: usize,
}

/// A connection's place at a backend, counted while this lives.
#[derive(Debug)]
pub struct Slot(Arc<Upstream>);

impl Upstream {
    /// A backend of which nothing is observed yet.
    #[must_use]
    pub(super) fn new(
        (id, app, addr): (BackendId, App, SocketAddr),
        number: u64,
        region: Region,
        meter: Arc<BackendMeter>,
        breaker: CircuitBreakerConfig,
    ) -> Self {
        Self {
            id,
            addr,
            app,
            number,
            region,
            meter,
            hot: Hot::default(),
            breaker: CircuitBreaker::new(breaker),
            warm: Warm::default(),
            resting: Resting::default(),
            seat: ArcSwapOption::empty(),
            tls: ArcSwapOption::empty(),
        }
    }

    /// Open connections, those being dialled included.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.hot.places.taken().0
    }

    /// Warm connections, those being made included.
    #[must_use]
    pub fn warm(&self) -> u32 {
        self.hot.places.taken().1
    }

    pub(super) const fn places(&self) -> &Places {
        &self.hot.places
    }

    /// Whether it takes new connections by the table in force.
    #[must_use]
    pub fn is_seated(&self) -> bool {
        self.seat.load().is_some()
    }

    /// Puts it in a table in force, or in none.
    pub(super) fn sit(&self, seat: Option<(&Arc<Layout>, usize)>) {
        self.seat.store(
            seat.map(|(layout, member)| Arc::new(Seat { layout: Arc::clone(layout), member })),
        );
    }

    /// What dials to it have come to.
    #[must_use]
    pub const fn dials(&self) -> &Dials {
        &self.hot.dials
    }

    /// Begins TLS with it, which offers the protocol `alpn` if there is one.
    ///
    /// # Errors
    /// The library's: none that comes of what a peer does.
    pub fn begin_tls(
        &self,
        originator: &Arc<Originator>,
        alpn: Option<&[u8]>,
    ) -> Result<Session, TlsError> {
        let before = self.tls.load();
        let config = match &*before {
            Some(own) if Arc::ptr_eq(&own.originator, originator) => Arc::clone(&own.config),
            _ => {
                let (originator, config) = (Arc::clone(originator), originator.for_one());
                self.tls.store(Some(Arc::new(OwnTls { originator, config: Arc::clone(&config) })));
                config
            }
        };
        Session::client(&config, originator.name(self.addr.ip()), alpn)
    }

    /// Its breaker.
    #[must_use]
    pub const fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    /// Takes a place, unless that would make more than `limit` (0 = none) of them. A warm connection
    /// gives up its own when there is no other: one of the `keeper`'s comes with it.
    #[must_use]
    pub fn try_reserve(
        self: &Arc<Self>,
        limit: u32,
        keeper: Option<Keeper<'_>>,
        now: Time,
    ) -> Option<(Slot, Option<Kept>)> {
        let slot = || Slot(Arc::clone(self));
        loop {
            if self.hot.places.take(limit) {
                return Some((slot(), None));
            }
            if let Some(kept) = keeper.and_then(|own| self.take_warm_with_its_place(own, now)) {
                return Some((slot(), Some(kept)));
            }
            if self.give_up_warm() {
                return Some((slot(), None));
            }
            // What was warm a moment ago has gone to a client, or has left its place to anybody.
            let (clients, warm) = self.hot.places.taken();
            if warm == 0 && clients >= limit {
                return None;
            }
        }
    }

    /// How it stands, by what is believed.
    #[must_use]
    pub fn standing(&self, now: Time, believed: Believed) -> Standing {
        let Believed { probes, breakers, early } = believed;
        if probes && !self.health().is_healthy() {
            return Standing::Out;
        }
        if breakers && self.hot.tripped.load(Ordering::Relaxed) {
            let admits =
                if early { self.breaker.admits_early(now) } else { self.breaker.admits(now) };
            if !admits {
                return Standing::Out;
            }
        }
        if self.dials().demoted(now) { Standing::Last } else { Standing::Up }
    }

    /// What health checks say.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.hot.health.load(Ordering::SeqCst) {
            0 => Health::Unknown,
            1 => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    /// Notes what health checks say; what they said before. One that recovers starts slowly.
    pub(super) fn set_health(&self, health: Health, now: Time) -> Health {
        let before = self.health();
        if !before.is_healthy() && health.is_healthy() {
            self.start_slowly(now);
        }
        self.hot.health.store(health as u8, Ordering::SeqCst);
        self.rise();
        before
    }

    /// Has it begin with a tenth of its share.
    pub fn start_slowly(&self, now: Time) {
        self.hot.warms_since.store(now.nanos().max(1), Ordering::Relaxed);
    }

    /// How much of its weight counts, in thousandths, when it takes `ramp` to its full share.
    #[must_use]
    pub fn share(&self, now: Time, ramp: Duration) -> u32 {
        let since = self.hot.warms_since.load(Ordering::Relaxed);
        if since == 0 {
            return FULL_SHARE;
        }
        let passed = now.since(Time::from_nanos(since));
        if passed >= ramp {
            // Unless it has just begun anew.
            let (seen, set) = (Ordering::Relaxed, Ordering::Relaxed);
            let _ = self.hot.warms_since.compare_exchange(since, 0, seen, set);
            return FULL_SHARE;
        }
        let gained = u128::from(FULL_SHARE - FIRST_SHARE) * passed.as_nanos() / ramp.as_nanos();
        FIRST_SHARE + u32::try_from(gained).unwrap_or(FULL_SHARE)
    }

    /// Lets a connection through the breaker, or not.
    #[must_use]
    pub fn permit(&self, now: Time, early: bool) -> Option<Permit> {
        if early {
            self.breaker.try_acquire_early_at(now)
        } else {
            self.breaker.try_acquire_at(now)
        }
    }

    /// Counts a connection's result.
    pub fn report(&self, permit: Permit, success: bool, now: Time) {
        let changed = if success { permit.success_at(now) } else { permit.failure_at(now) };
        match changed {
            None => {}
            Some(Transition { from, to: State::Open }) => {
                self.hot.tripped.store(true, Ordering::SeqCst);
                let again = if from == State::HalfOpen { " again" } else { "" };
                tracing::warn!(backend = %self.id, addr = %self.addr, "circuit breaker opens{again}");
            }
            Some(Transition { .. }) => {
                self.start_slowly(now);
                self.rise();
                tracing::info!(backend = %self.id, addr = %self.addr, "circuit breaker closes");
            }
        }
    }

    /// Has its breaker stay open or closed, or work by itself again.
    pub fn hold_breaker(&self, held: Option<Hold>) {
        self.breaker.hold(held);
        self.hot.tripped.store(true, Ordering::SeqCst);
        self.rise();
    }

    /// Tells the table in force that it may be up again.
    pub fn rise(&self) {
        if let Some(seat) = &*self.seat.load() {
            seat.layout.vacancy().risen(seat.member);
        }
    }
}

impl Slot {
    /// Where the place is.
    #[must_use]
    pub const fn upstream(&self) -> &Arc<Upstream> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.hot.places.give_back();
        if let Some(seat) = &*self.0.seat.load() {
            seat.layout.vacancy().left(seat.member);
        }
    }
}

/// Failed dials in a row, and until when they make a backend rank last.
#[derive(Debug, Default)]
pub struct Dials {
    failures: AtomicU32,
    demoted_until: AtomicU64,
    probing: AtomicBool,
}

impl Dials {
    /// Whether the backend ranks last.
    #[must_use]
    pub fn demoted(&self, now: Time) -> bool {
        now.nanos() < self.demoted_until.load(Ordering::Relaxed)
    }

    /// Notes a dial that failed or was not answered in time. Those that fail while the backend ranks
    /// last already are no news. Gives the time after which to probe it when nobody does yet.
    pub fn failed(&self, now: Time) -> Option<Duration> {
        let until = self.demoted_until.load(Ordering::Relaxed);
        let delay = (now.nanos() >= until).then(|| self.demote(until, now)).flatten()?;
        (!self.probing.swap(true, Ordering::Relaxed)).then_some(delay)
    }

    /// Notes that nobody probes the backend any more.
    pub fn probe_ended(&self) {
        self.probing.store(false, Ordering::Relaxed);
    }

    /// Has the backend rank last until a probing dial after `wait` has had its answer.
    pub fn stay_demoted(&self, now: Time, wait: Duration) {
        let until = (now + wait + PROBE_TIME * 3 / 2).nanos();
        self.demoted_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Notes that the probing dial failed too. Gives the time after which to probe it again.
    pub fn probe_failed(&self, now: Time) -> Option<Duration> {
        let until = self.demoted_until.load(Ordering::Relaxed);
        (until != 0).then(|| self.demote(until, now)).flatten()
    }

    /// Notes a dial that succeeded.
    pub fn succeeded(&self) {
        if self.demoted_until.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.demoted_until.store(0, Ordering::Relaxed);
        }
    }

    fn demote(&self, seen: u64, now: Time) -> Option<Duration> {
        let doublings = self.failures.load(Ordering::Relaxed).min(10);
        let delay = (FIRST_DEMOTION * (1 << doublings)).min(LONGEST_DEMOTION);
        let until = (now + delay + PROBE_TIME * 3 / 2).nanos();
        // Of several that fail at once, one is counted.
        self.demoted_until
            .compare_exchange(seen, until, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        self.failures.fetch_add(1, Ordering::Relaxed);
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_backend_ranks_last_for_a_second_doubling_to_thirty_until_a_dial_succeeds() {
        let dials = Dials::default();
        let mut now = Time::ZERO + Duration::from_secs(1);
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let delay = dials.probe_failed(now).or_else(|| dials.failed(now)).unwrap();
            assert_eq!(delay, Duration::from_secs(expected));
            assert_eq!(dials.failed(now), None, "a second failure at once is no news");
            now = now + delay;
            assert!(dials.demoted(now), "until the probe has its answer");
        }
        dials.succeeded();
        dials.probe_ended();
        assert!(!dials.demoted(now));
        assert_eq!(dials.failed(now), Some(FIRST_DEMOTION));
    }

    #[test]
    fn without_a_probe_the_demotion_ends_by_itself() {
        let dials = Dials::default();
        let _ = dials.failed(Time::ZERO);
        assert!(!dials.demoted(Time::ZERO + Duration::from_secs(2)));
    }
}
