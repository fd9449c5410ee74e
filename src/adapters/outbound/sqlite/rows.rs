//! Reading: whatever storage class a value has, it becomes a raw row, and is judged there.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::schema::{self, BACKENDS, STATE, STATE_TABLE};
use super::store::explain;
use crate::adapters::outbound::leases::{Leases, lease, registry};
use crate::domain::backend::{Number, RawRow};
use crate::domain::ports::Registry;

pub(super) const NO_TABLE: &str = "has no table `backends`; \
    `edge-proxy backends add` or `edge-proxy run` creates it";

/// Whether the file holds a registry at all.
pub(super) fn check(connection: &Connection) -> Result<(), String> {
    select_backends(connection).map(drop)
}

/// Everything, as of one moment.
pub(super) fn read(connection: &mut Connection) -> Result<Registry, String> {
    let snapshot = connection.transaction().map_err(|error| explain(&error))?;
    let select = select_backends(&snapshot)?;
    let rows = collect(&snapshot, &select, raw_row)?;
    let leases = read_leases(&snapshot)?;
    Ok(registry(rows, leases))
}

fn select_backends(connection: &Connection) -> Result<String, String> {
    let present = schema::columns(connection, "backends").map_err(|error| explain(&error))?;
    if present.is_empty() {
        return Err(NO_TABLE.into());
    }
    schema::select("backends", &BACKENDS, &present)
}

fn read_leases(connection: &Connection) -> Result<Leases, String> {
    let present = schema::columns(connection, STATE_TABLE).map_err(|error| explain(&error))?;
    if present.is_empty() {
        return Ok(Leases::new());
    }
    let select = schema::select(STATE_TABLE, &STATE, &present)?;
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

pub(super) fn text(value: ValueRef<'_>) -> Option<String> {
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
pub(super) fn number(value: ValueRef<'_>) -> Option<Number> {
    if let ValueRef::Integer(whole) = value {
        return Some(Number::Whole(whole));
    }
    let written = text(value)?;
    Some(written.trim().parse().map_or(Number::Other(written), Number::Whole))
}
