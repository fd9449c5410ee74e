//! Rows in files: JSON (an array of objects) and CSV (RFC 4180, with a line of column names).

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::columns::{Record, flag, number};
use crate::domain::backend::{Number, RawRow};

/// Largest file that is imported, in bytes: some 500,000 rows.
const MAX_IMPORT: u64 = 64 << 20;

const CSV_HEADINGS: &str =
    "id,app,region,country,wg_ip,port,healthy,weight,soft_limit,hard_limit,deleted";

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
}

impl Format {
    /// The format that a file's name asks for.
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        let extension = path.extension().map(OsStr::to_ascii_lowercase);
        match extension.as_deref().and_then(|extension| extension.to_str()) {
            Some("json") => Ok(Self::Json),
            Some("csv") => Ok(Self::Csv),
            _ => bail!("{}: the name must end in .json or .csv", path.display()),
        }
    }

    /// The format that a text looks like, for input without a telling name.
    fn sniffed(text: &str) -> Self {
        if text.trim_start().starts_with(['[', '{']) { Self::Json } else { Self::Csv }
    }
}

/// Writes the records. Names hold neither commas nor quotes, so no CSV cell needs quoting.
pub(super) fn write(records: &[Record], format: Format, out: &mut dyn Write) -> io::Result<()> {
    if format == Format::Json {
        serde_json::to_writer_pretty(&mut *out, records)?;
        return writeln!(out);
    }
    writeln!(out, "{CSV_HEADINGS}")?;
    for r in records {
        writeln!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{}",
            r.id,
            r.app,
            r.region,
            r.country,
            r.wg_ip,
            r.port,
            u8::from(r.healthy),
            r.weight,
            r.soft_limit,
            r.hard_limit,
            u8::from(r.deleted)
        )?;
    }
    Ok(())
}

/// The rows in a file, or on standard input when it is `-`.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<RawRow>> {
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        Box::new(file)
    };
    let mut bytes = Vec::new();
    input
        .take(MAX_IMPORT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| path.display().to_string())?;
    ensure!(bytes.len() as u64 <= MAX_IMPORT, "{}: larger than 64 MiB", path.display());
    let text = String::from_utf8(bytes).with_context(|| path.display().to_string())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let rows = match Format::of(path).unwrap_or_else(|_| Format::sniffed(text)) {
        Format::Json => from_json(text),
        Format::Csv => from_csv(text),
    };
    rows.with_context(|| path.display().to_string())
}

fn from_json(text: &str) -> anyhow::Result<Vec<RawRow>> {
    let objects: Vec<serde_json::Map<String, Value>> =
        serde_json::from_str(text).context("must be a JSON array of objects")?;
    let parse = |object: serde_json::Map<String, Value>| {
        let mut row = RawRow::default();
        for (column, value) in object {
            set(&mut row, &column, Cell::from(value))?;
        }
        Ok(row)
    };
    objects.into_iter().map(parse).collect()
}

fn from_csv(text: &str) -> anyhow::Result<Vec<RawRow>> {
    let mut lines = csv(text)?.into_iter();
    let headings = lines.next().context("is empty; CSV starts with a line of column names")?;
    let parse = |(place, line): (usize, Vec<String>)| {
        let (given, wanted) = (line.len(), headings.len());
        ensure!(given == wanted, "row {}: {given} cells, {wanted} column names", place + 1);
        let mut row = RawRow::default();
        for (column, cell) in headings.iter().zip(line) {
            set(&mut row, column.trim(), Cell::Text(cell))?;
        }
        Ok(row)
    };
    lines.enumerate().map(parse).collect()
}

/// A value on its way into a column of whichever kind.
enum Cell {
    Nothing,
    Text(String),
    Number(Number),
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::Bool(truth) => Self::Number(flag(truth)),
            Value::String(text) => Self::Text(text),
            // A list or an object is no whole number and no name; the row's parser says so.
            other => Self::Number(number(other.to_string())),
        }
    }
}

impl Cell {
    fn text(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Text(text) | Self::Number(Number::Other(text)) => Some(text),
            Self::Number(Number::Whole(whole)) => Some(whole.to_string()),
        }
    }

    /// An empty cell is a column left out: it gets its default.
    fn number(self) -> Option<Number> {
        match self {
            Self::Nothing => None,
            Self::Text(text) if text.trim().is_empty() => None,
            Self::Text(text) => Some(number(text)),
            Self::Number(number) => Some(number),
        }
    }
}

fn set(row: &mut RawRow, column: &str, cell: Cell) -> anyhow::Result<()> {
    match column {
        "id" => row.id = cell.text(),
        "app" => row.app = cell.text(),
        "region" => row.region = cell.text(),
        "country" => row.country = cell.text(),
        "wg_ip" => row.wg_ip = cell.text(),
        "port" => row.port = cell.number(),
        "healthy" => row.healthy = cell.number(),
        "weight" => row.weight = cell.number(),
        "soft_limit" => row.soft_limit = cell.number(),
        "hard_limit" => row.hard_limit = cell.number(),
        "deleted" => row.deleted = cell.number(),
        // A dump of the whole table has them; the registry keeps its own.
        "created_at" | "updated_at" => {}
        other => bail!("there is no column {other:?}; the columns are {CSV_HEADINGS}"),
    }
    Ok(())
}

/// The cells of every line that is not blank. A quoted cell may hold commas and line ends, and
/// `""` for a quote.
fn csv(text: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut cell = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' if quoted || cell.is_empty() => quoted = !quoted,
            ',' if !quoted => line.push(std::mem::take(&mut cell)),
            '\r' if !quoted && chars.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                line.push(std::mem::take(&mut cell));
                lines.push(std::mem::take(&mut line));
            }
            other => cell.push(other),
        }
    }
    ensure!(!quoted, "a quoted cell does not end");
    line.push(cell);
    lines.push(line);
    lines.retain(|line| line.iter().any(|cell| !cell.trim().is_empty()));
    Ok(lines)
}
