//! Sums up what has no line of its own: who was turned away before anything was known of them, and
//! lines of the access log that were dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::adapters::inbound::worker::Worker;
use crate::application::account::{Reason, Refused};
use crate::domain::ClientKey;
use crate::infrastructure::log_sink::LogSink;

/// How often.
const EVERY: Duration = Duration::from_secs(10);

/// Clients that are named.
const NAMED: usize = 5;
/// Summaries that are remembered: those of ten minutes.
const REMEMBERED: usize = 60;
/// Clients that are told of each reason, to whoever asks.
const TOLD: usize = 20;

/// Who was refused most of late.
#[derive(Debug, Default)]
pub(super) struct RecentlyRefused(Mutex<VecDeque<Vec<(Reason, ClientKey, u64)>>>);

impl RecentlyRefused {
    fn note(&self, refused: &Refused) {
        let top = Reason::ALL.iter().flat_map(|reason| {
            refused.top(*reason, TOLD).into_iter().map(|(client, count)| (*reason, client, count))
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == REMEMBERED {
            all.pop_front();
        }
        all.push_back(top.collect());
    }

    /// Why whom, and how often at least; the most frequent first.
    pub fn top(&self) -> Vec<(Reason, ClientKey, u64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: HashMap<(&str, ClientKey), (Reason, u64)> = HashMap::new();
        for (reason, client, count) in all.iter().flatten() {
            let sum = counts.entry((reason.as_str(), *client)).or_insert((*reason, 0));
            sum.1 += count;
        }
        let mut top: Vec<_> =
            counts.into_iter().map(|((_, client), (reason, sum))| (reason, client, sum)).collect();
        top.sort_by_key(|(_, _, sum)| std::cmp::Reverse(*sum));
        top.truncate(5 * TOLD);
        top
    }
}

/// Logs what has come since the last time, per reason.
pub(super) async fn run(
    workers: Arc<Vec<Worker>>,
    access_log: LogSink,
    recently: Arc<RecentlyRefused>,
) {
    let mut last = vec![0; Reason::ALL.len()];
    let (mut last_dry_run, mut last_untrusted) = (0, 0);
    let mut dropped = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        let total = access_log.dropped();
        let lost = total - std::mem::replace(&mut dropped, total);
        if lost > 0 {
            tracing::warn!(
                lines = lost,
                "access log lines dropped: standard output is not read fast enough"
            );
        }
        let mut refused = Refused::default();
        for worker in workers.iter() {
            refused.merge(worker.ended.take_refused());
        }
        recently.note(&refused);
        for (reason, last) in Reason::ALL.iter().zip(&mut last) {
            let total: u64 = workers.iter().map(|worker| worker.ended.of(*reason)).sum();
            let new = total - std::mem::replace(last, total);
            if reason.is_admission() && new > 0 {
                tracing::warn!(
                    reason = reason.as_str(),
                    connections = new,
                    most = names(&refused, *reason),
                    "refused in the last {EVERY:?}"
                );
            }
        }
        // Others without a proper header have a line each: they are peers of ours.
        let total: u64 = workers.iter().map(|worker| worker.ended.of_untrusted()).sum();
        let new = total - std::mem::replace(&mut last_untrusted, total);
        if new > 0 {
            tracing::warn!(
                reason = Reason::ProxyHeader.as_str(),
                connections = new,
                most = names(&refused, Reason::ProxyHeader),
                "refused in the last {EVERY:?}: not in EDGEPROXY_PROXY_PROTOCOL_TRUSTED"
            );
        }
        let total: u64 = workers.iter().map(|worker| worker.ended.dry_run()).sum();
        let new = total - std::mem::replace(&mut last_dry_run, total);
        if new > 0 {
            tracing::warn!(
                reason = Reason::RateLimited.as_str(),
                connections = new,
                most = names(&refused, Reason::RateLimited),
                "would have been refused in the last {EVERY:?}, were it not a dry run"
            );
        }
    }
}

/// Those who were refused most, with how often.
fn names(refused: &Refused, reason: Reason) -> String {
    let top = refused.top(reason, NAMED);
    top.iter().map(|(client, count)| format!("{client}:{count}")).collect::<Vec<_>>().join(" ")
}
