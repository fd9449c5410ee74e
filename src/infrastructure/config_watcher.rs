//! Watches files, and says when what one holds has changed.
//!
//! A change is one of content: a file that is touched, or replaced by an equal one, is none. It is
//! found whatever its times say and however it came about: written in place, renamed over, or by a
//! symbolic link on the way that leads elsewhere, as Kubernetes changes its volumes. A file that
//! is deleted has changed, and has again when it comes back.
//!
//! The kernel tells of changes on this machine (inotify), and each file is also looked at every
//! interval, for file systems of other machines. A change is reported when the file has been quiet
//! for 250 ms, so that a burst of writes is one event; a file that is never quiet is reported 5 s
//! after it began.
//!
//! What cannot be read (no permission, an error of the file system) counts as what it was before.

mod look;
mod notices;
mod settle;
#[cfg(test)]
mod tests;
mod trail;
mod watching;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use self::watching::{Request, Watching};

/// Events that wait for a receiver; one that has more to come has lagged.
const WAITING: usize = 256;
/// Requests that wait for the task.
const REQUESTS: usize = 16;
/// Files are looked at no more often than this, unless there is a sign of a change.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// A watched file has other content, is gone, or is there again; its path as it was given.
    FileModified(PathBuf),
    /// A setting has another value. Comes from [`ConfigWatcher::publish`] only.
    ValueChanged {
        /// Which one.
        key: String,
        /// What it was, if it was anything.
        old_value: Option<String>,
        /// What it is.
        new_value: String,
    },
    /// Anything may have changed: read everything anew. Comes from [`ConfigWatcher::publish`], and
    /// in the place of the events that a receiver was too slow for.
    FullReload,
}

/// Watches files from a task of its own, which ends when this is dropped.
pub struct ConfigWatcher {
    interval: Duration,
    /// Whether the kernel is asked to tell of changes.
    notices: bool,
    changes: broadcast::Sender<ConfigChange>,
    task: Mutex<Task>,
}

/// The task, and the way to it.
#[derive(Default)]
struct Task {
    requests: Option<mpsc::Sender<Request>>,
    /// One task at most; a set, because that aborts what it holds when it is dropped.
    running: JoinSet<()>,
}

/// The events since it was made by [`ConfigWatcher::subscribe`].
#[derive(Debug)]
pub struct Changes(broadcast::Receiver<ConfigChange>);

/// The watcher is gone, and every event has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is no longer watched")]
pub struct Closed;

impl ConfigWatcher {
    /// A watcher of no files yet, made inside a runtime or outside. Each file is looked at every
    /// `interval` (10 ms at least: less counts as 10 ms), besides when there is a sign of a change.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self::with(interval, true)
    }

    /// The same without the kernel's notices: what changes is seen within `interval`.
    #[must_use]
    pub fn polling(interval: Duration) -> Self {
        Self::with(interval, false)
    }

    fn with(interval: Duration, notices: bool) -> Self {
        let interval = interval.max(SHORTEST_INTERVAL);
        let changes = broadcast::Sender::new(WAITING);
        Self { interval, notices, changes, task: Mutex::default() }
    }

    /// Watches one more file, which need not exist yet, nor its folder. What it holds when this
    /// returns is what changes are changes from. A relative path is taken from the current folder,
    /// as it is now. Does nothing for a path that is watched already.
    ///
    /// The first call starts the task, on the runtime of the caller; it ends with that runtime, and
    /// a call after that begins anew without the files of before.
    ///
    /// # Errors
    /// When changes could neither be told of nor seen: the folder of the file may not be entered or
    /// is no folder, its symbolic links go round in circles, it is no regular file; or when more
    /// than 1024 files are watched.
    ///
    /// # Panics
    /// Outside a tokio runtime. In one whose time is not enabled, nor its I/O unless this only
    /// polls, the task panics and nothing is watched.
    pub async fn watch_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let given = path.as_ref();
        let named = |error: io::Error| {
            let text = format!("{} cannot be watched: {error}", given.display());
            io::Error::new(error.kind(), text)
        };
        let absolute = std::path::absolute(given).map_err(named)?;
        let (asked, answer) = oneshot::channel();
        let request = Request { given: given.into(), absolute, asked };
        let ended = || named(io::Error::other("the runtime of the watcher has ended"));
        self.requests().send(request).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?.map_err(named)
    }

    /// The events from now on. Whoever must not miss one subscribes before the first
    /// [`watch_file`](Self::watch_file).
    #[must_use]
    pub fn subscribe(&self) -> Changes {
        Changes(self.changes.subscribe())
    }

    /// Sends `change` to every receiver there is.
    pub fn publish(&self, change: ConfigChange) {
        // An error is that there is none.
        let _ = self.changes.send(change);
    }

    /// The way to the task, which is started when there is none.
    fn requests(&self) -> mpsc::Sender<Request> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        while task.running.try_join_next().is_some() {}
        if let Some(requests) = &task.requests
            && !task.running.is_empty()
        {
            return requests.clone();
        }
        let (requests, waiting) = mpsc::channel(REQUESTS);
        let watching = Watching::new(self.changes.clone());
        task.running.spawn(watching.run(waiting, self.interval, self.notices));
        task.requests = Some(requests.clone());
        requests
    }
}

impl fmt::Debug for ConfigWatcher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interval, notices, .. } = self;
        out.debug_struct("ConfigWatcher")
            .field("interval", interval)
            .field("notices", notices)
            .finish_non_exhaustive()
    }
}

impl Changes {
    /// The next event. A receiver that is more than 256 events behind gets
    /// [`ConfigChange::FullReload`] in the place of those it missed. Nothing is lost when the
    /// future is dropped.
    ///
    /// # Errors
    /// When the watcher is gone.
    pub async fn recv(&mut self) -> Result<ConfigChange, Closed> {
        match self.0.recv().await {
            Ok(change) => Ok(change),
            Err(broadcast::error::RecvError::Lagged(_)) => Ok(ConfigChange::FullReload),
            Err(broadcast::error::RecvError::Closed) => Err(Closed),
        }
    }
}
