//! Sums up what has no line of its own: who was turned away before anything was known of them, and
//! lines of the access log that were dropped.

use std::sync::Arc;
use std::time::Duration;

use crate::adapters::inbound::worker::Worker;
use crate::application::account::{Reason, Refused};
use crate::infrastructure::log_sink::LogSink;

/// How often.
const EVERY: Duration = Duration::from_secs(10);

/// Clients that are named.
const NAMED: usize = 5;

/// Logs what has come since the last time, per reason.
pub(super) async fn run(workers: Arc<Vec<Worker>>, access_log: LogSink) {
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
