//! Names that nobody knows, and the ones that were probably meant.

use toml::de::DeValue;

use super::document::{Document, in_order};
use super::error::Report;
use super::parts;
use super::source::CONFIG_VARIABLE;
use super::table::TABLE;

/// Warns about variables that are ours by name and unknown.
pub(super) fn in_env(env: &[(String, String)], report: &mut Report) {
    let known: Vec<String> = TABLE
        .iter()
        .flat_map(|setting| [Some(setting.env.to_owned()), setting.env_file()])
        .flatten()
        .collect();
    for (name, value) in env {
        let foreign = !name.starts_with("EDGEPROXY_") || is_from_kubernetes(name, value);
        if foreign || name == CONFIG_VARIABLE || value.is_empty() || known.contains(name) {
            continue;
        }
        report.warnings.push(unknown(name, known.iter().map(String::as_str)));
    }
}

/// Kubernetes sets `EDGEPROXY_PORT*` and `EDGEPROXY_SERVICE_*` for a service named `edgeproxy`,
/// and the same with more in between for one named `edgeproxy-api`.
fn is_from_kubernetes(name: &str, value: &str) -> bool {
    name.starts_with("EDGEPROXY_PORT")
        || name.starts_with("EDGEPROXY_SERVICE_")
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT") && value.contains("://")
}

/// Warns about unknown keys of the file and of its groups. What stands in the other tables is
/// looked at where they are read.
pub(super) fn in_file(document: &Document<'_>, report: &mut Report) {
    for (key, value) in in_order(&document.root) {
        let name: &str = key.get_ref();
        let (span, value) = (value.span(), value.get_ref());
        let table = value.as_table().filter(|_| is_group(name));
        if let Some(table) = table {
            for (key, _) in in_order(table) {
                let path = format!("{name}.{}", key.get_ref());
                if !is_setting(&path) {
                    let place = document.place(&key.span());
                    report.warnings.push(format!("{place}: {}", unknown(&path, paths())));
                }
            }
        } else if is_group(name) {
            // The value is not repeated: under `postgres` or `api` it may be a secret.
            report.errors.push(document.error(&span, name, "must be a table"));
        } else if !is_setting(name) && !parts::NAMES.contains(&name) {
            let place = document.place(&key.span());
            let hint = in_no_group(name, value);
            let hint =
                hint.unwrap_or_else(|| unknown(name, paths().chain(groups()).chain(parts::NAMES)));
            report.warnings.push(format!("{place}: {hint}"));
        }
    }
}

fn is_group(name: &str) -> bool {
    groups().any(|group| group == name)
}

fn groups() -> impl Iterator<Item = &'static str> {
    paths().filter_map(|path| path.split_once('.')).map(|(group, _)| group)
}

fn is_setting(path: &str) -> bool {
    paths().any(|known| known == path)
}

fn paths() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|setting| setting.toml)
}

/// A key of exactly one group that stands outside it: the header was forgotten.
fn in_no_group(name: &str, value: &DeValue<'_>) -> Option<String> {
    let mut homes = paths().filter(|path| {
        !value.is_table() && path.split_once('.').is_some_and(|(_, key)| key == name)
    });
    let home = homes.next().filter(|_| homes.next().is_none())?;
    Some(format!("{name}: unknown; did you mean {home}?"))
}

/// The warning about `name`, with the nearest of `known` if one is near.
pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    // One slip in three letters is still the same name.
    let limit = (name.trim_start_matches("EDGEPROXY_").chars().count() / 3).max(1);
    let nearest = known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= limit);
    match nearest {
        Some((_, meant)) => format!("{name}: unknown; did you mean {meant}?"),
        None => format!("{name}: unknown"),
    }
}
