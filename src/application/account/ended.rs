//! How connections ended, and who was turned away most.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Reason;
use crate::domain::ClientKey;

/// Clients that are told apart between two readings, of each kind of refusal.
const TOLD_APART: usize = 32;

/// How often each reason was, in one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Ended {
    counts: [AtomicU64; Reason::ALL.len()],
    /// Of requests that were not answered by a backend.
    requests: [AtomicU64; Reason::ALL.len()],
    would_be_limited: AtomicU64,
    untrusted: AtomicU64,
    refused: Mutex<Refused>,
}

/// Clients that were turned away since the last reading.
#[derive(Debug, Default)]
pub struct Refused(Vec<Turned>);

#[derive(Clone, Copy, Debug)]
struct Turned {
    reason: Reason,
    client: ClientKey,
    count: u64,
    /// How much of the count was of others, whose place it took.
    inherited: u64,
}

impl Ended {
    /// Counts one.
    pub fn count(&self, reason: Reason) {
        up(&self.counts[reason as usize]);
    }

    /// Counts a request that was not answered by a backend.
    pub fn count_request(&self, reason: Reason) {
        up(&self.requests[reason as usize]);
    }

    /// How many requests were not answered by a backend.
    #[must_use]
    pub fn requests_of(&self, reason: Reason) -> u64 {
        self.requests[reason as usize].load(Ordering::Relaxed)
    }

    /// Notes who was turned away, for the summary. Not while that is being made.
    pub fn refused(&self, reason: Reason, client: ClientKey) {
        if let Ok(mut refused) = self.refused.try_lock() {
            refused.note(reason, client);
        }
    }

    /// Counts a client that the rate limit would refuse if it were not a dry run.
    pub fn would_be_limited(&self, client: ClientKey) {
        up(&self.would_be_limited);
        self.refused(Reason::RateLimited, client);
    }

    /// Counts a peer that is not believed, whatever its PROXY protocol header would have said.
    pub fn untrusted(&self, peer: ClientKey) {
        up(&self.untrusted);
        self.count(Reason::ProxyHeader);
        self.refused(Reason::ProxyHeader, peer);
    }

    /// How many there were.
    #[must_use]
    pub fn of(&self, reason: Reason) -> u64 {
        self.counts[reason as usize].load(Ordering::Relaxed)
    }

    /// How many the rate limit would have refused.
    #[must_use]
    pub fn dry_run(&self) -> u64 {
        self.would_be_limited.load(Ordering::Relaxed)
    }

    /// How many peers were not believed.
    #[must_use]
    pub fn of_untrusted(&self) -> u64 {
        self.untrusted.load(Ordering::Relaxed)
    }

    /// Who was turned away since the last call.
    #[must_use]
    pub fn take_refused(&self) -> Refused {
        self.refused.lock().map(|mut refused| std::mem::take(&mut *refused)).unwrap_or_default()
    }
}

/// One worker writes, others read: no read-modify-write is needed.
fn up(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Refused {
    /// Space-saving (Metwally et al., 2005): a client that is not told apart yet takes the place of
    /// the rarest and its count, so that whoever comes often is in.
    fn note(&mut self, reason: Reason, client: ClientKey) {
        let (mut told_apart, mut rarest) = (0, None);
        for turned in self.0.iter_mut().filter(|turned| turned.reason == reason) {
            if turned.client == client {
                turned.count += 1;
                return;
            }
            told_apart += 1;
            if rarest.as_ref().is_none_or(|rarest: &&mut Turned| turned.count < rarest.count) {
                rarest = Some(turned);
            }
        }
        match rarest {
            Some(rarest) if told_apart >= TOLD_APART => {
                let inherited = rarest.count;
                *rarest = Turned { reason, client, count: inherited + 1, inherited };
            }
            _ => self.0.push(Turned { reason, client, count: 1, inherited: 0 }),
        }
    }

    /// Adds what another worker saw.
    pub fn merge(&mut self, other: Self) {
        for turned in other.0 {
            let same = |known: &&mut Turned| {
                (known.reason, known.client) == (turned.reason, turned.client)
            };
            match self.0.iter_mut().find(same) {
                Some(known) => {
                    known.count += turned.count;
                    known.inherited += turned.inherited;
                }
                None => self.0.push(turned),
            }
        }
    }

    /// Those who were turned away most often for a reason, `most` of them, each with how often it
    /// was at least.
    #[must_use]
    pub fn top(&self, reason: Reason, most: usize) -> Vec<(ClientKey, u64)> {
        let of = self.0.iter().filter(|turned| turned.reason == reason);
        let mut all: Vec<_> = of.map(|t| (t.client, t.count - t.inherited)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all.truncate(most);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(ip: &str) -> ClientKey {
        ip.parse::<std::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn who_is_refused_most_is_found_among_any_number_of_others() {
        let ended = Ended::default();
        for other in 0..5_000_u32 {
            ended.refused(Reason::RateLimited, std::net::IpAddr::from(other.to_be_bytes()).into());
            if other % 4 == 0 {
                ended.refused(Reason::RateLimited, client("2001:db8::1"));
            }
        }
        ended.refused(Reason::Denied, client("192.0.2.1"));
        let mut refused = ended.take_refused();
        refused.merge(Ended::default().take_refused());
        let top = refused.top(Reason::RateLimited, 5);
        assert_eq!(top[0].0, client("2001:db8::1"));
        assert!((1_000..=1_250).contains(&top[0].1), "{top:?}");
        assert!(top[1].1 <= 2, "who came once is not said to have come often: {top:?}");
        assert_eq!(refused.top(Reason::RateLimited, 5).len(), 5);
        assert_eq!(refused.top(Reason::Denied, 5), [(client("192.0.2.1"), 1)]);
        assert!(ended.take_refused().top(Reason::Denied, 5).is_empty(), "each reading begins anew");
    }
}
