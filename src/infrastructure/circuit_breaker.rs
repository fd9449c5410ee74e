//! A circuit breaker: a backend that fails again and again is left alone for a while, then tried
//! with a few calls before it gets all of them again (Nygard, "Release It!", 2007).
//!
//! Closed: everything passes; `failure_threshold` failures in a row open it. Open: nothing passes
//! until `timeout` is over. Half-open: `success_threshold` trials pass; when all of them succeed it
//! closes, when one fails it opens again.

mod machine;

use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

#[cfg(feature = "loom")]
use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(feature = "loom"))]
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

use crate::clock;
use crate::domain::time::Time;
pub use machine::{Hold, State, Transition};
use machine::{Machine, Pass};

/// When a breaker opens, tries and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreakerConfig {
    /// Failures in a row that open it; 0 counts as 1.
    pub failure_threshold: u32,
    /// Trials that must succeed to close it, and most that are under way at once; 0 counts as 1.
    pub success_threshold: u32,
    /// How long it stays open, and after how long a trial without a result frees its place.
    pub timeout: Duration,
}

impl Default for CircuitBreakerConfig {
    /// 5 failures, 3 successes, 30 s.
    fn default() -> Self {
        Self { failure_threshold: 5, success_threshold: 3, timeout: Duration::from_secs(30) }
    }
}

/// One backend's breaker. A call that passes while it is closed, and succeeds after no failure,
/// costs two reads and no lock.
pub struct CircuitBreaker {
    shared: Arc<Shared>,
}

struct Shared {
    /// The generation, and whether the machine is closed, quiet or open. Written under the lock, read
    /// without it.
    face: AtomicU64,
    /// From when on a call may pass, in nanoseconds. Likewise.
    admits_from: AtomicU64,
    machine: Mutex<Machine>,
}

const CLOSED: u64 = 1;
const QUIET: u64 = 2;
const OPEN: u64 = 4;
const FLAGS: u32 = 3;

/// A call that was let through. Report its result once; dropped without one, it counts for nothing
/// and gives the place of its trial back. A result counts only in the state that let it through.
#[must_use = "a permit that is dropped at once reports nothing"]
pub struct Permit {
    shared: Arc<Shared>,
    pass: Pass,
}

impl CircuitBreaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(config: CircuitBreakerConfig) -> Self {
        let machine = Machine::new(config);
        let shared = Shared {
            face: AtomicU64::new(face_of(&machine)),
            admits_from: AtomicU64::new(0),
            machine: Mutex::new(machine),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether a call may be made now; while half-open this takes one of the trials. Report the result
    /// with [`record_success`](Self::record_success) or [`record_failure`](Self::record_failure);
    /// callers that may not come to report should use [`try_acquire`](Self::try_acquire).
    #[must_use]
    pub fn allow(&self) -> bool {
        self.shared.passes_freely().is_some()
            || self.shared.change(|machine| machine.acquire(clock::now(), false, true)).is_some()
    }

    /// Counts a success towards the state that it finds.
    pub fn record_success(&self) {
        if self.shared.face.load(Ordering::Acquire) & QUIET == 0 {
            self.shared.change(|machine| machine.report_anonymous(true, clock::now()));
        }
    }

    /// Counts a failure towards the state that it finds.
    pub fn record_failure(&self) {
        self.shared.change(|machine| machine.report_anonymous(false, clock::now()));
    }

    /// A permit for a call, if one may be made now.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.try_acquire_at(clock::now())
    }

    /// The same at a given time.
    #[must_use]
    pub fn try_acquire_at(&self, now: Time) -> Option<Permit> {
        self.acquire(now, false)
    }

    /// The same without waiting for the end of an open breaker's timeout: for when there is nobody
    /// else to call. Trials are no more than otherwise.
    #[must_use]
    pub fn try_acquire_early_at(&self, now: Time) -> Option<Permit> {
        self.acquire(now, true)
    }

