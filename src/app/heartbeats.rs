//! Heartbeats of registered backends: which of them are to be written to the store, and when. A lease
//! is written at most once in a third of its length, many in one transaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::unix_now;
use crate::clock;
use crate::config::Config;
use crate::domain::BackendId;
use crate::domain::ports::{BackendRepository, Renewal};
use crate::domain::time::Time;

/// Longest and shortest pause between two looks at what is to be written.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Writes heartbeats to the store, for as long as it is polled.
pub(super) async fn write(
    heartbeats: Arc<Mutex<Heartbeats>>,
    store: Arc<dyn BackendRepository>,
    config: watch::Receiver<Arc<Config>>,
) {
    let locked = || heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
    let mut complaint = None;
    loop {
        let ttl = config.borrow().settings.api_heartbeat_ttl_secs.get();
        tokio::time::sleep((ttl / 12).clamp(PAUSES.0, PAUSES.1)).await;
        let due = locked().due(ttl, unix_now(), clock::now());
        if due.is_empty() {
            continue;
        }
        match store.renew(due.clone()).await {
            Ok(()) => {
                locked().stored(&due, clock::now());
                if complaint.take().is_some() {
                    tracing::info!("leases can be written again");
                }
            }
            Err(error) => {
                let text = error.to_string();
                if complaint.as_ref() != Some(&text) {
                    tracing::warn!(leases = due.len(), "leases cannot be written: {text}");
                    complaint = Some(text);
                }
            }
        }
    }
}

/// Most backends whose heartbeats are remembered.
const MOST: usize = 100_000;

/// Heartbeats that came to this POP.
#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    beats: HashMap<BackendId, Beat>,
}

#[derive(Debug)]
struct Beat {
    generation: i64,
    /// Until when the last heartbeat lets it live, in seconds since the epoch.
    expires_at: i64,
    /// When the lease was written last; `None` = not by this process.
    stored: Option<Time>,
    /// Whether a heartbeat has come since then.
    has_news: bool,
}

impl Heartbeats {
    /// A lease that has just been written, with a registration.
    pub fn registered(&mut self, id: BackendId, generation: i64, expires_at: i64, now: Time) {
        let beat = Beat { generation, expires_at, stored: Some(now), has_news: false };
        self.beats.insert(id, beat);
    }

    /// A heartbeat that lets a backend live until `expires_at` (seconds since the epoch). `false` when
    /// there are too many of them.
    pub fn beat(&mut self, id: &BackendId, generation: i64, expires_at: i64) -> bool {
        if let Some(beat) = self.beats.get_mut(id) {
            if generation != beat.generation {
                beat.stored = None;
            }
            (beat.generation, beat.expires_at, beat.has_news) = (generation, expires_at, true);
            return true;
        }
        let has_room = self.beats.len() < MOST;
        if has_room {
            let beat = Beat { generation, expires_at, stored: None, has_news: true };
            self.beats.insert(id.clone(), beat);
        }
        has_room
    }

    /// Until when a registration lives by its heartbeats here, if any have come.
    pub fn expires_at(&self, id: &BackendId, generation: i64) -> Option<i64> {
        let beat = self.beats.get(id).filter(|beat| beat.generation == generation)?;
        Some(beat.expires_at)
    }

    /// What is to be written now, when leases last `ttl`. Those whose leases ended without another
    /// heartbeat are forgotten.
    pub fn due(&mut self, ttl: Duration, unix_now: i64, now: Time) -> Vec<Renewal> {
        self.beats.retain(|_, beat| beat.has_news || beat.expires_at >= unix_now);
        let is_due = |beat: &Beat| {
            beat.has_news && beat.stored.is_none_or(|stored| now.since(stored) >= ttl / 3)
        };
        let due = self.beats.iter().filter(|(_, beat)| is_due(beat));
        due.map(|(id, beat)| Renewal {
            id: id.clone(),
            generation: beat.generation,
            expires_at: beat.expires_at,
        })
        .collect()
    }

    /// These have been written.
    pub fn stored(&mut self, renewals: &[Renewal], now: Time) {
        for renewal in renewals {
            if let Some(beat) = self.beats.get_mut(&renewal.id)
                && beat.generation == renewal.generation
            {
                beat.stored = Some(now);
                beat.has_news = beat.expires_at > renewal.expires_at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    fn id(name: &str) -> BackendId {
        name.parse().unwrap()
    }

    /// Writes what is due at a second of the test's.
    fn write(beats: &mut Heartbeats, secs: u64) -> Vec<i64> {
        let due = beats.due(TTL, i64::try_from(secs).unwrap(), at(secs));
        beats.stored(&due, at(secs));
        due.iter().map(|renewal| renewal.expires_at).collect()
    }

    #[test]
    fn a_lease_is_written_once_in_a_third_of_its_length_however_often_heartbeats_come() {
        let mut beats = Heartbeats::default();
        beats.registered(id("a"), 1, 60, at(0));
        let mut writes = Vec::new();
        for secs in 1..=100 {
            assert!(beats.beat(&id("a"), 1, secs + 60));
            writes.extend(write(&mut beats, u64::try_from(secs).unwrap()));
        }
        assert_eq!(writes, [80, 100, 120, 140, 160]);
    }

    #[test]
    fn the_last_heartbeat_is_written_even_if_no_other_comes() {
        let mut beats = Heartbeats::default();
        beats.registered(id("a"), 1, 60, at(0));
        beats.beat(&id("a"), 1, 70);
        assert_eq!(write(&mut beats, 10), [0; 0]);
        assert_eq!(write(&mut beats, 20), [70], "it came at 10 and lets it live until 70");
        assert_eq!(write(&mut beats, 60), [0; 0]);
        let _ = beats.due(TTL, 71, at(71));
        assert!(beats.beats.is_empty(), "who does not come any more is forgotten");
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let mut beats = Heartbeats::default();
        beats.beat(&id("elsewhere"), 3, 60);
        assert_eq!(beats.due(TTL, 0, at(0)).len(), 1);
        assert_eq!(beats.due(TTL, 1, at(1))[0].generation, 3);
        let written = beats.due(TTL, 1, at(1));
        beats.beat(&id("elsewhere"), 3, 62);
        beats.stored(&written, at(2));
        assert_eq!(write(&mut beats, 22), [62], "one that came while the others were written");
    }
}
