//! `[[backend]]`: the registry of those who need no database.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use toml::de::DeValue;

use super::document::{Document, shown, text_of};
use super::error::Report;
use super::section::Section;
use super::value::{Shape, Value};
use crate::domain::backend::{BadColumn, BadRow, Endpoints, Number, RawRow};
use crate::domain::{Backend, BackendId};

/// Its key in the file.
pub(super) const KEY: &str = "backend";

/// The columns that hold text.
const TEXTS: [&str; 7] = ["id", "app", "region", "country", "wg_ip", "created_at", "updated_at"];
/// The columns that hold whole numbers.
const NUMBERS: [&str; 4] = ["port", "weight", "soft_limit", "hard_limit"];
/// The columns that are 0 or 1 in a database, and may be written like any other switch here.
const SWITCHES: [&str; 2] = ["healthy", "deleted"];

/// The backends, in the order of the file; `None` when it says nothing of any. Two of one id, and
/// two of one app on one address, are errors: nobody meant either.
pub(super) fn read(document: &Document<'_>, report: &mut Report) -> Option<Vec<Backend>> {
    document.root.get(KEY)?;
    let mut lines: HashMap<BackendId, usize> = HashMap::new();
    let mut endpoints = Endpoints::default();
    let mut backends = Vec::new();
    for section in Section::array(document, KEY, report) {
        let id = id(&section);
        let section = section.named_by(id.as_ref().map(BackendId::as_str));
        let known = [&TEXTS[..], &NUMBERS, &SWITCHES].concat();
        section.expect_only(&known, report);
        let first = id.and_then(|id| match lines.entry(id) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(free) => {
                free.insert(section.line());
                None
            }
        });
        if let Some(line) = first {
            let problem = format!("already used by the backend of line {line}");
            report.errors.push(section.error("id", problem));
        }
        let backend = backend(&section, report).filter(|_| first.is_none());
        let Some(backend) = backend else { continue };
        if let Err(first) = endpoints.take(&backend) {
            let (app, line) = (&backend.app, lines[&first]);
            let problem = format!(
                "wg_ip and port are already used by backend {first} of app {app} (line {line})"
            );
            report.errors.push(section.error("wg_ip", problem));
        }
        backends.push(backend);
    }
    Some(backends)
}

/// The id, if it can be one.
fn id(section: &Section<'_>) -> Option<BackendId> {
    section.get("id")?.as_str()?.trim().parse().ok()
}

/// The backend, if it is one. Its columns are judged where those of every registry are.
fn backend(section: &Section<'_>, report: &mut Report) -> Option<Backend> {
    let mut mistyped = TEXTS.to_vec();
    mistyped.retain(|column| section.get(column).is_some_and(|value| !is_text(column, value)));
    for column in &mistyped {
        report.errors.push(section.error(column, "must be text, in quotes"));
    }
    match Backend::try_from(row(section)) {
        Ok(backend) => mistyped.is_empty().then_some(backend),
        Err(BadRow(columns)) => {
            for bad in columns.into_iter().filter(|bad| !mistyped.contains(&bad.column)) {
                report.errors.push(section.error(bad.column, rule(section, &bad)));
            }
            None
        }
    }
}

/// A moment can be written without quotes, as everywhere in TOML.
fn is_text(column: &str, value: &DeValue<'_>) -> bool {
    match value {
        DeValue::String(_) => true,
        DeValue::Datetime(_) => column.ends_with("_at"),
        _ => false,
    }
}

fn rule(section: &Section<'_>, bad: &BadColumn) -> String {
    let BadColumn { column, accepted, .. } = bad;
    if SWITCHES.contains(column) {
        format!("must be {}", bool::accepts())
    } else if section.has(column) {
        format!("must be {accepted}")
    } else {
        format!("must be given: {accepted}")
    }
}

fn row(section: &Section<'_>) -> RawRow {
    RawRow {
        id: text(section, "id"),
        app: text(section, "app"),
        region: text(section, "region"),
        country: text(section, "country"),
        wg_ip: text(section, "wg_ip"),
        port: number(section, "port"),
        healthy: switch(section, "healthy"),
        weight: number(section, "weight"),
        soft_limit: number(section, "soft_limit"),
        hard_limit: number(section, "hard_limit"),
        deleted: switch(section, "deleted"),
        created_at: text(section, "created_at"),
        updated_at: text(section, "updated_at"),
        lease: None,
    }
}

fn text(section: &Section<'_>, column: &str) -> Option<String> {
    match section.get(column)? {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Datetime(moment) => Some(moment.to_string()),
        _ => None,
    }
}

fn number(section: &Section<'_>, column: &str) -> Option<Number> {
    let value = section.get(column)?;
    let text = text_of(value, Shape::Number).unwrap_or_else(|| shown(value));
    Some(text.trim().parse().map_or(Number::Other(text), Number::Whole))
}

fn switch(section: &Section<'_>, column: &str) -> Option<Number> {
    let value = section.get(column)?;
    let on = text_of(value, bool::SHAPE).and_then(|text| bool::parse(&text));
    Some(on.map_or_else(|| Number::Other(shown(value)), |on| Number::Whole(on.into())))
}
