//! Every interleaving of a few calls, by loom: `cargo test --features loom --lib loom`.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::{CircuitBreaker, CircuitBreakerConfig, State};
use crate::domain::time::Time;
use std::time::Duration;

const LATER: Time = Time::from_nanos(2_000_000_000);

fn breaker(failure_threshold: u32, success_threshold: u32) -> Arc<CircuitBreaker> {
    let timeout = Duration::from_secs(1);
    Arc::new(CircuitBreaker::new(CircuitBreakerConfig {
        failure_threshold,
        success_threshold,
        timeout,
    }))
}

fn open(breaker: &CircuitBreaker, failures: u32) {
    for _ in 0..failures {
        let _ = breaker.try_acquire_at(Time::ZERO).unwrap().failure_at(Time::ZERO);
    }
    assert_eq!(breaker.state_at(Time::ZERO), State::Open);
}

#[test]
fn failures_of_two_threads_open_it_once_and_none_is_lost() {
    loom::model(|| {
        let breaker = breaker(2, 1);
        let opened = Arc::new(AtomicUsize::new(0));
        let fail = |breaker: Arc<CircuitBreaker>, opened: Arc<AtomicUsize>| {
            let permit = breaker.try_acquire_at(Time::ZERO).unwrap();
            if permit.failure_at(Time::ZERO).is_some() {
                opened.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (other, count) = (Arc::clone(&breaker), Arc::clone(&opened));
        let thread = thread::spawn(move || fail(other, count));
        fail(Arc::clone(&breaker), Arc::clone(&opened));
        thread.join().unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        assert_eq!(breaker.state_at(Time::ZERO), State::Open);
    });
}

#[test]
fn half_open_admits_no_more_than_its_trials_to_any_number_of_threads() {
    loom::model(|| {
        let breaker = breaker(1, 1);
        open(&breaker, 1);
        let other = Arc::clone(&breaker);
        let thread = thread::spawn(move || other.try_acquire_at(LATER));
        let here = breaker.try_acquire_at(LATER);
        let there = thread.join().unwrap();
        assert_ne!(here.is_some(), there.is_some());
    });
}

#[test]
fn a_success_of_the_closed_state_never_closes_the_one_that_came_after() {
    loom::model(|| {
        let breaker = breaker(1, 1);
        let late = breaker.try_acquire_at(Time::ZERO).unwrap();
        let other = Arc::clone(&breaker);
        let thread = thread::spawn(move || {
            let _ = other.try_acquire_at(Time::ZERO).unwrap().failure_at(Time::ZERO);
            other.try_acquire_at(LATER)
        });
        let _ = late.success_at(LATER);
        let trial = thread.join().unwrap();
        assert!(trial.is_some());
        assert_eq!(breaker.state_at(LATER), State::HalfOpen);
        assert!(breaker.try_acquire_at(LATER).is_none(), "the place is taken");
    });
}

#[test]
fn a_dropped_trial_gives_its_place_to_another_thread() {
    loom::model(|| {
        let breaker = breaker(1, 1);
        open(&breaker, 1);
        let trial = breaker.try_acquire_at(LATER);
        let other = Arc::clone(&breaker);
        let thread = thread::spawn(move || drop(trial.map(|trial| (other, trial))));
        thread.join().unwrap();
        assert!(breaker.admits(LATER));
        assert!(breaker.try_acquire_at(LATER).is_some());
    });
}
