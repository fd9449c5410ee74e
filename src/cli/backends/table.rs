//! The list of backends, for people and for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::columns::Record;
use crate::cli::align::align;
use crate::domain::Backend;
use crate::domain::backend::Ineligible;

/// A backend in the JSON list.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    record: Record,
    address: String,
    state: &'static str,
}

/// An aligned table with a line of headings.
pub(super) fn write(backends: &[&Backend], unix_now: i64, out: &mut dyn Write) -> io::Result<()> {
    let headings =
        ["id", "app", "region", "country", "address", "healthy", "weight", "soft", "hard", "state"];
    let mut lines = vec![headings.map(String::from).to_vec()];
    lines.extend(backends.iter().map(|backend| {
        vec![
            backend.id.to_string(),
            backend.app.to_string(),
            backend.region.to_string(),
            backend.country.map_or_else(|| "-".into(), |country| country.to_string()),
            backend.addr().to_string(),
            if backend.healthy { "yes" } else { "no" }.into(),
            backend.weight.to_string(),
            backend.soft_limit.to_string(),
            backend.hard_limit.to_string(),
            state(backend, unix_now).into(),
        ]
    }));
    align(&lines, out)
}

/// A JSON array with one object for each.
pub(super) fn write_json(
    backends: &[&Backend],
    unix_now: i64,
    out: &mut dyn Write,
) -> io::Result<()> {
    let listed: Vec<Listed> = backends
        .iter()
        .map(|backend| Listed {
            record: Record::from(*backend),
            address: backend.addr().to_string(),
            state: state(backend, unix_now),
        })
        .collect();
    serde_json::to_writer_pretty(&mut *out, &listed)?;
    writeln!(out)
}

fn state(backend: &Backend, unix_now: i64) -> &'static str {
    backend.eligible(unix_now).map_or_else(Ineligible::as_str, |()| "ready")
}
