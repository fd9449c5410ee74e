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
    counts: [AtomicU64; 17],
    would_be_limited: AtomicU64,
    refused: Mutex<Refused>,
}

const _: () = assert!(Reason::ALL.len() == 17);

/// Clients that were turned away since the last reading.
#[derive(Debug, Default)]
pub struct Refused(Vec<(Reason, ClientKey, u64)>);

impl Ended {
    /// Counts one.
    pub fn count(&self, reason: Reason) {
        up(&self.counts[reason as usize]);
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
    /// the rarest and its count, so that whoever comes often is in, and no count is too low.
    fn note(&mut self, reason: Reason, client: ClientKey) {
        let same = |(of, _, _): &&mut (Reason, ClientKey, u64)| *of == reason;
        if let Some((_, _, count)) = self.0.iter_mut().filter(same).find(|(_, c, _)| *c == client) {
            *count += 1;
        } else if self.0.iter_mut().filter(same).count() < TOLD_APART {
            self.0.push((reason, client, 1));
        } else if let Some(rarest) = self.0.iter_mut().filter(same).min_by_key(|(_, _, n)| *n) {
            *rarest = (reason, client, rarest.2 + 1);
        }
    }

    /// Adds what another worker saw.
    pub fn merge(&mut self, other: Self) {
        for (reason, client, count) in other.0 {
            match self.0.iter_mut().find(|(of, c, _)| (*of, *c) == (reason, client)) {
                Some((_, _, sum)) => *sum += count,
                None => self.0.push((reason, client, count)),
            }
        }
    }

    /// Those who were turned away most often for a reason, `most` of them.
    #[must_use]
    pub fn top(&self, reason: Reason, most: usize) -> Vec<(ClientKey, u64)> {
        let of = |(of, client, count): &(Reason, ClientKey, u64)| {
            (*of == reason).then_some((*client, *count))
        };
        let mut all: Vec<_> = self.0.iter().filter_map(of).collect();
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
        assert_eq!(refused.top(Reason::RateLimited, 5)[0].0, client("2001:db8::1"));
        assert_eq!(refused.top(Reason::RateLimited, 5).len(), 5);
        assert_eq!(refused.top(Reason::Denied, 5), [(client("192.0.2.1"), 1)]);
        assert!(ended.take_refused().top(Reason::Denied, 5).is_empty(), "each reading begins anew");
    }
}
