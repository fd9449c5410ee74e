//! A bounded table of buckets, in shards.
//!
//! A key's hash, made with random keys (clients choose their addresses), says its shard, its row
//! there and nothing else: an entry is in any of the row's eight places. An entry whose bucket is
//! full again says nothing that a missing one would not, so its place is free. When a row has no
//! free place the shard doubles its rows, up to its share of the capacity; after that the entry of
//! the row whose bucket will be full soonest makes room. So a client that has used up its burst
//! outlasts any number of others that have not.
//!
//! "Again" goes by whatever time a thread comes with. A client forgotten by one whose time is a
//! moment later than the next thread's gains at most what refills in that moment.

use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::limit::{FULL, Limit, Ticks};
use crate::domain::time::Time;

/// Few enough to be small when idle, enough that threads hardly ever meet.
const SHARDS: usize = 256;
/// Places in a row: the keys fill one cache line, the rest of the row two.
const WAYS: usize = 8;

pub(super) struct Table {
    shards: Box<[Padded]>,
    hasher: RandomState,
    /// Rows that a shard may have; a power of two.
    most_rows: usize,
}

/// Apart from its neighbours: processors fetch lines in pairs, and threads would share them.
#[repr(align(128))]
struct Padded(Mutex<Shard>);

struct Shard {
    /// What the entries' times are counted by; a copy in each shard, so that it changes with them.
    limit: Limit,
    /// None, or a power of two.
    rows: Vec<Row>,
    held: usize,
    evictions: u64,
}

/// Entries side by side. An empty place is one that was always [`FULL`], under any key.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Row {
    keys: [u64; WAYS],
    full_at: [Ticks; WAYS],
}

const _: () = assert!(size_of::<Row>() <= 32 * WAYS, "an entry is at most 32 bytes");

/// The bucket of one key, for as long as its shard's lock is held.
pub(super) struct Bucket<'a> {
    table: &'a Table,
    shard: MutexGuard<'a, Shard>,
    key: u64,
    hash: usize,
    place: Option<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    row: usize,
    way: usize,
}

impl Table {
    /// A table of at most `entries`: whole rows, and as many in every shard.
    pub(super) fn new(limit: Limit, entries: usize) -> Self {
        let rows = (entries / WAYS).max(1);
        // With 128 to 256 shards the rows left over are less than a hundredth.
        let most_rows = rows.div_ceil(SHARDS).next_power_of_two();
        let shard = || Padded(Mutex::new(Shard { limit, rows: Vec::new(), held: 0, evictions: 0 }));
        Self {
            shards: (0..rows / most_rows).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            most_rows,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.shards.len() * self.most_rows * WAYS
    }

    pub(super) fn held(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().held).sum()
    }

    pub(super) fn evictions(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().evictions).sum()
    }

    /// The key's bucket, locked and not yet looked for.
    pub(super) fn lock(&self, key: u64) -> Bucket<'_> {
        let (high, low) = self.halves(key);
        // A product spreads over any number of shards, and is quicker than a remainder.
        let shard = (high * self.shards.len() as u64) >> 32;
        let shard = self.shards[usize::try_from(shard).unwrap_or_default()].lock();
        Bucket { table: self, shard, key, hash: low, place: None }
    }

    /// Puts every bucket under another limit.
    pub(super) fn set_limit(&self, limit: Limit, now: Time) {
        for shard in &self.shards {
            shard.lock().set_limit(limit, now);
        }
    }

    /// The halves of the key's hash: the high one says the shard, the low one the row there.
    fn halves(&self, key: u64) -> (u64, usize) {
        let hash = self.hasher.hash_one(key);
        (hash >> 32, usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default())
    }
}

