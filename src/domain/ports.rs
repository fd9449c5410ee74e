//! What the product asks of the world outside: a registry of backends, and where an address is.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use super::backend::{Backend, BackendId, SkippedRow};
use super::geo::Country;

/// A future that any thread can drive, as trait objects need it.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One reading of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// The rows that parse, by id.
    pub backends: Vec<Backend>,
    /// The rows that do not, and why.
    pub skipped: Vec<SkippedRow>,
}

/// A registry that could not be read or written.
#[derive(Debug)]
pub struct RepositoryError {
    /// Which store, as its user would name it.
    pub store: String,
    /// What was tried and what came back.
    pub reason: String,
}

impl fmt::Display for RepositoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registry {}: {}", self.store, self.reason)
    }
}

impl std::error::Error for RepositoryError {}

/// Where backends are kept. Control plane only: no connection ever waits for it.
/// Dropping a future leaves the store as it was or as asked, never between.
pub trait BackendRepository: Send + Sync {
    /// The store, as its user would name it (`SQLite routing.db`).
    fn describe(&self) -> String;

    /// The backends that may take new connections by what is written about them; empty when
    /// nothing has been read yet and the store does not answer.
    fn get_healthy(&self) -> Pending<'_, Vec<Backend>>;

    /// Everything in the store, now.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn load(&self) -> Pending<'_, Result<Registry, RepositoryError>>;

    /// What [`load`](Self::load) gives, or `None` when nothing can have changed since the last call.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn load_if_changed(&self) -> Pending<'_, Result<Option<Registry>, RepositoryError>>;

    /// Writes rows as given, new or in place of those with the same ids; all or none. The side
    /// table is left alone.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn put(&self, backends: Vec<Backend>) -> Pending<'_, Result<(), RepositoryError>>;

    /// Marks a backend deleted. `false` when there is none of that id.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn remove(&self, id: BackendId) -> Pending<'_, Result<bool, RepositoryError>>;
}

/// Finds the country of an address without asking the network.
pub trait CountryLookup: Send + Sync {
    /// The country; `None` when it is not known.
    fn country(&self, ip: IpAddr) -> Option<Country>;

    /// Source and date of the data, for people.
    fn describe(&self) -> String;

    /// When the data was made, in seconds since the Unix epoch; `None` = unknown.
    fn built(&self) -> Option<u64> {
        None
    }
}
