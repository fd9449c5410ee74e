//! A rate limiter of one's own: a burst, a refusal, and tokens that come back.
//! `cargo run --example rate_limiter`

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use edgeproxy::infrastructure::{RateLimitConfig, RateLimiter};

fn main() {
    let limiter = RateLimiter::new(RateLimitConfig {
        max_requests: 6,
        window: Duration::from_secs(60),
        burst_size: 3,
    });
    let client: IpAddr = "192.0.2.1".parse().expect("an address");
    let neighbour: IpAddr = "192.0.2.2".parse().expect("an address");

    assert_eq!(limiter.remaining(client), 3);
    let answers: Vec<bool> = (0..5).map(|_| limiter.check(client)).collect();
    println!("five requests at once, a burst of three: {answers:?}");
    assert_eq!(answers, [true, true, true, false, false]);
    assert_eq!(limiter.remaining(client), 0);

    // Others have their own tokens, and the same client has the same over IPv6.
    assert_eq!(limiter.remaining(neighbour), 3);
    assert!(!limiter.check("::ffff:192.0.2.1".parse().expect("an address")));

    // Here a token is back every 10 ms. At least two are after 20.
    let limiter = RateLimiter::new(RateLimitConfig {
        max_requests: 100,
        window: Duration::from_secs(1),
        burst_size: 4,
    });
    while limiter.check(client) {}
    thread::sleep(Duration::from_millis(20));
    let back = limiter.remaining(client);
    println!("after a pause of 20 ms at 100 a second: {back} tokens");
    assert!((2..=4).contains(&back));
    assert!(limiter.check(client));
    println!("OK");
}
