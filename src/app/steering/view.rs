//! How things stand, in the API's words.

use std::collections::HashMap;
use std::sync::Arc;

use super::Steering;
use crate::adapters::inbound::api::wire::{
    AppStatus, Backend, ConfigStatus, Lease, Loss, Open, RegistryStatus, State, Status,
};
use crate::app::metrics::why_ineligible;
use crate::application::proxy::Snapshot;
use crate::application::upstreams::{AppTable, Row, Upstream};
use crate::clock;
use crate::domain::balance::{FULL_SHARE, Load, Spill};
use crate::domain::ports::Registry;
use crate::domain::time::Time;
use crate::domain::{self, AdminState};
use crate::infrastructure::circuit_breaker::{Hold, State as Breaker};
use crate::infrastructure::health_checker::Health;
use crate::infrastructure::meters::DialFailure;

pub(super) fn status(steering: &Steering) -> Status {
    let (now, snapshot) = (clock::now(), steering.shared.snapshot.load());
    let config = steering.config.borrow();
    let registry = steering.registry.in_force();
    let last = steering.reloads.last();
    let (successes, failures) = (steering.reloads.successes(), steering.reloads.failures());
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        pop: steering.pop.clone(),
        region: config.settings.region.to_string(),
        uptime_secs: now.since(steering.started).as_secs_f64(),
        not_ready: steering.draining().map(Into::into),
        listeners: steering.clients.iter().map(ToString::to_string).collect(),
        connections: Open {
            open: steering.shared.shutdown.open_connections(),
            limit: snapshot.admission.max_connections,
        },
        registry: RegistryStatus {
            store: steering.store.describe(),
            up: steering.registry.is_up(),
            age_secs: steering.registry.age(now).as_secs_f64(),
            change_held: steering.registry.is_held(),
            skipped: registry.skipped.iter().take(100).map(ToString::to_string).collect(),
            backends: live_rows(steering),
        },
        config: ConfigStatus {
            file: config.file.as_ref().map(|file| file.display().to_string()),
            error: (!last.errors.is_empty()).then(|| last.errors.join("\n")),
            reloads: successes,
            failures,
            reloaded_at: last.at.map(|at| at.as_secs_f64()),
            waiting: last.waiting,
        },
        geo: snapshot.geo.database.describe(),
        apps: snapshot.tables.values().map(|table| app(table, now)).collect(),
    }
}

/// Rows in force that are not deleted.
pub(super) fn live_rows(steering: &Steering) -> usize {
    steering.registry.in_force().backends.iter().filter(|backend| !backend.deleted).count()
}

fn app(table: &AppTable, now: Time) -> AppStatus {
    AppStatus {
        name: table.name.to_string(),
        spill: spill(table.rules.spill).into(),
        backends: table.rows.iter().filter(|row| !row.backend.deleted).count(),
        eligible: eligible(table, now),
        fails_open: table.fails_open(),
    }
}

const fn spill(spill: Spill) -> &'static str {
    match spill {
        Spill::Any => "any",
        Spill::Region => "region",
        Spill::Country => "country",
    }
}

/// Backends of an app that can be chosen now.
pub(super) fn eligible(table: &AppTable, now: Time) -> usize {
    table.rows.iter().filter(|row| why_ineligible(table, row, now).is_none()).count()
}

/// Everything that there is to tell of backends, found once.
struct Known {
    /// By id: those with connections, whether or not they are in a table.
    upstreams: HashMap<String, Vec<Arc<Upstream>>>,
    registry: Arc<Registry>,
    checks: bool,
    now: Time,
}

impl Known {
    fn of(steering: &Steering) -> Self {
        let mut upstreams: HashMap<String, Vec<Arc<Upstream>>> = HashMap::new();
        for upstream in steering.registry.known() {
            upstreams.entry(upstream.id.to_string()).or_default().push(upstream);
        }
        let checks = steering.config.borrow().settings.health_check_enabled;
        Self { upstreams, registry: steering.registry.in_force(), checks, now: clock::now() }
    }
}

pub(super) fn backends(steering: &Steering) -> Vec<Backend> {
    let (known, snapshot) = (Known::of(steering), steering.shared.snapshot.load());
    each(&snapshot).map(|(table, row)| shown(steering, &known, table, row)).collect()
}

pub(super) fn backend(steering: &Steering, id: &str) -> Option<Backend> {
    let snapshot = steering.shared.snapshot.load();
    let (table, row) = each(&snapshot).find(|(_, row)| row.backend.id.as_str() == id)?;
    let backend = shown(steering, &Known::of(steering), table, row);
    (backend.state != State::Deleted || backend.active > 0).then_some(backend)
}

/// Connections that are open at a backend.
pub(super) fn active(steering: &Steering, id: &str) -> u32 {
    let known = steering.registry.known();
    known.iter().filter(|upstream| upstream.id.as_str() == id).map(|u| u.active()).sum()
}

fn each(snapshot: &Snapshot) -> impl Iterator<Item = (&AppTable, &Row)> {
    let tables = snapshot.tables.values().map(|table| &**table);
    tables.flat_map(|table| table.rows.iter().map(move |row| (table, row)))
}

