//! What the log says at start: enough to see at a glance what runs.

use std::net::SocketAddr;
use std::time::Duration;

use super::Addrs;
use crate::config::Config;
use crate::domain::backend::SkippedRow;
use crate::domain::ports::{CountryLookup, Registry, RepositoryError};
use crate::domain::time::in_words;

/// Rows named one by one; past these, only their number.
const NAMED: usize = 50;

/// Names rows that were left out.
pub(super) fn skipped<'a>(rows: impl Iterator<Item = &'a SkippedRow>) {
    let mut unnamed = 0;
    for (number, row) in rows.enumerate() {
        if number < NAMED {
            tracing::warn!("skipped {row}");
        } else {
            unnamed += 1;
        }
    }
    if unnamed > 0 {
        tracing::warn!("skipped {unnamed} more rows");
    }
}

/// What has started.
pub(super) struct Started<'a> {
    pub config: &'a Config,
    pub addrs: &'a Addrs,
    pub registry: &'a Registry,
    /// As its user would name it.
    pub store: &'a str,
    /// How old the registry is, and why, when it could not be read.
    pub stale: Option<(Duration, &'a RepositoryError)>,
    pub geo: &'a dyn CountryLookup,
    pub max_connections: usize,
    pub workers: usize,
}

impl Started<'_> {
    /// One line about everything.
    pub fn log(&self) {
        let Self { config, addrs, registry, store, stale, geo, max_connections, workers } = *self;
        if let Some((age, error)) = stale {
            tracing::warn!("{error}; serving from the snapshot, which is {} old", in_words(age));
        }
        for warning in config.warnings.iter().chain(&config.notices) {
            tracing::warn!("{warning}");
        }
        for app in config.apps.keys() {
            if !registry.backends.iter().any(|backend| backend.app == *app) {
                tracing::warn!("[app.{app}]: the registry holds no backend of this app yet");
            }
        }
        let settings = &config.settings;
        let list = |addrs: &[SocketAddr]| -> Vec<String> {
            addrs.iter().map(ToString::to_string).collect()
        };
        let or_off = |addrs: &[SocketAddr]| {
            if addrs.is_empty() { "off".into() } else { list(addrs).join(",") }
        };
        let pop = pop_name(config);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            pop,
            region = %settings.region,
            listening = list(&addrs.clients).join(","),
            metrics = or_off(&addrs.metrics),
            api = or_off(&addrs.api),
            workers,
            max_connections,
            registry = store,
            backends = registry.backends.iter().filter(|b| !b.deleted).count(),
            skipped_rows = registry.skipped.len(),
            geo = geo.describe(),
            config = config.file.as_ref().map_or("-".into(), |file| file.display().to_string()),
            off = off(config).join(","),
            "edge-proxy is ready"
        );
        if registry.backends.is_empty() {
            tracing::warn!("the registry holds no backend yet: `edge-proxy backends add` adds one");
        }
    }
}

/// Protections that do nothing as things are.
fn off(config: &Config) -> Vec<&'static str> {
    let settings = &config.settings;
    let mut off = Vec::new();
    for (on, name) in [
        (settings.rate_limit_enabled && !settings.rate_limit_dry_run, "rate_limit"),
        (settings.circuit_breaker_enabled, "circuit_breaker"),
        (settings.health_check_enabled, "health_check"),
    ] {
        if !on {
            off.push(name);
        }
    }
    if settings.max_connections_per_client.get() == 0 {
        off.push("max_connections_per_client");
    }
    if settings.deny.get().is_empty() {
        off.push("deny");
    }
    if settings.binding_ttl_secs.get().is_zero() {
        off.push("affinity");
    }
    off
}

/// What this POP is called.
pub(super) fn pop_name(config: &Config) -> String {
    config.settings.pop.clone().unwrap_or_else(host_name)
}

pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
