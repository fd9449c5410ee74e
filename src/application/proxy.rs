//! One worker's connections, each carried through every stage. Nothing here waits: what cannot go on
//! now is taken up again by an event or at a time.

mod answering;
mod arriving;
mod asking;
mod ending;
mod listing;
mod made;
mod relaying;
mod reusing;
mod securing;
mod serving;
mod snapshot;
mod streams;
mod ticks;
mod upkeep;
mod warming;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;

use super::account::{Ended, Format, Reason, Record};
use super::admission::{self, Admitted, ClientCounts};
use super::choices::{Choices, Noter};
use super::connect::{self, Connected, Demotions, Dial, Progress};
use super::locate::Location;
use super::relay::{self, End, Relay, Side, Turn};
use super::route::{self, Client, Routed};
use super::upstreams::{AppTable, RouteCounts};
use crate::domain::affinity::{Affinity, Key as AffinityKey};
use crate::domain::balance::Origin;
use crate::domain::time::Time;
use crate::infrastructure::log_sink::LogWriter;
use crate::infrastructure::meters::{Meters, Share};
use crate::infrastructure::reactor::{Event, Interest, Reactor};
use crate::infrastructure::slab::{Key, KeyMap, Slab};
use crate::infrastructure::{ConnectionGuard, ShutdownController};
use arriving::Arriving;
pub use listing::{Listed, Wanted};
use relaying::Relaying;
use reusing::Leg;
use serving::Serving;
pub use snapshot::{HttpRules, HttpTimes, ListenerRules, Snapshot};
use ticks::{TICKS_PER_SEC, idle_ticks, ticks};
use upkeep::Forcing;
use warming::Warming;

/// The client's socket among a connection's; the dials' sockets come after it.
const CLIENT: usize = 0;

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
    /// What is counted.
    pub meters: Arc<Meters>,
    /// Until when descriptors are for clients alone, in nanoseconds.
    pub short_of_descriptors: AtomicU64,
}

/// One worker's connections.
pub struct Proxy {
    shared: Arc<Shared>,
    reactor: Reactor,
    /// Clients' connections; those that arrive and warm ones have keys in it, too.
    connections: Slab<Connection>,
    /// Connections that have not said yet whom they are for.
    arriving: KeyMap<Arriving>,
    /// Their keys, and some of the past, in the order in which they came.
    in_order: VecDeque<Key>,
    /// Connections to backends that wait for a client.
    warm: KeyMap<Warming>,
    /// What each connection to a backend is for, in http mode.
    legs: KeyMap<Leg>,
    no_warming_until: Time,
    number: usize,
    /// When dials are looked at again; those that are over are skipped.
    deadlines: BinaryHeap<Reverse<(Time, Key)>>,
    /// Connections with more to move, after others had their turn.
    unfinished: Vec<Key>,
    tools: relay::Tools,
    /// How long requests may take, as of the last client or request.
    times: HttpTimes,
    spare: connect::Spare,
    rng: fastrand::Rng,
    log: LogWriter,
    ended: Arc<Ended>,
    choices: Noter,
    share: Share,
    routes: RouteCounts,
    swept: Time,
    counted: Time,
    forcing: Option<Forcing>,
    /// Whether there may be connections that are not counted among their clients'.
    uncounted: bool,
}

/// Who comes.
struct Comer {
    /// Who speaks: the peer, or whom a trusted PROXY protocol header names.
    client: SocketAddr,
    /// Where the client wanted to go, when a header says so.
    destination: Option<SocketAddr>,
    listener: u16,
    accepted: Time,
    /// The server's name of TLS that it asks for.
    name: Option<Box<str>>,
}

/// A client that may come in, and a place for it.
struct Welcome {
    id: Key,
    admitted: Admitted,
    location: Location,
    key: AffinityKey,
    table: Arc<AppTable>,
    origin: Origin,
    routed: Routed,
}

/// A connection from its admission to its end.
struct Connection {
    client: SocketAddr,
    /// The server's name of TLS that it asks for.
    name: Option<Box<str>>,
    admitted: Admitted,
    location: Location,
    key: AffinityKey,
    accepted: Time,
    stage: Stage,
}

enum Stage {
    Dialing {
        client: End,
        dial: Box<Dial>,
        /// Where the client wanted to go, when a header said so.
        destination: Option<SocketAddr>,
    },
    Relaying(Relaying),
    /// It makes requests.
    Serving(Box<Serving>),
    /// Never seen: what stands here while one becomes the other.
    Between,
}

