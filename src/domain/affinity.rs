//! Which backend each client had last, so that it has it again.
//!
//! Bindings are spread over shards, each behind a mutex that is held for one probe of a hash table
//! and never across a system call. The table is bounded: the binding used longest ago goes first.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::geo::ClientKey;
use super::time::Time;

/// Few enough to be small when idle, enough that workers hardly ever meet.
const SHARDS: usize = 64;
/// Bindings held in one shard's lock at a time while expired ones are looked for.
const SWEEP_STEP: usize = 512;
/// No neighbour in the list of last use.
const NONE: u32 = u32::MAX;

/// Whose binding: a client, and the number of the app.
pub type Key = (ClientKey, u32);

/// Bindings of clients to backends.
#[derive(Debug)]
pub struct Affinity {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    per_shard: usize,
}

/// A binding as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The backend's number in this process.
    pub backend: u64,
    /// When the client was bound to it.
    pub since: Time,
}

/// An open connection's claim on its binding: while it is held the binding does not expire.
/// Give it to [`Affinity::release`]. One whose binding has been replaced or evicted claims nothing.
#[derive(Debug)]
#[must_use = "a binding stays open until its hold is released"]
pub struct Hold {
    shard: u8,
    entry: u32,
    stamp: u32,
}

/// A key with its hash, which is made once with random keys (clients choose their addresses).
#[derive(Clone, Copy, Debug)]
struct Hashed {
    key: Key,
    hash: u64,
}

