//! What differs between two configurations, for whoever applies the second in place of the first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::app::{AppConfig, HealthConfig};
use super::document::shortened;
use super::resolve::{Effective, Origin};
use super::setting::Setting;
use super::value::{ListenerTls, Value};
use super::{Config, ListenerConfig};
use crate::domain::host::HostPattern;
use crate::domain::region::Atlas;
use crate::domain::{Backend, BackendId, Region};

/// What stands for an absent value.
const ABSENT: &str = "-";

/// A setting, or a part of what only the file can say, that has another value.
#[derive(Clone, Debug)]
pub struct Change {
    /// What has changed.
    pub what: Subject,
    /// What it was, masked if it is a secret; `None` when it was absent.
    pub old_value: Option<String>,
    /// What it is, masked if it is a secret; `-` when it is absent. In lists without names
    /// (`geo_override`, `listener`, `certificate`) both hold what differs only, and its beginning if it is long.
    pub new_value: String,
    /// Whether it takes effect without a restart.
    pub reloadable: bool,
    /// The variable because of which nothing changes: the values are those of the file, and the
    /// environment has precedence.
    pub overridden_by: Option<&'static str>,
}

/// What can change.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A row of the table.
    Setting(&'static Setting),
    /// What only the file can say: `app.NAME.key`, `regions.NAME`, `geo_override`, `listener`,
    /// `certificate`, `backend.ID.column`, `backend.ID` for one that comes or goes, or `backend` when the registry
    /// comes into the file or leaves it.
    Part(String),
}

impl Change {
    /// Whether it is of a backend in the file.
    #[must_use]
    pub fn is_of_registry(&self) -> bool {
        matches!(&self.what, Subject::Part(name) if name.starts_with("backend."))
    }
}

impl fmt::Display for Subject {
    /// The name in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Setting(setting) => setting.toml,
            Self::Part(name) => name,
        })
    }
}

impl fmt::Display for Change {
    /// For a line of a log: `workers: 2 -> 4 (needs a restart)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old = self.old_value.as_deref().unwrap_or(ABSENT);
        write!(f, "{}: {old} -> {}", self.what, self.new_value)?;
        match self.overridden_by {
            Some(variable) => write!(f, " (overridden by {variable})"),
            None if self.reloadable => Ok(()),
            None => f.write_str(" (needs a restart)"),
        }
    }
}

/// Every change from `old` to `new`: settings in the order of the table, then apps, regions,
/// overrides, listeners, certificates and backends. A value that only comes from elsewhere is no change.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let rows = old.effective.iter().zip(&new.effective);
    let mut changes: Vec<Change> = rows.filter_map(|(old, new)| setting(old, new)).collect();
    apps(old, new, &mut changes);
    regions(&old.atlas, &new.atlas, &mut changes);
    let overrides = |config: &Config| {
        let all = config.geo_overrides.iter();
        all.map(|(cidr, country)| format!("{cidr} = {country}")).collect::<Vec<_>>()
    };
    changes.extend(list("geo_override", true, &overrides(old), &overrides(new)));
    let listeners = |config: &Config| config.listeners.iter().map(shown).collect::<Vec<_>>();
    changes.extend(list("listener", false, &listeners(old), &listeners(new)));
    let certificates =
        |config: &Config| config.certificates.iter().map(ToString::to_string).collect::<Vec<_>>();
    changes.extend(list("certificate", true, &certificates(old), &certificates(new)));
    backends(old.backends.as_deref(), new.backends.as_deref(), &mut changes);
    changes
}

/// What only the file can say, by name.
#[must_use]
pub fn parts_of(config: &Config) -> Vec<(String, String)> {
    let nothing = Config {
        apps: BTreeMap::new(),
        atlas: Atlas::default(),
        geo_overrides: Vec::new(),
        listeners: Vec::new(),
        certificates: Vec::new(),
        backends: None,
        ..config.clone()
    };
    let changes = diff(&nothing, config).into_iter();
    let parts = changes.filter_map(|change| match change.what {
        Subject::Part(name) => Some((name, change.new_value)),
        Subject::Setting(_) => None,
    });
    parts.collect()
}

