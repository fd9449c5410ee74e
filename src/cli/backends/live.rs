//! What a running process does with backends, and what it sees of them.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use hyper::Method;
use serde_json::{Value, json};

use super::columns::Record;
use super::{Backends, Leave, Outcome};
use crate::adapters::inbound::api::wire::{
    Asked, Backend, Backends as All, Drain, Refreshed, SetState, State,
};
use crate::cli::align::{align, or_dash};
use crate::cli::live::{Live, escaped, query};
use crate::clock;
use crate::domain::time::in_words;

/// How often it is looked at how many connections are left.
const LOOK: Duration = Duration::from_millis(250);
/// Reads: no body.
const NO_BODY: Option<&()> = None;

/// Carries out a command that has to do with one process.
pub(super) async fn run(
    command: Backends,
    live: &Live,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    match command {
        Backends::List { json, app, all, .. } => list(live, json, app, all, out).await,
        Backends::Drain { id, leave } => leave_alone(live, &id, Asked::Drain, &leave, out).await,
        Backends::Maint { id, leave } => leave_alone(live, &id, Asked::Maint, &leave, out).await,
        Backends::Ready { id, here, .. } => {
            set_state(live, &id, SetState { state: Asked::Ready, here, close_after_secs: None })
                .await?;
            let now: Backend = live.get(&path(&id)).await?;
            match now.state_here.unwrap_or(now.state) {
                State::Ready => writeln!(out, "{id} takes connections again")?,
                still => writeln!(out, "{id} is ready everywhere; on this POP: {}", word(still))?,
            }
            Ok(Outcome::Done)
        }
        Backends::Remove { id, .. } => {
            let drain: Drain = live.ask(Method::DELETE, &path(&id), NO_BODY).await?;
            writeln!(out, "{id} removed: no new connections; {} open here go on", drain.active)?;
            Ok(Outcome::Done)
        }
        Backends::Add { .. }
        | Backends::Set { .. }
        | Backends::Check { .. }
        | Backends::Export { .. }
        | Backends::Import { .. } => bail!("a bug: this is for the store"),
    }
}

/// Has the process look at the registry now, rather than at its next look.
pub(super) async fn refresh(live: &Live) {
    let done = live.ask::<Refreshed>(Method::POST, "/api/v1/registry/refresh", NO_BODY).await;
    if let Err(error) = done {
        eprintln!("edge-proxy: written; the running process takes it up later: {error}");
    }
}

fn path(id: &str) -> String {
    format!("/api/v1/backends/{}", escaped(id))
}

const fn word(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Drain => "drain",
        State::Maint => "maint",
        State::Deleted => "deleted",
    }
}

async fn set_state(live: &Live, id: &str, asked: SetState) -> anyhow::Result<Drain> {
    live.ask(Method::PUT, &format!("{}/state", path(id)), Some(&asked)).await
}

async fn leave_alone(
    live: &Live,
    id: &str,
    state: Asked,
    leave: &Leave,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let close_after_secs = leave.close_after.map(|span| span.0.as_secs().cast_signed());
    let asked = SetState { state, here: leave.here, close_after_secs };
    let drain = set_state(live, id, asked).await?;
    let what = if state == Asked::Maint { "is in maintenance" } else { "drains" };
    let place = if leave.here { " here only" } else { "" };
    let here = if leave.here { " --here" } else { "" };
    let open = match (drain.active, leave.close_after, state) {
        (0, ..) => "nothing is open here".into(),
        (some, Some(span), _) => format!("{some} open here, closed after {}", in_words(span.0)),
        (some, None, Asked::Maint) => format!("{some} open here, closed after the drain timeout"),
        (some, None, _) => format!("{some} open here go on"),
    };
    writeln!(out, "{id} {what}{place}: no new connections; {open}")?;
    if let Some(longest) = leave.wait {
        return wait(live, id, drain.active, longest.0, out).await;
    }
    writeln!(out, "undo with `edge-proxy backends ready {id}{here}`")?;
    Ok(Outcome::Done)
}

/// Waits until nothing is open at a backend, and tells how many are left.
async fn wait(
    live: &Live,
    id: &str,
    mut active: u32,
    longest: Duration,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let until = clock::now() + longest;
    loop {
        if active == 0 {
            writeln!(out, "{id}: nothing is open any more")?;
            return Ok(Outcome::Done);
        }
        let left = until.since(clock::now());
        if left.is_zero() {
            writeln!(out, "{id}: {active} still open after {}", in_words(longest))?;
            return Ok(Outcome::StillOpen);
        }
        tokio::time::sleep(LOOK.min(left)).await;
        let now: Backend = live.get(&path(id)).await?;
        if now.active != active {
            active = now.active;
            if active > 0 {
                writeln!(out, "{id}: {active} open")?;
                out.flush()?;
            }
        }
    }
}

async fn list(
    live: &Live,
    json: bool,
    app: Option<String>,
    all: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let given = [("app", app), ("all", all.then(|| "true".into()))];
    let All { backends } = live.get(&query("/api/v1/backends", &given)).await?;
    if json {
        let listed = backends.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        serde_json::to_writer_pretty(&mut *out, &listed)?;
        writeln!(out)?;
    } else {
        let headings = [
            "id", "app", "region", "country", "address", "tier", "weight", "open", "soft", "hard",
            "probe", "breaker", "state",
        ];
        let mut lines = vec![headings.map(String::from).to_vec()];
        lines.extend(backends.iter().map(line));
        align(&lines, out)?;
    }
    for row in &live.status.registry.skipped {
        eprintln!("skipped {row}");
    }
    Ok(Outcome::Done)
}

fn line(backend: &Backend) -> Vec<String> {
    vec![
        backend.id.clone(),
        backend.app.clone(),
        backend.region.clone(),
        or_dash(backend.country.as_deref()),
        address(backend),
        backend.tier.to_string(),
        backend.weight.to_string(),
        backend.active.to_string(),
        backend.soft_limit.to_string(),
        backend.hard_limit.to_string(),
        or_dash(backend.probe.as_deref()),
        or_dash(backend.breaker.as_deref()),
        state(backend),
    ]
}

/// A backend in the JSON list: what the registry says, under the names of a list of the store, and what
/// the process sees.
fn listed(backend: &Backend) -> serde_json::Result<Value> {
    let record = Record {
        id: backend.id.clone(),
        app: backend.app.clone(),
        region: backend.region.clone(),
        country: backend.country.clone().unwrap_or_default(),
        wg_ip: backend.ip.to_string(),
        port: backend.port,
        healthy: backend.state == State::Ready,
        weight: backend.weight,
        soft_limit: backend.soft_limit,
        hard_limit: backend.hard_limit,
        deleted: backend.state == State::Deleted,
    };
    let mut all = serde_json::to_value(backend)?;
    let own = json!({ "address": address(backend), "state": state(backend) });
    for said in [serde_json::to_value(record)?, own] {
        if let (Value::Object(all), Value::Object(said)) = (&mut all, said) {
            all.extend(said);
        }
    }
    Ok(all)
}

fn address(backend: &Backend) -> String {
    std::net::SocketAddr::new(backend.ip, backend.port).to_string()
}

/// Why it takes no connections, in a word; with what is asked of it where that says more.
fn state(backend: &Backend) -> String {
    let asked = backend.state_here.unwrap_or(backend.state);
    match &backend.reason {
        Some(_) if asked == State::Maint => "maint".into(),
        Some(reason) => reason.clone(),
        None => "ready".into(),
    }
}
