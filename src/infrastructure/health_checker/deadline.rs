//! A time limit that knows whether it was this process that was late.

use std::pin::pin;
use std::time::Duration;

use crate::clock;

/// The wait is cut into this many, so that a pause in its middle is noticed too.
const SLICES: u32 = 10;

/// Slices are no shorter than this: waking is not free, and timers have a grain of a millisecond.
const SHORTEST_SLICE: Duration = Duration::from_millis(10);

/// Lateness that is always put up with. The other bound is a tenth of the timeout.
const SLACK: Duration = Duration::from_millis(100);

/// The time was up before the work was done.
#[derive(Debug)]
pub(super) struct Expired {
    /// By how much this process's wake-ups were late during the wait, summed up.
    pub starved: Duration,
}

/// Waits for `work` for `timeout`; a timer's grain longer at most, unless this process is starved.
///
/// What is done by the time of a late wake-up is taken: the work is always looked at before the
/// clock.
pub(super) async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Expired> {
    let mut work = pin!(work);
    let mut left = timeout;
    let mut starved = Duration::ZERO;
    loop {
        let slice = (timeout / SLICES).max(SHORTEST_SLICE).min(left);
        let begun = clock::now();
        if let Ok(done) = tokio::time::timeout(slice, work.as_mut()).await {
            return Ok(done);
        }
        let took = clock::now().since(begun);
        starved += took.saturating_sub(slice);
        // Under a clock that is paused for a test `took` is nothing.
        left = left.saturating_sub(took.max(slice));
        if left.is_zero() {
            return Err(Expired { starved });
        }
    }
}

/// Whether a wait that ran out of time says more about this process than about whom it waited for:
/// it was kept from running for more than 100 ms, and more than a tenth of the timeout.
pub(super) fn too_late(starved: Duration, timeout: Duration) -> bool {
    starved > SLACK.max(timeout / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn lateness_counts_beyond_a_tenth_of_the_timeout_and_never_below_100_ms() {
        for (starved, timeout, expected) in [
            (ms(0), ms(0), false),
            (ms(100), ms(10), false),
            (ms(101), ms(10), true),
            (ms(101), ms(1_000), true),
            (ms(200), ms(2_000), false),
            (ms(201), ms(2_000), true),
            (ms(500), ms(30_000), false),
        ] {
            assert_eq!(too_late(starved, timeout), expected, "{starved:?} of {timeout:?}");
        }
    }

    #[tokio::test]
    async fn a_pause_in_the_middle_of_the_wait_is_noticed_though_its_end_is_on_time() {
        let pause = async {
            tokio::task::yield_now().await;
            std::thread::sleep(ms(300));
        };
        let wait = within(ms(600), std::future::pending::<()>());
        let (expired, ()) = tokio::join!(wait, pause);
        let starved = expired.unwrap_err().starved;
        assert!(too_late(starved, ms(600)), "{starved:?}");
    }

    #[tokio::test]
    async fn what_was_done_during_a_pause_counts_as_done() {
        let (done, wait) = tokio::sync::oneshot::channel();
        let pause = async {
            tokio::task::yield_now().await;
            done.send(()).unwrap();
            std::thread::sleep(ms(200));
        };
        let (result, ()) = tokio::join!(within(ms(50), wait), pause);
        assert!(result.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_wait_there_is_overflows_nothing() {
        let soon = tokio::time::sleep(ms(5));
        assert!(within(Duration::MAX, soon).await.is_ok());
    }
}
