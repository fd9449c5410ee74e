//! How often each client may do something: a token bucket a client, in bounded memory.
//!
//! A bucket holds up to `burst_size` tokens, starts full, refills continuously at
//! `max_requests / window`, and a check that passes takes one token. A client is an IPv4 address or
//! an IPv6 /64 ([`ClientKey`]). Whoever has a whole /48 has 65,536 clients to be, so each /48 has a
//! bucket as well, with [`SITE_CLIENTS`] times the rate and the burst; a check passes when both have
//! a token, and takes from both or from neither.
//!
//! No lock is global. A check of an IPv4 client holds one shard's lock for one probe; that of an IPv6
//! client holds two, always the /48's before the client's. Nothing is rounded
//! (`limit.rs`), and a client stays limited while others flood the table (`table.rs`).

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::limit::Limit;
use self::table::{Bucket, Table};
use crate::clock;
use crate::domain::ClientKey;
use crate::domain::time::Time;

mod limit;
mod table;
#[cfg(test)]
mod tests;

/// Clients held by [`RateLimiter::new`]: 12 MiB when all of it is used.
const CLIENTS: usize = 1 << 19;
/// Clients for each /48 held.
const CLIENTS_A_SITE: usize = 8;
/// How many clients' rate and burst all the clients of one IPv6 /48 have together.
pub const SITE_CLIENTS: u32 = 32;

/// What one client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitConfig {
    /// Tokens that come back in each `window`, evenly and without rounding. With 0 none ever does:
    /// a client has `burst_size` checks for as long as it is remembered.
    pub max_requests: u32,
    /// The time that `max_requests` is for, to the nanosecond; above 584 years it counts as 584.
    /// With 0 there is no limit, unless `burst_size` or `max_requests` is 0.
    pub window: Duration,
    /// Tokens in a full bucket: how many checks pass at once after a pause. With 0 none ever passes.
    pub burst_size: u32,
}

/// Token buckets for clients, shared between threads.
///
/// The `_at` methods are given the time, the others read the clock. A time may be somewhat earlier
/// than one that another thread came with: such a check finds no more tokens than there were.
pub struct RateLimiter {
    clients: Table,
    sites: Table,
    config: Mutex<RateLimitConfig>,
}

impl RateLimiter {
    /// A limiter for up to 524,288 clients and 65,536 IPv6 /48s at a time.
    #[must_use]
    pub fn new(config: RateLimitConfig) -> Self {
        Self::with_capacity(config, CLIENTS)
    }

    /// A limiter that remembers at most `clients` clients, and an eighth as many IPv6 /48s; rounded
    /// down by less than a hundredth beyond 2,048 clients and to a multiple of 8 below, and never
    /// below 8. A client takes 24 bytes. Memory grows with use, is not given back, and never passes
    /// what the capacity takes.
    #[must_use]
    pub fn with_capacity(config: RateLimitConfig, clients: usize) -> Self {
        Self {
            clients: Table::new(Limit::new(config, 1), clients),
            sites: Table::new(Limit::new(config, SITE_CLIENTS), clients / CLIENTS_A_SITE),
            config: Mutex::new(config),
        }
    }

    /// Takes one of the client's tokens; false when it has none, and nothing is taken then.
    pub fn check(&self, ip: IpAddr) -> bool {
        self.check_at(ip, clock::now())
    }

    /// [`check`](Self::check) at a given time.
    pub fn check_at(&self, ip: IpAddr, now: Time) -> bool {
        let (site, client) = self.buckets(ip);
        let Some(left) = client.after_one(now) else { return false };
        if let Some(site) = site {
            let Some(left) = site.after_one(now) else { return false };
            site.set(left, now);
        }
        client.set(left, now);
        true
    }

    /// How many checks of this client would pass now: its whole tokens, or its /48's when they are
    /// fewer. Asking takes none.
    #[must_use]
    pub fn remaining(&self, ip: IpAddr) -> u32 {
        self.remaining_at(ip, clock::now())
    }

    /// [`remaining`](Self::remaining) at a given time.
    #[must_use]
    pub fn remaining_at(&self, ip: IpAddr, now: Time) -> u32 {
        let (site, client) = self.buckets(ip);
        let tokens = client.tokens(now);
        let tokens = site.map_or(tokens, |site| tokens.min(site.tokens(now)));
        // A client has no more than `burst_size`, which is a u32.
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// How long until a check of this client would pass, if nothing else takes its token: zero when
    /// one would now, [`Duration::MAX`] when none ever will.
    #[must_use]
    pub fn retry_after_at(&self, ip: IpAddr, now: Time) -> Duration {
        let (site, client) = self.buckets(ip);
        let wait = client.wait(now);
        site.map_or(wait, |site| wait.max(site.wait(now)))
    }

    /// The limits in force.
    #[must_use]
    pub fn config(&self) -> RateLimitConfig {
        *self.current()
    }

    /// Changes the limits and keeps the buckets. The tokens that a client is missing stay missing
    /// (never more than the new burst, and none when there is no limit any more) and come back at
    /// the new rate. Each shard changes at once, one after the other, in some 100 µs of its lock
    /// when it is full.
    pub fn set_config(&self, config: RateLimitConfig) {
        self.set_config_at(config, clock::now());
    }

    /// [`set_config`](Self::set_config) at a given time.
    pub fn set_config_at(&self, config: RateLimitConfig, now: Time) {
        // Held to the end, so that two changes at once do not leave some shards with either.
        let mut current = self.current();
        if *current != config {
            *current = config;
            self.sites.set_limit(Limit::new(config, SITE_CLIENTS), now);
            self.clients.set_limit(Limit::new(config, 1), now);
        }
    }

    /// Clients held now, those included whose bucket is full again and whose place nobody needed.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.held()
    }

    /// The most clients ever held at a time.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.clients.capacity()
    }

    /// Clients and /48s that were forgotten before their bucket was full again, for want of room.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.clients.evictions() + self.sites.evictions()
    }

    /// The buckets that a check of this address takes from, locked: the /48's, if it has one, and
    /// the client's. The order is the same everywhere, so that no two threads wait for each other.
    fn buckets(&self, ip: IpAddr) -> (Option<Bucket<'_>>, Bucket<'_>) {
        let client = ClientKey::from(ip);
        let site = client.site().map(|site| self.sites.lock(site));
        let client = self.clients.lock(client.bits());
        // Locking orders memory: looking after both lets the processor fetch both rows at once.
        (site.map(Bucket::found), client.found())
    }

    fn current(&self) -> MutexGuard<'_, RateLimitConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter").field("config", &self.config()).finish_non_exhaustive()
    }
}
