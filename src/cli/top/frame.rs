//! One moment as lines of text.

use std::time::Duration;

use crate::adapters::inbound::api::wire::{Backend, Live, Quantiles};
use crate::cli::align::{aligned, or_dash};
use crate::domain::time::in_words;

/// Cells of a bar of load.
const BAR: usize = 10;
/// Reasons and countries that are named.
const NAMED: usize = 6;

/// What there is to see; cut to so many columns and lines, if there are only so many.
pub(super) fn frame(live: &Live, size: Option<(usize, usize)>) -> Vec<String> {
    let mut lines = head(live);
    lines.push(String::new());
    let mut backends: Vec<&Backend> = live.backends.iter().collect();
    backends.sort_by_key(|backend| (backend.eligible, std::cmp::Reverse(backend.active)));
    let headings = [
        "BACKEND", "APP", "PLACE", "TIER", "LOAD", "SOFT", "HARD", "WEIGHT", "PROBE", "BREAKER",
        "STATE",
    ];
    let mut rows = vec![headings.map(String::from).to_vec()];
    rows.extend(backends.into_iter().map(row));
    lines.extend(aligned(&rows));
    let total = live.status.registry.backends;
    if total > live.backends.len() {
        lines.push(format!("... {} of {total} backends", live.backends.len()));
    }
    let Some((columns, height)) = size else { return lines };
    let below = lines.len().saturating_sub(height);
    if below > 0 {
        lines.truncate(height.saturating_sub(1));
        lines.push(format!("... {} more lines; a taller window shows them", below + 1));
    }
    for line in &mut lines {
        *line = line.chars().take(columns).collect();
    }
    lines
}

fn head(live: &Live) -> Vec<String> {
    let status = &live.status;
    let ready = status.not_ready.as_deref().unwrap_or("ready");
    let up = span(status.uptime_secs);
    let mut lines = vec![
        format!(
            "edge-proxy {}  POP {} ({})  pid {}  up {up}  {ready}",
            status.version, status.pop, status.region, status.pid
        ),
        format!(
            "connections {} of {}   {}/s new   {} to backends   {} from them",
            status.connections.open,
            status.connections.limit,
            rate(live.accepted_per_sec),
            bytes(live.sent_per_sec),
            bytes(live.received_per_sec)
        ),
        format!("setup {}", quantiles(live.setup)),
    ];
    if live.request.is_some() || live.requests_per_sec > 0.0 {
        let requests = rate(live.requests_per_sec);
        lines.push(format!("requests {requests}/s   {}", quantiles(live.request)));
    }
    let registry = &status.registry;
    let state = if registry.up { "up" } else { "CANNOT BE READ" };
    let held = if registry.change_held { ", A CHANGE IS HELD" } else { "" };
    let skipped = match registry.skipped.len() {
        0 => String::new(),
        some => format!(", {some} rows skipped"),
    };
    let age = span(registry.age_secs);
    lines.push(format!("registry {}: {state}, {age} old{held}{skipped}", registry.store));
    if let Some(error) = status.config.error.as_ref().and_then(|error| error.lines().next()) {
        lines.push(format!("configuration NOT RELOADED: {error}"));
    }
    for app in status.apps.iter().filter(|app| app.fails_open) {
        lines.push(format!(
            "app {}: health checks say that none is healthy, and are IGNORED",
            app.name
        ));
    }
    let mut errors: Vec<_> = live.ends.iter().filter(|end| end.is_error).collect();
    errors.sort_by(|a, b| b.per_sec.total_cmp(&a.per_sec).then(b.total.cmp(&a.total)));
    let errors: Vec<String> = errors
        .iter()
        .take(NAMED)
        .map(|end| format!("{} {}/s ({})", end.reason, rate(end.per_sec), end.total))
        .collect();
    lines.push(format!(
        "errors {}",
        if errors.is_empty() { "none".into() } else { errors.join("   ") }
    ));
    let from: Vec<String> = live
        .countries
        .iter()
        .take(NAMED)
        .map(|origin| {
            let country = origin.country.as_deref().unwrap_or("unknown");
            format!("{country} {}/s ({})", rate(origin.per_sec), origin.total)
        })
        .collect();
    if !from.is_empty() {
        lines.push(format!("from {}", from.join("   ")));
    }
    lines
}

fn row(backend: &Backend) -> Vec<String> {
    let state = match (backend.state_here, &backend.reason) {
        (_, Some(reason)) => reason.clone(),
        (_, None) if backend.demoted => "dial failed".into(),
        (_, None) if backend.share < 100 => format!("warms up, {} %", backend.share),
        (_, None) => "ready".into(),
    };
    let limit = |limit: u32| if limit == 0 { "-".into() } else { limit.to_string() };
    let held = backend.breaker_held.as_ref().map_or("", |_| " (held)");
    let country = backend.country.as_ref().map_or(String::new(), |country| format!(" {country}"));
    vec![
        backend.id.clone(),
        backend.app.clone(),
        format!("{}{country}", backend.region),
        backend.tier.to_string(),
        format!("{:>5} {}", backend.active, bar(backend)),
        limit(backend.soft_limit),
        limit(backend.hard_limit),
        backend.weight.to_string(),
        or_dash(backend.probe.as_deref()),
        format!("{}{held}", or_dash(backend.breaker.as_deref())),
        state,
    ]
}

/// The load against the hard limit, else the soft one; `|` is at the soft limit.
fn bar(backend: &Backend) -> String {
    let most = if backend.hard_limit > 0 { backend.hard_limit } else { backend.soft_limit };
    if most == 0 {
        return " ".repeat(BAR);
    }
    let cell = |load: u32| {
        usize::try_from(u64::from(load) * BAR as u64 / u64::from(most)).unwrap_or(BAR).min(BAR)
    };
    let filled = if backend.active > 0 { cell(backend.active).max(1) } else { 0 };
    let soft =
        (backend.soft_limit > 0 && backend.soft_limit < most).then(|| cell(backend.soft_limit));
    (0..BAR)
        .map(|place| match place {
            _ if Some(place) == soft => '|',
            _ if place < filled => '#',
            _ => '.',
        })
        .collect()
}

fn rate(per_sec: f64) -> String {
    if per_sec >= 100.0 { format!("{per_sec:.0}") } else { format!("{per_sec:.1}") }
}

fn bytes(per_sec: f64) -> String {
    let units = ["B/s", "kB/s", "MB/s", "GB/s"];
    let mut value = per_sec;
    let mut unit = 0;
    while value >= 1_000.0 && unit + 1 < units.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{} {}", rate(value), units[unit])
}

fn quantiles(quantiles: Option<Quantiles>) -> String {
    quantiles.map_or("-".into(), |q| format!("p50 {:.2} ms   p99 {:.2} ms", q.p50_ms, q.p99_ms))
}

fn span(secs: f64) -> String {
    in_words(Duration::from_secs_f64(secs.clamp(0.0, 1e12)))
}