/// What a worker lends to the dial of connection `$id`: disjoint parts of it, which no method could
/// lend while the connection is out of the slab.
macro_rules! dial_tools {
    ($self:ident, $id:expr) => {
        connect::Tools {
            reactor: &$self.reactor,
            key: $id,
            draw: &mut |below| $self.rng.u64(..below),
            demotions: &$self.shared.demotions,
            spare: &mut $self.spare,
            share: $self.share,
            relay: &mut $self.tools,
        }
    };
}
use dial_tools;

impl Proxy {
    /// Worker `number` with no connections.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        reactor: Reactor,
        log: LogWriter,
        (ended, choices): (Arc<Ended>, Arc<Choices>),
        number: usize,
    ) -> Self {
        Self {
            share: shared.meters.share(number),
            routes: RouteCounts::default(),
            counted: Time::ZERO,
            shared,
            reactor,
            connections: Slab::default(),
            arriving: KeyMap::default(),
            in_order: VecDeque::new(),
            warm: KeyMap::default(),
            legs: KeyMap::default(),
            no_warming_until: Time::ZERO,
            number,
            deadlines: BinaryHeap::new(),
            unfinished: Vec::new(),
            tools: relay::Tools::default(),
            times: HttpTimes::default(),
            spare: connect::Spare::hold(),
            rng: fastrand::Rng::new(),
            log,
            ended,
            choices: Noter::new(choices),
            swept: Time::ZERO,
            forcing: None,
            uncounted: false,
        }
    }

    /// The worker's descriptors.
    #[must_use]
    pub const fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// Whether one more connection could be dialled: a descriptor is held for it.
    pub fn has_spare(&mut self, now: Time) -> bool {
        self.spare.restock() || {
            self.leave_descriptors_to_clients(now);
            self.spare.restock()
        }
    }

    /// Whether nothing is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.len() == self.warm.len() + self.resting()
    }

    /// Takes a connection through every stage as far as it goes without waiting: admission, locate,
    /// route, connect. Relay and account follow by events. One that begins with a PROXY protocol header
    /// is read first.
    pub fn accepted(&mut self, socket: OwnedFd, peer: SocketAddr, listener: u16, now: Time) {
        let snapshot = Arc::clone(&self.shared).snapshot.load_full();
        self.shared.meters.accepted(self.share);
        let end = End::new(socket, true, Interest { reads: true, writes: false });
        let comer = Comer { client: peer, destination: None, listener, accepted: now, name: None };
        if snapshot.listener(listener).is_some_and(|rules| rules.expects_header) {
            self.arrive(end, comer, &snapshot, now);
        } else {
            self.enter(comer, end, None, &snapshot, now);
        }
    }

    /// Goes on with whoever has come. One that was watched already has a key and is counted.
    fn enter(
        &mut self,
        comer: Comer,
        end: End,
        watched: Option<(Key, ConnectionGuard)>,
        snapshot: &Snapshot,
        now: Time,
    ) {
        let (key, guard) = watched.unzip();
        let Shared { shutdown, clients, .. } = &*self.shared;
        let (ip, rules) = (comer.client.ip(), &snapshot.admission);
        let http = snapshot.listener(comer.listener).is_some_and(|rules| rules.http);
        let admitted = match admission::admit(ip, guard, !http, rules, shutdown, clients, now) {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.ended.refused(reason, ip.into());
                let nowhere = Location::default();
                return self.turn_away(&comer, end, key, (None, nowhere, reason), now);
            }
        };
        self.uncounted |= !admitted.is_counted();
        if admitted.too_often {
            self.ended.would_be_limited(ip.into());
        }
        let rules = snapshot.listener(comer.listener);
        if rules.is_some_and(|rules| rules.passthrough) {
            return self.await_hello(comer, end, key, admitted, now);
        }
        if let Some(terminator) = rules.and_then(|rules| rules.tls.as_ref()) {
            return self.await_handshake(comer, end, key, admitted, terminator, now);
        }
        if http {
            return self.serve(comer, end, None, key, admitted, snapshot, now);
        }
        let table = rules.and_then(|rules| rules.table.as_ref());
        self.carry(comer, end, key, admitted, table, snapshot, now);
    }

    /// Carries a client to the app that it asks for.
    #[expect(clippy::too_many_arguments, reason = "each comes from another stage")]
    fn carry(
        &mut self,
        comer: Comer,
        end: End,
        key: Option<Key>,
        admitted: Admitted,
        table: Option<&Arc<AppTable>>,
        snapshot: &Snapshot,
        now: Time,
    ) {
        let location = snapshot.geo.locate(comer.client.ip());
        self.shared.meters.came_from(self.share, location.country);
        let Some(table) = table else {
            return self.turn_away(&comer, end, key, (None, location, Reason::NoBackend), now);
        };
        match self.welcome(snapshot, &comer, key, admitted, location, table, now) {
            Ok(welcome) => self.connect(comer, welcome, end, key, snapshot, now),
            Err(reason) => self.turn_away(&comer, end, key, (Some(table), location, reason), now),
        }
    }

    /// Resets whoever has come and is refused.
    fn turn_away(
        &mut self,
        comer: &Comer,
        end: End,
        key: Option<Key>,
        why: (Option<&AppTable>, Location, Reason),
        now: Time,
    ) {
        let mut record = Record::new(comer.client, why.2);
        ending::tell_of_tls(&mut record, &end);
        end.reset();
        self.refuse(comer, key, (why.0, why.1), record, now);
    }

    /// Counts and logs one that is refused.
    fn refuse(
        &mut self,
        comer: &Comer,
        key: Option<Key>,
        (table, location): (Option<&AppTable>, Location),
        mut record: Record<'_>,
        now: Time,
    ) {
        if let Some(key) = key {
            self.connections.free(key);
        }
        record.country = location.country;
        record.server_name.clone_from(&comer.name);
        record.total = now.since(comer.accepted);
        self.account(table, location, &record, now);
    }

    /// To whom a client goes, and a place there.
    #[expect(clippy::too_many_arguments, reason = "each comes from another stage")]
    fn welcome(
        &mut self,
        snapshot: &Snapshot,
        comer: &Comer,
        id: Option<Key>,
        admitted: Admitted,
        location: Location,
        table: &Arc<AppTable>,
        now: Time,
    ) -> Result<Welcome, Reason> {
        let origin = table.layout.origin(location.country, location.at_pop);
        let key = (comer.client.ip().into(), table.number);
        let mut draw = |below| self.rng.u64(..below);
        let keeper = snapshot.keeper(self.number);
        let client_of = Client { key, origin, keeper };
        let affinity = &self.shared.affinity;
        let routed = route::first(table, client_of, affinity, now, &mut draw)?;

        // A warm connection brings the key under which it is watched.
        let id = routed.kept.as_ref().map(|kept| kept.id).or(id);
        let id = id.or_else(|| self.connections.reserve(ticks(now))).ok_or(Reason::Internal)?;
        let table = Arc::clone(table);
        Ok(Welcome { id, admitted, location, key, table, origin, routed })
    }

    /// Begins to connect a client to its backend.
    fn connect(
        &mut self,
        comer: Comer,
        welcome: Welcome,
        end: End,
        watched_as: Option<Key>,
        snapshot: &Snapshot,
        now: Time,
    ) {
        let Welcome { id, admitted, location, key, table, origin, mut routed } = welcome;
        let (upstream, hard_limit) =
            (Arc::clone(routed.slot.upstream()), table.hard_limit(routed.member));
        let kept = routed.kept.take().map(|kept| (kept.socket, self.adopt(id, now)));
        let found_warm = kept.is_some();
        let watched = self.watch_client(&end, id, watched_as);
        self.connections.may_idle(id, idle_ticks(table.rules.idle_timeout));
        let mut dial = Box::new(Dial::new(table, origin, snapshot.dial));
        if dial.is_secured() {
            let greeting = relaying::greeting(&dial, &comer, &end);
            dial.greet_with(greeting);
        }
        let progress = match (watched, kept) {
            (Ok(()), Some((socket, event))) => {
                dial.begin_warm(routed, socket, event, now, &mut dial_tools!(self, id))
            }
            (Ok(()), None) => dial.begin(routed, now, &mut dial_tools!(self, id)),
            (Err(error), _) => {
                tracing::warn!(%error, "a connection cannot be watched");
                Progress::Failed(Reason::Internal)
            }
        };
        let Comer { client, destination, accepted, name, .. } = comer;
        let connection = Box::new(Connection {
            client,
            name,
            admitted,
            location,
            key,
            accepted,
            stage: Stage::Dialing { client: end, dial, destination },
        });
        self.dialled(id, connection, progress, now);
        if let Some(keeper) = snapshot.keeper(self.number) {
            self.warm_up(&upstream, hard_limit, keeper, found_warm, now);
        }
    }

    /// Takes up what an event is about.
    pub fn event(&mut self, event: Event, now: Time) {
        let (id, part) = Key::of(event.token);
        let Some(mut connection) = self.connections.take(id) else {
            return match self.arriving.remove(&id) {
                Some(arriving) => self.arrival_event(id, arriving, event, now),
                None if self.legs.contains_key(&id) => self.leg_event((id, part), event, now),
                None => self.warm_event(id, event, now),
            };
        };
        self.connections.touch(id, ticks(now));
        match &mut connection.stage {
            Stage::Serving(_) => self.serving_event(id, connection, event, now),
            Stage::Dialing { client, .. } if part == CLIENT => {
                client.note(event);
                // One that has said all in TLS and gone resets what it is told: it is still heard.
                if event.failed() && client.tls().is_none() {
                    self.end(id, connection, Reason::ClientReset, now);
                } else {
                    self.connections.put(id, connection);
                }
            }
            Stage::Dialing { dial, .. } => {
                let progress = dial.event(part - 1, event, now, &mut dial_tools!(self, id));
                self.dialled(id, connection, progress, now);
            }
            // Told of an attempt that lost while the event was on its way: nobody's business now.
            Stage::Relaying(Relaying { backend_part, .. })
                if part != CLIENT && part != usize::from(*backend_part) =>
            {
                self.connections.put(id, connection);
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
            Stage::Between => self.connections.put(id, connection),
        }
    }

    /// Connections with more to move, which [`resume`](Self::resume) takes up.
    pub fn take_unfinished(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.unfinished)
    }

    /// Goes on with a connection after others had their turn.
    pub fn resume(&mut self, id: Key, now: Time) {
        let Some(mut connection) = self.connections.take(id) else { return };
        self.connections.touch(id, ticks(now));
        match &mut connection.stage {
            Stage::Serving(serving) => {
                serving.queued = false;
                return self.go_on(id, connection, now);
            }
            Stage::Relaying(relaying) => relaying.queued = false,
            Stage::Dialing { .. } | Stage::Between => {}
        }
        self.turn(id, connection, now);
    }

    /// Forgets a connection that was lost while something of its was taken up.
    pub fn abandon(&mut self, id: Key) {
        let client = self.abandon_legs(id);
        for id in [id, client] {
            self.arriving.remove(&id);
            self.warm.remove(&id);
            self.connections.free(id);
        }
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
                self.join(&mut connection, connected, now);
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
    fn join(&mut self, connection: &mut Connection, connected: Connected, now: Time) {
        let Connected { end: backend, attempt, tries, routed } = connected;
        let stage = std::mem::replace(&mut connection.stage, Stage::Between);
        let Stage::Dialing { client, dial, destination } = stage else { return };
        let ttl = dial.affinity_ttl();
        let setup = now.since(connection.accepted);
        let meters = &self.shared.meters;
        meters.set_up(self.share, setup);
        routed.slot.upstream().meter.cell(self.share).connected();
        dial.route_count(&routed, &mut self.routes, meters).count(self.share);
        let ip = connection.client.ip();
        dial.note(&mut self.choices, ip, connection.location, &routed, now);
        let number = routed.slot.upstream().number;
        let bind = || self.shared.affinity.bind(connection.key, number, ttl, now);
        let header = dial.header().map(|version| {
            let name = connection.name.as_deref();
            relaying::header(version, connection.client, destination, name, &client)
        });
        let relay = Relay::new(client, backend);
        connection.stage = Stage::Relaying(Relaying {
            relay: match header {
                Some(header) => relay.preceded_by(header),
                None => relay,
            },
            backend_part: u8::try_from(attempt + 1).unwrap_or_default(),
            queued: false,
            slot: routed.slot,
            permit: routed.permit,
            counted: (0, 0),
            hold: routed.binds.then(|| (bind(), ttl)),
            tier: routed.tier,
            tries: u32::try_from(tries).unwrap_or(u32::MAX),
            setup,
        });
    }

    fn turn(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        let Stage::Relaying(relaying) = &mut connection.stage else {
            return self.connections.put(id, connection);
        };
        let turn = relaying.relay.turn(&mut self.tools);
        relaying.has_answered(now);
        let Relaying { relay, backend_part, queued, .. } = relaying;
        match turn {
            Turn::Ended(ending) => return self.over(id, connection, ending, now),
            Turn::More if !*queued => {
                *queued = true;
                self.unfinished.push(id);
            }
            Turn::More | Turn::Waits => {}
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
}
