//! Writing to the side table: registrations, renewals, and what operators ask.
//!
//! Rows are locked in one order, so that nobody waits in a circle: one of `backends`, and then those of
//! the side table by id.

use tokio_postgres::SimpleQueryRow;

use super::database::{Database, Transaction};
use super::failed::Failed;
use super::rows::{Table, flag, number};
use super::writes::{
    CHUNK, Change, complete, complete_state, insert_rows, put_rows, quoted, write,
};
use crate::adapters::outbound::leases::{in_order, registered};
use crate::domain::backend::Number;
use crate::domain::ports::Renewal;
use crate::domain::{AdminState, Backend, BackendId};

/// A row that serves, and its lease.
struct Register {
    backend: Backend,
    expires_at: i64,
}

/// Later ends of leases, in the order of all.
struct Renew(Vec<Renewal>);

/// What is asked of a backend.
struct SetState<'a> {
    id: &'a BackendId,
    state: AdminState,
}

/// How an id stands in `backends`.
#[derive(PartialEq, Eq)]
enum Standing {
    /// It has a row, which is healthy or not.
    There(bool),
    /// It has had one.
    Deleted,
    /// It is not known.
    None,
}

/// Writes a row that serves, and its lease; the lease's generation.
pub(super) async fn register(
    database: &Database,
    backend: Backend,
    expires_at: i64,
) -> Result<i64, Failed> {
    let backend = Backend { deleted: false, ..backend };
    write(database, &Register { backend, expires_at }).await
}

/// Has leases end later.
pub(super) async fn renew(database: &Database, renewals: Vec<Renewal>) -> Result<(), Failed> {
    write(database, &Renew(in_order(renewals))).await
}

/// Writes what is asked of a backend; `false` when there is none.
pub(super) async fn set_state(
    database: &Database,
    id: &BackendId,
    state: AdminState,
) -> Result<bool, Failed> {
    write(database, &SetState { id, state }).await
}

impl Change for Register {
    type Done = i64;

    async fn make(&self, transaction: &Transaction) -> Result<Option<i64>, Failed> {
        complete(transaction).await?;
        if !complete_state(transaction).await? {
            return Ok(None);
        }
        let id = &self.backend.id;
        let standing = standing(transaction, id).await?;
        let held = held(transaction, id).await?;
        let (is_new, is_counted) = (standing == Standing::None, !held.is_empty());
        let healthy = match standing {
            Standing::There(healthy) => Some(healthy),
            Standing::Deleted | Standing::None => None,
        };
        let lease = registered(held, healthy, self.expires_at)
            .map_err(|reason| Failed::plain(format!("backend {id}: {reason}")))?;
        let (id, state) = (quoted(id.as_str()), quoted(lease.admin_state.as_str()));
        let (generation, end) = (lease.generation, self.expires_at);
        let healthy = lease.admin_state == AdminState::Ready;
        let row = Backend { healthy, ..self.backend.clone() };
        if is_counted {
            let update = format!(
                "UPDATE edgeproxy_backend_state SET generation = '{generation}', \
                 lease_expires_at = '{end}', admin_state = {state} WHERE id = {id}"
            );
            transaction.run(&update).await?;
        } else {
            insert(transaction, &format!("{id}, '{generation}', '{end}', {state}")).await?;
        }
        if is_new && !is_counted {
            // Another's that has come in between was not locked, and must collide: it has been counted,
            // and is not to be written over. One of the two tables has a unique index, if not both.
            insert_rows(transaction, &[&row]).await?;
        } else {
            put_rows(transaction, &[&row]).await?;
        }
        Ok(Some(generation))
    }
}

impl Change for Renew {
    type Done = ();

    async fn make(&self, transaction: &Transaction) -> Result<Option<()>, Failed> {
        complete(transaction).await?;
        // Without a side table there is no lease that could be renewed.
        if self.0.is_empty() || !complete_state(transaction).await? {
            return Ok(Some(()));
        }
        // All in one statement: which order a server gives ids is its own affair.
        let ids: Vec<String> = self.0.iter().map(|renewal| quoted(renewal.id.as_str())).collect();
        let lock = format!(
            "SELECT 1 FROM edgeproxy_backend_state WHERE id IN ({}) ORDER BY id FOR UPDATE",
            ids.join(", ")
        );
        transaction.run(&lock).await?;
        for renewals in self.0.chunks(CHUNK) {
            transaction.run(&update(renewals)).await?;
        }
        Ok(Some(()))
    }
}

