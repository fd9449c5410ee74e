//! The side table of leases, which every store reads alike.

use std::collections::HashMap;

use crate::domain::backend::{Number, RawRow, SkippedRow, parse_rows};
use crate::domain::ports::Registry;
use crate::domain::{AdminState, Lease};

/// Leases by backend id; what is wrong with those that do not parse.
pub(super) type Leases = HashMap<String, Result<Lease, String>>;

/// Judges every row, and gives each backend its lease. A backend whose lease does not parse is left
/// out and named, like one whose row does not.
pub(super) fn registry(rows: Vec<RawRow>, mut leases: Leases) -> Registry {
    let (mut backends, mut skipped) = parse_rows(rows);
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
    Registry { backends, skipped }
}

/// A row of the side table.
pub(super) fn lease(
    generation: Option<Number>,
    expires_at: Option<Number>,
    admin_state: Option<&str>,
) -> Result<Lease, String> {
    let admin_state = admin_state.map_or(Ok(AdminState::Ready), str::parse)?;
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
