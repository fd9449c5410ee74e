//! Writing to the side table: registrations, renewals, and what operators ask.

use rusqlite::{Transaction, params};

use super::rows::{number, text};
use super::schema;
use super::store::explain;
use crate::adapters::outbound::leases::{in_order, registered};
use crate::domain::backend::Number;
use crate::domain::ports::Renewal;
use crate::domain::{AdminState, Backend, BackendId};

/// Writes a row that serves, and its lease; the lease's generation.
pub(super) fn register(
    transaction: &Transaction<'_>,
    backend: &Backend,
    expires_at: i64,
) -> Result<i64, String> {
    complete(transaction)?;
    let id = &backend.id;
    let healthy = healthy(transaction, id).map_err(|error| explain(&error))?;
    let held = held(transaction, id).map_err(|error| explain(&error))?;
    let lease = registered(held, healthy, expires_at)
        .map_err(|reason| format!("backend {id}: {reason}"))?;
    let write = || {
        // Not ON CONFLICT: a table made by hand may have no unique index on its id.
        let values = params![id.as_str(), lease.generation, expires_at, lease.admin_state.as_str()];
        let updated = transaction.execute(
            "UPDATE edgeproxy_backend_state SET generation = ?2, lease_expires_at = ?3,
             admin_state = ?4 WHERE id = ?1",
            values,
        )?;
        if updated == 0 {
            transaction.execute(
                "INSERT INTO edgeproxy_backend_state (id, generation, lease_expires_at, admin_state)
                 VALUES (?1, ?2, ?3, ?4)",
                values,
            )?;
        }
        Ok(())
    };
    write().map_err(|error| explain(&error))?;
    let healthy = lease.admin_state == AdminState::Ready;
    let serving = Backend { healthy, deleted: false, ..backend.clone() };
    schema::put(transaction, &[serving])?;
    Ok(lease.generation)
}

/// Has leases end later.
pub(super) fn renew(transaction: &Transaction<'_>, renewals: Vec<Renewal>) -> Result<(), String> {
    complete(transaction)?;
    let write = || {
        // By what a value says, as it is read: a table made by hand may hold numbers as text.
        let mut update = transaction.prepare(
            "UPDATE edgeproxy_backend_state SET lease_expires_at = ?3
             WHERE id = ?1 AND CAST(COALESCE(generation, 0) AS INTEGER) = ?2
             AND CAST(lease_expires_at AS INTEGER) < ?3
             AND EXISTS (SELECT 1 FROM backends WHERE backends.id = ?1
             AND CAST(COALESCE(deleted, 0) AS INTEGER) = 0)",
        )?;
        for Renewal { id, generation, expires_at } in in_order(renewals) {
            update.execute(params![id.as_str(), generation, expires_at])?;
        }
        Ok(())
    };
    write().map_err(|error| explain(&error))
}

/// Writes what is asked of a backend; `false` when there is none.
pub(super) fn set_state(
    transaction: &Transaction<'_>,
    id: &BackendId,
    state: AdminState,
) -> Result<bool, String> {
    complete(transaction)?;
    let write = || {
        if healthy(transaction, id)?.is_none() {
            return Ok(false);
        }
        let values = params![id.as_str(), state.as_str()];
        let updated = transaction
            .execute("UPDATE edgeproxy_backend_state SET admin_state = ?2 WHERE id = ?1", values)?;
        if updated == 0 {
            transaction.execute(
                "INSERT INTO edgeproxy_backend_state (id, generation, lease_expires_at, admin_state)
                 VALUES (?1, 0, NULL, ?2)",
                values,
            )?;
        }
        transaction.execute(
            "UPDATE backends SET healthy = ?2, updated_at = CURRENT_TIMESTAMP WHERE id = ?1",
            params![id.as_str(), state == AdminState::Ready],
        )?;
        Ok(true)
    };
    write().map_err(|error| explain(&error))
}

fn complete(transaction: &Transaction<'_>) -> Result<(), String> {
    schema::complete(transaction)?;
    schema::complete_state(transaction)
}

/// Whether the row of this id is healthy; `None` = there is none, or it is deleted.
fn healthy(transaction: &Transaction<'_>, id: &BackendId) -> rusqlite::Result<Option<bool>> {
    let mut select = transaction.prepare("SELECT deleted, healthy FROM backends WHERE id = ?1")?;
    let rows = select
        .query_map([id.as_str()], |row| Ok((number(row.get_ref(0)?), number(row.get_ref(1)?))))?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let there = rows.into_iter().filter(|(deleted, _)| *deleted != Some(Number::Whole(1)));
    Ok(there.map(|(_, healthy)| healthy != Some(Number::Whole(0))).max())
}

/// The generation and what is asked, as the side table has them.
fn held(
    transaction: &Transaction<'_>,
    id: &BackendId,
) -> rusqlite::Result<Vec<(Option<Number>, Option<String>)>> {
    let mut select = transaction
        .prepare("SELECT generation, admin_state FROM edgeproxy_backend_state WHERE id = ?1")?;
    let row = |row: &rusqlite::Row<'_>| Ok((number(row.get_ref(0)?), text(row.get_ref(1)?)));
    select.query_map([id.as_str()], row)?.collect()
}