fn setting(old: &Effective, new: &Effective) -> Option<Change> {
    let what = Subject::Setting(new.setting);
    let reloadable = new.setting.reloadable;
    let given = |value: &str| (value != ABSENT).then(|| value.to_owned());
    if (&old.value, &old.secret) != (&new.value, &new.secret) {
        let (old_value, new_value) = (given(&old.value), new.value.clone());
        return Some(Change { what, old_value, new_value, reloadable, overridden_by: None });
    }
    // What the file said when it was in effect itself, it may say still.
    let in_file = |row: &Effective| match row.origin {
        Origin::File => (Some(row.value.clone()), row.secret.clone()),
        Origin::Default | Origin::Env => (row.in_file.clone(), row.secret_in_file.clone()),
    };
    if new.origin != Origin::Env || in_file(old) == in_file(new) {
        return None;
    }
    let old_value = in_file(old).0.as_deref().and_then(given);
    let new_value = in_file(new).0.unwrap_or_else(|| ABSENT.into());
    let overridden_by = Some(new.setting.env);
    Some(Change { what, old_value, new_value, reloadable, overridden_by })
}

/// The change of a part, if it is one.
fn part(
    name: impl Into<String>,
    reloadable: bool,
    old_value: Option<String>,
    new_value: Option<String>,
) -> Option<Change> {
    if old_value == new_value {
        return None;
    }
    let what = Subject::Part(name.into());
    let new_value = new_value.unwrap_or_else(|| ABSENT.into());
    Some(Change { what, old_value, new_value, reloadable, overridden_by: None })
}

/// An app that the file does not name is one with nothing said about it.
fn apps(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let absent = AppConfig::default();
    let mut names: Vec<_> = old.apps.keys().chain(new.apps.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let keys = |config: &Config| app_keys(config.apps.get(name).unwrap_or(&absent));
        for ((key, old), (_, new)) in keys(old).into_iter().zip(keys(new)) {
            changes.extend(part(format!("app.{}.{key}", name.as_str()), true, old, new));
        }
    }
}

