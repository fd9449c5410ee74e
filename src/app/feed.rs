//! Reads the registry whenever it may have changed, and passes on what it finds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::snapshot;
use super::store::Store;
use crate::adapters::outbound::StaticBackendRepository;
use crate::clock;
use crate::config::Config;
use crate::domain::ports::{Registry, RepositoryError};
use crate::infrastructure::backoff::Backoff;

/// What a reading came to: the table, or `None` when it is the one of the reading before; and the last
/// look that was asked for before it began.
pub(super) type Reading = (Result<Option<Registry>, RepositoryError>, u64);

/// Looks that were asked for.
#[derive(Debug, Default)]
struct Looks {
    asked: AtomicU64,
    notify: Notify,
}

/// Reads a store at an interval, sooner when it says that something has changed or somebody asks,
/// and with growing pauses, up to the interval, while it does not answer.
struct Feed {
    store: Store,
    config: watch::Receiver<Arc<Config>>,
    looks: Arc<Looks>,
    readings: mpsc::Sender<Reading>,
}

/// The other end of it.
pub(super) struct Following {
    pub readings: mpsc::Receiver<Reading>,
    looks: Arc<Looks>,
    /// Where good tables are kept, for a store that may be gone when this process starts again.
    keep: Option<watch::Sender<Option<Arc<Registry>>>>,
    /// For a registry in the configuration file.
    file: Option<Arc<StaticBackendRepository>>,
}

impl Following {
    /// Begins to follow a store, by tasks that end with the `control` plane.
    pub fn begin(
        mut store: Store,
        config: watch::Receiver<Arc<Config>>,
        control: &mut JoinSet<()>,
    ) -> Self {
        let keep = store.snapshot.take().map(|file| {
            let (keep, kept) = watch::channel(None);
            control.spawn(snapshot::keep(file, kept));
            keep
        });
        let file = store.file.take();
        let looks = Arc::new(Looks::default());
        let (read, readings) = mpsc::channel(1);
        let feed = Feed { store, config, looks: Arc::clone(&looks), readings: read };
        control.spawn(feed.run());
        Self { readings, looks, keep, file }
    }

    /// Asks for a reading now.
    pub fn look(&self) {
        let _ = self.ask();
    }

    /// Asks for a reading now: its number. A reading that was begun since comes with that or a later one.
    pub fn ask(&self) -> u64 {
        let number = self.looks.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.looks.notify.notify_one();
        number
    }

    /// Has the registry in the configuration file hold what the file says now, if that is the registry:
    /// the reading that this is.
    pub fn replace(&self, config: &Config) -> Option<Registry> {
        let file = self.file.as_ref()?;
        file.replace(config.backends.clone()?);
        Some(file.registry())
    }

    /// What the registry in the configuration file holds, if that is the registry.
    pub fn current(&self) -> Option<Registry> {
        self.file.as_ref().map(|file| file.registry())
    }

    /// Has a table outlive this process that the store says is good.
    pub fn keep(&self, registry: &Arc<Registry>) {
        if let Some(keep) = &self.keep {
            keep.send_replace(Some(Arc::clone(registry)));
        }
    }
}

impl Feed {
    /// Until nobody receives readings any more.
    async fn run(mut self) {
        let mut backoff: Option<Backoff> = None;
        let mut pause = self.interval();
        loop {
            self.wait(pause, backoff.is_some()).await;
            if let Some(hints) = &mut self.store.hints {
                // What is heard from now on may be of a change that this reading does not see.
                hints.mark_unchanged();
            }
            let begun = clock::now();
            let asked = self.looks.asked.load(Ordering::SeqCst);
            let reading = self.store.read().await;
            let took = clock::now().since(begun);
            let interval = self.interval();
            let failed = reading.is_err();
            if self.readings.send((reading, asked)).await.is_err() {
                return;
            }
            if failed {
                pause = backoff.get_or_insert_with(|| Backoff::new(interval)).next();
                continue;
            }
            backoff = None;
            // Hints that never end must not keep the store busy: it rests as long as it worked.
            let rest = took.min(interval);
            tokio::time::sleep(rest).await;
            // A little early, so that POPs that began together do not stay together.
            pause = interval.mul_f64(1.0 - fastrand::f64() / 10.0).saturating_sub(rest);
        }
    }

    fn interval(&self) -> Duration {
        Store::interval(&self.config.borrow())
    }

    /// Until the next reading is due, or something asks for one; while readings fail, only the store.
    async fn wait(&mut self, pause: Duration, fails: bool) {
        let interval = self.interval();
        let Self { store, config, looks, .. } = self;
        let hint = async {
            let told = match &mut store.hints {
                Some(hints) => hints.changed().await.is_ok(),
                None => false,
            };
            if !told {
                std::future::pending::<()>().await;
            }
        };
        let is_another = config.wait_for(|config| Store::interval(config) != interval);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = hint => {}
            () = looks.notify.notified(), if !fails => {}
            _ = is_another, if !fails => {}
        }
    }
}
