//! Backends that register themselves, and live while their heartbeats come.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::said::{audit, no_backend, unavailable};
use super::{Steering, view};
use crate::adapters::inbound::api::wire::{Drain, Field, Register, Registered, Renewed, State};
use crate::adapters::inbound::api::{Done, Failure, Who};
use crate::app::{unix_after, unix_now};
use crate::clock;
use crate::domain::backend::{BadRow, Ineligible, Number, RawRow};
use crate::domain::ports::Registry;
use crate::domain::{Backend, BackendId};

/// How many heartbeats there are in the time that a lease lasts.
const BEATS: u64 = 6;

pub(super) async fn register(steering: &Steering, who: &Who, asked: Register) -> Done<Registered> {
    let backend = backend(asked)?;
    check_address(steering, &backend)?;
    let id = backend.id.clone();
    let mut registry = steering.registry.in_force();
    if who.may_only_register() && !registry.backends.iter().any(|known| known.id == id) {
        // Somebody may have written it by other means since the last look.
        steering.look().await;
        registry = steering.registry.in_force();
    }
    let before = registry.backends.iter().find(|known| known.id == id && !known.deleted);
    let has_lease = |known: &Backend| known.lease.as_ref().is_some_and(|l| l.expires_at.is_some());
    let is_bad = registry.skipped.iter().any(|skipped| skipped.row == id.as_str());
    if who.may_only_register() && (is_bad || before.is_some_and(|known| !has_lease(known))) {
        return Err(Failure::Conflict(format!(
            "backend {id} is there and did not register itself; only the admin token may replace it"
        )));
    }
    make_way(steering, &registry, &backend).await?;
    let ttl = steering.config.borrow().settings.api_heartbeat_ttl_secs.get();
    let (now, after) = (clock::now(), shown(&backend));
    let expires_at = unix_after(ttl);
    let generation = steering.store.register(backend, expires_at).await;
    let generation = generation.map_err(|error| unavailable(steering, &error))?;
    steering.heartbeats().registered(id.clone(), generation, expires_at, now);
    let in_force = steering.look().await && {
        let registry = steering.registry.in_force();
        let generation_of = |known: &Backend| known.lease.as_ref().map(|lease| lease.generation);
        registry.backends.iter().any(|known| {
            known.id == id && generation_of(known).is_some_and(|known| known >= generation)
        })
    };
    if let Some(reason) = passed_over(steering, &id) {
        // Another one came to the same address at the same time.
        let removed = steering.store.remove(id).await;
        removed.map_err(|error| unavailable(steering, &error))?;
        steering.look().await;
        return Err(Failure::Conflict(reason));
    }
    audit!(who, "register", format!("backend {id}"), before.map_or("-".into(), shown), after);
    let ttl_secs = ttl.as_secs();
    let heartbeat_every_secs = (ttl_secs / BEATS).max(1);
    Ok(Registered { id: id.to_string(), generation, ttl_secs, heartbeat_every_secs, in_force })
}

/// Why a row that was written is not in force for what it says, if that is so.
fn passed_over(steering: &Steering, id: &BackendId) -> Option<String> {
    let registry = steering.registry.in_force();
    let skipped = registry.skipped.iter().find(|skipped| skipped.row == id.as_str())?;
    Some(skipped.to_string())
}

/// Refuses an address that another backend of the app has. One whose lease has ended is gone, and gives way.
async fn make_way(steering: &Steering, registry: &Registry, backend: &Backend) -> Done<()> {
    let is_there = |known: &&Backend| {
        known.id != backend.id
            && known.app == backend.app
            && known.addr() == backend.addr()
            && !known.deleted
    };
    let Some(other) = registry.backends.iter().find(is_there) else { return Ok(()) };
    if other.eligible(steering.registry.leases_at(unix_now())) != Err(Ineligible::LeaseExpired) {
        let addr = backend.addr();
        let reason = format!("backend {} of app {} has the address {addr}", other.id, other.app);
        return Err(Failure::Conflict(reason));
    }
    let removed = steering.store.remove(other.id.clone()).await;
    removed.map(drop).map_err(|error| unavailable(steering, &error))
}

/// The row that is asked for, every column checked.
fn backend(asked: Register) -> Done<Backend> {
    let row = RawRow {
        id: Some(asked.id),
        app: Some(asked.app),
        region: Some(asked.region),
        country: asked.country,
        wg_ip: Some(asked.ip),
        port: Some(Number::Whole(asked.port)),
        weight: asked.weight.map(Number::Whole),
        soft_limit: asked.soft_limit.map(Number::Whole),
        hard_limit: asked.hard_limit.map(Number::Whole),
        ..RawRow::default()
    };
    let mut backend = Backend::try_from(row).map_err(|BadRow(columns)| {
        let field = |column: &str| if column == "wg_ip" { "ip" } else { column }.to_owned();
        let wrong = columns.into_iter().map(|bad| Field {
            field: field(bad.column),
            reason: format!("{}: must be {}", bad.given, bad.accepted),
        });
        Failure::Invalid(wrong.collect())
    })?;
    backend.wg_ip = backend.wg_ip.to_canonical();
    Ok(backend)
}

