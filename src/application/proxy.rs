//! One worker's connections, each carried through every stage. Nothing here waits: what cannot go on
//! now is taken up again by an event or at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::account::{self, Ended, Format, Reason, Record};
use super::admission::{self, Admitted, ClientCounts};
use super::connect::{self, Connected, Demotions, Dial, Progress};
use super::locate::{Geo, Location};
use super::relay::{self, End, Ending, Relay, Side, Turn};
use super::route::{self, Client};
use super::upstreams::{AppTable, Slot, Tables, Upstream};
use crate::clock;
use crate::domain::affinity::{Affinity, Hold, Key as AffinityKey};
use crate::domain::balance::Tier;
use crate::domain::time::Time;
use crate::infrastructure::ShutdownController;
use crate::infrastructure::log_sink::LogWriter;
use crate::infrastructure::reactor::{Event, Interest, Reactor};
use crate::infrastructure::shutdown::Drain;
use crate::infrastructure::slab::{Key, Slab};

/// The client's socket among a connection's; the dials' sockets come after it.
const CLIENT: usize = 0;
/// Ticks of the slab's ages: an eighth of a second, so that 32 bits last for 17 years.
const TICKS_PER_SEC: u32 = 8;
/// How often connections are looked over for idle ones.
const SWEEP: Duration = Duration::from_millis(250);
/// When a connection counts as long-lived and is worth keepalives, in ticks.
const SETTLED: u32 = 30 * TICKS_PER_SEC;
/// How often some connections are closed while a drain runs out of time.
const FORCE_STEP: Duration = Duration::from_millis(20);

/// What all workers read. Swapped whole by the control plane.
pub struct Snapshot {
    /// The app that each listener serves, by the listener's number.
    pub listeners: Vec<Option<Arc<AppTable>>>,
    /// All apps.
    pub tables: Tables,
    /// Who may come in.
    pub admission: Arc<admission::Rules>,
    /// Where clients are.
    pub geo: Arc<Geo>,
    /// How backends are dialled.
    pub dial: connect::Rules,
}

/// What all workers share.
pub struct Shared {
    /// The snapshot in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// Which backend each client had.
    pub affinity: Affinity,
    /// Open connections of each client.
    pub clients: Arc<ClientCounts>,
    /// All open connections.
    pub shutdown: ShutdownController,
    /// Where failing backends are told.
    pub demotions: Demotions,
    /// How access-log lines are written.
    pub format: Format,
}

/// One worker's connections.
pub struct Proxy {
    shared: Arc<Shared>,
    reactor: Reactor,
    connections: Slab<Connection>,
    /// When dials are looked at again; those that are over are skipped.
    deadlines: BinaryHeap<Reverse<(Time, Key)>>,
    /// Connections with more to move, after others had their turn.
    unfinished: Vec<Key>,
    tools: relay::Tools,
    rng: fastrand::Rng,
    log: LogWriter,
    ended: Arc<Ended>,
    swept: Time,
    forcing: Option<Forcing>,
}

/// Connections being closed because a drain runs out of time.
struct Forcing {
    drain: Drain,
    left: Option<usize>,
    next: Time,
}

/// A connection from its admission to its end.
struct Connection {
    client: SocketAddr,
    admitted: Admitted,
    listener: u16,
    location: Location,
    key: AffinityKey,
    accepted: Time,
    idle_ticks: u32,
    stage: Stage,
}

enum Stage {
    Dialing { client: End, dial: Box<Dial> },
    Relaying(Relaying),
}

struct Relaying {
    relay: Relay,
    /// Which of the connection's sockets the backend's is.
    backend_part: u8,
    slot: Slot,
    hold: Option<(Hold, Duration)>,
    tier: Tier,
    tries: u32,
    setup: Duration,
}

