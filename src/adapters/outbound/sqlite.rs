//! The registry in a `SQLite` file, which any other program may read and change at the same time.
//!
//! `SQLite` blocks, so the file belongs to one thread of its own; the futures only wait for answers.

mod leases;
mod rows;
mod schema;
mod store;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::domain::ports::{BackendRepository, Pending, Registry, Renewal, RepositoryError};
use crate::domain::{AdminState, Backend, BackendId};

use store::Store;

/// Requests that may wait for the file's thread before askers wait to ask.
const MAX_JOBS: usize = 64;

/// What opening a registry may do to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Makes the file and its tables when they are missing.
    Create,
    /// Reads and writes a file that must be there.
    Existing,
    /// Reads a file that must be there, and never writes.
    ReadOnly,
}

type Job = Box<dyn FnOnce(&mut Store) + Send>;

/// Backends kept in a `SQLite` file. Dropping it ends its thread and closes the file.
#[derive(Debug)]
pub struct SqliteBackendRepository {
    name: String,
    /// The last reading that a caller received, by its serial number. Counted on this side of the
    /// queue, so that a reading whose asker went away is given to the next one.
    delivered: AtomicU64,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteBackendRepository {
    /// Opens the registry at `path`. Blocks while it does.
    ///
    /// # Errors
    /// When the file is missing (unless `access` creates it), is no `SQLite` database, cannot be
    /// opened, or has no table `backends` with the columns that a backend cannot do without.
    pub fn open(path: &Path, access: Access) -> Result<Self, RepositoryError> {
        let name = format!("SQLite {}", path.display());
        let failed = |reason| RepositoryError { store: name.clone(), reason };
        let mut store = Store::open(path, access).map_err(failed)?;
        let (jobs, mut queue) = mpsc::channel::<Job>(MAX_JOBS);
        let serve = move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut store);
            }
        };
        let thread = std::thread::Builder::new()
            .name("sqlite".into())
            .spawn(serve)
            .map_err(|error| failed(format!("no thread for it: {error}")))?;
        let delivered = AtomicU64::new(0);
        Ok(Self { name, delivered, jobs: Some(jobs), thread: Some(thread) })
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, String> + Send + 'static,
    ) -> Result<T, RepositoryError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |store| {
            // Nobody waits any more: the store stays as it was.
            if !reply.is_closed() {
                let _ = reply.send(work(store));
            }
        });
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job).await;
        }
        answer
            .await
            .unwrap_or_else(|_| Err("its thread has ended".into()))
            .map_err(|reason| RepositoryError { store: self.name.clone(), reason })
    }
}

impl Drop for SqliteBackendRepository {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl BackendRepository for SqliteBackendRepository {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn get_healthy(&self) -> Pending<'_, Vec<Backend>> {
        Box::pin(async move {
            let now = i64::try_from(clock::wall().as_secs()).unwrap_or(i64::MAX);
            let healthy = self.ask(move |store| {
                // A store that does not answer leaves what was read before.
                let _ = store.refresh();
                let backends = store.registry().backends.iter();
                Ok(backends.filter(|b| b.eligible(now).is_ok()).cloned().collect())
            });
            healthy.await.unwrap_or_default()
        })
    }

    fn load(&self) -> Pending<'_, Result<Registry, RepositoryError>> {
        Box::pin(async move {
            let (serial, registry) = self
                .ask(|store| {
                    store.reread()?;
                    Ok((store.serial(), store.registry().clone()))
                })
                .await?;
            self.delivered.store(serial, Ordering::Relaxed);
            Ok(registry)
        })
    }

    fn load_if_changed(&self) -> Pending<'_, Result<Option<Registry>, RepositoryError>> {
        Box::pin(async move {
            let delivered = self.delivered.load(Ordering::Relaxed);
            let changed = self
                .ask(move |store| {
                    store.refresh()?;
                    let serial = store.serial();
                    Ok((serial != delivered).then(|| (serial, store.registry().clone())))
                })
                .await?;
            Ok(changed.map(|(serial, registry)| {
                self.delivered.store(serial, Ordering::Relaxed);
                registry
            }))
        })
    }

    fn put(&self, backends: Vec<Backend>) -> Pending<'_, Result<(), RepositoryError>> {
        Box::pin(self.ask(move |store| store.put(&backends)))
    }

    fn remove(&self, id: BackendId) -> Pending<'_, Result<bool, RepositoryError>> {
        Box::pin(self.ask(move |store| store.remove(&id)))
    }

    fn register(
        &self,
        backend: Backend,
        expires_at: i64,
    ) -> Pending<'_, Result<i64, RepositoryError>> {
        Box::pin(self.ask(move |store| store.register(&backend, expires_at)))
    }

    fn renew(&self, renewals: Vec<Renewal>) -> Pending<'_, Result<(), RepositoryError>> {
        Box::pin(self.ask(move |store| store.renew(renewals)))
    }

    fn set_state(
        &self,
        id: BackendId,
        state: AdminState,
    ) -> Pending<'_, Result<bool, RepositoryError>> {
        Box::pin(self.ask(move |store| store.set_state(&id, state)))
    }
}
