//! Sums up who was turned away before anything was known of them, instead of a line for each.

use std::sync::Arc;
use std::time::Duration;

use crate::adapters::inbound::worker::Worker;
use crate::application::account::Reason;

/// How often.
const EVERY: Duration = Duration::from_secs(10);

/// Logs what has come since the last time, per reason.
pub(super) async fn run(workers: Arc<Vec<Worker>>) {
    let mut last = vec![0; Reason::ALL.len()];
    loop {
        tokio::time::sleep(EVERY).await;
        for (reason, last) in Reason::ALL.iter().zip(&mut last) {
            let total: u64 = workers.iter().map(|worker| worker.ended.of(*reason)).sum();
            let new = total - std::mem::replace(last, total);
            if reason.is_admission() && new > 0 {
                tracing::warn!(
                    reason = reason.as_str(),
                    connections = new,
                    "refused in the last {EVERY:?}"
                );
            }
        }
    }
}
