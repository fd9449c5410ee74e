//! Who may come in: the deny list, how many connections there are, in all and of one client, and how
//! often a client comes. A refusal costs no dial.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::account::Reason;
use crate::domain::ClientKey;
use crate::domain::cidr::{Cidr, CidrMap};
use crate::domain::time::Time;
use crate::infrastructure::{ConnectionGuard, RateLimiter, ShutdownController};

/// Enough that workers hardly ever meet.
const SHARDS: usize = 64;

/// What admission goes by.
#[derive(Debug, Default)]
pub struct Rules {
    deny: CidrMap<()>,
    /// Open connections in all.
    pub max_connections: usize,
    /// Open connections of one client; 0 = no limit.
    pub max_per_client: u32,
    /// How often each client may come; `None` = as often as it likes.
    rate: Option<Rate>,
}

/// How often clients may come.
#[derive(Clone, Debug)]
pub struct Rate {
    /// The buckets.
    pub limiter: Arc<RateLimiter>,
    /// Who may come as often as it likes.
    pub exempt: Arc<CidrMap<()>>,
    /// Whether those who come too often are let in all the same, and only counted.
    pub dry_run: bool,
}

impl Rules {
    /// Rules with the given ranges denied.
    #[must_use]
    pub fn new(deny: &[Cidr], max_connections: usize, max_per_client: u32) -> Self {
        let deny = deny.iter().map(|cidr| (*cidr, ())).collect();
        Self { deny, max_connections, max_per_client, rate: None }
    }

    /// The same with a limit of how often clients come.
    #[must_use]
    pub fn with_rate(self, rate: Rate) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// The limit of how often clients come.
    #[must_use]
    pub const fn rate(&self) -> Option<&Rate> {
        self.rate.as_ref()
    }
}

/// A connection that was let in, counted while this lives.
#[derive(Debug)]
pub struct Admitted {
    guard: ConnectionGuard,
    /// Whether the rate limit would have refused it, were it not a dry run.
    pub too_often: bool,
    /// Counted per client only while there is a limit.
    client: Option<ClientGuard>,
}

impl Admitted {
    /// Says that the connection is closed because the drain ran out of time.
    pub fn force(&self) {
        self.guard.force();
    }

    /// Whether the connection is counted among its client's.
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        self.client.is_some()
    }

    /// Counts the connection among its client's, if it is not yet: there is a limit now.
    pub fn count(&mut self, ip: IpAddr, clients: &Arc<ClientCounts>) {
        self.client.get_or_insert_with(|| clients.guard(ip.into()));
    }
}

/// Lets a client in, or says why not. One that arrived behind a trusted peer is counted already, by
/// its `guard`.
///
/// # Errors
/// The reason, for the log.
pub fn admit(
    ip: IpAddr,
    guard: Option<ConnectionGuard>,
    counts: bool,
    rules: &Rules,
    open: &ShutdownController,
    clients: &Arc<ClientCounts>,
    now: Time,
) -> Result<Admitted, Reason> {
    if rules.denies(ip) {
        return Err(Reason::Denied);
    }
    let guard = guard.or_else(|| open.try_connection_guard(rules.max_connections));
    let guard = guard.ok_or(Reason::GlobalCap)?;
    let client = match rules.max_per_client {
        0 => None,
        limit => Some(clients.try_guard(ip.into(), limit).ok_or(Reason::ClientCap)?),
    };
    // Last, so that who is refused for another reason pays nothing.
    let too_often = counts && rules.rate.as_ref().is_some_and(|rate| rate.refuses(ip, now));
    if too_often && !rules.rate.as_ref().is_some_and(|rate| rate.dry_run) {
        return Err(Reason::RateLimited);
    }
    Ok(Admitted { guard, too_often, client })
}

/// What comes of asking too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooOften {
    /// Nothing, for now.
    DryRun,
    /// It is to wait so long.
    Refused(Duration),
}

impl Rules {
    /// Whether a client is on the deny list.
    #[must_use]
    pub fn denies(&self, ip: IpAddr) -> bool {
        !self.deny.is_empty() && self.deny.get(ip).is_some()
    }

    /// Whether a client asks too often. What it asks for is counted.
    #[must_use]
    pub fn limits(&self, ip: IpAddr, now: Time) -> Option<TooOften> {
        let rate = self.rate.as_ref().filter(|rate| rate.refuses(ip, now))?;
        let wait = (!rate.dry_run).then(|| rate.limiter.retry_after_at(ip, now));
        Some(wait.map_or(TooOften::DryRun, TooOften::Refused))
    }
}

impl Rate {
    fn refuses(&self, ip: IpAddr, now: Time) -> bool {
        let exempt = !self.exempt.is_empty() && self.exempt.get(ip).is_some();
        !exempt && !self.limiter.check_at(ip, now)
    }
}

/// Open connections of each client; holds nothing for a client that has none.
#[derive(Debug)]
pub struct ClientCounts {
    shards: Vec<Mutex<HashMap<ClientKey, u32>>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct ClientGuard {
    counts: Arc<ClientCounts>,
    client: ClientKey,
}

impl Default for ClientCounts {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl ClientCounts {
    fn try_guard(self: &Arc<Self>, client: ClientKey, limit: u32) -> Option<ClientGuard> {
        self.with(client, |counts| {
            let count = counts.entry(client).or_insert(0);
            (*count < limit).then(|| *count += 1)
        })?;
        Some(ClientGuard { counts: Arc::clone(self), client })
    }

    fn guard(self: &Arc<Self>, client: ClientKey) -> ClientGuard {
        self.with(client, |counts| *counts.entry(client).or_insert(0) += 1);
        ClientGuard { counts: Arc::clone(self), client }
    }

    fn with<T>(
        &self,
        client: ClientKey,
        change: impl FnOnce(&mut HashMap<ClientKey, u32>) -> T,
    ) -> T {
        let place = usize::try_from(self.hasher.hash_one(client) % SHARDS as u64).unwrap_or(0);
        change(&mut self.shards[place].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.counts.with(self.client, |counts| {
            if let Some(count) = counts.get_mut(&self.client) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&self.client);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_refuses_for_its_own_reason_and_counts_nothing_it_refused() {
        let rules = Rules::new(&["192.0.2.0/24".parse().unwrap()], 3, 2);
        let open = ShutdownController::new();
        let clients = Arc::new(ClientCounts::default());
        let admit_as = |ip: &str, guard| {
            admit(ip.parse().unwrap(), guard, true, &rules, &open, &clients, Time::ZERO)
        };
        let come = |ip: &str| admit_as(ip, None);

        assert_eq!(come("192.0.2.9").err(), Some(Reason::Denied));
        let first = come("198.51.100.1").unwrap();
        let _second = come("198.51.100.1").unwrap();
        assert_eq!(come("::ffff:198.51.100.1").err(), Some(Reason::ClientCap));
        let _third = come("198.51.100.2").unwrap();
        assert_eq!(come("198.51.100.3").err(), Some(Reason::GlobalCap));
        drop(first);
        assert!(come("198.51.100.1").is_ok());
        assert_eq!(open.open_connections(), 2);
        // Who waited for its header is counted already: there is a place for it, and no second one.
        let waiting = open.try_connection_guard(3);
        assert!(waiting.is_some() && open.try_connection_guard(3).is_none());
        let arrived = admit_as("198.51.100.3", waiting).unwrap();
        assert_eq!(open.open_connections(), 3);
        drop(arrived);
        assert_eq!(open.open_connections(), 2);
    }
}