fn shown(steering: &Steering, known: &Known, table: &AppTable, row: &Row) -> Backend {
    let (now, backend) = (known.now, &row.backend);
    let reason = why_ineligible(table, row, now);
    let own = known.upstreams.get(backend.id.as_str()).map_or(&[][..], Vec::as_slice);
    let upstream = row.place.ok().map(|place| table.upstream(place));
    let load = table.load(now);
    let at_pop = table.layout.origin(None, true);
    let near = table.layout.nearness(at_pop, &backend.region, backend.country);
    let meter = steering.shared.meters.known_backend(backend.id.as_str());
    let held = upstream.and_then(|upstream| upstream.breaker().held());
    Backend {
        id: backend.id.to_string(),
        app: backend.app.to_string(),
        region: backend.region.to_string(),
        country: backend.country.map(|country| country.to_string()),
        ip: backend.wg_ip,
        port: backend.port,
        weight: backend.weight,
        soft_limit: backend.soft_limit,
        hard_limit: backend.hard_limit,
        state: if backend.deleted { State::Deleted } else { state(backend.asked()) },
        state_here: row.here.map(state),
        lease: lease(steering, known, backend),
        eligible: reason.is_none(),
        reason: reason.map(Into::into),
        tier: near.map_or(3, |(tier, _)| tier.number()),
        active: own.iter().map(|upstream| upstream.active()).sum(),
        warm: own.iter().map(|upstream| upstream.warm()).sum(),
        probe: upstream.filter(|_| known.checks).map(|upstream| health(upstream).into()),
        breaker: upstream
            .filter(|_| table.breakers)
            .map(|upstream| breaker(upstream.breaker().state_at(now)).into()),
        breaker_held: held.map(|held| match held {
            Hold::Open => "open".into(),
            Hold::Closed => "closed".into(),
        }),
        demoted: upstream.is_some_and(|upstream| upstream.dials().demoted(now)),
        share: row.place.map_or(FULL_SHARE, |place| load.share(place)) / 10,
        connections_total: meter.as_ref().map_or(0, |meter| meter.connections()),
        sent_total: meter.as_ref().map_or(0, |meter| meter.sent()),
        received_total: meter.as_ref().map_or(0, |meter| meter.received()),
        dial_failures_total: meter.as_ref().map_or(0, |meter| {
            DialFailure::ALL.into_iter().map(|reason| meter.dial_failures(reason)).sum()
        }),
    }
}

/// Its lease, renewals that are not in its row included.
fn lease(steering: &Steering, known: &Known, backend: &domain::Backend) -> Option<Lease> {
    let rows = &known.registry.backends;
    let row = rows.binary_search_by(|row| row.id.cmp(&backend.id)).map_or(backend, |at| &rows[at]);
    let lease = row.lease.as_ref()?;
    let renewed = || steering.heartbeats().expires_at(&backend.id, lease.generation);
    let expires_at = lease.expires_at.map(|at| renewed().map_or(at, |renewed| renewed.max(at)));
    Some(Lease { generation: lease.generation, expires_at })
}

const fn state(state: AdminState) -> State {
    match state {
        AdminState::Ready => State::Ready,
        AdminState::Drain => State::Drain,
        AdminState::Maint => State::Maint,
    }
}

fn health(upstream: &Upstream) -> &'static str {
    match upstream.health() {
        Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

const fn breaker(state: Breaker) -> &'static str {
    match state {
        Breaker::Closed => "closed",
        Breaker::HalfOpen => "half_open",
        Breaker::Open => "open",
    }
}

/// What would happen if each backend of an app, or each region of its, were gone.
pub(super) fn losses(table: &AppTable, now: Time) -> Vec<Loss> {
    let members = table.layout.members();
    let load = table.load(now);
    let takes = |place: usize| why_ineligible_place(table, place, now);
    let mut losses = Vec::new();
    let mut regions: Vec<&str> = members.iter().map(|member| member.region.as_str()).collect();
    regions.sort_unstable();
    regions.dedup();
    let mut lose = |kind: &str, name: &str, gone: &dyn Fn(usize) -> bool| {
        let all = || 0..members.len();
        let active = all().filter(|place| gone(*place)).map(|place| u64::from(load.active(place)));
        let active: u64 = active.sum();
        // Where clients may not be carried anywhere, only those near them take over.
        let is_near = |place: usize| match table.rules.spill {
            Spill::Any => true,
            Spill::Region => all()
                .filter(|other| gone(*other))
                .any(|other| members[other].region == members[place].region),
            Spill::Country => all()
                .filter(|other| gone(*other))
                .any(|other| members[other].country == members[place].country),
        };
        let others: Vec<usize> =
            all().filter(|place| !gone(*place) && takes(*place) && is_near(*place)).collect();
        let room = |limit: fn(&crate::domain::balance::Member) -> u32| {
            others.iter().try_fold(0_u64, |sum, place| match limit(&members[*place]) {
                0 => None,
                limit => Some(sum + u64::from(limit.saturating_sub(load.active(*place)))),
            })
        };
        let below_hard = room(|member| member.hard_limit);
        let below_soft = room(|member| match (member.soft_limit, member.hard_limit) {
            (0, hard) => hard,
            (soft, 0) => soft,
            (soft, hard) => soft.min(hard),
        });
        let fits = |room: Option<u64>| room.is_none_or(|room| active <= room);
        // Nobody is left: what is open would go nowhere, and whoever comes next neither.
        let verdict = match (others.is_empty(), fits(below_soft), fits(below_hard)) {
            (true, ..) | (_, _, false) => "too_much",
            (_, true, true) => "fits",
            (_, false, true) => "over_soft",
        };
        losses.push(Loss {
            app: table.name.to_string(),
            kind: kind.into(),
            name: name.into(),
            active,
            room_below_soft: below_soft,
            room_below_hard: below_hard,
            verdict: verdict.into(),
        });
    };
    for region in regions {
        lose("region", region, &|place| members[place].region.as_str() == region);
    }
    for (place, upstream) in table.upstreams().iter().enumerate() {
        lose("backend", upstream.id.as_str(), &|other| other == place);
    }
    losses
}

fn why_ineligible_place(table: &AppTable, place: usize, now: Time) -> bool {
    use crate::domain::balance::Standing;
    table.load(now).standing(place) != Standing::Out
}
