//! Clients that make requests: http mode. Here one connection of HTTP/1, with one request after the other;
//! what becomes of each is in `asking`.

use std::cell::Cell;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::asking::{Call, Came, Having, Peer, Told, Whose};
use super::made::Takes;
use super::relaying::Relaying;
use super::reusing::{Leg, Own};
use super::streams::Streams;
use super::{CLIENT, Comer, Connection, HttpTimes as Times, Proxy, Snapshot, Stage, ticks};
use crate::application::account::Reason;
use crate::application::admission::Admitted;
use crate::application::http::{Answer, Arrived, read};
use crate::application::relay::{End, Relay};
use crate::domain::affinity::Key as AffinityKey;
use crate::domain::time::Time;
use crate::infrastructure::http1::{Bad, Found, Request, find, room};
use crate::infrastructure::http2::PREFACE;
use crate::infrastructure::reactor::Event;
use crate::infrastructure::slab::Key;
use crate::infrastructure::tls::{Policy, Session};

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// How long what a client still says is read out behind our last word, so that it gets that.
const LINGER: Duration = Duration::from_secs(2);
/// How long a client is left that has just been answered when idle ones are closed in a drain.
const JUST_NOW: Duration = Duration::from_secs(1);

/// Requests that one client makes, or reads of what is behind its last, before others have their turn.
const TURN: u32 = 16;

/// Most empty lines that are left aside before a request: some clients send one behind a body (RFC 9112, 2.2).
const MAX_EMPTY_LINES: u8 = 2;
const EMPTY_LINE: &[u8] = b"\r\n";

/// When nothing is looked at.
const FAR_OFF: Time = Time::from_nanos(u64::MAX);

/// A client that makes requests.
pub(super) struct Serving {
    pub client: End,
    pub peer: Peer,
    /// What has arrived and is not done with.
    pub held: Vec<u8>,
    looked: usize,
    /// Empty lines before the next request.
    empty_lines: u8,
    /// Whether it may begin with the preface of HTTP/2.
    is_new: bool,
    pub phase: Phase,
    /// A connection to a backend that is kept for it alone.
    pub own: Option<Own>,
    /// When what is waited for must have come, and when that is looked at next.
    pub until: Time,
    looks: Time,
    /// Whether it is among those with more to move.
    pub queued: bool,
}

pub(super) enum Phase {
    /// For a head.
    Awaits,
    /// It speaks HTTP/2.
    Streams(Box<Streams>),
    /// For the answer to a request.
    Calls(Box<Call>),
    /// The last has been said; what the client still says is read out.
    Lingers,
}

impl Serving {
    /// Whether it has asked for nothing that has not been answered.
    fn is_idle(&self) -> bool {
        match &self.phase {
            Phase::Awaits => self.held.is_empty(),
            Phase::Streams(streams) => streams.is_idle(),
            Phase::Calls(_) | Phase::Lingers => false,
        }
    }

    /// Leaves empty lines aside before a request, which is to be whole by then if it begins behind them.
    fn skip_empty_lines(&mut self, by: Time) {
        while self.held.starts_with(EMPTY_LINE) && self.empty_lines < MAX_EMPTY_LINES {
            self.held.drain(..EMPTY_LINE.len());
            self.empty_lines += 1;
            (self.looked, self.is_new) = (0, false);
            if !self.held.is_empty() {
                self.until = by;
            }
        }
    }

    /// Whether the backend with a number has a request of this client's.
    pub fn has_backend(&self, number: u64) -> bool {
        match &self.phase {
            Phase::Calls(call) => call.backend() == Some(number),
            Phase::Streams(streams) => streams.has_backend(number),
            Phase::Awaits | Phase::Lingers => false,
        }
    }
}

/// What comes of a step.
enum Step {
    /// There is another.
    Goes,
    /// There is, after others had their turn.
    More,
    /// There is none until an event.
    Waits,
    /// The connection is over.
    Ends(Reason),
    /// It speaks another protocol from now on.
    Upgrades,
}

/// Whose requests those of a connection are: the rest of it stays to be changed.
macro_rules! whose {
    ($id:expr, $connection:expr, $peer:expr) => {
        Whose {
            id: $id,
            stream: 0,
            client: $connection.client,
            location: $connection.location,
            name: $connection.name.as_deref(),
            peer: $peer,
        }
    };
}

