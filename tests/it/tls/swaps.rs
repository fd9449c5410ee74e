//! Certificates that change all the time, under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::certificates::{Pair, SEED, Visitor, site, start};

const SWAPS: usize = 500;
const CLIENTS: usize = 50;
/// Between two connections of a client, so that the machine is not all theirs.
const REST: Duration = Duration::from_millis(20);

#[test]
fn five_hundred_swaps_fail_no_handshake_and_drop_no_connection() {
    let pairs = [(); 2].map(|()| Pair::new(&["seed.test"]));
    let site = site().toml(SEED);
    pairs[0].write(&site, "seed");
    let tls = start(site);
    let mut open: Vec<_> = (0..CLIENTS)
        .map(|_| Visitor::new().open(tls.addr, "seed.test").expect("a connection"))
        .collect();
    let (over, visits) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 2]);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                // Some come back, others are new.
                let again = Visitor::new();
                while !over.load(Ordering::SeqCst) {
                    for visitor in [&again, &Visitor::new()] {
                        let seen = visitor.visit(tls.addr, "seed.test").expect("a handshake");
                        let shown = pairs.iter().position(|pair| pair.der == seen.der);
                        visits[shown.expect("one of the two")].fetch_add(1, Ordering::SeqCst);
                    }
                    thread::sleep(REST);
                }
            });
        }
        for pair in pairs.iter().cycle().skip(1).take(SWAPS) {
            pair.write(&tls.edge.site, "seed");
            tls.edge.reloads();
        }
        over.store(true, Ordering::SeqCst);
    });
    let visits = visits.map(AtomicUsize::into_inner);
    assert!(visits.iter().all(|visits| *visits > SWAPS / 2), "{visits:?}");
    for connection in &mut open {
        connection.echo(b"still here?\n").expect("a connection of before all that");
    }
    assert_eq!(tls.edge.times_logged("ERROR"), 0);
    assert!(tls.edge.access_lines().iter().all(|line| !line.contains("reason=tls_failed")));
}