fn app_keys(app: &AppConfig) -> [(&'static str, Option<String>); 12] {
    let AppConfig {
        hosts,
        sni,
        spill,
        affinity_ttl_secs,
        idle_timeout_secs,
        proxy_protocol,
        tls,
        health,
    } = app;
    let sni: Vec<_> = sni.iter().map(ToString::to_string).collect();
    let HealthConfig { check_type, path, expected_status, host, port } = health;
    [
        ("sni", (!sni.is_empty()).then(|| sni.join(","))),
        ("hosts", (!hosts.is_empty()).then(|| names(hosts))),
        ("spill", Some(spill.show())),
        ("affinity_ttl_secs", affinity_ttl_secs.map(|secs| secs.to_string())),
        ("idle_timeout_secs", idle_timeout_secs.map(|secs| secs.to_string())),
        ("proxy_protocol", Some(proxy_protocol.show())),
        ("tls", tls.as_ref().map(ToString::to_string)),
        ("health.type", check_type.map(|check| check.show())),
        ("health.path", path.clone()),
        ("health.expected_status", expected_status.map(|status| status.to_string())),
        ("health.host", host.clone()),
        ("health.port", port.map(|port| port.to_string())),
    ]
}

fn names(patterns: &[HostPattern]) -> String {
    patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn regions(old: &Atlas, new: &Atlas, changes: &mut Vec<Change>) {
    let named = |atlas: &Atlas| {
        atlas.countries.values().chain(atlas.near.keys()).cloned().collect::<Vec<_>>()
    };
    let mut names = [named(old), named(new)].concat();
    names.sort();
    names.dedup();
    for name in names {
        let (old, new) = (region(old, &name), region(new, &name));
        changes.extend(part(format!("regions.{name}"), true, old, new));
    }
}

fn region(atlas: &Atlas, name: &Region) -> Option<String> {
    let Atlas { countries, near } = atlas;
    let countries = countries.iter().filter(|(_, region)| *region == name);
    let countries: Vec<_> = countries.map(|(country, _)| country.to_string()).collect();
    let near: Vec<_> = near.get(name).into_iter().flatten().map(Region::as_str).collect();
    let mut said = Vec::new();
    if !countries.is_empty() {
        said.push(format!("countries {}", countries.join(",")));
    }
    if !near.is_empty() {
        said.push(format!("near {}", near.join(",")));
    }
    (!said.is_empty()).then(|| said.join(" "))
}

fn shown(listener: &ListenerConfig) -> String {
    let ListenerConfig { addr, app, mode, proxy_protocol, tls, alpn } = listener;
    let mode = mode.map_or_else(String::new, |mode| format!(" ({})", mode.show()));
    let addrs: Vec<_> = addr.iter().map(ToString::to_string).collect();
    let app = app.as_ref().map_or_else(String::new, |app| format!(" (app {})", app.as_str()));
    let header = if *proxy_protocol { " (proxy_protocol)" } else { "" };
    let tls = match tls {
        ListenerTls::Off => "",
        ListenerTls::Terminate => " (tls)",
        ListenerTls::Passthrough => " (tls passthrough)",
    };
    let alpn = alpn.as_ref().map_or_else(String::new, |alpn| format!(" (alpn {})", alpn.show()));
    format!("{}{app}{mode}{header}{tls}{alpn}", addrs.join(","))
}

/// The change of a list whose order counts: what is between its beginning and its end that are the
/// same.
fn list(name: &str, reloadable: bool, old: &[String], new: &[String]) -> Option<Change> {
    if old == new {
        return None;
    }
    let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let text = |items: &[String]| {
        let differing = &items[..items.len() - tail];
        (!differing.is_empty()).then(|| shortened(differing.join(", ")))
    };
    let what = Subject::Part(name.into());
    let new_value = text(new).unwrap_or_else(|| ABSENT.into());
    Some(Change { what, old_value: text(old), new_value, reloadable, overridden_by: None })
}

/// Whether the registry is in the file is which store is opened, at the start.
fn backends(old: Option<&[Backend]>, new: Option<&[Backend]>, changes: &mut Vec<Change>) {
    let (Some(old), Some(new)) = (old, new) else {
        changes.extend(part("backend", false, old.map(count), new.map(count)));
        return;
    };
    let (old, new) = (by_id(old), by_id(new));
    let ids: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    for id in ids {
        let name = format!("backend.{id}");
        match (old.get(id), new.get(id)) {
            (Some(old), Some(new)) => {
                for ((column, old), (_, new)) in columns(old).into_iter().zip(columns(new)) {
                    changes.extend(part(format!("{name}.{column}"), true, old, new));
                }
            }
            (old, new) => {
                let whole = |backend: &&Backend| summary(backend);
                changes.extend(part(name, true, old.map(whole), new.map(whole)));
            }
        }
    }
}

fn count(backends: &[Backend]) -> String {
    match backends.len() {
        1 => "1 backend".into(),
        several => format!("{several} backends"),
    }
}

fn by_id(backends: &[Backend]) -> BTreeMap<&BackendId, &Backend> {
    backends.iter().map(|backend| (&backend.id, backend)).collect()
}

/// A backend in few words: `10.50.1.1:8080 (app web, sa BR)`.
fn summary(backend: &Backend) -> String {
    let Backend { app, region, country, .. } = backend;
    let country = country.map_or_else(String::new, |country| format!(" {country}"));
    format!("{} (app {app}, {region}{country})", backend.addr())
}

/// Every column but the id. Nothing in the file gives a lease.
fn columns(backend: &Backend) -> [(&'static str, Option<String>); 12] {
    let Backend { app, region, country, wg_ip, port, healthy, weight, .. } = backend;
    let Backend { soft_limit, hard_limit, deleted, created_at, updated_at, .. } = backend;
    [
        ("app", Some(app.to_string())),
        ("region", Some(region.to_string())),
        ("country", country.map(|country| country.to_string())),
        ("wg_ip", Some(wg_ip.to_string())),
        ("port", Some(port.to_string())),
        ("healthy", Some(healthy.to_string())),
        ("weight", Some(weight.to_string())),
        ("soft_limit", Some(soft_limit.to_string())),
        ("hard_limit", Some(hard_limit.to_string())),
        ("deleted", Some(deleted.to_string())),
        ("created_at", created_at.clone()),
        ("updated_at", updated_at.clone()),
    ]
}

#[cfg(test)]
mod tests;