impl Proxy {
    /// Waits for the first request of a client that has been let in. One with a `key` is watched under it.
    #[expect(clippy::too_many_arguments, reason = "each comes from another stage")]
    pub(super) fn serve(
        &mut self,
        comer: Comer,
        end: End,
        policy: Option<Arc<Policy>>,
        key: Option<Key>,
        admitted: Admitted,
        snapshot: &Snapshot,
        now: Time,
    ) {
        let location = snapshot.geo.locate(comer.client.ip());
        self.shared.meters.came_from(self.share, location.country);
        let watched = match key {
            Some(id) => Some(id),
            None => self.connections.reserve(ticks(now)).filter(|id| {
                let is_watched = self.reactor.watch_reads(end.socket(), id.token(CLIENT)).is_ok();
                if !is_watched {
                    self.connections.free(*id);
                }
                is_watched
            }),
        };
        let Some(id) = watched else {
            return self.turn_away(&comer, end, None, (None, location, Reason::Internal), now);
        };
        let Comer { client, destination, listener, accepted, name } = comer;
        let mut end = end;
        let held = end.take_early();
        let has_told = destination.is_some() || end.tls().is_some();
        let told = has_told.then(|| {
            let tls = end.tls().and_then(Session::version);
            let name = end.tls().and_then(Session::peer_name);
            Box::new(Told { destination, tls, name, policy })
        });
        // Nothing comes of its age.
        self.connections.reach(id, u8::MAX);
        let until = now + snapshot.http.times.header_timeout;
        self.times = snapshot.http.times;
        let serving = Box::new(Serving {
            client: end,
            peer: Peer { listener, told, bound: Cell::new(None) },
            held,
            looked: 0,
            empty_lines: 0,
            is_new: true,
            phase: Phase::Awaits,
            own: None,
            until,
            looks: until,
            queued: false,
        });
        self.deadlines.push(Reverse((until, id)));
        let nobody: AffinityKey = (client.ip().into(), 0);
        let stage = Stage::Serving(serving);
        let connection =
            Box::new(Connection { client, name, admitted, location, key: nobody, accepted, stage });
        self.go_on(id, connection, now);
    }