/// Refuses addresses to which nobody should be able to have connections made.
fn check_address(steering: &Steering, backend: &Backend) -> Done<()> {
    let (ip, addr) = (backend.wg_ip, backend.addr());
    let refused = |reason: &str| Err(Failure::field("ip", format!("{ip}: must not be {reason}")));
    if ip.is_unspecified() {
        return refused("the unspecified address");
    }
    if ip.is_multicast() {
        return refused("a multicast address");
    }
    if matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240)
    {
        return refused("a broadcast or reserved address");
    }
    if is_own(&steering.addrs, addr) {
        let reason = format!("{addr}: must not be a listener of this proxy's own");
        return Err(Failure::field("port", reason));
    }
    let config = steering.config.borrow();
    let allowed = config.settings.api_register_allow.get().iter().any(|cidr| cidr.contains(ip));
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if is_link_local && !allowed {
        return refused("link-local (EDGEPROXY_API_REGISTER_ALLOW names exceptions)");
    }
    let serves_this_machine_only =
        steering.clients.iter().all(|addr| addr.ip().to_canonical().is_loopback());
    if ip.is_loopback() && !allowed && !serves_this_machine_only {
        return refused(
            "loopback while clients of other machines are served (EDGEPROXY_API_REGISTER_ALLOW \
             names exceptions)",
        );
    }
    Ok(())
}

/// Whether something of this process listens there.
fn is_own(listeners: &[SocketAddr], addr: SocketAddr) -> bool {
    let is_here =
        || addr.ip().is_loopback() || UdpSocket::bind(SocketAddr::new(addr.ip(), 0)).is_ok();
    let same_port = |own: &&SocketAddr| own.port() == addr.port();
    listeners.iter().filter(same_port).any(|own| {
        let own = own.ip().to_canonical();
        // `[::]` takes IPv4 as well, unless somebody else has that.
        let covers = own.is_ipv6() || addr.is_ipv4();
        own == addr.ip() || (own.is_unspecified() && covers && is_here())
    })
}

pub(super) async fn heartbeat(
    steering: &Steering,
    id: &str,
    generation: Option<i64>,
) -> Done<Renewed> {
    let known: BackendId = id.parse().map_err(|_| no_backend(id))?;
    let lease = match lease(steering, &known, generation) {
        Ok(lease) => lease,
        // Another POP may know better; the store does.
        Err(_) if steering.may_ask_store() => {
            steering.look().await;
            lease(steering, &known, generation)?
        }
        Err(failure) => return Err(failure),
    };
    let ttl = steering.config.borrow().settings.api_heartbeat_ttl_secs.get();
    let expires_at = unix_after(ttl);
    if !steering.heartbeats().beat(&known, lease, expires_at) {
        return Err(Failure::Unavailable("too many backends send heartbeats here".into()));
    }
    Ok(Renewed { generation: lease, ttl_secs: ttl.as_secs() })
}

/// The generation of the lease that a heartbeat renews, if it may.
fn lease(steering: &Steering, id: &BackendId, generation: Option<i64>) -> Done<i64> {
    let registry = steering.registry.in_force();
    let place = registry.backends.binary_search_by(|known| known.id.cmp(id));
    let backend = place.ok().map(|place| &registry.backends[place]);
    let backend = backend.filter(|known| !known.deleted).ok_or_else(|| {
        Failure::NotFound(format!("no backend {id} is registered, or not any more: register again"))
    })?;
    let lease = backend.lease.as_ref().and_then(|lease| Some((lease, lease.expires_at?)));
    let (lease, expires_at) = lease.ok_or_else(|| {
        Failure::Conflict(format!(
            "backend {id} did not register itself: it lives without heartbeats"
        ))
    })?;
    if let Some(given) = generation.filter(|given| *given != lease.generation) {
        return Err(Failure::Conflict(format!(
            "generation {given} of backend {id} is not the last, which is {}: register again",
            lease.generation
        )));
    }
    let renewed = steering.heartbeats().expires_at(id, lease.generation);
    if expires_at.max(renewed.unwrap_or(i64::MIN)) <= steering.registry.leases_at(unix_now()) {
        return Err(Failure::Gone(format!("the lease of backend {id} has ended: register again")));
    }
    Ok(lease.generation)
}

pub(super) async fn remove(steering: &Steering, who: &Who, id: &str) -> Done<Drain> {
    let known: BackendId = id.parse().map_err(|_| no_backend(id))?;
    let before = view::backend(steering, id).filter(|backend| backend.state != State::Deleted);
    let is_leased = |lease: Option<crate::adapters::inbound::api::wire::Lease>| {
        lease.is_some_and(|lease| lease.expires_at.is_some())
    };
    if who.may_only_register() && before.as_ref().is_some_and(|known| !is_leased(known.lease)) {
        return Err(Failure::Conflict(format!(
            "backend {id} did not register itself; only the admin token may remove it"
        )));
    }
    let is_news = before.is_some();
    if !is_news {
        return Err(no_backend(id));
    }
    let removed = steering.store.remove(known).await;
    if !removed.map_err(|error| unavailable(steering, &error))? {
        return Err(no_backend(id));
    }
    steering.look().await;
    let active = view::active(steering, id);
    audit!(
        who,
        "remove",
        format!("backend {id}"),
        before.map_or("-".into(), |b| format!("{}:{}", b.ip, b.port)),
        "deleted"
    );
    Ok(Drain { id: id.into(), state: State::Deleted, active })
}

/// A backend in one line.
fn shown(backend: &Backend) -> String {
    let country = backend.country.map_or("-".into(), |country| country.to_string());
    format!(
        "app={} region={} country={country} addr={} weight={} soft={} hard={}",
        backend.app,
        backend.region,
        backend.addr(),
        backend.weight,
        backend.soft_limit,
        backend.hard_limit
    )
}
