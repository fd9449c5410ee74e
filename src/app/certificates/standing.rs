//! How the certificates in force stand: until when they are valid, and what became of changes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::Level;

use super::{Certificates, Files};
use crate::app::whole_secs;
use crate::clock;
use crate::domain::time::civil_date;

/// So long before a certificate expires the log warns of it.
const AHEAD: Duration = Duration::from_secs(14 * 86_400);
/// Lines about certificates that are logged one by one.
const NAMED: usize = 50;

/// The certificates in force, for whoever asks.
#[derive(Debug)]
pub(in crate::app) struct Standing {
    in_force: ArcSwap<Certificates>,
    successes: AtomicU64,
    failures: AtomicU64,
}

/// Until when a certificate is valid.
pub(in crate::app) struct Validity {
    /// Its file.
    pub certificate: String,
    /// In seconds since the epoch.
    pub not_after: i64,
}

impl Standing {
    /// With those of the start.
    pub fn new(certificates: Arc<Certificates>) -> Self {
        Self {
            in_force: ArcSwap::new(certificates),
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    pub fn in_force(&self) -> Arc<Certificates> {
        self.in_force.load_full()
    }

    /// Puts others in force; says whether they are others.
    pub fn take(&self, certificates: &Arc<Certificates>) -> bool {
        let before = self.in_force.swap(Arc::clone(certificates));
        if before.is(certificates) {
            return false;
        }
        self.successes.fetch_add(1, Ordering::Relaxed);
        log_difference(&before, certificates);
        self.warn_of_doubts();
        true
    }

    /// A file could not be used.
    pub(super) fn fails(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes that were put in force.
    pub fn successes(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    /// Files that could not be used.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Says in the log what is doubtful about those in force.
    pub fn warn_of_doubts(&self) {
        for (level, text) in self.in_force().doubts(clock::wall()).into_iter().take(NAMED) {
            if level == Level::ERROR {
                tracing::error!("{text}");
            } else {
                tracing::warn!("{text}");
            }
        }
    }

    /// Until when each is valid.
    pub fn validities(&self) -> Vec<Validity> {
        let certificates = self.in_force();
        let entries = certificates.entries.iter();
        let mut all: Vec<Validity> = entries
            .map(|entry| Validity {
                certificate: entry.source.files.to_string(),
                not_after: entry.pair.not_after(),
            })
            .collect();
        // One that is given twice is one series.
        all.sort_by(|one, other| one.certificate.cmp(&other.certificate));
        all.dedup_by(|one, other| one.certificate == other.certificate);
        all
    }
}

impl Certificates {
    /// What is doubtful about them at a time since the epoch.
    pub(super) fn doubts(&self, now: Duration) -> Vec<(Level, String)> {
        let mut doubts = Vec::new();
        if self.entries.is_empty() {
            let text = "there is no certificate: clients that begin with TLS are refused";
            doubts.push((Level::ERROR, text.to_owned()));
        }
        let (now, ahead) = (whole_secs(now), whole_secs(AHEAD));
        let open = self.entries.first().is_some_and(|entry| entry.source.clients.is_none());
        for entry in &self.entries {
            if open && entry.source.clients.is_some() {
                let text = format!(
                    "certificate {}: only those need a certificate who ask for its names; who asks \
                     for another, or for none, is asked for none and gets to the app of the listener",
                    entry.source.files
                );
                doubts.push((Level::WARN, text));
            }
            let (from, until) = (entry.pair.not_before(), entry.pair.not_after());
            let files = &entry.source.files;
            if until < now {
                let text = format!("certificate {files} has expired on {}", date(until));
                doubts.push((Level::ERROR, text));
            } else if until - now < ahead {
                let days = (until - now) / 86_400;
                let text =
                    format!("certificate {files} expires in {days} days, on {}", date(until));
                doubts.push((Level::WARN, text));
            }
            if from > now {
                let text = format!("certificate {files} is not valid before {}", date(from));
                doubts.push((Level::WARN, text));
            }
        }
        doubts
    }
}

impl std::fmt::Display for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Self::Made => Path::new("self-signed").display(),
            Self::Pair { cert, .. } => cert.display(),
        };
        write!(f, "{text}")
    }
}

fn log_difference(before: &Certificates, after: &Certificates) {
    let is_in = |all: &Certificates, files: &Files| {
        all.entries.iter().any(|entry| entry.source.files == *files)
    };
    let changed = after.entries.iter().filter(|entry| {
        let same = |old: &&super::Entry| old.source.files == entry.source.files;
        let old = before.entries.iter().find(same);
        !old.is_some_and(|old| Arc::ptr_eq(&old.pair, &entry.pair))
    });
    for entry in changed.take(NAMED) {
        let until = date(entry.pair.not_after());
        let names: Vec<String> = entry.names().take(NAMED).map(ToString::to_string).collect();
        tracing::info!(
            "certificate {}: valid until {until} for {}",
            entry.source.files,
            names.join(" ")
        );
    }
    let gone = before.entries.iter().filter(|entry| !is_in(after, &entry.source.files));
    for entry in gone.take(NAMED) {
        tracing::info!("certificate {}: no longer in force", entry.source.files);
    }
    tracing::info!(certificates = after.entries.len(), "the certificates have changed");
}

/// The day of a time in seconds since the epoch.
pub(super) fn date(unix: i64) -> String {
    let (year, month, day) = civil_date(u64::try_from(unix).unwrap_or_default());
    format!("{year:04}-{month:02}-{day:02}")
}