impl Bucket<'_> {
    /// The bucket, with its entry if it has one. Without, it is full.
    pub(super) fn found(mut self) -> Self {
        self.place = self.shard.find(self.key, self.hash);
        self
    }

    /// When it is full again once a token is taken from it; none when it has none.
    pub(super) fn after_one(&self, now: Time) -> Option<Ticks> {
        let limit = &self.shard.limit;
        limit.after_one(self.full_at(), limit.ticks(now))
    }

    /// Whole tokens in it.
    pub(super) fn tokens(&self, now: Time) -> u64 {
        let limit = &self.shard.limit;
        limit.tokens(self.full_at(), limit.ticks(now))
    }

    /// How long until it has a token.
    pub(super) fn wait(&self, now: Time) -> Duration {
        let limit = &self.shard.limit;
        limit.wait(self.full_at(), limit.ticks(now))
    }

    /// Notes when it is full again.
    pub(super) fn set(mut self, full_at: Ticks, now: Time) {
        let now = self.shard.limit.ticks(now);
        // Full it needs no entry. So nobody has one where there is no limit.
        if full_at > now {
            let place = self.place.unwrap_or_else(|| self.vacate(now));
            let row = &mut self.shard.rows[place.row];
            row.keys[place.way] = self.key;
            let before = mem::replace(&mut row.full_at[place.way], full_at);
            self.shard.held += usize::from(before == FULL);
        }
    }

    fn full_at(&self) -> Ticks {
        self.place.map_or(FULL, |place| self.shard.rows[place.row].full_at[place.way])
    }

    /// A place in the key's row for a new entry.
    fn vacate(&mut self, now: Ticks) -> Place {
        let shard = &mut *self.shard;
        loop {
            let row = shard.row(self.hash);
            if let Some(entries) = shard.rows.get(row) {
                let (way, full_at) = entries.soonest_full();
                if full_at <= now {
                    return Place { row, way };
                }
                if shard.rows.len() >= self.table.most_rows {
                    shard.evictions += 1;
                    return Place { row, way };
                }
            }
            shard.grow(|key| self.table.halves(key).1);
        }
    }
}

impl Padded {
    fn lock(&self) -> MutexGuard<'_, Shard> {
        // No entry is ever half written: going on with a poisoned shard is safe.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn row(&self, hash: usize) -> usize {
        hash & self.rows.len().wrapping_sub(1)
    }

    fn find(&self, key: u64, hash: usize) -> Option<Place> {
        let row = self.row(hash);
        let way = self.rows.get(row)?.find(key)?;
        Some(Place { row, way })
    }

    /// Twice the rows. An entry stays, or goes to the same place of the row that its own is split
    /// into, so there is always room for it.
    fn grow(&mut self, hash: impl Fn(u64) -> usize) {
        let before = self.rows.len();
        self.rows.reserve_exact(before.max(1));
        self.rows.resize((before * 2).max(1), Row::EMPTY);
        let (rows, others) = self.rows.split_at_mut(before);
        for (row, other) in rows.iter_mut().zip(others) {
            for way in 0..WAYS {
                if row.full_at[way] != FULL && hash(row.keys[way]) & before != 0 {
                    other.keys[way] = row.keys[way];
                    other.full_at[way] = mem::replace(&mut row.full_at[way], FULL);
                }
            }
        }
    }

    fn set_limit(&mut self, limit: Limit, now: Time) {
        let old = mem::replace(&mut self.limit, limit);
        let entries = self.rows.iter_mut().flat_map(|row| &mut row.full_at);
        for full_at in entries.filter(|full_at| **full_at != FULL) {
            *full_at = limit.rescaled(&old, *full_at, now);
            self.held -= usize::from(*full_at == FULL);
        }
    }
}

impl Row {
    const EMPTY: Self = Self { keys: [0; WAYS], full_at: [FULL; WAYS] };

    fn find(&self, key: u64) -> Option<usize> {
        (0..WAYS).find(|way| self.keys[*way] == key && self.full_at[*way] != FULL)
    }

    /// The place whose bucket is full soonest, or has been for longest, and when.
    fn soonest_full(&self) -> (usize, Ticks) {
        let mut soonest = (0, self.full_at[0]);
        for (way, full_at) in self.full_at.into_iter().enumerate() {
            if full_at < soonest.1 {
                soonest = (way, full_at);
            }
        }
        soonest
    }
}
