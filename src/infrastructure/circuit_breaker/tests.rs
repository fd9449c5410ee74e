use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::{CircuitBreaker, CircuitBreakerConfig, Permit, State, Transition};
use crate::domain::time::Time;

const TIMEOUT: Duration = Duration::from_secs(30);

fn breaker() -> CircuitBreaker {
    CircuitBreaker::new(CircuitBreakerConfig {
        failure_threshold: 5,
        success_threshold: 3,
        timeout: TIMEOUT,
    })
}

fn at(secs: u64) -> Time {
    Time::ZERO + Duration::from_secs(secs)
}

fn opened(now: Time) -> CircuitBreaker {
    let breaker = breaker();
    for _ in 0..5 {
        let _ = breaker.try_acquire_at(now).unwrap().failure_at(now);
    }
    breaker
}

#[test]
fn the_fifth_failure_in_a_row_opens_it_and_not_the_fourth() {
    let breaker = breaker();
    let fail = || breaker.try_acquire_at(at(0)).unwrap().failure_at(at(0));
    for _ in 0..4 {
        assert_eq!(fail(), None);
    }
    let _ = breaker.try_acquire_at(at(0)).unwrap().success_at(at(0));
    for _ in 0..4 {
        assert_eq!(fail(), None, "a success in between begins the row anew");
    }
    assert_eq!(fail(), Some(Transition { from: State::Closed, to: State::Open }));
    assert!(!breaker.admits(at(29)));
    assert!(breaker.try_acquire_at(at(29)).is_none());
}

#[test]
fn half_open_admits_no_more_than_its_trials_and_closes_when_all_of_them_succeed() {
    let breaker = opened(at(0));
    assert!(breaker.admits(at(30)));
    let trials: Vec<Permit> =
        std::iter::from_fn(|| breaker.try_acquire_at(at(30))).take(9).collect();
    assert_eq!(trials.len(), 3);
    assert!(!breaker.admits(at(30)));
    let ends: Vec<_> = trials.into_iter().map(|trial| trial.success_at(at(31))).collect();
    let closes = Transition { from: State::HalfOpen, to: State::Closed };
    assert_eq!(ends, [None, None, Some(closes)]);
    assert_eq!(breaker.state_at(at(31)), State::Closed);
}

#[test]
fn one_failed_trial_opens_it_again_for_the_whole_timeout_and_the_others_come_too_late() {
    let breaker = opened(at(0));
    let [a, b] = [(); 2].map(|()| breaker.try_acquire_at(at(30)).unwrap());
    let opens = Transition { from: State::HalfOpen, to: State::Open };
    assert_eq!(a.failure_at(at(40)), Some(opens));
    assert_eq!(b.success_at(at(41)), None);
    assert!(breaker.try_acquire_at(at(69)).is_none());
    assert!(breaker.try_acquire_at(at(70)).is_some());
}

#[test]
fn a_trial_without_a_result_frees_its_place_when_dropped_and_by_itself_after_the_timeout() {
    let breaker = opened(at(0));
    let mut trials: VecDeque<Permit> =
        (0..3).map(|_| breaker.try_acquire_at(at(30)).unwrap()).collect();
    assert!(breaker.try_acquire_at(at(59)).is_none());
    drop(trials.pop_front());
    let again = breaker.try_acquire_at(at(59)).expect("a place was given back");
    assert!(!breaker.admits(at(59)));
    assert!(breaker.admits(at(60)), "two never reported");
    let fresh = [breaker.try_acquire_at(at(60)), breaker.try_acquire_at(at(60))];
    assert!(fresh.iter().all(Option::is_some));
    assert!(breaker.try_acquire_at(at(60)).is_none());
    drop(again);
    assert!(breaker.try_acquire_at(at(60)).is_some());
}

#[test]
fn an_open_breaker_tries_early_when_asked_to_with_no_more_trials_than_otherwise() {
    let breaker = opened(at(0));
    assert!(breaker.admits_early(at(1)) && !breaker.admits(at(1)));
    let trials: Vec<Permit> =
        std::iter::from_fn(|| breaker.try_acquire_early_at(at(1))).take(9).collect();
    assert_eq!(trials.len(), 3);
    assert!(!breaker.admits_early(at(1)));
    assert_eq!(breaker.state_at(at(1)), State::HalfOpen);
}

