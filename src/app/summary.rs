//! What the log says at start: enough to see at a glance what runs.

use std::net::SocketAddr;

use crate::config::Config;
use crate::domain::ports::{BackendRepository, CountryLookup, Registry};

/// Rows named one by one; past these, only their number.
const NAMED: usize = 50;

/// Names the rows that were left out.
pub(super) fn skipped(registry: &Registry) {
    for row in registry.skipped.iter().take(NAMED) {
        tracing::warn!("skipped {row}");
    }
    if registry.skipped.len() > NAMED {
        tracing::warn!("skipped {} more rows", registry.skipped.len() - NAMED);
    }
}

/// One line about everything.
pub(super) fn started(
    config: &Config,
    addrs: &[SocketAddr],
    registry: &Registry,
    repository: &dyn BackendRepository,
    geo: &dyn CountryLookup,
    max_connections: usize,
    workers: usize,
) {
    for warning in config.warnings.iter().chain(&config.notices) {
        tracing::warn!("{warning}");
    }
    for app in config.apps.keys() {
        if !registry.backends.iter().any(|backend| backend.app == *app) {
            tracing::warn!("[app.{app}]: the registry holds no backend of this app yet");
        }
    }
    let settings = &config.settings;
    let listening: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    let pop = settings.pop.clone().unwrap_or_else(host_name);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pop,
        region = %settings.region,
        listening = listening.join(","),
        workers,
        max_connections,
        registry = repository.describe(),
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

/// Protections that do nothing as things are.
fn off(config: &Config) -> Vec<&'static str> {
    let settings = &config.settings;
    let mut off = vec!["rate_limit", "circuit_breaker", "health_check"];
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

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
