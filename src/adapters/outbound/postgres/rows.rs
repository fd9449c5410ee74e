//! Reading: every value comes as text, whatever its column's type, and is judged as a raw row.

use tokio_postgres::error::SqlState;
use tokio_postgres::{SimpleColumn, SimpleQueryMessage, SimpleQueryRow};

use super::database::{Database, READ, Transaction};
use super::failed::Failed;
use super::schema::{BACKENDS, NO_TABLE, STATE, check};
use crate::adapters::outbound::leases::{Leases, lease, registry};
use crate::domain::backend::{Number, RawRow};
use crate::domain::ports::Registry;

/// What stands for a value that is no text: spaces make it no name, and no number either.
const NOT_TEXT: &str = "\u{fffd} (not UTF-8)";

/// Rows, and where each column wanted is in them.
pub(super) struct Table<'a> {
    places: Vec<Option<usize>>,
    pub rows: Vec<&'a SimpleQueryRow>,
}

/// The server has bytes that it cannot give as UTF-8.
const NOT_UTF8: [SqlState; 2] =
    [SqlState::CHARACTER_NOT_IN_REPERTOIRE, SqlState::UNTRANSLATABLE_CHARACTER];

/// Everything, as of one moment.
pub(super) async fn read(database: &Database) -> Result<Registry, Failed> {
    match read_with(database, "").await {
        // Bytes as they are, so that they spoil only their own row.
        Err(failed) if failed.is(&NOT_UTF8) => {
            read_with(database, "; SET LOCAL client_encoding = 'SQL_ASCII'").await
        }
        read => read,
    }
}

async fn read_with(database: &Database, settings: &str) -> Result<Registry, Failed> {
    let transaction = database.begin(&format!("{READ}{settings}")).await?;
    let work = async {
        let read = read_all(&transaction).await;
        transaction.end(read).await
    };
    database.answer(work).await
}

async fn read_all(transaction: &Transaction) -> Result<Registry, Failed> {
    // The second asks by the standard's own view, which holds what this role may see: an attempt
    // that fails would be in the server's log each time.
    let answer = transaction
        .run(
            "SELECT * FROM backends ORDER BY id; \
             SELECT 1 FROM information_schema.tables WHERE table_name = 'edgeproxy_backend_state'",
        )
        .await
        .map_err(missing_table)?;
    let mut answers = answer.split_inclusive(is_complete);
    let backends = answers.next().unwrap_or_default();
    let has_state = answers.next().is_some_and(|answer| answer.iter().any(is_row));
    check("backends", &BACKENDS, columns(backends))?;
    let names = BACKENDS.map(|(name, _)| name);
    let rows = Table::new(backends, &names).rows();
    let leases = if has_state { read_leases(transaction).await? } else { Leases::new() };
    Ok(registry(rows, leases))
}

/// The columns of an answer.
pub(super) fn columns(answer: &[SimpleQueryMessage]) -> &[SimpleColumn] {
    let columns = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::RowDescription(columns) => Some(&**columns),
        _ => None,
    });
    columns.unwrap_or_default()
}

/// What a missing table is called.
pub(super) fn missing_table(failed: Failed) -> Failed {
    if failed.is(&[SqlState::UNDEFINED_TABLE]) {
        Failed { reason: NO_TABLE.into(), ..failed }
    } else {
        failed
    }
}

async fn read_leases(transaction: &Transaction) -> Result<Leases, Failed> {
    let answer = match transaction.run("SELECT * FROM edgeproxy_backend_state").await {
        Ok(answer) => answer,
        // In a schema where nobody looks, or no right to read it: no leases.
        Err(failed)
            if failed.is(&[SqlState::UNDEFINED_TABLE, SqlState::INSUFFICIENT_PRIVILEGE]) =>
        {
            return Ok(Leases::new());
        }
        Err(failed) => return Err(failed),
    };
    let table = Table::new(&answer, &STATE.map(|(name, _)| name));
    let one = |row: &&SimpleQueryRow| {
        let text = |place| table.text(row, place);
        let state = text(3);
        Some((text(0)?, lease(number(text(1)), number(text(2)), state.as_deref())))
    };
    Ok(table.rows.iter().filter_map(one).collect())
}

impl<'a> Table<'a> {
    /// The rows of an answer to one statement.
    pub(super) fn new(answer: &'a [SimpleQueryMessage], wanted: &[&str]) -> Self {
        let columns = columns(answer);
        let place = |name: &&str| columns.iter().position(|column| column.name() == *name);
        let row = |message: &'a SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        let places = wanted.iter().map(place).collect();
        Self { places, rows: answer.iter().filter_map(row).collect() }
    }

    /// The value of the column wanted in this place; `None` for NULL and for no such column.
    pub(super) fn text(&self, row: &SimpleQueryRow, wanted: usize) -> Option<String> {
        let place = self.places[wanted]?;
        row.try_get(place).unwrap_or(Some(NOT_TEXT)).map(Into::into)
    }

    /// The rows of `backends`.
    fn rows(&self) -> Vec<RawRow> {
        self.rows.iter().map(|row| self.raw_row(row)).collect()
    }

    /// In the order of [`BACKENDS`].
    fn raw_row(&self, row: &SimpleQueryRow) -> RawRow {
        let text = |place| self.text(row, place);
        RawRow {
            id: text(0),
            app: text(1),
            region: text(2),
            country: text(3),
            wg_ip: text(4),
            port: number(text(5)),
            healthy: flag(text(6)),
            weight: number(text(7)),
            soft_limit: number(text(8)),
            hard_limit: number(text(9)),
            deleted: flag(text(10)),
            created_at: text(11),
            updated_at: text(12),
            lease: None,
        }
    }
}

fn is_complete(message: &SimpleQueryMessage) -> bool {
    matches!(message, SimpleQueryMessage::CommandComplete(_))
}

fn is_row(message: &SimpleQueryMessage) -> bool {
    matches!(message, SimpleQueryMessage::Row(_))
}

/// A number counts when what it says is whole: `8080.00` of a NUMERIC column is.
pub(super) fn number(written: Option<String>) -> Option<Number> {
    let written = written?;
    let text = written.trim();
    let whole = match text.split_once('.') {
        Some((whole, zeros)) if zeros.bytes().all(|digit| digit == b'0') => whole,
        _ => text,
    };
    Some(whole.parse().map_or(Number::Other(written), Number::Whole))
}

/// A number, or a BOOLEAN as the server writes it.
pub(super) fn flag(written: Option<String>) -> Option<Number> {
    match written.as_deref().map(str::trim) {
        Some("t" | "true") => Some(Number::Whole(1)),
        Some("f" | "false") => Some(Number::Whole(0)),
        _ => number(written),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_what_it_says() {
        let of = |text: &str| number(Some(text.into()));
        for (text, whole) in [("8080", 8080), (" 7 ", 7), ("60.000", 60), ("-1", -1)] {
            assert_eq!(of(text), Some(Number::Whole(whole)), "{text}");
        }
        for text in ["1.5", "many", "", "99999999999999999999", NOT_TEXT] {
            assert_eq!(of(text), Some(Number::Other(text.into())), "{text}");
        }
        assert_eq!(number(None), None);
    }

    #[test]
    fn a_flag_is_a_number_or_a_boolean() {
        let of = |text: &str| flag(Some(text.into()));
        assert_eq!((of("t"), of("false")), (Some(Number::Whole(1)), Some(Number::Whole(0))));
        assert_eq!(
            (of("1"), of("yes")),
            (Some(Number::Whole(1)), Some(Number::Other("yes".into())))
        );
    }
}
