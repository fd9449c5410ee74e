//! How many connections a backend has: those of clients, and warm ones that wait for a client. Both
//! in one number, so that together they never exceed the hard limit.

use std::sync::atomic::{AtomicU64, Ordering};

/// One warm connection; those of clients count in the half below.
const WARM: u64 = 1 << 32;

#[derive(Debug, Default)]
pub(super) struct Places(AtomicU64);

impl Places {
    /// Connections of clients, and warm ones.
    pub fn taken(&self) -> (u32, u32) {
        halves(self.0.load(Ordering::SeqCst))
    }

    /// Takes a client's place, unless that would make more than `limit` (0 = none) in all.
    pub fn take(&self, limit: u32) -> bool {
        self.change(|(clients, warm)| {
            let room = limit == 0 || u64::from(clients) + u64::from(warm) < u64::from(limit);
            room.then_some((clients + 1, warm))
        })
    }

    /// Gives a client's place back.
    pub fn give_back(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    /// Takes a warm one's place, of which there are no more than `most`, unless that would make more
    /// than `limit` (0 = none) in all.
    pub fn take_warm(&self, most: u32, limit: u32) -> bool {
        self.change(|(clients, warm)| {
            let room = limit == 0 || u64::from(clients) + u64::from(warm) < u64::from(limit);
            (room && warm < most).then_some((clients, warm + 1))
        })
    }

    /// Gives a warm one's place back.
    pub fn give_warm_back(&self) {
        self.0.fetch_sub(WARM, Ordering::SeqCst);
    }

    /// Makes a warm one's place a client's.
    pub fn warm_to_client(&self) {
        // Less one above, more one below: neither half overflows, as the one was counted.
        self.0.fetch_sub(WARM - 1, Ordering::SeqCst);
    }

    fn change(&self, change: impl Fn((u32, u32)) -> Option<(u32, u32)>) -> bool {
        let next = |places| {
            change(halves(places)).map(|(clients, warm)| u64::from(warm) << 32 | u64::from(clients))
        };
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are cut out on purpose")]
const fn halves(places: u64) -> (u32, u32) {
    (places as u32, (places >> 32) as u32)
}
