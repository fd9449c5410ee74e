//! What the product asks of the world outside: a registry of backends, and where an address is.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use super::backend::{AdminState, Backend, BackendId, SkippedRow};
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

impl Registry {
    /// Whether `other` differs in nothing but when leases end: what renewals change. A lease that never
    /// ends is not the same as one that does. Compares in place, and copies nothing.
    #[must_use]
    pub fn is_same_but_for_expiries(&self, other: &Self) -> bool {
        let Self { backends, skipped } = self;
        backends.len() == other.backends.len()
            && *skipped == other.skipped
            && backends
                .iter()
                .zip(&other.backends)
                .all(|(one, other)| one.is_same_but_for_expiry(other))
    }
}

/// A later end of a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Renewal {
    /// Whose lease it is.
    pub id: BackendId,
    /// The registration that it is of, as [`register`](BackendRepository::register) counted it.
    pub generation: i64,
    /// When it ends, in seconds since the Unix epoch.
    pub expires_at: i64,
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

    /// Marks a backend deleted, and ends its lease and what was asked of it; the generation stays.
    /// `false` when there is none of that id.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn remove(&self, id: BackendId) -> Pending<'_, Result<bool, RepositoryError>>;

    /// Writes a row, new or in place of the one with the same id, as not deleted, and gives
    /// it a lease until `expires_at` (seconds since the Unix epoch); both or none. Returns the lease's
    /// generation: 1 for the first of an id and one more each time, whatever was deleted in between, and
    /// never the same for two. It is healthy, unless an operator has asked for something else: drain, maint
    /// and `healthy = 0` stay with a row that was there, and not with one that was deleted.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn register(
        &self,
        backend: Backend,
        expires_at: i64,
    ) -> Pending<'_, Result<i64, RepositoryError>>;

    /// Has leases end later, all or none. Passed over are renewals of another generation than the
    /// lease's, of leases that never end or end later already, and of rows that are deleted or not there:
    /// one that comes late brings nothing back. The rows themselves are not touched.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn renew(&self, renewals: Vec<Renewal>) -> Pending<'_, Result<(), RepositoryError>>;

    /// Writes what an operator asks of a backend, in `healthy` too, for those who read nothing else. One without
    /// a lease is given one of generation 0 that never ends. The row counts as changed. `false` when
    /// there is none of that id, or it is deleted.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_state(
        &self,
        id: BackendId,
        state: AdminState,
    ) -> Pending<'_, Result<bool, RepositoryError>>;
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

#[cfg(test)]
mod tests {
    use super::super::Lease;
    use super::super::backend::{Number, RawRow};
    use super::*;

    fn leased(expires_at: Option<i64>) -> Registry {
        let lease = Lease { generation: 7, expires_at, admin_state: AdminState::Ready };
        let row = RawRow {
            id: Some("a".into()),
            app: Some("web".into()),
            region: Some("sa".into()),
            wg_ip: Some("10.0.0.1".into()),
            port: Some(Number::Whole(80)),
            lease: Some(lease),
            ..RawRow::default()
        };
        Registry { backends: vec![Backend::try_from(row).unwrap()], skipped: Vec::new() }
    }

    #[test]
    fn a_renewal_alone_makes_no_other_registry() {
        assert!(leased(Some(1)).is_same_but_for_expiries(&leased(Some(1))));
        assert!(leased(Some(1)).is_same_but_for_expiries(&leased(Some(2))));
        assert!(Registry::default().is_same_but_for_expiries(&Registry::default()));
    }

    #[test]
    fn everything_else_does() {
        let changes: [fn(&mut Backend); 17] = [
            |b| b.id = "b".parse().unwrap(),
            |b| b.app = "api".parse().unwrap(),
            |b| b.region = "eu".parse().unwrap(),
            |b| b.country = "BR".parse().ok(),
            |b| b.wg_ip = "10.0.0.2".parse().unwrap(),
            |b| b.port = 81,
            |b| b.healthy = false,
            |b| b.weight = 2,
            |b| b.soft_limit = 2,
            |b| b.hard_limit = 2,
            |b| b.deleted = true,
            |b| b.created_at = Some("2026".into()),
            |b| b.updated_at = Some("2026".into()),
            |b| b.lease = None,
            |b| b.lease.as_mut().unwrap().generation = 8,
            |b| b.lease.as_mut().unwrap().admin_state = AdminState::Drain,
            |b| b.lease.as_mut().unwrap().expires_at = None,
        ];
        let one = leased(Some(1));
        for (place, change) in changes.into_iter().enumerate() {
            let mut other = leased(Some(2));
            change(&mut other.backends[0]);
            assert!(!one.is_same_but_for_expiries(&other), "change {place}");
            assert!(!other.is_same_but_for_expiries(&one), "change {place}, turned");
        }
        let skipped = vec![SkippedRow { row: "x".into(), reason: "bad".into() }];
        assert!(!one.is_same_but_for_expiries(&Registry { skipped, ..leased(Some(1)) }));
        assert!(!one.is_same_but_for_expiries(&Registry::default()));
    }
}