    /// Takes up an event of a client's.
    pub(super) fn serving_event(
        &mut self,
        id: Key,
        mut connection: Box<Connection>,
        event: Event,
        now: Time,
    ) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        serving.client.note(event);
        // One that has said all in TLS and gone resets what it is told: it is still heard.
        let Serving { client, held, .. } = &mut **serving;
        if event.failed()
            && (client.tls().is_none() || read(client, held, &mut self.tools).is_err())
        {
            return self.leave(id, connection, Reason::ClientReset, now);
        }
        self.go_on(id, connection, now);
    }

    /// Takes up an event of a connection to a backend.
    pub(super) fn leg_event(&mut self, (leg, part): (Key, usize), event: Event, now: Time) {
        let id = match self.legs.get(&leg) {
            None => return,
            Some(Leg::Rests { .. }) => return self.rested_event(leg, event),
            Some(Leg::Own { client } | Leg::Call { client, .. }) => *client,
        };
        let Some(mut connection) = self.connections.take(id) else { return self.drop_leg(leg) };
        self.connections.touch(id, ticks(now));
        let Stage::Serving(serving) = &mut connection.stage else {
            return self.connections.put(id, connection);
        };
        if serving.own.as_ref().is_some_and(|own| own.1.id == leg) {
            if event.readable() || event.read_closed() || event.failed() {
                serving.own = None;
                self.drop_leg(leg);
            }
            return self.connections.put(id, connection);
        }
        let call = match (&mut serving.phase, self.legs.get(&leg)) {
            (Phase::Calls(call), _) => Some(&mut **call),
            (Phase::Streams(streams), Some(Leg::Call { stream, .. })) => streams.call(*stream),
            _ => None,
        };
        if let Some(call) = call {
            self.call_event(call, (leg, part), event, now);
        }
        if !matches!(serving.phase, Phase::Streams(_)) {
            return self.go_on(id, connection, now);
        }
        // Others of its streams may have been told of as well: what comes of all goes out at once.
        if !std::mem::replace(&mut serving.queued, true) {
            self.unfinished.push(id);
        }
        self.connections.put(id, connection);
    }

    /// Goes on as far as it goes without waiting.
    pub(super) fn go_on(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        for _ in 0..TURN {
            let Stage::Serving(serving) = &mut connection.stage else { return };
            let step = match serving.phase {
                Phase::Streams(_) => return self.go_on_streams(id, connection, now),
                Phase::Awaits => self.await_head(id, &mut connection, now),
                Phase::Calls(_) => self.await_answer(id, &mut connection, now),
                Phase::Lingers => self.linger(serving),
            };
            match step {
                Step::Goes => {}
                Step::Waits => return self.pause(id, connection, now),
                Step::More => break,
                Step::Ends(reason) => return self.leave(id, connection, reason, now),
                Step::Upgrades => return self.upgrade(id, connection, now),
            }
        }
        if let Stage::Serving(serving) = &mut connection.stage
            && !std::mem::replace(&mut serving.queued, true)
        {
            self.unfinished.push(id);
        }
        self.pause(id, connection, now);
    }

    /// Goes on with the answer to a request.
    fn await_answer(&mut self, id: Key, connection: &mut Connection, now: Time) -> Step {
        let Stage::Serving(serving) = &mut connection.stage else { return Step::Waits };
        let Serving { client, peer, held, is_new, phase, own, until, .. } = &mut **serving;
        let Phase::Calls(call) = phase else { return Step::Goes };
        match self.turn_call(&whose!(id, connection, peer), call, client, held, own, now) {
            Came::Waits => Step::Waits,
            Came::More => Step::More,
            Came::Gone(reason) => Step::Ends(reason),
            Came::Upgraded => Step::Upgrades,
            Came::Over { keeps: true } => {
                *is_new = false;
                *phase = Phase::Awaits;
                let has_begun = !held.is_empty();
                let Times { header_timeout, keep_alive_timeout, .. } = self.times;
                *until = now
                    + match (has_begun, self.forcing.is_some()) {
                        (true, _) => header_timeout,
                        (false, false) => keep_alive_timeout,
                        // It has been told that it may go on before it was known that it may not.
                        (false, true) => JUST_NOW,
                    };
                Step::Goes
            }
            Came::Over { keeps: false } => {
                // What arrives and is not read would turn the end into a reset, which overtakes the
                // answer: of who was refused more may follow, and of who has not said that it is the
                // last, another.
                let is_all =
                    held.is_empty() && !client.is_readable() && call.heard && !call.made.asks_on;
                let _ = client.say_end(&mut self.tools.sealed);
                if is_all && client.flush() == Ok(true) {
                    return Step::Ends(Reason::BackendClosed);
                }
                client.shut_down();
                *phase = Phase::Lingers;
                *until = now + LINGER;
                Step::Goes
            }
        }
    }

    /// Goes on until the head of a request is whole.
    fn await_head(&mut self, id: Key, connection: &mut Connection, now: Time) -> Step {
        let Stage::Serving(serving) = &mut connection.stage else { return Step::Waits };
        serving.skip_empty_lines(now + self.times.header_timeout);
        let Serving { client, peer, held, looked, is_new, phase, own, until, empty_lines, .. } =
            &mut **serving;
        let found = match *is_new && !held.is_empty() {
            true if held.starts_with(PREFACE) => {
                *phase = Phase::Streams(Box::new(Streams::new(held, now)));
                *until = now + self.times.keep_alive_timeout;
                return Step::Goes;
            }
            true if PREFACE.starts_with(held) => Found::More(0),
            _ => find(held, *looked),
        };
        let bad = match found {
            Found::Bad(bad) => bad,
            // Also when all of it has come at once.
            Found::More(length) | Found::Whole(length) if length > MAX_HEAD => {
                Bad::request("the head is longer than 64 KiB")
            }
            Found::Whole(length) => {
                *looked = 0;
                let mut fields = room();
                match Request::read(&held[..length], &mut fields) {
                    Ok(request) => {
                        let whose = whose!(id, connection, peer);
                        *phase = Phase::Calls(self.ask(&whose, client, &request, own, now));
                        held.drain(..length);
                        *empty_lines = 0;
                        return Step::Goes;
                    }
                    Err(bad) => bad,
                }
            }
            Found::More(at) => {
                *looked = at;
                let was_empty = held.is_empty();
                return match read(client, held, &mut self.tools) {
                    Ok(Arrived::More) => {
                        // An empty line is not the beginning of one.
                        if was_empty && !EMPTY_LINE.starts_with(held) {
                            *until = now + self.times.header_timeout;
                        }
                        Step::Goes
                    }
                    Ok(Arrived::Nothing) => {
                        if held.is_empty() {
                            // Who is silent holds nothing.
                            self.tools.spare.give(std::mem::take(held));
                        }
                        Step::Waits
                    }
                    Ok(Arrived::End) => Step::Ends(Reason::ClientClosed),
                    Err(_) => Step::Ends(Reason::ClientReset),
                };
            }
        };
        let answer = (Answer::new(bad.status, bad.why), Takes::of_unread(held));
        *phase = Phase::Calls(self.refusal(connection.client, answer, now));
        Step::Goes
    }

    /// Reads out what a client still says to whom the last has been said.
    fn linger(&mut self, serving: &mut Serving) -> Step {
        let Serving { client, held, .. } = serving;
        held.clear();
        match client.flush().map(|_| read(client, held, &mut self.tools)) {
            Ok(Ok(Arrived::Nothing)) => Step::Waits,
            Ok(Ok(Arrived::More)) => Step::Goes,
            Ok(Ok(Arrived::End) | Err(_)) | Err(_) => Step::Ends(Reason::BackendClosed),
        }
    }

    /// From now on the connection carries bytes, as in tcp mode.
    fn upgrade(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        let stage = std::mem::replace(&mut connection.stage, Stage::Between);
        let Stage::Serving(serving) = stage else { return };
        let Serving { client, peer, phase, own, mut held, .. } = *serving;
        if let Some(own) = own {
            self.drop_leg(own.1.id);
        }
        let Phase::Calls(mut call) = phase else { return };
        call.made.reason = Reason::Served;
        self.tell_of(&whose!(id, connection, &peer), &mut call, None, now);
        // The head that says so is the first that the client gets.
        let mut behind = call.to_client.left().to_vec();
        let Some((made, having)) = call.into_having() else { return };
        let Having { mut exchange, leg, part, routed, tries, table, .. } = *having;
        behind.append(&mut exchange.take_held());
        let backend = exchange.backend;
        let (token, interest) = (id.token(part), backend.watched());
        let is_watched = self.reactor.rewatch(backend.socket(), token, interest).is_ok();
        self.drop_leg(leg);
        let mut relay = Relay::new(client, backend);
        if !held.is_empty() {
            relay = relay.preceded_by(std::mem::take(&mut held).into());
        }
        if !behind.is_empty() {
            relay = relay.followed_by(behind.into());
        }
        connection.location = made.location;
        self.connections.renew(id, ticks(now));
        self.connections.may_idle(id, super::idle_ticks(table.rules.idle_timeout));
        let setup = now.since(connection.accepted);
        connection.stage = Stage::Relaying(Relaying {
            relay,
            backend_part: u8::try_from(part).unwrap_or_default(),
            queued: false,
            slot: routed.slot,
            permit: routed.permit,
            counted: (0, 0),
            hold: None,
            tier: routed.tier,
            tries: u32::try_from(tries).unwrap_or(u32::MAX),
            setup,
        });
        if !is_watched {
            return self.end(id, connection, Reason::Internal, now);
        }
        self.turn(id, connection, now);
    }

    /// Refuses what is no request that could be told from others: the connection ends.
    fn refuse_request(&mut self, connection: &mut Connection, answer: Answer, now: Time) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        let takes = Takes::of_unread(&serving.held);
        serving.phase = Phase::Calls(self.refusal(connection.client, (answer, takes), now));
    }

    /// Looks at the time.
    pub(super) fn serving_time(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        if serving.looks <= now {
            serving.looks = FAR_OFF;
        }
        match &mut serving.phase {
            Phase::Calls(call) => {
                if let Some(Came::Gone(reason)) = self.call_time(call, now) {
                    return self.leave(id, connection, reason, now);
                }
            }
            Phase::Streams(streams) => {
                if let Some(reason) = self.streams_time(streams, &mut serving.until, now) {
                    return self.leave(id, connection, reason, now);
                }
            }
            _ if now < serving.until => {}
            Phase::Lingers => return self.leave(id, connection, Reason::BackendClosed, now),
            Phase::Awaits if serving.held.is_empty() => {
                return self.leave(id, connection, Reason::Idle, now);
            }
            Phase::Awaits => {
                let answer = Answer::new(408, "the head of the request took too long");
                self.refuse_request(&mut connection, answer, now);
            }
        }
        self.go_on(id, connection, now);
    }

    /// Puts it back, with what the reactor is to tell of it.
    pub(super) fn pause(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        let Serving { client, phase, until, .. } = &mut **serving;
        let mut fine = client.rewatch(true).is_none_or(|(socket, interest)| {
            self.reactor.rewatch(socket, id.token(CLIENT), interest).is_ok()
        });
        let mut until = *until;
        match phase {
            Phase::Calls(call) => {
                until = call.looks();
                fine &= call.rewatch(&self.reactor);
            }
            Phase::Streams(streams) => {
                until = streams.looks(until);
                fine &= streams.rewatch(&self.reactor);
            }
            Phase::Awaits | Phase::Lingers => {}
        }
        if !fine {
            return self.leave(id, connection, Reason::Internal, now);
        }
        if until < serving.looks {
            serving.looks = until;
            self.deadlines.push(Reverse((until, id)));
        }
        self.connections.put(id, connection);
    }

    /// Has an idle client go at some moment of a drain, and not all of them at once.
    pub(super) fn drain_serving(&mut self, id: Key, span: Duration, now: Time) {
        let Some(mut connection) = self.connections.take(id) else { return };
        if let Stage::Serving(serving) = &mut connection.stage
            && serving.is_idle()
        {
            let part = span * self.rng.u32(..1_000) / 1_000;
            serving.until = serving.until.min(now + part.max(JUST_NOW));
            serving.looks = serving.looks.min(serving.until);
            self.deadlines.push(Reverse((serving.until, id)));
        }
        self.connections.put(id, connection);
    }

    /// Ends what a backend has of a client's.
    pub(super) fn kill_serving(
        &mut self,
        id: Key,
        mut connection: Box<Connection>,
        backend: u64,
        now: Time,
    ) {
        if let Stage::Serving(serving) = &mut connection.stage
            && let Phase::Streams(streams) = &mut serving.phase
        {
            // Other backends have others.
            streams.break_off(backend, Reason::Killed);
            return self.go_on_streams(id, connection, now);
        }
        self.end(id, connection, Reason::Killed, now);
    }

    /// Ends a connection.
    pub(super) fn leave(
        &mut self,
        id: Key,
        mut connection: Box<Connection>,
        reason: Reason,
        now: Time,
    ) {
        let mut breaks_off = false;
        if let Stage::Serving(serving) = &mut connection.stage {
            let phase = std::mem::replace(&mut serving.phase, Phase::Awaits);
            if let Some(own) = serving.own.take() {
                self.drop_leg(own.1.id);
            }
            let calls = match phase {
                Phase::Calls(call) => vec![(0, call)],
                Phase::Streams(mut streams) => streams.take_calls(),
                Phase::Awaits | Phase::Lingers => Vec::new(),
            };
            for (stream, call) in calls {
                breaks_off |= call.having().is_some();
                let whose = Whose { stream, ..whose!(id, connection, &serving.peer) };
                self.give_up(&whose, call, reason, now);
            }
        }
        self.connections.free(id);
        let Connection { stage, admitted, .. } = *connection;
        if let Stage::Serving(serving) = stage {
            match reason {
                // An end would say of some answers that they are whole.
                _ if breaks_off => serving.client.reset(),
                Reason::ClientClosed | Reason::BackendClosed | Reason::Idle => drop(serving),
                _ => serving.client.reset(),
            }
        }
        self.ended.count(reason);
        drop(admitted);
    }
}
