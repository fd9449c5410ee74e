//! What operators change, each with a line in the audit log.

use std::sync::Arc;
use std::time::Duration;

use super::said::{audit, no_backend, too_slow, unavailable};
use super::{PATIENCE, Steering, view};
use crate::adapters::inbound::api::wire::{
    Asked, Backend, Denied, Deny, Drain, Held, Killed, Refreshed, Reloaded, SetBreaker, SetState,
    State,
};
use crate::adapters::inbound::api::{Done, Failure, Who};
use crate::app::denials::{Denial, MOST};
use crate::app::orders::Order;
use crate::app::unix_now;
use crate::application::proxy::Wanted;
use crate::domain::cidr::Cidr;
use crate::domain::{AdminState, BackendId};
use crate::infrastructure::circuit_breaker::Hold;

/// Longest note.
const MAX_NOTE: usize = 200;
/// Longest time that somebody is denied for, or that a closing waits, in seconds.
const MAX_DENIED: i64 = 31_536_000;
const MAX_CLOSE_AFTER: i64 = 86_400;

pub(super) async fn set_state(
    steering: &Steering,
    who: &Who,
    id: &str,
    asked: SetState,
) -> Done<Drain> {
    if asked.close_after_secs.is_some_and(|secs| !(0..=MAX_CLOSE_AFTER).contains(&secs)) {
        let reason = format!("must be 0 to {MAX_CLOSE_AFTER} seconds");
        return Err(Failure::field("close_after_secs", reason));
    }
    if asked.close_after_secs.is_some() && asked.state == Asked::Ready {
        let reason = "is for drain and maint: nothing is closed of a backend that is ready";
        return Err(Failure::field("close_after_secs", reason));
    }
    let state = match asked.state {
        Asked::Ready => AdminState::Ready,
        Asked::Drain => AdminState::Drain,
        Asked::Maint => AdminState::Maint,
    };
    let known: BackendId = id.parse().map_err(|_| no_backend(id))?;
    let before = live(steering, id).ok_or_else(|| no_backend(id))?;
    if asked.here {
        let done = steering.order(|answer| Order::AskHere(known.clone(), state, answer)).await;
        done.ok_or_else(too_slow)?;
    } else {
        let done = steering.store.set_state(known.clone(), state).await;
        if !done.map_err(|error| unavailable(steering, &error))? {
            return Err(no_backend(id));
        }
        steering.look().await;
    }
    // The later word counts, also when it says nothing of closing.
    let wait = asked.close_after_secs.map(|secs| Duration::from_secs(secs.unsigned_abs()));
    let _ = steering.orders.send(Order::CloseAfter(known, wait)).await;
    let after = view::backend(steering, id).ok_or_else(|| no_backend(id))?;
    let place = if asked.here { "here" } else { "everywhere" };
    audit!(who, "state", format!("backend {id} {place}"), shown(&before), shown(&after));
    let state = after.state_here.filter(|_| asked.here).unwrap_or(after.state);
    Ok(Drain { id: id.into(), state, active: after.active })
}

/// A backend that is not deleted.
fn live(steering: &Steering, id: &str) -> Option<Backend> {
    view::backend(steering, id).filter(|backend| backend.state != State::Deleted)
}

/// What is asked of a backend, in a word or two.
fn shown(backend: &Backend) -> String {
    let word = |state: State| format!("{state:?}").to_lowercase();
    let here = backend.state_here.map(|state| format!(" ({} here)", word(state)));
    format!("{}{}", word(backend.state), here.unwrap_or_default())
}

pub(super) fn set_breaker(
    steering: &Steering,
    who: &Who,
    id: &str,
    asked: SetBreaker,
) -> Done<Backend> {
    let before = live(steering, id).ok_or_else(|| no_backend(id))?;
    let snapshot = steering.shared.snapshot.load();
    let mut found = false;
    for table in snapshot.tables.values() {
        let Some(upstream) = table.upstreams().iter().find(|upstream| upstream.id.as_str() == id)
        else {
            continue;
        };
        if !table.breakers {
            let reason = "circuit breakers are off (EDGEPROXY_CIRCUIT_BREAKER_ENABLED)";
            return Err(Failure::Conflict(reason.into()));
        }
        upstream.hold_breaker(match asked.state {
            Held::Open => Some(Hold::Open),
            Held::Closed => Some(Hold::Closed),
            Held::Auto => None,
        });
        found = true;
    }
    if !found {
        let reason = "the backend takes no connections anyway".into();
        return Err(Failure::Conflict(reason));
    }
    let after = view::backend(steering, id).ok_or_else(|| no_backend(id))?;
    let held = |backend: &Backend| backend.breaker_held.clone().unwrap_or_else(|| "auto".into());
    audit!(who, "breaker", format!("backend {id}"), held(&before), held(&after));
    Ok(after)
}

