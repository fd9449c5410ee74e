//! Graceful shutdown: count open connections, wait until they end, say when the wait is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock;
use crate::domain::time::Time;

/// Counts open connections and drains them. Clones share one count.
#[derive(Clone, Debug)]
pub struct ShutdownController {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    open: AtomicUsize,
    forced: AtomicUsize,
    /// Whether anybody waits for the last connection: closing one costs no more than this read.
    waiting: AtomicBool,
    ended: tokio::sync::Notify,
    drain: watch::Sender<Option<Drain>>,
}

/// A drain under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When connections that are still open begin to be closed, a few at a time.
    pub force_from: Time,
    /// When the last of them is closed.
    pub deadline: Time,
}

/// One open connection: counted while this lives.
#[derive(Debug)]
pub struct ConnectionGuard {
    shared: Arc<Shared>,
}

impl ShutdownController {
    /// Nothing open, not draining.
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            open: AtomicUsize::new(0),
            forced: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            ended: tokio::sync::Notify::new(),
            drain: watch::Sender::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Counts a connection until the guard is dropped.
    #[must_use]
    pub fn connection_guard(&self) -> ConnectionGuard {
        self.shared.open.fetch_add(1, Ordering::SeqCst);
        ConnectionGuard { shared: Arc::clone(&self.shared) }
    }

    /// Counts a connection if that makes no more than `limit`.
    #[must_use]
    pub fn try_connection_guard(&self, limit: usize) -> Option<ConnectionGuard> {
        let guard = ConnectionGuard { shared: Arc::clone(&self.shared) };
        if self.shared.open.fetch_add(1, Ordering::SeqCst) < limit { Some(guard) } else { None }
    }

    /// How many guards live.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many connections were closed because the drain ran out of time.
    #[must_use]
    pub fn forced_connections(&self) -> usize {
        self.shared.forced.load(Ordering::SeqCst)
    }

    /// The drain under way, if one has begun.
    #[must_use]
    pub fn drain(&self) -> Option<Drain> {
        *self.shared.drain.borrow()
    }

    /// Returns once a drain has begun. Dropping the future has no effect.
    pub async fn drain_started(&self) -> Drain {
        let mut drain = self.shared.drain.subscribe();
        loop {
            if let Some(drain) = *drain.borrow_and_update() {
                return drain;
            }
            if drain.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Starts the drain (unless one has begun) and waits until every guard is dropped, `timeout` at
    /// most. `true` when all connections ended by themselves. Connections of the proxy's own that
    /// are still open near the timeout are closed, spread over its last tenth.
    ///
    /// Dropping the future stops the wait, not the drain.
    pub async fn wait_for_drain(&self, timeout: Duration) -> bool {
        let now = clock::now();
        let begun = Drain { force_from: now + timeout * 9 / 10, deadline: now + timeout };
        self.shared.drain.send_if_modified(|drain| drain.replace(begun).is_none());
        self.shared.waiting.store(true, Ordering::SeqCst);
        let all_ended = async {
            loop {
                let ended = self.shared.ended.notified();
                if self.open_connections() == 0 {
                    return;
                }
                ended.await;
            }
        };
        let in_time = tokio::time::timeout(timeout, all_ended).await.is_ok();
        in_time && self.forced_connections() == 0
    }
}

impl Default for ShutdownController {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectionGuard {
    /// Says that the connection is closed because the drain ran out of time.
    pub fn force(&self) {
        self.shared.forced.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let last = self.shared.open.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.shared.waiting.load(Ordering::SeqCst) {
            self.shared.ended.notify_waiters();
        }
    }
}

/// A future that returns at the first SIGTERM or SIGINT (Ctrl+C) after the call, awaited yet or not.
/// From the call on the process no longer ends by itself on these signals.
///
/// # Panics
/// Outside a tokio runtime with I/O enabled.
pub fn shutdown_signal() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut term), Ok(mut int)) = signals else {
            tracing::error!("signals cannot be listened for: stop this process with SIGKILL");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_with_the_last_guard() {
        let shutdown = ShutdownController::new();
        let (one, two) = (shutdown.connection_guard(), shutdown.connection_guard());
        assert_eq!(shutdown.open_connections(), 2);
        let ending = async {
            drop(one);
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(two);
        };
        let wait = shutdown.wait_for_drain(Duration::from_secs(30));
        let wait = tokio::time::timeout(Duration::from_secs(6), wait);
        let (drained, ()) = tokio::join!(wait, ending);
        assert_eq!(drained, Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_stays_makes_the_wait_time_out() {
        let shutdown = ShutdownController::new();
        let _stays = shutdown.connection_guard();
        assert!(!shutdown.wait_for_drain(Duration::from_secs(30)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_starts_the_drain_and_tells_who_listens() {
        let shutdown = ShutdownController::new();
        assert_eq!(shutdown.drain(), None);
        let (drained, drain) = tokio::join!(
            shutdown.wait_for_drain(Duration::from_secs(30)),
            shutdown.drain_started()
        );
        assert!(drained);
        assert_eq!(drain.deadline.since(drain.force_from), Duration::from_secs(3));
    }

    #[test]
    fn the_limit_is_exact_and_refused_guards_are_not_counted() {
        let shutdown = ShutdownController::new();
        let first = shutdown.try_connection_guard(1);
        assert!(first.is_some());
        assert!(shutdown.try_connection_guard(1).is_none());
        assert_eq!(shutdown.open_connections(), 1);
        drop(first);
        assert!(shutdown.try_connection_guard(1).is_some());
    }
}
