//! How many probes are under way at once, over all the checkers that share a gate.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Caps the probes that are under way at once, and counts the discarded ones of all who share it.
///
/// Those who wait are let in in the order of their coming.
#[derive(Debug)]
pub struct Gate {
    permits: Semaphore,
    cap: AtomicUsize,
    discarded: AtomicU64,
}

impl Gate {
    /// Lets `cap` probes through at once; zero counts as one.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        let cap = cap.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            permits: Semaphore::new(cap),
            cap: AtomicUsize::new(cap),
            discarded: AtomicU64::new(0),
        }
    }

    /// Lets at least `cap` probes through at once. Never narrows the gate.
    pub fn ensure(&self, cap: usize) {
        let cap = cap.min(Semaphore::MAX_PERMITS);
        let before = self.cap.fetch_max(cap, Ordering::Relaxed);
        self.permits.add_permits(cap.saturating_sub(before));
    }

    /// How many probes may be under way at once.
    #[must_use]
    pub fn cap(&self) -> usize {
        self.cap.load(Ordering::Relaxed)
    }

    /// Probes that did not count because they told of this process and not of a backend.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }

    pub(super) fn discard(&self) {
        self.discarded.fetch_add(1, Ordering::Relaxed);
    }

    /// A place within the gate, kept until the permit is dropped. Dropping the future gives up the
    /// place in the queue.
    pub(super) async fn enter(&self) -> SemaphorePermit<'_> {
        let Ok(permit) = self.permits.acquire().await else {
            unreachable!("nobody closes the semaphore");
        };
        permit
    }
}