#[test]
fn without_permits_it_is_the_same_machine() {
    let breaker =
        CircuitBreaker::new(CircuitBreakerConfig { timeout: Duration::ZERO, ..Default::default() });
    for _ in 0..5 {
        assert!(breaker.allow());
        breaker.record_failure();
    }
    assert_eq!(breaker.state(), State::HalfOpen, "the timeout is over at once");
    for _ in 0..3 {
        assert!(breaker.allow());
        breaker.record_success();
    }
    assert_eq!(breaker.state(), State::Closed);

    let patient = CircuitBreaker::new(CircuitBreakerConfig::default());
    (0..5).for_each(|_| patient.record_failure());
    assert!(!patient.allow());
    patient.record_success();
    assert_eq!(patient.state(), State::Open, "what comes while it is open is late");
}

#[test]
fn new_limits_keep_the_state_and_count_from_then_on() {
    let breaker = opened(at(0));
    let config = CircuitBreakerConfig {
        failure_threshold: 1,
        success_threshold: 1,
        timeout: Duration::from_secs(10),
    };
    breaker.set_config(config);
    assert!(!breaker.admits(at(9)));
    assert!(breaker.try_acquire_at(at(10)).unwrap().success_at(at(10)).is_some());
    assert!(breaker.try_acquire_at(at(10)).unwrap().failure_at(at(10)).is_some());
}

/// What a caller can do.
#[derive(Clone, Debug)]
enum Step {
    Acquire,
    Report(usize, bool),
    Drop(usize),
    Wait(u64),
}

/// The specification: what lets calls through, spelled out with lists and no fast path.
#[derive(Default)]
struct Model {
    state: u32,
    failures: u32,
    opened: u64,
    half_open: bool,
    open: bool,
    successes: usize,
    running: Vec<(usize, u64)>,
}

impl Model {
    fn acquire(&mut self, call: usize, now: u64) -> Option<u32> {
        if self.open && now >= self.opened + 30 {
            (self.open, self.half_open, self.successes) = (false, true, 0);
            self.running.clear();
            self.state += 1;
        }
        if self.half_open {
            self.running.retain(|(_, began)| now < began + 30);
            if self.running.len() + self.successes >= 3 {
                return None;
            }
            self.running.push((call, now));
        }
        (!self.open).then_some(self.state)
    }

    fn report(&mut self, call: usize, state: u32, success: bool, now: u64) {
        if state != self.state {
            return;
        }
        self.running.retain(|(running, _)| *running != call);
        if self.half_open && success {
            self.successes += 1;
            if self.successes == 3 {
                (self.half_open, self.failures) = (false, 0);
                self.state += 1;
            }
        } else if self.half_open {
            self.fall(now);
        } else if success {
            self.failures = 0;
        } else {
            self.failures += 1;
            if self.failures == 5 {
                self.fall(now);
            }
        }
    }

    fn fall(&mut self, now: u64) {
        (self.open, self.half_open, self.opened) = (true, false, now);
        self.state += 1;
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Acquire),
        4 => (any::<usize>(), proptest::bool::weighted(0.3)).prop_map(|(n, ok)| Step::Report(n, ok)),
        1 => any::<usize>().prop_map(Step::Drop),
        1 => (0_u64..40).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_calls_results_late_results_and_dropped_trials_is_as_specified(
        steps in prop::collection::vec(step(), 1..200)
    ) {
        let breaker = breaker();
        let mut model = Model::default();
        let mut calls: Vec<(usize, u32, Permit)> = Vec::new();
        let mut now = 0;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Acquire => {
                    let admits = breaker.admits(at(now));
                    let permit = breaker.try_acquire_at(at(now));
                    let expected = model.acquire(number, now);
                    prop_assert_eq!(permit.is_some(), expected.is_some());
                    prop_assert_eq!(admits, expected.is_some());
                    if let Some((permit, state)) = permit.zip(expected) {
                        calls.push((number, state, permit));
                    }
                }
                Step::Report(which, success) if !calls.is_empty() => {
                    let (call, state, permit) = calls.remove(which % calls.len());
                    let _ = if success { permit.success_at(at(now)) } else { permit.failure_at(at(now)) };
                    model.report(call, state, success, now);
                }
                Step::Drop(which) if !calls.is_empty() => {
                    let (call, ..) = calls.remove(which % calls.len());
                    model.running.retain(|(running, _)| *running != call);
                }
                Step::Report(..) | Step::Drop(_) => {}
                Step::Wait(secs) => now += secs,
            }
            let expected = match (model.open && now < model.opened + 30, model.open || model.half_open) {
                (true, _) => State::Open,
                (false, true) => State::HalfOpen,
                (false, false) => State::Closed,
            };
            prop_assert_eq!(breaker.state_at(at(now)), expected);
        }
    }
}
