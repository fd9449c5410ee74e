//! One table of the file that is not about settings: its keys, read one by one.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, Entry, in_order, shown, text_of};
use super::error::{ConfigError, Report};
use super::resolve::must_be;
use super::unknown::unknown;
use super::value::{Shape, Value};
use crate::domain::backend::BadName;

/// A table, and the name that errors give it.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    table: &'a DeTable<'a>,
    name: String,
    span: Range<usize>,
}

impl<'a> Section<'a> {
    /// The tables of `[[key]]`.
    pub(super) fn array(document: &'a Document<'a>, key: &str, report: &mut Report) -> Vec<Self> {
        let Some(value) = document.root.get(key) else { return Vec::new() };
        let accepts = format!("tables [[{key}]]");
        let Some(items) = value.get_ref().as_array() else {
            report.errors.push(wrong(document, key, value, &accepts));
            return Vec::new();
        };
        let sections = items.iter().map(|item| Self::new(document, key, item, &accepts));
        sections.filter_map(|section| report.keep(section)).collect()
    }

    /// The tables of `[key.NAME]`, with their names.
    pub(super) fn named(
        document: &'a Document<'a>,
        key: &str,
        report: &mut Report,
    ) -> Vec<(&'a str, Self)> {
        let Some(value) = document.root.get(key) else { return Vec::new() };
        let accepts = format!("tables [{key}.NAME]");
        let Some(table) = value.get_ref().as_table() else {
            report.errors.push(wrong(document, key, value, &accepts));
            return Vec::new();
        };
        let section = |(name, item): Entry<'a>| {
            let path = format!("{key}.{}", name.get_ref());
            let section = Self::new(document, &path, item, "a table");
            report.keep(section).map(|section| (name.get_ref().as_ref(), section))
        };
        in_order(table).into_iter().filter_map(section).collect()
    }

    fn new(
        document: &'a Document<'a>,
        name: &str,
        value: &'a Spanned<DeValue<'a>>,
        accepts: &str,
    ) -> Result<Self, ConfigError> {
        match value.get_ref().as_table() {
            Some(table) => Ok(Self { document, table, name: name.into(), span: value.span() }),
            None => Err(wrong(document, name, value, accepts)),
        }
    }

    /// The same table of an array, named by what tells it from the others, if that is known.
    pub(super) fn named_by(self, own: Option<&str>) -> Self {
        let name = own.map_or(self.name.clone(), |own| format!("{}.{own}", self.name));
        Self { name, ..self }
    }

    /// The line that it begins in.
    pub(super) fn line(&self) -> usize {
        self.document.place(&self.span).line
    }

    /// The table at `key`.
    pub(super) fn table(&self, key: &str, report: &mut Report) -> Option<Self> {
        let path = format!("{}.{key}", self.name);
        report.keep(Self::new(self.document, &path, self.table.get(key)?, "a table"))
    }

    /// The value at `key`. `None` when it is absent, or wrong, which `report` then says.
    pub(super) fn value<T: Value>(&self, key: &str, report: &mut Report) -> Option<T> {
        let value = self.table.get(key)?;
        let parsed = parse(value, T::SHAPE);
        if parsed.is_none() {
            // A text that is refused has its quotes already.
            let rule = match value.get_ref() {
                DeValue::String(_) => format!("must be {}", T::accepts()),
                _ => must_be(&T::accepts(), T::SHAPE),
            };
            report.errors.push(self.error(key, rule));
        }
        parsed
    }

    /// The value at `key`, which must be there.
    pub(super) fn required<T: Value>(&self, key: &str, report: &mut Report) -> Option<T> {
        if !self.table.contains_key(key) {
            report.errors.push(self.error(key, format!("must be given: {}", T::accepts())));
        }
        self.value(key, report)
    }

    /// The values of the array at `key`, each one checked; one text counts as an array of one.
    pub(super) fn list<T: Value>(&self, key: &str, report: &mut Report) -> Vec<T> {
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let one = std::slice::from_ref(value);
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => one.iter().collect(),
        };
        let path = format!("{}.{key}", self.name);
        let item = |item: &Spanned<DeValue<'_>>| {
            let parsed = parse(item, T::SHAPE);
            parsed.ok_or_else(|| wrong(self.document, &path, item, &T::accepts()))
        };
        items.into_iter().filter_map(|value| report.keep(item(value))).collect()
    }

    /// The value at `key` as it is written.
    pub(super) fn get(&self, key: &str) -> Option<&DeValue<'a>> {
        self.table.get(key).map(Spanned::get_ref)
    }

    /// Whether `key` is there at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Warns about every key that is not one of `known`.
    pub(super) fn expect_only(&self, known: &[&str], report: &mut Report) {
        for (key, _) in in_order(self.table) {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let place = self.document.place(&key.span());
                let warning = unknown(name, known.iter().copied());
                report.warnings.push(format!("{place}: {}.{warning}", self.name));
            }
        }
    }

    /// An error about `key`, or about the whole table when it is not there.
    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let path = format!("{}.{key}", self.name);
        match self.table.get(key) {
            Some(value) => {
                let subject = format!("{path} = {}", shown(value.get_ref()));
                self.document.error(&value.span(), subject, problem)
            }
            None => self.document.error(&self.span, path, problem),
        }
    }

    /// The error that the table's own name is not one.
    pub(super) fn bad_name(&self) -> ConfigError {
        let problem = format!("the name must be {BadName}");
        self.document.error(&self.span, format!("[{}]", self.name), problem)
    }
}

fn parse<T: Value>(value: &Spanned<DeValue<'_>>, shape: Shape) -> Option<T> {
    text_of(value.get_ref(), shape).and_then(|text| T::parse(&text))
}

fn wrong(
    document: &Document<'_>,
    name: &str,
    value: &Spanned<DeValue<'_>>,
    accepts: &str,
) -> ConfigError {
    let subject = format!("{name} = {}", shown(value.get_ref()));
    document.error(&value.span(), subject, format!("must be {accepts}"))
}
