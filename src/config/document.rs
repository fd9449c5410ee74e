//! The configuration file as TOML whose every value knows its line and column.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeString, DeTable, DeValue};

use super::error::{ConfigError, Place, Report};
use super::value::Shape;

/// Longest configuration file, in bytes.
pub(super) const MAX_FILE: u64 = 16 << 20;
/// Most syntax errors that are reported.
const MAX_SYNTAX_ERRORS: usize = 10;
/// Longest text of a value that an error repeats, in characters.
const MAX_SHOWN: usize = 120;

/// A parsed file.
pub(super) struct Document<'a> {
    lines: Lines<'a>,
    pub(super) root: DeTable<'a>,
}

impl<'a> Document<'a> {
    /// Parses `text`. `None`, and every syntax error in `report`, when it is not TOML.
    pub(super) fn parse(path: &'a Path, text: &'a str, report: &mut Report) -> Option<Self> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let lines = Lines::new(path, text);
        let mut said = report.errors.len();
        let limit = said + MAX_SYNTAX_ERRORS;
        for error in &errors {
            let place = lines.place(error.span().map_or(0, |span| span.start));
            // One slip is often several errors of the parser, all on its line.
            let repeated = report
                .errors
                .iter()
                .any(|known| known.place.as_ref().is_some_and(|known| known.line == place.line));
            if said < limit && !repeated {
                let problem = format!("not TOML: {}", error.message().replace('\n', ", "));
                report.errors.push(ConfigError { place: Some(place), subject: None, problem });
                said += 1;
            }
        }
        errors.is_empty().then(|| Self { lines, root: root.into_inner() })
    }

    /// Line and column of a span.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        self.lines.place(span.start)
    }

    /// The value at `key` or `group.key`.
    pub(super) fn get(&self, path: &str) -> Option<&Spanned<DeValue<'a>>> {
        match path.split_once('.') {
            None => self.root.get(path),
            Some((group, key)) => self.root.get(group)?.get_ref().as_table()?.get(key),
        }
    }

    pub(super) fn error(
        &self,
        span: &Range<usize>,
        subject: impl Into<String>,
        problem: impl Into<String>,
    ) -> ConfigError {
        ConfigError {
            place: Some(self.place(span)),
            subject: Some(subject.into()),
            problem: problem.into(),
        }
    }
}

/// The lines of a file, and where each begins: a registry has many, and everything in it a place.
struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, text: &'a str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(newline, _)| newline + 1);
        let starts = std::iter::once(0).chain(after_newlines).collect();
        Self { path, text, starts }
    }

    fn place(&self, at: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts[line - 1];
        let before = self.text.get(start..at).unwrap_or(&self.text[start..]);
        Place { file: self.path.into(), line, column: before.chars().count() + 1 }
    }
}

/// A key with its value.
pub(super) type Entry<'a> = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>);

/// What a table holds, in the order of the file.
pub(super) fn in_order<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// A whole text file, if it is no longer than `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(limit + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > limit {
        return Err(format!("longer than {limit} bytes"));
    }
    Ok(text)
}

/// A value as the text that its setting parses; `None` when TOML writes such a setting otherwise.
pub(super) fn text_of(value: &DeValue<'_>, shape: Shape) -> Option<String> {
    match (value, shape) {
        (DeValue::String(text), _) => Some(text.to_string()),
        (DeValue::Integer(number), Shape::Number | Shape::Switch) => decimal(number),
        (DeValue::Boolean(on), Shape::Switch) => Some(on.to_string()),
        (DeValue::Array(items), Shape::List) => joined(items),
        _ => None,
    }
}

fn decimal(number: &DeInteger<'_>) -> Option<String> {
    i128::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
}

fn joined(items: &DeArray<'_>) -> Option<String> {
    let items: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
    items.map(|items| items.join(","))
}

/// A value as an error repeats it.
pub(super) fn shown(value: &DeValue<'_>) -> String {
    let text = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(moment) => moment.to_string(),
        DeValue::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| shown(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(_) => "{...}".into(),
    };
    shortened(text)
}

/// `text`, without its end when it is very long.
pub(super) fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_syntax_error_has_a_line_and_a_column() {
        let mut report = Report::default();
        let text = "workers = 4\npop = gru x\nworkers = 5\n";
        assert!(Document::parse(Path::new("/etc/x.toml"), text, &mut report).is_none());
        let errors: Vec<_> = report.errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "/etc/x.toml:2:7: not TOML: string values must be quoted, expected literal string",
                "/etc/x.toml:3:1: not TOML: duplicate key"
            ]
        );
    }

    #[test]
    fn syntax_errors_are_reported_up_to_a_limit() {
        let mut report = Report::default();
        let text = "a = b c\n".repeat(100);
        assert!(Document::parse(Path::new("x"), &text, &mut report).is_none());
        assert_eq!(report.errors.len(), MAX_SYNTAX_ERRORS);
    }

    #[test]
    fn columns_count_characters() {
        let mut report = Report::default();
        let text = "\"é\" = 1";
        let document = Document::parse(Path::new("x"), text, &mut report).unwrap();
        let span = document.get("é").unwrap().span();
        assert_eq!(document.place(&span).to_string(), "x:1:7");
    }

    #[test]
    fn every_way_to_write_an_integer_is_one_text() {
        let mut report = Report::default();
        let text = "a = 1_000\nb = 0x10\nc = -5";
        let document = Document::parse(Path::new("x"), text, &mut report).unwrap();
        let number = |key| text_of(document.get(key).unwrap().get_ref(), Shape::Number).unwrap();
        assert_eq!([number("a"), number("b"), number("c")], ["1000", "16", "-5"]);
    }

    #[test]
    fn a_long_value_is_repeated_in_part() {
        let long = shown(&DeValue::String("x".repeat(1000).into()));
        assert_eq!(long.len(), MAX_SHOWN + "...".len());
    }

    #[test]
    fn an_endless_file_is_refused() {
        let error = read_text(Path::new("/dev/zero"), 100).unwrap_err();
        assert_eq!(error, "longer than 100 bytes");
    }
}