    /// Whether a call would be let through, without making one. One read.
    #[must_use]
    pub fn admits(&self, now: Time) -> bool {
        now.nanos() >= self.shared.admits_from.load(Ordering::Relaxed)
    }

    /// How long until a call may be let through, unless a result comes before.
    #[must_use]
    pub fn admits_after(&self, now: Time) -> Duration {
        Time::from_nanos(self.shared.admits_from.load(Ordering::Relaxed)).since(now)
    }

    /// The same for [`try_acquire_early_at`](Self::try_acquire_early_at).
    #[must_use]
    pub fn admits_early(&self, now: Time) -> bool {
        self.shared.face.load(Ordering::Relaxed) & OPEN != 0 || self.admits(now)
    }

    /// Its state; an open one whose timeout is over counts as half-open.
    #[must_use]
    pub fn state_at(&self, now: Time) -> State {
        self.shared.lock().state(now)
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state_at(clock::now())
    }

    /// Changes when it opens, tries and closes; the state that it is in stays.
    pub fn set_config(&self, config: CircuitBreakerConfig) {
        self.shared.change(|machine| machine.set_config(config));
    }

    /// Has it stay open or closed, whatever results come; with `None` it works by itself again, and begins
    /// closed.
    pub fn hold(&self, held: Option<Hold>) {
        self.shared.change(|machine| machine.hold(held));
    }

    /// How it is held, if it is.
    #[must_use]
    pub fn held(&self) -> Option<Hold> {
        self.shared.lock().held()
    }

    fn acquire(&self, now: Time, early: bool) -> Option<Permit> {
        let pass = self
            .shared
            .passes_freely()
            .or_else(|| self.shared.change(|machine| machine.acquire(now, early, false)))?;
        Some(Permit { shared: Arc::clone(&self.shared), pass })
    }
}

#[expect(clippy::must_use_candidate, reason = "what changed is for whoever logs it")]
impl Permit {
    /// The call succeeded.
    pub fn success_at(self, now: Time) -> Option<Transition> {
        let face = self.shared.face.load(Ordering::Acquire);
        // Nothing to forget: as if it had been reported before any failure that comes now.
        if face == self.pass.generation << FLAGS | CLOSED | QUIET {
            return None;
        }
        self.report(true, now)
    }

    /// The call failed.
    pub fn failure_at(self, now: Time) -> Option<Transition> {
        self.report(false, now)
    }

    /// The call succeeded, now.
    pub fn success(self) -> Option<Transition> {
        self.success_at(clock::now())
    }

    /// The call failed, now.
    pub fn failure(self) -> Option<Transition> {
        self.failure_at(clock::now())
    }

    fn report(mut self, success: bool, now: Time) -> Option<Transition> {
        // The report frees the trial's place; the drop that follows has nothing left to free.
        let pass = std::mem::replace(&mut self.pass, Pass { generation: 0, trial: 0 });
        self.shared.change(|machine| machine.report(pass, success, now))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let pass = self.pass;
        if pass.trial != 0 {
            self.shared.change(|machine| machine.abandon(pass));
        }
    }
}

impl Shared {
    /// The pass of a call while closed.
    fn passes_freely(&self) -> Option<Pass> {
        let face = self.face.load(Ordering::Acquire);
        (face & CLOSED != 0).then_some(Pass { generation: face >> FLAGS, trial: 0 })
    }

    /// Does something to the machine and lets the others see what came of it.
    fn change<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.lock();
        let outcome = act(&mut machine);
        self.face.store(face_of(&machine), Ordering::Release);
        self.admits_from.store(machine.admits_from().nanos(), Ordering::Relaxed);
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn face_of(machine: &Machine) -> u64 {
    let closed = if machine.is_closed() { CLOSED } else { 0 };
    let quiet = if machine.is_quiet() { QUIET } else { 0 };
    let open = if machine.is_open() { OPEN } else { 0 };
    machine.generation() << FLAGS | closed | quiet | open
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("pass", &self.pass).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;

#[cfg(all(test, feature = "loom"))]
mod loom_tests;
