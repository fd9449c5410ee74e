//! How things are, second by second.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{Steering, view};
use crate::adapters::inbound::api::Watching;
use crate::adapters::inbound::api::wire::{End, Live, Origin, Quantiles, State};
use crate::adapters::inbound::worker::Worker;
use crate::application::account::Reason;
use crate::clock;
use crate::domain::Country;
use crate::domain::time::Time;
use crate::infrastructure::meters::{Meters, Reading};

/// Backends in one look.
const BACKENDS: usize = 200;
/// Looks that quantiles are taken over.
const SMOOTHED: usize = 10;

/// What one reader was told last.
pub(super) struct Watch {
    steering: Arc<Steering>,
    before: VecDeque<Counts>,
}

/// What has been counted up to a moment.
struct Counts {
    at: Time,
    accepted: u64,
    requests: u64,
    sent: u64,
    received: u64,
    ends: Vec<u64>,
    countries: HashMap<Option<Country>, u64>,
    setup: Reading,
    request: Reading,
}

impl Counts {
    fn now(meters: &Meters, workers: &[Worker]) -> Self {
        let ends = Reason::ALL.iter().map(|reason| {
            let of = |worker: &Worker| worker.ended.of(*reason) + worker.ended.requests_of(*reason);
            workers.iter().map(of).sum()
        });
        Self {
            at: clock::now(),
            accepted: meters.connections(),
            requests: meters.answers().map(|(_, count)| count).sum(),
            sent: meters.sent(),
            received: meters.received(),
            ends: ends.collect(),
            countries: meters.countries().into_iter().collect(),
            setup: meters.setup(),
            request: meters.requests(),
        }
    }
}

impl Watch {
    pub fn new(steering: Arc<Steering>) -> Self {
        let counts = Counts::now(&steering.shared.meters, &steering.workers);
        Self { steering, before: VecDeque::from([counts]) }
    }
}

impl Watching for Watch {
    fn look(&mut self) -> Live {
        let steering = &self.steering;
        let now = Counts::now(&steering.shared.meters, &steering.workers);
        let last = self.before.back().unwrap_or(&now);
        let interval_secs = now.at.since(last.at).as_secs_f64();
        let rate = |now: u64, before: u64| per_second(now.saturating_sub(before), interval_secs);
        let oldest = self.before.front().unwrap_or(&now);
        let mut backends = view::backends(steering);
        backends.retain(|backend| backend.active > 0 || backend.state != State::Deleted);
        backends.sort_by_key(|backend| (backend.eligible, std::cmp::Reverse(backend.active)));
        backends.truncate(BACKENDS);
        backends.sort_by(|a, b| (&a.app, &a.id).cmp(&(&b.app, &b.id)));
        let ends = Reason::ALL.iter().zip(&now.ends).zip(&last.ends);
        let ends = ends.filter(|((_, total), _)| **total > 0);
        let mut countries: Vec<Origin> = now
            .countries
            .iter()
            .map(|(country, total)| Origin {
                country: country.map(|country| country.to_string()),
                total: *total,
                per_sec: rate(*total, last.countries.get(country).copied().unwrap_or_default()),
            })
            .collect();
        countries.sort_by_key(|origin| std::cmp::Reverse(origin.total));
        let live = Live {
            at: clock::wall().as_secs_f64(),
            interval_secs,
            status: view::status(steering),
            accepted_per_sec: rate(now.accepted, last.accepted),
            requests_per_sec: rate(now.requests, last.requests),
            sent_per_sec: rate(now.sent, last.sent),
            received_per_sec: rate(now.received, last.received),
            setup: quantiles(&now.setup, &oldest.setup),
            request: quantiles(&now.request, &oldest.request),
            ends: ends
                .map(|((reason, total), before)| End {
                    reason: reason.as_str().into(),
                    is_error: is_error(*reason),
                    total: *total,
                    per_sec: rate(*total, *before),
                })
                .collect(),
            countries,
            backends,
        };
        if self.before.len() == SMOOTHED {
            self.before.pop_front();
        }
        self.before.push_back(now);
        live
    }
}

/// Whether somebody was refused or failed.
const fn is_error(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::ClientClosed
            | Reason::BackendClosed
            | Reason::ClientReset
            | Reason::Idle
            | Reason::Served
            | Reason::Drained
    )
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn per_second(count: u64, secs: f64) -> f64 {
    if secs > 0.0 { count as f64 / secs } else { 0.0 }
}

/// The quantiles of what has come since `before`.
fn quantiles(now: &Reading, before: &Reading) -> Option<Quantiles> {
    let millis =
        |quantile| now.since(before).quantile(quantile).map(|span| span.as_secs_f64() * 1e3);
    Some(Quantiles { p50_ms: millis(0.5)?, p99_ms: millis(0.99)? })
}