pub(super) async fn kill(steering: &Steering, who: &Who, id: &str) -> Done<Killed> {
    let gone = || Failure::NotFound(format!("no connection {id:?} is open"));
    let (worker, number) = id.split_once('-').ok_or_else(gone)?;
    let worker = worker.parse().ok().and_then(|number: usize| steering.workers.get(number));
    let number = u64::from_str_radix(number, 16).map_err(|_| gone())?;
    let killed = worker.ok_or_else(gone)?.kill(&Arc::new(Wanted::one(number)));
    let killed = tokio::time::timeout(PATIENCE, killed).await;
    let killed = killed.ok().and_then(Result::ok).unwrap_or_default();
    if killed == 0 {
        return Err(gone());
    }
    audit!(who, "kill", format!("connection {id}"), "open", "closed");
    Ok(Killed { killed })
}

pub(super) async fn kill_all(steering: &Steering, who: &Who, wanted: Wanted) -> Killed {
    let what = format!(
        "connections client={} backend={} app={}",
        wanted.client.map_or("-".into(), |cidr| cidr.to_string()),
        wanted.backend.as_ref().map_or("-", |id| id.as_str()),
        wanted.app.as_ref().map_or("-", |app| app.as_str()),
    );
    let wanted = Arc::new(wanted);
    let asked: Vec<_> = steering.workers.iter().map(|worker| worker.kill(&wanted)).collect();
    let mut killed = 0;
    for answer in asked {
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        killed += answer.ok().and_then(Result::ok).unwrap_or_default();
    }
    audit!(who, "kill", what, killed, "closed");
    Killed { killed }
}

pub(super) async fn deny(steering: &Steering, who: &Who, asked: Deny) -> Done<Denied> {
    let Deny { cidr, for_secs, note, kill } = asked;
    let range: Cidr = cidr.parse().map_err(|_| {
        Failure::field("cidr", format!("{cidr:?}: must be an IP address or a range (CIDR)"))
    })?;
    if for_secs.is_some_and(|secs| !(1..=MAX_DENIED).contains(&secs)) {
        return Err(Failure::field("for_secs", format!("must be 1 to {MAX_DENIED} seconds")));
    }
    let is_long = |note: &String| note.chars().count() > MAX_NOTE;
    if note.as_ref().is_some_and(is_long) {
        return Err(Failure::field("note", format!("must be {MAX_NOTE} characters at most")));
    }
    let expires_at = for_secs.map(|secs| unix_now() + secs);
    let denial = Denial { cidr: range, expires_at, note };
    let known =
        |denial: &Denial| denial.expires_at.map_or("for good".into(), |at| format!("until {at}"));
    let before = steering.denials.all().iter().find(|known| known.cidr == range).map(known);
    if !steering.denials.add(denial.clone()) {
        return Err(Failure::Conflict(format!("the list is full: it has {MOST} entries")));
    }
    steering.order(Order::Deny).await.ok_or_else(too_slow)?;
    let before = before.unwrap_or_else(|| "not denied".into());
    audit!(who, "deny", range, before, known(&denial));
    if kill {
        let wanted = Wanted { client: Some(range), ..Wanted::default() };
        kill_all(steering, who, wanted).await;
    }
    Ok(denied(denial))
}

/// An entry as it is shown.
pub(super) fn denied(denial: Denial) -> Denied {
    let Denial { cidr, expires_at, note } = denial;
    Denied { cidr: cidr.to_string(), expires_at, note, configured: false }
}

pub(super) async fn undeny(steering: &Steering, who: &Who, cidr: Cidr) -> Done<()> {
    if !steering.denials.remove(cidr) {
        let configured = steering.config.borrow().settings.deny.get().contains(&cidr);
        return Err(if configured {
            Failure::Conflict("the configuration says so (EDGEPROXY_DENY)".into())
        } else {
            Failure::NotFound(format!("{cidr} is not on the list"))
        });
    }
    steering.order(Order::Deny).await.ok_or_else(too_slow)?;
    audit!(who, "undeny", cidr, "denied", "not denied");
    Ok(())
}

pub(super) async fn refresh(steering: &Steering, who: &Who) -> Done<Refreshed> {
    if !steering.look().await {
        return Err(Failure::Unavailable("the registry could not be read in time".into()));
    }
    let backends = view::live_rows(steering);
    audit!(who, "refresh", "registry", "-", format!("{backends} backends"));
    Ok(Refreshed { backends })
}

pub(super) async fn reload(steering: &Steering, who: &Who) -> Done<Reloaded> {
    let done = steering
        .order(Order::Reload)
        .await
        .ok_or_else(|| Failure::Unavailable("the configuration was not read in time".into()))?;
    match done {
        Ok(reloaded) => {
            let (changes, waiting) = (reloaded.changes, reloaded.waiting);
            audit!(who, "reload", "configuration", "-", format!("{} changes", changes.len()));
            Ok(Reloaded { changes, waiting })
        }
        Err(errors) => {
            audit!(who, "reload", "configuration", "-", "refused");
            let field = |reason| crate::adapters::inbound::api::wire::Field {
                field: "configuration".into(),
                reason,
            };
            Err(Failure::Invalid(errors.into_iter().map(field).collect()))
        }
    }
}
