//! Connections to backends that are kept for the next user.
//!
//! [`ConnectionPool`] is for programs on a tokio runtime. What it keeps count with is a [`book::Book`]
//! per backend, which knows nothing of sockets or of time and can be used without it.

pub mod book;
mod connection;
mod shared;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use book::Limits;
pub use connection::PooledConnection;
pub use shared::is_usable;
use shared::{Key, Seat, Shared};

/// What a pool may hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Most connections to one backend: those in use, those being dialled and those idle, together. At
    /// 0 nothing can be acquired.
    pub max_connections_per_backend: usize,
    /// How long a connection may be idle before it is closed. At zero none is kept.
    pub idle_timeout: Duration,
    /// How long a connection may live before it is closed rather than used once more. Each lives up to
    /// 20 % shorter, so that those that were made together do not end together. One that is in use
    /// then is closed when it is given back.
    pub max_lifetime: Duration,
    /// How long [`acquire`](ConnectionPool::acquire) may take: for the wait until there is room and
    /// for the dial, together.
    pub connect_timeout: Duration,
}

/// There is no connection to a backend.
#[derive(Debug, thiserror::Error)]
#[error("backend {backend} at {address}: {failure}")]
pub struct PoolError {
    /// The backend, as it was asked for.
    pub backend: String,
    /// Its address, as it was asked for.
    pub address: String,
    /// Why there is none.
    pub failure: PoolFailure,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum PoolFailure {
    /// The dial failed: it was refused, there is no route, the name is not known.
    #[error("cannot connect: {0}")]
    Dial(io::Error),
    /// The dial was not answered by the end of the connect timeout.
    #[error("no answer within {timeout:?}")]
    Timeout {
        /// The connect timeout.
        timeout: Duration,
    },
    /// As many connections as there may be are in use, and none was given back in time.
    #[error("no room among {limit} connections within {waited:?}")]
    Exhausted {
        /// How many connections there may be.
        limit: usize,
        /// How long it waited: the connect timeout, or zero when no connections are allowed.
        waited: Duration,
    },
}

/// A pool of TCP connections, apart by backend and address. Clones share one pool.
///
/// Use it from one tokio runtime, whose sockets these are. When the last clone is dropped its idle
/// connections are closed and its task, which retires connections when nobody asks for any, ends;
/// connections that are in use then are closed when they are dropped.
#[derive(Clone, Debug)]
pub struct ConnectionPool {
    shared: Arc<Shared>,
    connect_timeout: Duration,
}

impl ConnectionPool {
    /// An empty pool. Needs no runtime yet.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        let limits = Limits {
            max: config.max_connections_per_backend,
            idle_timeout: config.idle_timeout,
            max_lifetime: config.max_lifetime,
        };
        Self { shared: Arc::new(Shared::new(limits)), connect_timeout: config.connect_timeout }
    }

    /// A connection to the backend `id` at `address` (`host:port`; a host name is looked up and its
    /// addresses are tried in turn): the idle one that was given back last, or else a new one. An idle
    /// one is looked at first, and closed if its peer has closed it or has sent something nobody asked
    /// for. That its peer closes it just then cannot be seen, so a first write or read may still fail.
    ///
    /// Where there is no room it waits for some; who waits longest is next. Waiting and dialling
    /// together end at [`PoolConfig::connect_timeout`]. Dropping the future gives back what it held.
    ///
    /// # Errors
    /// [`PoolFailure::Exhausted`] when there was no room in time, or there never is any (at once);
    /// [`PoolFailure::Dial`] and [`PoolFailure::Timeout`] when the dial failed.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn acquire(&self, id: &str, address: &str) -> Result<PooledConnection, PoolError> {
        self.connect(id, address).await.map_err(|failure| PoolError {
            backend: id.into(),
            address: address.into(),
            failure,
        })
    }

    async fn connect(&self, id: &str, address: &str) -> Result<PooledConnection, PoolFailure> {
        let limit = self.shared.limits().max;
        if limit == 0 {
            return Err(PoolFailure::Exhausted { limit, waited: Duration::ZERO });
        }
        let timeout = self.connect_timeout;
        let mut deadline = pin!(tokio::time::sleep(timeout));
        let key = Key { backend: id.into(), address: address.into() };
        let mut seat = Seat::new(&self.shared, Arc::new(key));
        let seated = tokio::select! {
            biased;
            seated = seat.wait() => seated,
            () = &mut deadline => false,
        };
        if !seated {
            return Err(PoolFailure::Exhausted { limit, waited: timeout });
        }
        if let Some(stream) = seat.occupy(&self.shared) {
            return Ok(PooledConnection::new(stream, seat));
        }
        tokio::select! {
            biased;
            dialled = TcpStream::connect(address) => match dialled {
                Ok(stream) => Ok(PooledConnection::new(stream, seat)),
                Err(error) => Err(PoolFailure::Dial(error)),
            },
            () = &mut deadline => Err(PoolFailure::Timeout { timeout }),
        }
    }

    /// How many connections to a backend are idle.
    #[must_use]
    pub fn idle(&self, id: &str, address: &str) -> usize {
        self.shared.counts(id, address).0
    }

    /// How many connections to a backend are in use or being dialled.
    #[must_use]
    pub fn in_use(&self, id: &str, address: &str) -> usize {
        self.shared.counts(id, address).1
    }
}

#[cfg(test)]
mod tests;
