//! A backend that breaks, is left alone, and is tried again with care:
//! `cargo run --example circuit_breaker`

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use edgeproxy::infrastructure::{CircuitBreaker, CircuitBreakerConfig};

const USERS: usize = 20;

/// A call to a backend that is well or not; whether it was made at all.
fn call(breaker: &CircuitBreaker, is_well: bool) -> bool {
    let allowed = breaker.allow();
    if allowed && is_well {
        breaker.record_success();
    } else if allowed {
        breaker.record_failure();
    }
    allowed
}

/// Waits until a call is allowed, ten seconds at most, and reports nothing yet.
fn wait_until_tried(breaker: &CircuitBreaker) {
    let allowed = (0..1_000).any(|_| {
        let allowed = breaker.allow();
        if !allowed {
            thread::sleep(Duration::from_millis(10));
        }
        allowed
    });
    assert!(allowed, "an open breaker tries again after its timeout");
}

/// How many of many users may call at the same moment.
fn allowed_at_once(breaker: &CircuitBreaker) -> usize {
    let gate = Barrier::new(USERS);
    let ask = || {
        gate.wait();
        breaker.allow()
    };
    thread::scope(|scope| {
        let users: Vec<_> = (0..USERS).map(|_| scope.spawn(ask)).collect();
        users.into_iter().map(|user| usize::from(user.join().expect("no panic"))).sum()
    })
}

fn main() {
    let breaker = CircuitBreaker::new(CircuitBreakerConfig {
        failure_threshold: 5,
        success_threshold: 3,
        timeout: Duration::from_secs(30),
    });
    let made = (0..20).filter(|_| call(&breaker, false)).count();
    println!("20 calls to a backend that fails: {made} were made");
    assert_eq!(made, 5, "it opens after 5 failures");
    assert!(!breaker.allow(), "and stays open for its timeout");

    let breaker = CircuitBreaker::new(CircuitBreakerConfig {
        failure_threshold: 5,
        success_threshold: 3,
        timeout: Duration::from_millis(500),
    });
    assert_eq!(allowed_at_once(&breaker), USERS, "a closed one lets everybody through");
    while call(&breaker, false) {}

    wait_until_tried(&breaker);
    let tried = 1 + allowed_at_once(&breaker);
    println!("{USERS} calls at once after the timeout: {tried} were let through");
    assert_eq!(tried, 3, "half-open it lets 3 through");
    breaker.record_failure();
    assert!(!breaker.allow(), "one failure opens it again");

    wait_until_tried(&breaker);
    breaker.record_success();
    assert!(call(&breaker, true));
    assert!(call(&breaker, true));
    assert_eq!(allowed_at_once(&breaker), USERS, "3 successes close it");
    let made = (0..20).filter(|_| call(&breaker, false)).count();
    assert_eq!(made, 5, "closed, it counts from the beginning");
    println!("OK");
}