impl PartialEq for Hashed {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Hashed {}

impl Hash for Hashed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Passes on the hash that is there already.
#[derive(Debug, Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only a ready hash is written")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Debug, Default)]
struct Shard {
    places: HashMap<Hashed, u32, BuildHasherDefault<Ready>>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    stamps: u32,
    /// Ends of the list of last use.
    newest: Option<u32>,
    oldest: Option<u32>,
}

#[derive(Debug)]
struct Entry {
    key: Hashed,
    binding: Binding,
    expires: Time,
    open: u32,
    stamp: u32,
    newer: u32,
    older: u32,
    live: bool,
}

impl Affinity {
    /// A table of at most about `capacity` bindings (rounded up to a multiple of 64).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            per_shard: capacity.div_ceil(SHARDS).clamp(1, NONE as usize - 1),
        }
    }

    /// The client's binding, if it has one that has not expired. Looking does not renew it.
    #[must_use]
    pub fn lookup(&self, key: Key, now: Time) -> Option<Binding> {
        let key = self.hashed(key);
        let shard = self.shard(key.shard());
        let entry = &shard.entries[*shard.places.get(&key)? as usize];
        (entry.open > 0 || now < entry.expires).then_some(entry.binding)
    }

    /// Binds the client to the backend, or renews its binding when it is to that one already.
    pub fn bind(&self, key: Key, backend: u64, ttl: Duration, now: Time) -> Hold {
        let key = self.hashed(key);
        let place = key.shard();
        let mut shard = self.shard(place);
        let index = match shard.places.get(&key).copied() {
            Some(index) => index,
            None => shard.insert(key, self.per_shard),
        };
        shard.touch(index);
        let renewed = {
            let entry = &shard.entries[index as usize];
            entry.live
                && entry.binding.backend == backend
                && (entry.open > 0 || now < entry.expires)
        };
        if !renewed {
            shard.stamps = shard.stamps.wrapping_add(1);
            let stamp = shard.stamps;
            let entry = &mut shard.entries[index as usize];
            entry.binding = Binding { backend, since: now };
            entry.open = 0;
            entry.stamp = stamp;
            entry.live = true;
        }
        let entry = &mut shard.entries[index as usize];
        entry.open += 1;
        entry.expires = now + ttl;
        Hold { shard: place, entry: index, stamp: entry.stamp }
    }

    /// Ends a connection's claim; the binding lives on for `ttl`.
    #[expect(clippy::needless_pass_by_value, reason = "a hold is released once")]
    pub fn release(&self, hold: Hold, ttl: Duration, now: Time) {
        let mut shard = self.shard(hold.shard);
        let Some(entry) = shard.entries.get_mut(hold.entry as usize) else { return };
        if entry.live && entry.stamp == hold.stamp {
            entry.open -= 1;
            entry.expires = now + ttl;
            shard.touch(hold.entry);
        }
    }

    /// Drops the client's binding if it is to that backend.
    pub fn forget(&self, key: Key, backend: u64) {
        let key = self.hashed(key);
        let mut shard = self.shard(key.shard());
        if let Some(index) = shard.places.get(&key).copied()
            && shard.entries[index as usize].binding.backend == backend
        {
            shard.remove(index);
        }
    }

    /// Drops expired bindings, a few at a time under each lock.
    pub fn sweep(&self, now: Time) {
        for place in 0..self.shards.len() {
            let place = u8::try_from(place).unwrap_or_default();
            let mut from = 0;
            loop {
                let mut shard = self.shard(place);
                let to = (from + SWEEP_STEP).min(shard.entries.len());
                for index in from..to {
                    let entry = &shard.entries[index];
                    if entry.live && entry.open == 0 && entry.expires <= now {
                        shard.remove(u32::try_from(index).unwrap_or(NONE));
                    }
                }
                if to == shard.entries.len() {
                    shard.shrink();
                    break;
                }
                from = to;
            }
        }
    }

    /// How many bindings there are, expired ones not yet swept included.
    #[must_use]
    pub fn len(&self) -> usize {
        (0..SHARDS)
            .map(|place| self.shard(u8::try_from(place).unwrap_or_default()).places.len())
            .sum()
    }

    /// Whether there are no bindings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hashed(&self, key: Key) -> Hashed {
        Hashed { key, hash: self.hasher.hash_one(key) }
    }

    fn shard(&self, place: u8) -> MutexGuard<'_, Shard> {
        // A poisoned shard holds preferences, not truths: going on with it is safe.
        self.shards[usize::from(place)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hashed {
    /// The table inside a shard goes by the hash's low and highest bits.
    fn shard(self) -> u8 {
        u8::try_from((self.hash >> 48) % SHARDS as u64).unwrap_or_default()
    }
}

impl Shard {
    /// A dead entry under the key, at the newest end.
    fn insert(&mut self, key: Hashed, capacity: usize) -> u32 {
        if self.places.len() >= capacity
            && let Some(oldest) = self.oldest
        {
            self.remove(oldest);
        }
        let entry = Entry {
            key,
            binding: Binding { backend: 0, since: Time::ZERO },
            expires: Time::ZERO,
            open: 0,
            stamp: 0,
            newer: NONE,
            older: NONE,
            live: false,
        };
        let index = if let Some(index) = self.free.pop() {
            self.entries[index as usize] = entry;
            index
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
        };
        self.places.insert(key, index);
        self.link(index);
        index
    }

    fn remove(&mut self, index: u32) {
        self.unlink(index);
        let entry = &mut self.entries[index as usize];
        entry.live = false;
        self.places.remove(&entry.key);
        self.free.push(index);
    }

    fn touch(&mut self, index: u32) {
        if self.newest != Some(index) {
            self.unlink(index);
            self.link(index);
        }
    }

    fn link(&mut self, index: u32) {
        let older = self.newest.replace(index).unwrap_or(NONE);
        self.entries[index as usize].older = older;
        self.entries[index as usize].newer = NONE;
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = index,
            None => self.oldest = Some(index),
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { newer, older, .. } = self.entries[index as usize];
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = (older != NONE).then_some(older),
        }
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = (newer != NONE).then_some(newer),
        }
    }

    /// Gives memory back once nothing is bound. Stamps go on, so that no old hold fits a new entry.
    fn shrink(&mut self) {
        if self.places.is_empty() {
            *self = Self { stamps: self.stamps, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    fn client(n: u32) -> Key {
        (ClientKey::from(IpAddr::from(Ipv4Addr::from_bits(n))), 0)
    }

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    fn backend(table: &Affinity, key: Key, now: Time) -> Option<u64> {
        table.lookup(key, now).map(|binding| binding.backend)
    }

    #[test]
    fn a_binding_slides_and_expires_at_look_up() {
        let table = Affinity::new(64);
        let hold = table.bind(client(1), 7, TTL, at(0));
        table.release(hold, TTL, at(0));
        assert_eq!(backend(&table, client(1), at(599)), Some(7));
        let hold = table.bind(client(1), 7, TTL, at(599));
        table.release(hold, TTL, at(599));
        assert_eq!(backend(&table, client(1), at(1_198)), Some(7));
        assert_eq!(backend(&table, client(1), at(1_199)), None);
        assert_eq!(table.lookup(client(1), at(700)).unwrap().since, at(0));
    }

    #[test]
    fn an_open_connection_keeps_it() {
        let table = Affinity::new(64);
        let hold = table.bind(client(1), 7, TTL, at(0));
        table.sweep(at(10_000));
        assert_eq!(backend(&table, client(1), at(10_000)), Some(7));
        table.release(hold, TTL, at(10_000));
        assert_eq!(backend(&table, client(1), at(10_599)), Some(7));
        table.sweep(at(10_600));
        assert!(table.is_empty());
    }

    #[test]
    fn apps_bind_apart_and_forgetting_names_the_backend() {
        let table = Affinity::new(SHARDS * 8);
        let (key, _) = client(1);
        let _one = table.bind((key, 1), 7, TTL, at(0));
        let _two = table.bind((key, 2), 8, TTL, at(0));
        table.forget((key, 1), 8);
        assert_eq!(backend(&table, (key, 1), at(0)), Some(7));
        table.forget((key, 1), 7);
        assert_eq!(backend(&table, (key, 1), at(0)), None);
        assert_eq!(backend(&table, (key, 2), at(0)), Some(8));
    }

    #[test]
    fn a_hold_of_a_replaced_binding_claims_nothing() {
        let table = Affinity::new(64);
        let old = table.bind(client(1), 7, TTL, at(0));
        let new = table.bind(client(1), 8, TTL, at(1));
        table.release(old, TTL, at(2));
        table.sweep(at(10_000));
        assert_eq!(backend(&table, client(1), at(10_000)), Some(8));
        table.release(new, TTL, at(10_000));
        assert_eq!(backend(&table, client(1), at(10_600)), None);
    }

    #[test]
    fn when_full_the_one_used_longest_ago_goes() {
        let table = Affinity::new(SHARDS * 4);
        let mut by_shard: HashMap<u8, Vec<Key>> = HashMap::new();
        for n in 0..10_000 {
            by_shard.entry(table.hashed(client(n)).shard()).or_default().push(client(n));
        }
        let keys = &by_shard[&0];
        for (n, key) in keys[..4].iter().enumerate() {
            let hold = table.bind(*key, n as u64, TTL, at(0));
            table.release(hold, TTL, at(0));
        }
        let hold = table.bind(keys[0], 0, TTL, at(1));
        table.release(hold, TTL, at(1));
        let _ = table.bind(keys[4], 4, TTL, at(2));
        assert_eq!(backend(&table, keys[0], at(2)), Some(0));
        assert_eq!(backend(&table, keys[1], at(2)), None);
        assert_eq!(table.len(), 4);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Bind(u32, u64),
        Release(usize),
        Forget(u32, u64),
        Wait(u64),
        Sweep,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..5_u32, 0..3_u64).prop_map(|(c, b)| Step::Bind(c, b)),
            (0..8_usize).prop_map(Step::Release),
            (0..5_u32, 0..3_u64).prop_map(|(c, b)| Step::Forget(c, b)),
            (1..400_u64).prop_map(Step::Wait),
            Just(Step::Sweep),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// The model keeps a plain map of (backend, open connections, expiry).
        #[test]
        fn it_agrees_with_a_plain_map(steps in steps()) {
            let table = Affinity::new(1 << 12);
            let mut model: HashMap<u32, (u64, u32, u64, u64)> = HashMap::new();
            let mut holds: Vec<(Hold, u32, u64)> = Vec::new();
            let (mut now, mut marks) = (0, 0);
            for step in steps {
                match step {
                    Step::Bind(c, b) => {
                        let fresh = model.get(&c).is_none_or(|(old, open, expires, _)| {
                            *old != b || (*open == 0 && *expires <= now)
                        });
                        marks += 1;
                        let row = model.entry(c).or_insert((b, 0, 0, marks));
                        if fresh { *row = (b, 0, 0, marks); }
                        row.1 += 1;
                        row.2 = now + 600;
                        holds.push((table.bind(client(c), b, TTL, at(now)), c, row.3));
                    }
                    Step::Release(n) if n < holds.len() => {
                        let (hold, c, mark) = holds.swap_remove(n);
                        table.release(hold, TTL, at(now));
                        if let Some(row) = model.get_mut(&c).filter(|row| row.3 == mark) {
                            row.1 -= 1;
                            row.2 = now + 600;
                        }
                    }
                    Step::Release(_) => {}
                    Step::Forget(c, b) => {
                        table.forget(client(c), b);
                        if model.get(&c).is_some_and(|row| row.0 == b) { model.remove(&c); }
                    }
                    Step::Wait(secs) => now += secs,
                    Step::Sweep => {
                        table.sweep(at(now));
                        model.retain(|_, row| row.1 > 0 || row.2 > now);
                        prop_assert_eq!(table.len(), model.len());
                    }
                }
                for c in 0..5 {
                    let expected = model.get(&c).filter(|row| row.1 > 0 || row.2 > now).map(|row| row.0);
                    prop_assert_eq!(backend(&table, client(c), at(now)), expected);
                }
            }
        }
    }
}