impl Proxy {
    /// A worker with no connections.
    #[must_use]
    pub fn new(shared: Arc<Shared>, reactor: Reactor, log: LogWriter, ended: Arc<Ended>) -> Self {
        Self {
            shared,
            reactor,
            connections: Slab::default(),
            deadlines: BinaryHeap::new(),
            unfinished: Vec::new(),
            tools: relay::Tools::default(),
            rng: fastrand::Rng::new(),
            log,
            ended,
            swept: Time::ZERO,
            forcing: None,
        }
    }

    /// The worker's descriptors.
    #[must_use]
    pub const fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// Whether nothing is open.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Takes a connection through every stage as far as it goes without waiting:
    /// admission, locate, route, connect. Relay and account follow by events.
    ///
    /// `client` is who speaks: the peer, or whom a trusted PROXY protocol header names.
    pub fn accepted(&mut self, socket: OwnedFd, client: SocketAddr, listener: u16, now: Time) {
        let shared = Arc::clone(&self.shared);
        let snapshot = shared.snapshot.load();
        let end = End::new(socket, true, Interest { reads: true, writes: false });

        let ip = client.ip();
        let admitted = admission::admit(ip, &snapshot.admission, &shared.shutdown, &shared.clients);
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                return self.refuse(end, client, listener, Location::default(), now, reason);
            }
        };

        let location = snapshot.geo.locate(ip);

        let Some(table) = snapshot.listeners.get(usize::from(listener)).and_then(Option::as_ref)
        else {
            return self.refuse(end, client, listener, location, now, Reason::NoBackend);
        };
        let origin = table.layout.origin(location.country, location.at_pop);
        let key = (ip.into(), table.number);
        let mut draw = |below| self.rng.u64(..below);
        let asking = Client { key, origin };
        let routed = match route::first(table, asking, &shared.affinity, now, &mut draw) {
            Ok(routed) => routed,
            Err(reason) => return self.refuse(end, client, listener, location, now, reason),
        };

        let Some(id) = self.connections.reserve(ticks(now)) else {
            return self.refuse(end, client, listener, location, now, Reason::Internal);
        };
        if let Err(error) = self.reactor.watch_reads(end.socket(), id.token(CLIENT)) {
            tracing::warn!(%error, "a connection cannot be watched");
            self.connections.free(id);
            return self.refuse(end, client, listener, location, now, Reason::Internal);
        }
        let idle = u32::try_from(table.rules.idle_timeout.as_secs()).unwrap_or(u32::MAX);
        let mut dial = Box::new(Dial::new(Arc::clone(table), origin, snapshot.dial));
        let mut draw = |below| self.rng.u64(..below);
        let progress = dial.begin(
            routed,
            now,
            &mut connect::Tools {
                reactor: &self.reactor,
                key: id,
                draw: &mut draw,
                demotions: &shared.demotions,
            },
        );
        let connection = Box::new(Connection {
            client,
            admitted,
            listener,
            location,
            key,
            accepted: now,
            idle_ticks: idle.saturating_mul(TICKS_PER_SEC),
            stage: Stage::Dialing { client: end, dial },
        });
        self.dialled(id, connection, progress, now);
    }

    /// Takes up what an event is about.
    pub fn event(&mut self, event: Event, now: Time) {
        let (id, part) = Key::of(event.token);
        let Some(mut connection) = self.connections.take(id) else { return };
        self.connections.touch(id, ticks(now));
        match &mut connection.stage {
            Stage::Dialing { client, .. } if part == CLIENT => {
                client.note(event);
                if event.failed() {
                    self.end(id, connection, Reason::ClientReset, now);
                } else {
                    self.connections.put(id, connection);
                }
            }
            Stage::Dialing { dial, .. } => {
                let mut draw = |below| self.rng.u64(..below);
                let mut tools = connect::Tools {
                    reactor: &self.reactor,
                    key: id,
                    draw: &mut draw,
                    demotions: &self.shared.demotions,
                };
                let progress = dial.event(part - 1, event, now, &mut tools);
                self.dialled(id, connection, progress, now);
            }
            Stage::Relaying(Relaying { relay, .. }) => {
                let side = if part == CLIENT { Side::Client } else { Side::Backend };
                match side {
                    Side::Client => relay.client.note(event),
                    Side::Backend => relay.backend.note(event),
                }
                let failed = if event.failed() { relay.failed(side) } else { None };
                match failed {
                    Some(ending) => self.over(id, connection, ending, now),
                    None => self.turn(id, connection, now),
                }
            }
        }
    }

    /// When to come back without an event; `None` = only for events.
    #[must_use]
    pub fn wake_at(&mut self, now: Time) -> Option<Time> {
        if !self.unfinished.is_empty() {
            return Some(now);
        }
        while let Some(Reverse((_, id))) = self.deadlines.peek() {
            if self.connections.contains(*id) {
                break;
            }
            self.deadlines.pop();
        }
        let dial = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let sweep = (!self.connections.is_empty()).then(|| self.swept + SWEEP);
        let force = self.forcing.as_ref().map(|forcing| forcing.next);
        [dial, sweep, force, self.log.due()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn time(&mut self, now: Time) {
        for id in std::mem::take(&mut self.unfinished) {
            if let Some(connection) = self.connections.take(id) {
                self.connections.touch(id, ticks(now));
                self.turn(id, connection, now);
            }
        }
        while let Some(Reverse((at, id))) = self.deadlines.peek().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop();
            self.dial_time(id, now);
        }
        if now.since(self.swept) >= SWEEP {
            self.swept = now;
            self.sweep(now);
        }
        self.force(now);
        self.log.flush_if_due(now);
    }

    /// Lets open connections end by themselves until the drain runs out of time.
    pub fn drain(&mut self, drain: Drain) {
        self.forcing = Some(Forcing { drain, left: None, next: drain.force_from });
    }

    fn dialled(&mut self, id: Key, mut connection: Box<Connection>, progress: Progress, now: Time) {
        match progress {
            Progress::Waits(until) => {
                self.deadlines.push(Reverse((until, id)));
                self.connections.put(id, connection);
            }
            Progress::Failed(reason) => {
                self.forget_binding(&connection);
                self.end(id, connection, reason, now);
            }
            Progress::Connected(connected) => {
                if connected.tries > 1 {
                    self.forget_binding(&connection);
                }
                connection = self.joined(connection, connected, now);
                self.turn(id, connection, now);
            }
        }
    }

    /// Drops the client's binding if it is to a backend that did not answer.
    fn forget_binding(&self, connection: &Connection) {
        if let Stage::Dialing { dial, .. } = &connection.stage {
            for upstream in dial.failed() {
                self.shared.affinity.forget(connection.key, upstream.number);
            }
        }
    }

    /// From connect to relay: the backend's socket beside the client's.
    fn joined(
        &mut self,
        connection: Box<Connection>,
        connected: Connected,
        now: Time,
    ) -> Box<Connection> {
        let Connected { socket, attempt, tries, routed } = connected;
        let Connection { client, admitted, listener, location, key, accepted, idle_ticks, stage } =
            *connection;
        let Stage::Dialing { client: client_end, dial } = stage else {
            unreachable!("only a dial connects")
        };
        let ttl = dial.affinity_ttl();
        let number = routed.slot.upstream().number;
        let hold = routed.binds.then(|| (self.shared.affinity.bind(key, number, ttl, now), ttl));
        let relaying = Relaying {
            relay: Relay::new(
                client_end,
                End::new(socket, false, Interest { reads: true, writes: true }),
            ),
            backend_part: u8::try_from(attempt + 1).unwrap_or_default(),
            slot: routed.slot,
            hold,
            tier: routed.tier,
            tries: u32::try_from(tries).unwrap_or(u32::MAX),
            setup: now.since(accepted),
        };
        let stage = Stage::Relaying(relaying);
        Box::new(Connection {
            client,
            admitted,
            listener,
            location,
            key,
            accepted,
            idle_ticks,
            stage,
        })
    }

    fn dial_time(&mut self, id: Key, now: Time) {
        let Some(mut connection) = self.connections.take(id) else { return };
        let Stage::Dialing { dial, .. } = &mut connection.stage else {
            return self.connections.put(id, connection);
        };
        let mut draw = |below| self.rng.u64(..below);
        let mut tools = connect::Tools {
            reactor: &self.reactor,
            key: id,
            draw: &mut draw,
            demotions: &self.shared.demotions,
        };
        let progress = dial.time(now, &mut tools);
        self.dialled(id, connection, progress, now);
    }

    fn turn(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        let Stage::Relaying(Relaying { relay, backend_part, .. }) = &mut connection.stage else {
            return self.connections.put(id, connection);
        };
        match relay.turn(&mut self.tools) {
            Turn::Ended(ending) => return self.over(id, connection, ending, now),
            Turn::More => self.unfinished.push(id),
            Turn::Waits => {}
        }
        for side in [Side::Client, Side::Backend] {
            let part = if side == Side::Client { CLIENT } else { usize::from(*backend_part) };
            if let Some((socket, interest)) = relay.rewatch(side)
                && self.reactor.rewatch(socket, id.token(part), interest).is_err()
            {
                return self.end(id, connection, Reason::Internal, now);
            }
        }
        self.connections.put(id, connection);
    }

    fn over(&mut self, id: Key, connection: Box<Connection>, ending: Ending, now: Time) {
        let reason = match ending {
            Ending::Closed(Side::Client) => Reason::ClientClosed,
            Ending::Closed(Side::Backend) => Reason::BackendClosed,
            Ending::Reset(Side::Client) => Reason::ClientReset,
            Ending::Reset(Side::Backend) => Reason::BackendReset,
        };
        self.end(id, connection, reason, now);
    }

    /// Looks over all connections: ends the idle ones, asks after the long-lived ones.
    fn sweep(&mut self, now: Time) {
        let tick = ticks(now);
        let shortest = self.shortest_idle_timeout();
        let due: Vec<Key> = self
            .connections
            .ages()
            .filter(|(_, age)| {
                let settles = !age.settled && tick.wrapping_sub(age.born) >= SETTLED;
                settles || tick.wrapping_sub(age.touched) >= shortest
            })
            .map(|(id, _)| id)
            .collect();
        for id in due {
            let Some(age) = self.connections.age(id) else { continue };
            let Some(connection) = self.connections.take(id) else { continue };
            let Stage::Relaying(Relaying { relay, .. }) = &connection.stage else {
                self.connections.put(id, connection);
                continue;
            };
            if tick.wrapping_sub(age.touched) >= connection.idle_ticks {
                self.end(id, connection, Reason::Idle, now);
                continue;
            }
            if !age.settled && tick.wrapping_sub(age.born) >= SETTLED {
                relay.client.keep_alive();
                relay.backend.keep_alive();
                self.connections.settle(id);
            }
            self.connections.put(id, connection);
        }
        if self.connections.is_empty() {
            self.tools.pipes.release();
        }
    }

    fn shortest_idle_timeout(&self) -> u32 {
        let snapshot = self.shared.snapshot.load();
        let secs = snapshot.tables.values().map(|table| table.rules.idle_timeout.as_secs()).min();
        let secs = secs.and_then(|secs| u32::try_from(secs).ok()).unwrap_or(0);
        secs.saturating_mul(TICKS_PER_SEC)
    }

    /// Closes as many connections as the time left demands, so that the last goes at the deadline.
    fn force(&mut self, now: Time) {
        let Some(forcing) = &mut self.forcing else { return };
        if now < forcing.next {
            return;
        }
        forcing.next = now + FORCE_STEP;
        let Drain { force_from, deadline } = forcing.drain;
        let at_start = *forcing.left.get_or_insert(self.connections.len());
        let span = deadline.since(force_from).as_millis().max(1);
        let left = deadline.since(now).as_millis();
        let may_stay = usize::try_from(at_start as u128 * left / span).unwrap_or(usize::MAX);
        let surplus = self.connections.len().saturating_sub(may_stay);
        let ids: Vec<Key> = self.connections.ages().map(|(id, _)| id).take(surplus).collect();
        for id in ids {
            if let Some(connection) = self.connections.take(id) {
                connection.admitted.force();
                self.end(id, connection, Reason::Drained, now);
            }
        }
    }

    /// Turns a client away that has no connection yet.
    fn refuse(
        &mut self,
        end: End,
        client: SocketAddr,
        listener: u16,
        location: Location,
        now: Time,
        reason: Reason,
    ) {
        end.reset();
        self.account(&Remains::new(client, listener, location, now, reason), now);
    }

    /// The end of a connection, whatever its stage.
    fn end(&mut self, id: Key, connection: Box<Connection>, reason: Reason, now: Time) {
        self.connections.free(id);
        let Connection { client, listener, location, accepted, stage, admitted, .. } = *connection;
        let mut left = Remains::new(client, listener, location, accepted, reason);
        match stage {
            Stage::Dialing { client: end, dial } => {
                left.tries = u32::try_from(dial.tries()).unwrap_or(u32::MAX);
                left.backend = dial.last().cloned();
                end.reset();
            }
            Stage::Relaying(Relaying { mut relay, slot, hold, tier, tries, setup, .. }) => {
                relay.give_back(&mut self.tools);
                left.tries = tries;
                left.tier = Some(tier);
                left.setup = Some(setup);
                left.sent = relay.sent();
                left.received = relay.received();
                left.backend = Some(Arc::clone(slot.upstream()));
                match reason {
                    Reason::ClientReset => relay.reset(Ending::Reset(Side::Client)),
                    Reason::BackendReset => relay.reset(Ending::Reset(Side::Backend)),
                    Reason::Drained | Reason::Killed | Reason::Internal => relay.reset_both(),
                    _ => drop(relay),
                }
                if let Some((hold, ttl)) = hold {
                    self.shared.affinity.release(hold, ttl, now);
                }
                drop(slot);
            }
        }
        self.account(&left, now);
        // Last, so that who waits for the last connection finds its line in the log's hands.
        drop(admitted);
    }

    fn account(&mut self, left: &Remains, now: Time) {
        self.ended.count(left.reason);
        if left.reason.is_admission() {
            return;
        }
        let (shared, format) = (&self.shared, self.shared.format);
        self.log.line(now, |out| {
            let snapshot = shared.snapshot.load();
            let table = snapshot.listeners.get(usize::from(left.listener)).and_then(Option::as_ref);
            let region = table.and_then(|table| {
                let Location { country, at_pop } = left.location;
                table.layout.region_name(table.layout.origin(country, at_pop))
            });
            let record = Record {
                client: left.client,
                country: left.location.country,
                region,
                app: table.map(|table| &table.name),
                backend: left.backend.as_deref(),
                tier: left.tier,
                tries: left.tries,
                sent: left.sent,
                received: left.received,
                setup: left.setup,
                total: now.since(left.accepted),
                reason: left.reason,
            };
            account::write_line(out, format, clock::wall(), &record);
        });
    }
}

/// What is left of a connection.
struct Remains {
    client: SocketAddr,
    listener: u16,
    location: Location,
    accepted: Time,
    reason: Reason,
    backend: Option<Arc<Upstream>>,
    tier: Option<Tier>,
    tries: u32,
    sent: u64,
    received: u64,
    setup: Option<Duration>,
}

impl Remains {
    const fn new(
        client: SocketAddr,
        listener: u16,
        location: Location,
        accepted: Time,
        reason: Reason,
    ) -> Self {
        Self {
            client,
            listener,
            location,
            accepted,
            reason,
            backend: None,
            tier: None,
            tries: 0,
            sent: 0,
            received: 0,
            setup: None,
        }
    }
}

fn ticks(now: Time) -> u32 {
    u32::try_from(now.nanos() / (1_000_000_000 / u64::from(TICKS_PER_SEC)) & u64::from(u32::MAX))
        .unwrap_or_default()
}