impl Change for SetState<'_> {
    type Done = bool;

    async fn make(&self, transaction: &Transaction) -> Result<Option<bool>, Failed> {
        complete(transaction).await?;
        if !complete_state(transaction).await? {
            return Ok(None);
        }
        if !matches!(standing(transaction, self.id).await?, Standing::There(_)) {
            return Ok(Some(false));
        }
        let held = held(transaction, self.id).await?;
        let (id, state) = (quoted(self.id.as_str()), quoted(self.state.as_str()));
        if held.is_empty() {
            insert(transaction, &format!("{id}, '0', NULL, {state}")).await?;
        } else {
            let update =
                format!("UPDATE edgeproxy_backend_state SET admin_state = {state} WHERE id = {id}");
            transaction.run(&update).await?;
        }
        let healthy = u8::from(self.state == AdminState::Ready);
        transaction
            .run(&format!(
                "UPDATE backends SET healthy = '{healthy}', updated_at = CURRENT_TIMESTAMP \
                 WHERE id = {id}"
            ))
            .await?;
        Ok(Some(true))
    }
}

/// The generation and what is asked, as the side table has them; nobody else writes them until the
/// transaction ends.
async fn held(
    transaction: &Transaction,
    id: &BackendId,
) -> Result<Vec<(Option<Number>, Option<String>)>, Failed> {
    let id = quoted(id.as_str());
    let answer = transaction
        .run(&format!(
            "SELECT generation, admin_state FROM edgeproxy_backend_state WHERE id = {id} FOR UPDATE"
        ))
        .await?;
    let table = Table::new(&answer, &["generation", "admin_state"]);
    Ok(table.rows.iter().map(|row| (number(table.text(row, 0)), table.text(row, 1))).collect())
}

/// Whether there is a row of this id; that stays so until the transaction ends, unless there is none.
async fn standing(transaction: &Transaction, id: &BackendId) -> Result<Standing, Failed> {
    let id = quoted(id.as_str());
    let answer = transaction
        .run(&format!("SELECT deleted, healthy FROM backends WHERE id = {id} FOR UPDATE"))
        .await?;
    let table = Table::new(&answer, &["deleted", "healthy"]);
    let is_there = |row: &&&SimpleQueryRow| flag(table.text(row, 0)) != Some(Number::Whole(1));
    let is_healthy = |row: &SimpleQueryRow| flag(table.text(row, 1)) != Some(Number::Whole(0));
    let healthy = table.rows.iter().filter(is_there).map(|row| is_healthy(row)).max();
    Ok(match healthy {
        Some(healthy) => Standing::There(healthy),
        None if table.rows.is_empty() => Standing::None,
        None => Standing::Deleted,
    })
}

/// Makes a row of the side table of these values.
async fn insert(transaction: &Transaction, values: &str) -> Result<(), Failed> {
    let insert = format!(
        "INSERT INTO edgeproxy_backend_state (id, generation, lease_expires_at, admin_state) \
         VALUES ({values})"
    );
    transaction.run(&insert).await.map(drop)
}

/// One statement for many leases. Casts make nothing of a column that has the type, and a comparison
/// of one that has not.
fn update(renewals: &[Renewal]) -> String {
    let value = |renewal: &Renewal| {
        let Renewal { id, generation, expires_at } = renewal;
        format!("({}, {generation}, {expires_at})", quoted(id.as_str()))
    };
    let values: Vec<String> = renewals.iter().map(value).collect();
    format!(
        "UPDATE edgeproxy_backend_state AS held SET lease_expires_at = given.expires_at \
         FROM (VALUES {}) AS given (id, generation, expires_at) \
         WHERE CAST(held.id AS TEXT) = given.id \
         AND COALESCE(CAST(held.generation AS BIGINT), 0) = given.generation \
         AND CAST(held.lease_expires_at AS BIGINT) < given.expires_at \
         AND EXISTS (SELECT 1 FROM backends WHERE CAST(backends.id AS TEXT) = given.id \
         AND COALESCE(backends.deleted, '0') = '0')",
        values.join(", ")
    )
}
