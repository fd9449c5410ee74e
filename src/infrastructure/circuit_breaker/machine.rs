//! The breaker's states and what moves it between them; it is given the time and has no lock.

use super::CircuitBreakerConfig;
use crate::domain::time::Time;

/// When one that is held open admits a call.
const NEVER: Time = Time::from_nanos(u64::MAX);

/// What a breaker does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Lets everything through.
    Closed,
    /// Lets a few trials through.
    HalfOpen,
    /// Lets nothing through.
    Open,
}

/// A change of state, for whoever logs and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
}

/// A call let through: in which state, and which of its trials (0 = none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub generation: u64,
    pub trial: u64,
}

#[derive(Debug)]
pub(super) struct Machine {
    config: CircuitBreakerConfig,
    phase: Phase,
    /// Counts states: a result of an earlier one does not count.
    generation: u64,
    /// Counts trials.
    trials: u64,
    /// Whether somebody holds it open: whatever it finds, nothing passes. Held closed it is in the phase
    /// of that name and counts nothing.
    held: Option<Hold>,
}

/// How somebody has a breaker stay, whatever results come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing passes.
    Open,
    /// Everything passes.
    Closed,
}

#[derive(Debug)]
enum Phase {
    Closed { failures: u32 },
    Open { since: Time },
    HalfOpen { running: Vec<Trial>, successes: u32 },
}

#[derive(Debug)]
struct Trial {
    number: u64,
    began: Time,
    /// Let through by `allow`: its result comes without a permit.
    anonymous: bool,
}

impl Machine {
    pub const fn new(config: CircuitBreakerConfig) -> Self {
        Self { config, phase: Phase::Closed { failures: 0 }, generation: 1, trials: 0, held: None }
    }

    pub const fn set_config(&mut self, config: CircuitBreakerConfig) {
        self.config = config;
    }

    /// Holds it, or lets it work by itself from the beginning. Results of calls that are under way do not
    /// count any more.
    pub fn hold(&mut self, held: Option<Hold>) {
        if self.held != held {
            self.held = held;
            self.enter(Phase::Closed { failures: 0 });
        }
    }

    pub const fn held(&self) -> Option<Hold> {
        self.held
    }

    const fn is_held_open(&self) -> bool {
        matches!(self.held, Some(Hold::Open))
    }

    pub fn state(&self, now: Time) -> State {
        match self.phase {
            _ if self.is_held_open() => State::Open,
            Phase::Closed { .. } => State::Closed,
            Phase::Open { since } if now < since + self.config.timeout => State::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Closed without a failure to forget: a success changes nothing.
    pub const fn is_quiet(&self) -> bool {
        matches!(self.phase, Phase::Closed { failures: 0 }) && !self.is_held_open()
    }

    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed { .. }) && !self.is_held_open()
    }

    /// Open, whether or not its timeout is over.
    pub const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// From when on a call may be let through, unless a result comes before.
    pub fn admits_from(&self) -> Time {
        match &self.phase {
            _ if self.is_held_open() => NEVER,
            Phase::Closed { .. } => Time::ZERO,
            Phase::Open { since } => *since + self.config.timeout,
            Phase::HalfOpen { running, successes } => {
                if self.has_place(running.len(), *successes) {
                    return Time::ZERO;
                }
                let oldest = running.iter().map(|trial| trial.began).min();
                oldest.map_or(Time::ZERO, |began| began + self.config.timeout)
            }
        }
    }

    /// Lets a call through, or not. `early` = an open breaker tries without waiting for its timeout.
    pub fn acquire(&mut self, now: Time, early: bool, anonymous: bool) -> Option<Pass> {
        match self.phase {
            _ if self.is_held_open() => return None,
            Phase::Closed { .. } => return Some(self.pass(0)),
            Phase::Open { since } if now < since + self.config.timeout && !early => return None,
            Phase::Open { .. } => {
                self.enter(Phase::HalfOpen { running: Vec::new(), successes: 0 });
            }
            Phase::HalfOpen { .. } => {}
        }
        let (threshold, timeout) = (self.config.success_threshold, self.config.timeout);
        let Phase::HalfOpen { running, successes } = &mut self.phase else { return None };
        running.retain(|trial| now.since(trial.began) < timeout);
        if !has_place(threshold, running.len(), *successes) {
            return None;
        }
        self.trials += 1;
        running.push(Trial { number: self.trials, began: now, anonymous });
        Some(self.pass(self.trials))
    }

    /// Counts the result of a call that was let through.
    pub fn report(&mut self, pass: Pass, success: bool, now: Time) -> Option<Transition> {
        if pass.generation != self.generation {
            return None;
        }
        self.abandon(pass);
        self.count(success, now)
    }

    /// Counts a result without a permit towards the state that it finds.
    pub fn report_anonymous(&mut self, success: bool, now: Time) -> Option<Transition> {
        if let Phase::HalfOpen { running, .. } = &mut self.phase
            && let Some(place) = running.iter().position(|trial| trial.anonymous)
        {
            running.remove(place);
        }
        self.count(success, now)
    }

    /// Gives a trial's place back.
    pub fn abandon(&mut self, pass: Pass) {
        if let Phase::HalfOpen { running, .. } = &mut self.phase
            && pass.generation == self.generation
        {
            running.retain(|trial| trial.number != pass.trial);
        }
    }

    fn count(&mut self, success: bool, now: Time) -> Option<Transition> {
        if self.held.is_some() {
            return None;
        }
        let from = match &self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::HalfOpen { .. } => State::HalfOpen,
            Phase::Open { .. } => return None,
        };
        let to = match (&mut self.phase, success) {
            (Phase::Closed { failures }, true) => {
                *failures = 0;
                State::Closed
            }
            (Phase::Closed { failures }, false) => {
                *failures = failures.saturating_add(1);
                let opens = *failures >= self.config.failure_threshold.max(1);
                if opens { State::Open } else { State::Closed }
            }
            (Phase::HalfOpen { successes, .. }, true) => {
                *successes += 1;
                let closes = *successes >= self.config.success_threshold.max(1);
                if closes { State::Closed } else { State::HalfOpen }
            }
            (Phase::HalfOpen { .. } | Phase::Open { .. }, _) => State::Open,
        };
        if from == to {
            return None;
        }
        self.enter(match to {
            State::Closed => Phase::Closed { failures: 0 },
            State::Open | State::HalfOpen => Phase::Open { since: now },
        });
        Some(Transition { from, to })
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }

    const fn pass(&self, trial: u64) -> Pass {
        Pass { generation: self.generation, trial }
    }

    fn has_place(&self, running: usize, successes: u32) -> bool {
        has_place(self.config.success_threshold, running, successes)
    }
}

/// Trials that succeeded keep their place: no more are made than it takes to close.
fn has_place(threshold: u32, running: usize, successes: u32) -> bool {
    let taken = u32::try_from(running).unwrap_or(u32::MAX).saturating_add(successes);
    taken < threshold.max(1)
}
