//! Writing: one transaction for each change, and rows as given.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::database::{Database, Transaction, WRITE};
use super::failed::Failed;
use super::rows::{columns, missing_table};
use super::schema::{self, BACKENDS, NO_STATE, STATE, STATE_TABLE, check};
use crate::domain::{Backend, BackendId};

/// Rows in one message.
pub(super) const CHUNK: usize = 500;

/// Attempts at a write that met another one.
const ATTEMPTS: usize = 5;

/// Another's write came in between: the same again may work.
const COLLISIONS: [SqlState; 3] = [
    SqlState::UNIQUE_VIOLATION,
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::T_R_DEADLOCK_DETECTED,
];

/// Something to be written, in one transaction.
pub(super) trait Change: Sync {
    /// What comes of it.
    type Done: Send;

    /// Writes it; `None` when it needs a side table, and there is none.
    fn make(
        &self,
        transaction: &Transaction,
    ) -> impl Future<Output = Result<Option<Self::Done>, Failed>> + Send;
}

/// Rows as given, by id.
struct Put<'a>(Vec<&'a Backend>);

/// The mark that a row is deleted.
struct Remove<'a>(&'a BackendId);

/// The end of a deleted row's lease and of what was asked of it: whoever adds it anew finds neither.
struct Forget<'a>(&'a BackendId);

/// Writes rows as given, all or none. Those that are there keep `created_at`.
pub(super) async fn put(database: &Database, backends: &[Backend]) -> Result<(), Failed> {
    // By id: the last of one id counts, and two who write the same rows do so in one order.
    let by_id: BTreeMap<&str, &Backend> = backends.iter().map(|b| (b.id.as_str(), b)).collect();
    write(database, &Put(by_id.into_values().collect())).await
}

/// Marks a row deleted; `false` when there is none.
pub(super) async fn remove(database: &Database, id: &BackendId) -> Result<bool, Failed> {
    let removed = write(database, &Remove(id)).await?;
    if removed {
        // In a transaction of its own: a role that may not, or a side table that is not there, is no
        // reason to keep the row.
        let (absent, refused) = (SqlState::UNDEFINED_TABLE, SqlState::INSUFFICIENT_PRIVILEGE);
        match write(database, &Forget(id)).await {
            Err(failed) if !failed.is(&[absent, refused]) => return Err(failed),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(removed)
}

/// Makes a change, again when it met another one, and the side table first when it needs one.
pub(super) async fn write<C: Change>(database: &Database, change: &C) -> Result<C::Done, Failed> {
    let mut attempt = 1;
    let mut made_state = false;
    loop {
        let transaction = database.begin(WRITE).await?;
        let once = async {
            let done = change.make(&transaction).await;
            transaction.end(done).await
        };
        match database.answer(once).await {
            Ok(Some(done)) => return Ok(done),
            // In a transaction of its own: the attempt to read it has undone this one.
            Ok(None) if !made_state => {
                schema::create_state(database).await?;
                made_state = true;
            }
            Ok(None) => return Err(Failed::plain(NO_STATE)),
            Err(failed) if failed.is(&COLLISIONS) && attempt < ATTEMPTS => attempt += 1,
            Err(failed) if failed.late => return Err(failed.in_doubt()),
            Err(failed) => return Err(failed),
        }
    }
}

impl Change for Put<'_> {
    type Done = ();

    async fn make(&self, transaction: &Transaction) -> Result<Option<()>, Failed> {
        complete(transaction).await?;
        put_rows(transaction, &self.0).await.map(Some)
    }
}

impl Change for Remove<'_> {
    type Done = bool;

    async fn make(&self, transaction: &Transaction) -> Result<Option<bool>, Failed> {
        complete(transaction).await?;
        let id = quoted(self.0.as_str());
        let update = format!(
            "UPDATE backends SET deleted = '1', updated_at = CURRENT_TIMESTAMP WHERE id = {id}"
        );
        Ok(Some(counts(&transaction.run(&update).await?).any(|rows| rows > 0)))
    }
}

impl Change for Forget<'_> {
    type Done = ();

    async fn make(&self, transaction: &Transaction) -> Result<Option<()>, Failed> {
        let id = quoted(self.0.as_str());
        let forget = format!(
            "UPDATE edgeproxy_backend_state SET lease_expires_at = NULL, admin_state = 'ready' \
             WHERE id = {id} AND EXISTS (SELECT 1 FROM backends WHERE backends.id = {id} \
             AND COALESCE(backends.deleted, '0') <> '0')"
        );
        transaction.run(&forget).await.map(|_| Some(()))
    }
}

/// Gives an older table the columns that writing needs.
pub(super) async fn complete(transaction: &Transaction) -> Result<(), Failed> {
    let answer = transaction.run("SELECT * FROM backends LIMIT 0").await.map_err(missing_table)?;
    add_missing(transaction, "backends", &BACKENDS, &answer).await
}

/// The same for the side table. `false` when there is none, after which the transaction can do nothing
/// any more.
pub(super) async fn complete_state(transaction: &Transaction) -> Result<bool, Failed> {
    match transaction.run(&format!("SELECT * FROM {STATE_TABLE} LIMIT 0")).await {
        Ok(answer) => {
            add_missing(transaction, STATE_TABLE, &STATE, &answer).await?;
            Ok(true)
        }
        Err(failed) if failed.is(&[SqlState::UNDEFINED_TABLE]) => Ok(false),
        Err(failed) => Err(failed),
    }
}

async fn add_missing(
    transaction: &Transaction,
    table: &str,
    wanted: &[(&str, Option<&str>)],
    answer: &[SimpleQueryMessage],
) -> Result<(), Failed> {
    let present = columns(answer);
    check(table, wanted, present)?;
    for (name, definition) in wanted {
        let is_missing = !present.iter().any(|column| column.name() == *name);
        if let Some(definition) = definition.filter(|_| is_missing) {
            transaction.run(&format!("ALTER TABLE {table} ADD COLUMN {name} {definition}")).await?;
        }
    }
    Ok(())
}

/// Writes rows as given. Those that are there keep `created_at`.
pub(super) async fn put_rows(transaction: &Transaction, rows: &[&Backend]) -> Result<(), Failed> {
    // Not ON CONFLICT: a table made by hand may have no unique index on its id.
    for rows in rows.chunks(CHUNK) {
        let updates: String = rows.iter().map(|row| update(row)).collect();
        let answer = transaction.run(&updates).await?;
        let updated = rows.iter().zip(counts(&answer));
        let missing: Vec<&Backend> =
            updated.filter(|(_, updated)| *updated == 0).map(|(row, _)| *row).collect();
        insert_rows(transaction, &missing).await?;
    }
    Ok(())
}

/// Writes rows of which there are none of the same ids.
pub(super) async fn insert_rows(
    transaction: &Transaction,
    rows: &[&Backend],
) -> Result<(), Failed> {
    if rows.is_empty() {
        return Ok(());
    }
    let values: Vec<String> = rows.iter().map(|row| values(row)).collect();
    let insert = format!(
        "INSERT INTO backends (id, app, region, country, wg_ip, port, healthy, weight, soft_limit, \
         hard_limit, deleted, created_at, updated_at) VALUES {}",
        values.join(", ")
    );
    transaction.run(&insert).await.map(drop)
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
pub(super) fn quoted(text: &str) -> String {
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
