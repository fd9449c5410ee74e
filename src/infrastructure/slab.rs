//! A worker's open connections, by a key that is never valid for a later one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::reactor::Token;

/// Low bits of a token: which of a connection's sockets.
const PART_BITS: u32 = 3;
/// Bits for the place in the slab.
const PLACE_BITS: u32 = 29;

/// A connection's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    place: u32,
    generation: u32,
}

impl Key {
    /// The token of one of the connection's sockets, 0 to 7.
    #[must_use]
    pub const fn token(self, part: usize) -> Token {
        let place = (self.place as u64) << PART_BITS | part as u64;
        Token((self.generation as u64) << (PART_BITS + PLACE_BITS) | place)
    }

    /// The connection and the socket that a token stands for.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the fields are cut out on purpose")]
    pub const fn of(token: Token) -> (Self, usize) {
        let place = (token.0 as u32) >> PART_BITS;
        let generation = (token.0 >> (PART_BITS + PLACE_BITS)) as u32;
        (Self { place, generation }, token.0 as usize & ((1 << PART_BITS) - 1))
    }
}

/// Hashes keys, which nobody else chooses: by a multiplication that spreads their bits (Fibonacci
/// hashing, Knuth).
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// What is known by keys.
pub type KeyMap<T> = HashMap<Key, T, BuildHasherDefault<KeyHasher>>;

/// Values by key. While a value is taken out, its place is kept for it.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    /// Counts reservations: no two keys are alike until it has gone round, 4 thousand million later.
    generations: u32,
}

/// What is looked at for all connections at once stands beside the values, not in them.
#[derive(Debug)]
struct Entry<T> {
    value: Option<Box<T>>,
    generation: u32,
    touched: u32,
    born: u32,
    may_idle: u32,
    milestone: u8,
}

impl<T> Entry<T> {
    const fn age(&self) -> Age {
        let Self { born, touched, may_idle, milestone, .. } = *self;
        Age { born, touched, may_idle, milestone }
    }
}

/// The times of an entry, in ticks of the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// When it was put in.
    pub born: u32,
    /// When it was last touched.
    pub touched: u32,
    /// How long it may stay untouched.
    pub may_idle: u32,
    /// What [`Slab::reach`] was last called with; 0 before.
    pub milestone: u8,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), generations: 0 }
    }
}

impl<T> Slab<T> {
    /// How many values there are, those taken out included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A key for a value that will be [`put`](Self::put); `None` past a thousand million of them.
    pub fn reserve(&mut self, tick: u32) -> Option<Key> {
        let place = if let Some(place) = self.free.pop() {
            place
        } else {
            let place = u32::try_from(self.entries.len()).ok().filter(|p| p >> PLACE_BITS == 0)?;
            self.entries.push(Entry {
                value: None,
                generation: 0,
                touched: tick,
                born: tick,
                may_idle: u32::MAX,
                milestone: 0,
            });
            place
        };
        self.generations = self.generations.wrapping_add(1).max(1);
        let entry = &mut self.entries[place as usize];
        entry.generation = self.generations;
        (entry.touched, entry.born, entry.milestone) = (tick, tick, 0);
        entry.may_idle = u32::MAX;
        Some(Key { place, generation: entry.generation })
    }

    /// Puts a value, new or taken out before, in its place.
    pub fn put(&mut self, key: Key, value: Box<T>) {
        if let Some(entry) = self.entry(key) {
            entry.value = Some(value);
        }
    }

    /// Takes a value out, to work with it; its key stays valid.
    pub fn take(&mut self, key: Key) -> Option<Box<T>> {
        self.entry(key)?.value.take()
    }

    /// Ends a key, whose value has been taken out.
    pub fn free(&mut self, key: Key) {
        if let Some(entry) = self.entry(key) {
            entry.value = None;
            entry.generation = 0;
            self.free.push(key.place);
        }
        if self.is_empty() && self.entries.len() > KEPT {
            self.entries.truncate(KEPT);
            self.entries.shrink_to(KEPT);
            self.free.retain(|place| (*place as usize) < KEPT);
            self.free.shrink_to(KEPT);
        }
    }

    /// Has a key begin its life now.
    pub fn renew(&mut self, key: Key, tick: u32) {
        if let Some(entry) = self.entry(key) {
            (entry.touched, entry.born, entry.milestone) = (tick, tick, 0);
        }
    }

    /// Notes that something happened at `tick`.
    pub fn touch(&mut self, key: Key, tick: u32) {
        if let Some(entry) = self.entry(key) {
            entry.touched = tick;
        }
    }

    /// Sets how long a key may stay untouched; without it, for ever.
    pub fn may_idle(&mut self, key: Key, ticks: u32) {
        if let Some(entry) = self.entry(key) {
            entry.may_idle = ticks;
        }
    }

    /// Notes how far an entry has come.
    pub fn reach(&mut self, key: Key, milestone: u8) {
        if let Some(entry) = self.entry(key) {
            entry.milestone = milestone;
        }
    }

    /// Whether a key is valid.
    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.entries.get(key.place as usize).is_some_and(|e| e.generation == key.generation)
    }

    /// The age of a key's value.
    #[must_use]
    pub fn age(&self, key: Key) -> Option<Age> {
        let entry = self.entries.get(key.place as usize)?;
        (entry.generation == key.generation).then(|| entry.age())
    }

    /// Every value's key and age.
    pub fn ages(&self) -> impl Iterator<Item = (Key, Age)> {
        self.entries.iter().zip(0..).filter(|(entry, _)| entry.value.is_some()).map(
            |(entry, place)| {
                let key = Key { place, generation: entry.generation };
                (key, entry.age())
            },
        )
    }

    /// Every value with its key and age, from the place `from` on, `most` places at most; and the place to
    /// go on from, if there are more.
    pub fn some(
        &self,
        from: usize,
        most: usize,
    ) -> (impl Iterator<Item = (Key, Age, &T)>, Option<usize>) {
        let end = self.entries.len().min(from.saturating_add(most));
        let places = self.entries.get(from..end).unwrap_or_default().iter().zip(from..);
        let values = places.filter_map(|(entry, place)| {
            let place = u32::try_from(place).ok()?;
            let key = Key { place, generation: entry.generation };
            Some((key, entry.age(), entry.value.as_deref()?))
        });
        (values, (end < self.entries.len()).then_some(end))
    }

    fn entry(&mut self, key: Key) -> Option<&mut Entry<T>> {
        self.entries.get_mut(key.place as usize).filter(|entry| entry.generation == key.generation)
    }
}

/// Places kept when nothing is open.
const KEPT: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_valid_for_a_later_value() {
        let mut slab = Slab::default();
        let first = slab.reserve(1).unwrap();
        slab.put(first, Box::new("first"));
        assert_eq!(slab.take(first).as_deref(), Some(&"first"));
        slab.free(first);
        let second = slab.reserve(2).unwrap();
        slab.put(second, Box::new("second"));
        assert_eq!(slab.take(first), None);
        slab.free(first);
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.ages().next().unwrap().0, second);
    }

    #[test]
    fn a_token_names_the_connection_and_the_socket() {
        let mut slab = Slab::<()>::default();
        for _ in 0..5 {
            let key = slab.reserve(0).unwrap();
            for part in 0..8 {
                assert_eq!(Key::of(key.token(part)), (key, part));
            }
        }
    }
}
