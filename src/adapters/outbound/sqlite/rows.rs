//! Reading: whatever storage class a value has, it becomes a raw row, and is judged there.

use std::collections::HashMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::schema::{self, BACKENDS, STATE};
use super::store::explain;
use crate::domain::backend::{Number, RawRow, SkippedRow, parse_rows};
use crate::domain::ports::Registry;
use crate::domain::{AdminState, Lease};

pub(super) const NO_TABLE: &str = "has no table `backends`; \
    `edge-proxy backends add` or `edge-proxy run` creates it";

/// Leases by backend id; what is wrong with those that do not parse.
type Leases = HashMap<String, Result<Lease, String>>;

/// Whether the file holds a registry at all.
pub(super) fn check(connection: &Connection) -> Result<(), String> {
    select_backends(connection).map(drop)
}

/// Everything, as of one moment.
pub(super) fn read(connection: &mut Connection) -> Result<Registry, String> {
    let snapshot = connection.transaction().map_err(|error| explain(&error))?;
    let select = select_backends(&snapshot)?;
    let rows = collect(&snapshot, &select, raw_row)?;
    let (mut backends, mut skipped) = parse_rows(rows);
    let mut leases = read_leases(&snapshot)?;
    backends.retain_mut(|backend| match leases.remove(backend.id.as_str()) {
        None => true,
        Some(Ok(lease)) => {
            backend.lease = Some(lease);
            true
        }
        Some(Err(reason)) => {
            skipped.push(SkippedRow { row: backend.id.to_string(), reason });
            false
        }
    });
    Ok(Registry { backends, skipped })
}

fn select_backends(connection: &Connection) -> Result<String, String> {
    let present = schema::columns(connection, "backends").map_err(|error| explain(&error))?;
    if present.is_empty() {
        return Err(NO_TABLE.into());
    }
    schema::select("backends", &BACKENDS, &present)
}

fn read_leases(connection: &Connection) -> Result<Leases, String> {
    let table = "edgeproxy_backend_state";
    let present = schema::columns(connection, table).map_err(|error| explain(&error))?;
    if present.is_empty() {
        return Ok(Leases::new());
    }
    let select = schema::select(table, &STATE, &present)?;
    let rows = collect(connection, &select, |row| {
        let id = text(row.get_ref(0)?);
        let generation = number(row.get_ref(1)?);
        let expires_at = number(row.get_ref(2)?);
        let admin_state = text(row.get_ref(3)?);
        Ok(id.map(|id| (id, lease(generation, expires_at, admin_state.as_deref()))))
    })?;
    Ok(rows.into_iter().flatten().collect())
}

fn collect<T>(
    connection: &Connection,
    select: &str,
    parse: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, String> {
    let all =
        || connection.prepare(select)?.query_map([], parse)?.collect::<rusqlite::Result<Vec<T>>>();
    all().map_err(|error| explain(&error))
}

/// In the order of [`BACKENDS`].
fn raw_row(row: &Row<'_>) -> rusqlite::Result<RawRow> {
    Ok(RawRow {
        id: text(row.get_ref(0)?),
        app: text(row.get_ref(1)?),
        region: text(row.get_ref(2)?),
        country: text(row.get_ref(3)?),
        wg_ip: text(row.get_ref(4)?),
        port: number(row.get_ref(5)?),
        healthy: number(row.get_ref(6)?),
        weight: number(row.get_ref(7)?),
        soft_limit: number(row.get_ref(8)?),
        hard_limit: number(row.get_ref(9)?),
        deleted: number(row.get_ref(10)?),
        created_at: text(row.get_ref(11)?),
        updated_at: text(row.get_ref(12)?),
        lease: None,
    })
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(whole) => Some(whole.to_string()),
        ValueRef::Real(real) => Some(real.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}

/// A REAL or a text counts when what it says is a whole number.
fn number(value: ValueRef<'_>) -> Option<Number> {
    if let ValueRef::Integer(whole) = value {
        return Some(Number::Whole(whole));
    }
    let written = text(value)?;
    Some(written.trim().parse().map_or(Number::Other(written), Number::Whole))
}

fn lease(
    generation: Option<Number>,
    expires_at: Option<Number>,
    admin_state: Option<&str>,
) -> Result<Lease, String> {
    let admin_state = match admin_state {
        None | Some("ready") => AdminState::Ready,
        Some("drain") => AdminState::Drain,
        Some("maint") => AdminState::Maint,
        Some(other) => {
            return Err(format!("admin_state = {other:?}: must be ready, drain or maint"));
        }
    };
    let generation = whole(generation, "generation")?.unwrap_or(0);
    Ok(Lease { generation, expires_at: whole(expires_at, "lease_expires_at")?, admin_state })
}

fn whole(given: Option<Number>, column: &str) -> Result<Option<i64>, String> {
    match given {
        None => Ok(None),
        Some(Number::Whole(whole)) => Ok(Some(whole)),
        Some(Number::Other(text)) => Err(format!("{column} = {text:?}: must be a whole number")),
    }
}
