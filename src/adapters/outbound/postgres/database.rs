//! Connections that are kept, and transactions over them.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::dial::{Dialer, PoolDialer};
use super::failed::Failed;

/// Connections that a pool may be asked for; more are this many.
const MAX_CONNECTIONS: usize = 1_000;
/// How much longer than the server the client waits, so that the server's own words are heard.
const GRACE: Duration = Duration::from_millis(250);
/// Connections are looked at this often: whether they are open and enough.
const UPKEEP: Duration = Duration::from_secs(1);

/// Reads everything as of one moment.
pub(super) const READ: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";
/// Writes all or nothing.
pub(super) const WRITE: &str = "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE";

/// A database, and the connections to it that are kept.
pub(super) struct Database {
    pool: Pool,
    dialer: Arc<Dialer>,
    least: usize,
    connect_timeout: Duration,
    query_timeout: Duration,
}

/// A transaction. Dropped before its end it takes its connection with it, so that the server undoes
/// it, and nobody is given a connection in the middle of something.
pub(super) struct Transaction {
    connection: Option<Object>,
    writes: bool,
}

impl Database {
    pub(super) fn new(
        dialer: Dialer,
        (least, most): (u32, u32),
        connect_timeout: Duration,
        query_timeout: Duration,
    ) -> Result<Self, String> {
        let dialer = Arc::new(dialer);
        let most = usize::try_from(most).unwrap_or(MAX_CONNECTIONS).clamp(1, MAX_CONNECTIONS);
        let least = usize::try_from(least).unwrap_or(most).min(most);
        let manager = Manager::from_connect(
            dialer.address.config.clone(),
            PoolDialer(Arc::clone(&dialer)),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(most)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(connect_timeout))
            .create_timeout(Some(connect_timeout))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { pool, dialer, least, connect_timeout, query_timeout })
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// A connection that is free, or a new one.
    async fn connection(&self) -> Result<Object, Failed> {
        self.discard_closed();
        let asked = timeout(self.connect_timeout.saturating_add(GRACE), self.pool.get()).await;
        match asked.unwrap_or(Err(PoolError::Timeout(TimeoutType::Create))) {
            Ok(connection) => Ok(connection),
            Err(PoolError::Backend(error)) => Err(Failed::from(error).because("cannot connect")),
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(Failed::plain(format!(
                "all {} connections are in use, and have been for {:?}",
                self.pool.status().max_size,
                self.connect_timeout
            ))),
            Err(PoolError::Timeout(_)) => Err(Failed::plain(format!(
                "cannot connect: no answer within {:?}",
                self.connect_timeout
            ))),
            Err(error) => Err(Failed::plain(error.to_string())),
        }
    }

    /// Begins a transaction, on another connection when the one at hand turns out to be broken.
    pub(super) async fn begin(&self, how: &str) -> Result<Transaction, Failed> {
        let milliseconds = self.query_timeout.as_millis().clamp(1, i32::MAX as u128);
        let begin = format!("{how}; SET LOCAL statement_timeout = {milliseconds}");
        loop {
            let connection = self.connection().await?;
            let is_fresh = Object::metrics(&connection).recycle_count == 0;
            let transaction =
                Transaction { connection: Some(connection), writes: how.starts_with(WRITE) };
            match timeout(self.patience(), transaction.run(&begin)).await {
                Ok(Ok(_)) => return Ok(transaction),
                // Each of these is gone with its connection: there are no more than the pool holds.
                Ok(Err(failed)) if failed.fatal && !is_fresh => {}
                Ok(Err(failed)) => return Err(failed),
                Err(_) => return Err(Failed::late(self.late())),
            }
        }
    }

    /// Waits for an answer no longer than is worth while.
    pub(super) async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, Failed> {
        match timeout(self.patience(), work).await {
            Ok(Err(failed)) if failed.is(&[SqlState::QUERY_CANCELED]) => {
                Err(failed.because(&self.late()))
            }
            Ok(answered) => answered,
            Err(_) => Err(Failed::late(self.late())),
        }
    }

    fn patience(&self) -> Duration {
        self.query_timeout.saturating_add(GRACE)
    }

    fn late(&self) -> String {
        format!("no answer within {:?}", self.query_timeout)
    }

    /// Keeps as many connections open as was asked for, for ever.
    pub(super) async fn keep_warm(&self, slowest: Duration) {
        let mut pause = crate::infrastructure::backoff::Backoff::new(slowest.max(UPKEEP));
        loop {
            self.discard_closed();
            let mut held = Vec::with_capacity(self.least);
            if self.pool.status().size < self.least {
                while held.len() < self.least {
                    match self.connection().await {
                        Ok(connection) => held.push(connection),
                        Err(_) => break,
                    }
                }
            }
            let is_enough = self.pool.status().size >= self.least;
            drop(held);
            if is_enough {
                pause.reset();
                tokio::time::sleep(UPKEEP).await;
            } else {
                tokio::time::sleep(pause.next()).await;
            }
        }
    }

    fn discard_closed(&self) {
        self.pool.retain(|connection, _| !connection.is_closed());
    }
}

impl Transaction {
    /// Has the server do something, and returns all that it answered.
    pub(super) async fn run(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Failed> {
        match &self.connection {
            Some(connection) => Ok(connection.simple_query(sql).await?),
            None => Err(Failed::lost("the connection was lost")),
        }
    }

    /// Makes what was done last, when all of it was; undoes it otherwise. The connection goes back
    /// to the pool, unless it can be used no more.
    ///
    /// What was read is good even when the connection is lost then.
    pub(super) async fn end<T>(mut self, done: Result<T, Failed>) -> Result<T, Failed> {
        let (outcome, ended) = match done {
            Ok(done) => {
                let failed = self.run("COMMIT").await.err();
                let ended = failed.as_ref().is_none_or(|failed| !failed.fatal);
                match failed.filter(|_| self.writes) {
                    None => (Ok(done), ended),
                    Some(failed) if ended => (Err(failed), ended),
                    Some(failed) => (Err(failed.in_doubt()), ended),
                }
            }
            Err(failed) => {
                let ended = !failed.fatal && self.run("ROLLBACK").await.is_ok();
                (Err(failed), ended)
            }
        };
        if ended {
            // Given back, not broken off.
            drop(self.connection.take());
        }
        outcome
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}
