//! The tables: how they are made, what older ones lack, and how rows are written to them.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::store::explain;
use crate::domain::{Backend, BackendId};

/// Every column of `backends`, with its definition where a table may lack it.
pub(super) const BACKENDS: [(&str, Option<&str>); 13] = [
    ("id", None),
    ("app", None),
    ("region", None),
    ("country", Some("TEXT NOT NULL DEFAULT ''")),
    ("wg_ip", None),
    ("port", None),
    ("healthy", Some("INTEGER NOT NULL DEFAULT 1")),
    ("weight", Some("INTEGER NOT NULL DEFAULT 1")),
    ("soft_limit", Some("INTEGER NOT NULL DEFAULT 100")),
    ("hard_limit", Some("INTEGER NOT NULL DEFAULT 150")),
    ("deleted", Some("INTEGER NOT NULL DEFAULT 0")),
    // SQLite adds no column whose default is computed, so writers fill these two in.
    ("created_at", Some("TIMESTAMP")),
    ("updated_at", Some("TIMESTAMP")),
];

/// The side table's name.
pub(super) const STATE_TABLE: &str = "edgeproxy_backend_state";

/// The columns of the side table, in the same form.
pub(super) const STATE: [(&str, Option<&str>); 4] = [
    ("id", None),
    ("generation", Some("INTEGER NOT NULL DEFAULT 0")),
    ("lease_expires_at", Some("INTEGER")),
    ("admin_state", Some("TEXT NOT NULL DEFAULT 'ready'")),
];

const CREATE_BACKENDS: &str = "
CREATE TABLE IF NOT EXISTS backends (
    id TEXT PRIMARY KEY,
    app TEXT NOT NULL,
    region TEXT NOT NULL,
    country TEXT NOT NULL,
    wg_ip TEXT NOT NULL,
    port INTEGER NOT NULL,
    healthy INTEGER NOT NULL DEFAULT 1,
    weight INTEGER NOT NULL DEFAULT 1,
    soft_limit INTEGER NOT NULL DEFAULT 100,
    hard_limit INTEGER NOT NULL DEFAULT 150,
    deleted INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS idx_backends_healthy ON backends(healthy) WHERE deleted = 0;
CREATE INDEX IF NOT EXISTS idx_backends_region ON backends(region) WHERE deleted = 0;
";

const CREATE_STATE: &str = "
CREATE TABLE IF NOT EXISTS edgeproxy_backend_state (
    id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL DEFAULT 0,
    lease_expires_at INTEGER, -- seconds since the Unix epoch; NULL = never
    admin_state TEXT NOT NULL DEFAULT 'ready'
);
";

/// Makes the tables that are missing. One that is there is somebody's, and stays as it is.
pub(super) fn create(connection: &mut Connection) -> Result<(), String> {
    let mut make = || {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let has_backends = !columns(&transaction, "backends")?.is_empty();
        let has_state = !columns(&transaction, STATE_TABLE)?.is_empty();
        if !has_backends {
            transaction.execute_batch(CREATE_BACKENDS)?;
        }
        if !has_state {
            let made = transaction.execute_batch(CREATE_STATE);
            // A file that cannot be written can still be served from: no side table, no leases.
            if !has_backends {
                made?;
            }
        }
        transaction.commit()
    };
    make().map_err(|error| explain(&error))
}

/// The names of a table's columns; empty when there is no such table.
pub(super) fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_xinfo(?)")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// The columns in order, for a SELECT, with NULL for those that a table may and does lack.
pub(super) fn select(
    table: &str,
    wanted: &[(&str, Option<&str>)],
    present: &[String],
) -> Result<String, String> {
    let mut list = Vec::with_capacity(wanted.len());
    for (name, definition) in wanted {
        if has(present, name) {
            list.push(*name);
        } else if definition.is_some() {
            list.push("NULL");
        } else {
            return Err(format!("table {table} has no column {name}"));
        }
    }
    Ok(format!("SELECT {} FROM {table}", list.join(", ")))
}

fn has(present: &[String], name: &str) -> bool {
    present.iter().any(|column| column.eq_ignore_ascii_case(name))
}

/// Writes rows as given. Those that are there keep `created_at`.
pub(super) fn put(transaction: &Transaction<'_>, backends: &[Backend]) -> Result<(), String> {
    complete(transaction)?;
    let write = || {
        // Not ON CONFLICT: a table made by hand may have no unique index on its id.
        let mut update = transaction.prepare(
            "UPDATE backends SET app = ?2, region = ?3, country = ?4, wg_ip = ?5, port = ?6,
             healthy = ?7, weight = ?8, soft_limit = ?9, hard_limit = ?10, deleted = ?11,
             updated_at = CURRENT_TIMESTAMP WHERE id = ?1",
        )?;
        let mut insert = transaction.prepare(
            "INSERT INTO backends (id, app, region, country, wg_ip, port, healthy, weight,
             soft_limit, hard_limit, deleted, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
             CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
        )?;
        for backend in backends {
            let values = params![
                backend.id.as_str(),
                backend.app.as_str(),
                backend.region.as_str(),
                backend.country.map(|country| country.to_string()).unwrap_or_default(),
                backend.wg_ip.to_string(),
                backend.port,
                backend.healthy,
                backend.weight,
                backend.soft_limit,
                backend.hard_limit,
                backend.deleted,
            ];
            if update.execute(values)? == 0 {
                insert.execute(values)?;
            }
        }
        Ok(())
    };
    write().map_err(|error| explain(&error))
}

/// Marks a row deleted; `false` when there is none.
pub(super) fn remove(transaction: &Transaction<'_>, id: &BackendId) -> Result<bool, String> {
    complete(transaction)?;
    complete_state(transaction)?;
    let write = || {
        // Whoever adds it anew finds no lease that has ended, and nothing that was asked of it.
        transaction.execute(
            "UPDATE edgeproxy_backend_state SET lease_expires_at = NULL, admin_state = 'ready'
             WHERE id = ?1 AND EXISTS (SELECT 1 FROM backends WHERE backends.id = ?1)",
            [id.as_str()],
        )?;
        transaction.execute(
            "UPDATE backends SET deleted = 1, updated_at = CURRENT_TIMESTAMP WHERE id = ?1",
            [id.as_str()],
        )
    };
    write().map(|rows| rows > 0).map_err(|error| explain(&error))
}

/// Gives an older table the columns that writing needs.
pub(super) fn complete(transaction: &Transaction<'_>) -> Result<(), String> {
    let present = columns(transaction, "backends").map_err(|error| explain(&error))?;
    if present.is_empty() {
        return Err(super::rows::NO_TABLE.into());
    }
    add_missing(transaction, "backends", &BACKENDS, &present)
}

/// Makes the side table, or gives an older one the columns that writing needs.
pub(super) fn complete_state(transaction: &Transaction<'_>) -> Result<(), String> {
    let present = columns(transaction, STATE_TABLE).map_err(|error| explain(&error))?;
    if present.is_empty() {
        return transaction.execute_batch(CREATE_STATE).map_err(|error| explain(&error));
    }
    add_missing(transaction, STATE_TABLE, &STATE, &present)
}

fn add_missing(
    transaction: &Transaction<'_>,
    table: &str,
    wanted: &[(&str, Option<&str>)],
    present: &[String],
) -> Result<(), String> {
    select(table, wanted, present)?;
    for (name, definition) in wanted {
        if let Some(definition) = definition.filter(|_| !has(present, name)) {
            transaction
                .execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {name} {definition}"))
                .map_err(|error| explain(&error))?;
        }
    }
    Ok(())
}
