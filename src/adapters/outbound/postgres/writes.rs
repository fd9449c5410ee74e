//! Writing: rows as given, all or none.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::database::{Database, Transaction, WRITE};
use super::failed::Failed;
use super::rows::{columns, missing_table};
use super::schema::{BACKENDS, check};
use crate::domain::{Backend, BackendId};

/// Rows in one message.
const CHUNK: usize = 500;

/// Attempts at a write that met another one.
const ATTEMPTS: usize = 5;

/// Another's write came in between: the same again may work.
const COLLISIONS: [SqlState; 3] = [
    SqlState::UNIQUE_VIOLATION,
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::T_R_DEADLOCK_DETECTED,
];

/// What is to be written.
enum Change<'a> {
    Put(Vec<&'a Backend>),
    Remove(&'a BackendId),
}

/// Writes rows as given, all or none. Those that are there keep `created_at`.
pub(super) async fn put(database: &Database, backends: &[Backend]) -> Result<(), Failed> {
    // By id: the last of one id counts, and two who write the same rows do so in one order.
    let by_id: BTreeMap<&str, &Backend> = backends.iter().map(|b| (b.id.as_str(), b)).collect();
    write(database, &Change::Put(by_id.into_values().collect())).await.map(drop)
}

/// Marks a row deleted; `false` when there is none.
pub(super) async fn remove(database: &Database, id: &BackendId) -> Result<bool, Failed> {
    write(database, &Change::Remove(id)).await
}

async fn write(database: &Database, change: &Change<'_>) -> Result<bool, Failed> {
    let mut attempt = 1;
    loop {
        let transaction = database.begin(WRITE).await?;
        let once = async {
            let done = change.make(&transaction).await;
            transaction.end(done).await
        };
        match database.answer(once).await {
            Err(failed) if failed.is(&COLLISIONS) && attempt < ATTEMPTS => attempt += 1,
            Err(failed) if failed.late => return Err(failed.in_doubt()),
            done => return done,
        }
    }
}

impl Change<'_> {
    /// Whether there was a row to change.
    async fn make(&self, transaction: &Transaction) -> Result<bool, Failed> {
        complete(transaction).await?;
        match self {
            Self::Put(rows) => put_rows(transaction, rows).await.map(|()| true),
            Self::Remove(id) => {
                let id = quoted(id.as_str());
                let update = format!(
                    "UPDATE backends SET deleted = '1', updated_at = CURRENT_TIMESTAMP \
                     WHERE id = {id}"
                );
                Ok(counts(&transaction.run(&update).await?).any(|rows| rows > 0))
            }
        }
    }
}

/// Gives an older table the columns that writing needs.
async fn complete(transaction: &Transaction) -> Result<(), Failed> {
    let answer = transaction.run("SELECT * FROM backends LIMIT 0").await.map_err(missing_table)?;
    let present = columns(&answer);
    check(present)?;
    for (name, definition) in BACKENDS {
        let is_missing = !present.iter().any(|column| column.name() == name);
        if let Some(definition) = definition.filter(|_| is_missing) {
            transaction
                .run(&format!("ALTER TABLE backends ADD COLUMN {name} {definition}"))
                .await?;
        }
    }
    Ok(())
}

async fn put_rows(transaction: &Transaction, rows: &[&Backend]) -> Result<(), Failed> {
    // Not ON CONFLICT: a table made by hand may have no unique index on its id.
    for rows in rows.chunks(CHUNK) {
        let updates: String = rows.iter().map(|row| update(row)).collect();
        let answer = transaction.run(&updates).await?;
        let missing: Vec<String> = rows
            .iter()
            .zip(counts(&answer))
            .filter(|(_, updated)| *updated == 0)
            .map(|(row, _)| values(row))
            .collect();
        if !missing.is_empty() {
            transaction
                .run(&format!(
                    "INSERT INTO backends (id, app, region, country, wg_ip, port, healthy, weight, \
                     soft_limit, hard_limit, deleted, created_at, updated_at) VALUES {}",
                    missing.join(", ")
                ))
                .await?;
        }
    }
    Ok(())
}

fn update(row: &Backend) -> String {
    let mut sql = String::from("UPDATE backends SET ");
    let written = written(row);
    for (column, value) in &written[1..] {
        let _ = write!(sql, "{column} = {value}, ");
    }
    let _ = writeln!(sql, "updated_at = CURRENT_TIMESTAMP WHERE id = {};", written[0].1);
    sql
}

fn values(row: &Backend) -> String {
    let values = written(row).map(|(_, value)| value).join(", ");
    format!("({values}, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)")
}

/// Every value in quotes: such a literal takes the type of its column, whichever that is.
fn written(row: &Backend) -> [(&'static str, String); 11] {
    let number = |number: u32| format!("'{number}'");
    [
        ("id", quoted(row.id.as_str())),
        ("app", quoted(row.app.as_str())),
        ("region", quoted(row.region.as_str())),
        ("country", quoted(&row.country.map(|code| code.to_string()).unwrap_or_default())),
        ("wg_ip", quoted(&row.wg_ip.to_string())),
        ("port", number(row.port.into())),
        ("healthy", number(row.healthy.into())),
        ("weight", number(row.weight)),
        ("soft_limit", number(row.soft_limit)),
        ("hard_limit", number(row.hard_limit)),
        ("deleted", number(row.deleted.into())),
    ]
}

/// A literal, as libpq's `PQescapeLiteral` writes it: right whatever `standard_conforming_strings`
/// says.
fn quoted(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// How many rows each statement was about.
fn counts(answer: &[SimpleQueryMessage]) -> impl Iterator<Item = u64> + '_ {
    answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_holds_whatever_is_in_it() {
        assert_eq!(quoted("it's"), "'it''s'");
        assert_eq!(quoted(r"a\' OR 1=1"), r"E'a\\'' OR 1=1'");
    }
}
