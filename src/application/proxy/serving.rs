//! Clients that make requests: http mode. One connection, one request after the other, each to a backend
//! of its own.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{CLIENT, Comer, Connection, Proxy, Snapshot, Stage, connect, dial_tools, ticks};
use crate::application::account::Reason;
use crate::application::admission::Admitted;
use crate::application::connect::{Connected, Dial, Progress};
use crate::application::http::{About, Answer, Asked, Exchange, Flow, Out, Turn, read, request_head};
use crate::application::relay::End;
use crate::application::route::{self, Client};
use crate::application::upstreams::{AppTable, Slot};
use crate::domain::affinity::Key as AffinityKey;
use crate::domain::balance::Tier;
use crate::domain::time::Time;
use crate::infrastructure::circuit_breaker::Permit;
use crate::infrastructure::http1::{Field, Found, Framing, MAX_HEADERS, Request, find};
use crate::infrastructure::reactor::Event;
use crate::infrastructure::slab::Key;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Longest wait for a whole head, from its first byte or from the connection's beginning.
const HEAD: Duration = Duration::from_secs(10);
/// Longest wait for the next request.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Longest wait for the answer of a backend that has all of a request.
const ANSWER: Duration = Duration::from_secs(60);
/// How long the last that a client has said is read out, so that it gets our last.
const LINGER: Duration = Duration::from_secs(2);

/// A client that makes requests.
pub(super) struct Serving {
    pub client: End,
    listener: u16,
    destination: Option<SocketAddr>,
    /// What has arrived and is not done with.
    held: Vec<u8>,
    looked: usize,
    to_client: Out,
    phase: Phase,
    /// When what is waited for must have come, and when that is looked at next.
    until: Time,
    looks: Time,
}

impl Serving {
    /// The number of the backend that has a request of this client's.
    pub fn backend(&self) -> Option<u64> {
        match &self.phase {
            Phase::Has(having) => Some(having.slot.upstream().number),
            _ => None,
        }
    }
}

enum Phase {
    /// For a head.
    Awaits,
    /// A backend is being dialled for a request.
    Dials(Box<Dialling>),
    /// A backend has it.
    Has(Box<Having>),
    /// The last has been said; what the client still says is read out.
    Lingers,
}

/// A request whose backend is yet to answer the dial.
struct Dialling {
    request: Made,
    asked: Asked,
    dial: Dial,
    leg: Key,
}

/// A request that a backend has.
struct Having {
    request: Made,
    exchange: Exchange,
    leg: Key,
    part: usize,
    slot: Slot,
    permit: Option<Permit>,
    tier: Tier,
    tries: usize,
}

/// What the log says of a request.
struct Made {
    method: Box<str>,
    path: Box<str>,
    host: Option<Box<str>>,
    table: Option<Arc<AppTable>>,
    key: Option<AffinityKey>,
    trace: [u8; 16],
    json: bool,
    to_head: bool,
    keeps: bool,
    began: Time,
    /// Whether it has been made once already.
    again: bool,
}

impl Proxy {
    /// Waits for the first request of a client that has been let in. One with a `key` is watched under it.
    pub(super) fn serve(
        &mut self,
        comer: Comer,
        end: End,
        key: Option<Key>,
        admitted: Admitted,
        snapshot: &Snapshot,
        now: Time,
    ) {
        let location = snapshot.geo.locate(comer.client.ip());
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
        let serving = Box::new(Serving {
            client: end,
            listener,
            destination,
            held,
            looked: 0,
            to_client: Out::default(),
            phase: Phase::Awaits,
            until: now + HEAD,
            looks: now + HEAD,
        });
        self.deadlines.push(Reverse((now + HEAD, id)));
        let nobody: AffinityKey = (client.ip().into(), 0);
        let stage = Stage::Serving(serving);
        let connection =
            Box::new(Connection { client, name, admitted, location, key: nobody, accepted, stage });
        self.go_on(id, connection, now);
    }

    /// Takes up an event of a client's, or of its backend's under the key `leg`.
    pub(super) fn serving_event(
        &mut self,
        id: Key,
        mut connection: Box<Connection>,
        (leg, part): (Option<Key>, usize),
        event: Event,
        now: Time,
    ) {
        let Stage::Serving(serving) = &mut connection.stage else {
            return self.connections.put(id, connection);
        };
        match (leg, &mut serving.phase) {
            (None, phase) => {
                serving.client.note(event);
                if event.failed() && !matches!(phase, Phase::Has(_)) {
                    return self.leave(id, connection, Reason::ClientReset, now);
                }
            }
            (Some(leg), Phase::Dials(dialling)) if dialling.leg == leg => {
                let progress =
                    dialling.dial.event(part - 1, event, now, &mut dial_tools!(self, leg));
                return self.dialled_for(id, connection, progress, now);
            }
            (Some(leg), Phase::Has(having)) if having.leg == leg && having.part == part => {
                having.exchange.backend.note(event);
            }
            // Told of what has ended while the event was on its way.
            (Some(_), _) => {}
        }
        self.go_on(id, connection, now);
    }

    /// The same for the connection to a backend that is known by `leg`.
    pub(super) fn leg_event(&mut self, id: Key, (leg, part): (Key, usize), event: Event, now: Time) {
        match self.connections.take(id) {
            Some(connection) => {
                self.connections.touch(id, ticks(now));
                self.serving_event(id, connection, (Some(leg), part), event, now);
            }
            None => self.drop_leg(leg),
        }
    }

    /// Goes on as far as it goes without waiting.
    fn go_on(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        loop {
            let Stage::Serving(serving) = &mut connection.stage else { return };
            let Serving { client, held, looked, to_client, phase, .. } = &mut **serving;
            match phase {
                Phase::Awaits => match to_client.flush(client, &mut self.tools) {
                    Err(_) => return self.leave(id, connection, Reason::ClientReset, now),
                    Ok(false) => break,
                    Ok(true) => match find(held, *looked) {
                        Found::Bad(bad) => {
                            let answer = Answer::new(bad.status, bad.why);
                            self.refuse_request(&mut connection, answer, now);
                        }
                        Found::More(_) if held.len() > MAX_HEAD => {
                            let answer = Answer::new(431, "the head is longer than 64 KiB");
                            self.refuse_request(&mut connection, answer, now);
                        }
                        Found::Whole(length) => {
                            let head: Vec<u8> = held.drain(..length).collect();
                            *looked = 0;
                            if let Some(progress) = self.request(id, &mut connection, &head, now) {
                                return self.dialled_for(id, connection, progress, now);
                            }
                        }
                        Found::More(at) => {
                            *looked = at;
                            let was_empty = held.is_empty();
                            if !client.is_readable() {
                                break;
                            }
                            match read(client, held, &mut self.tools) {
                                Ok(None) => break,
                                Ok(Some(false)) => {}
                                Ok(Some(true)) => {
                                    return self.leave(id, connection, Reason::ClientClosed, now);
                                }
                                Err(_) => {
                                    return self.leave(id, connection, Reason::ClientReset, now);
                                }
                            }
                            if was_empty {
                                serving.until = now + HEAD;
                            }
                        }
                    },
                },
                Phase::Dials(_) => break,
                Phase::Has(having) => {
                    let turn = having.exchange.turn(client, held, to_client, &mut self.tools);
                    if having.permit.is_some() && having.exchange.status.is_some() {
                        report(having, now);
                    }
                    match turn {
                        Turn::Waits => break,
                        Turn::ClientGone => {
                            return self.leave(id, connection, Reason::ClientReset, now);
                        }
                        Turn::BrokeOff => {
                            return self.leave(id, connection, Reason::BackendReset, now);
                        }
                        Turn::Over { client, backend } => {
                            self.over_with(&mut connection, client, backend, now);
                        }
                        Turn::Upgraded => return self.upgrade(id, connection, now),
                        Turn::Unanswered | Turn::Nonsense(_) => {
                            self.has_failed(&mut connection, turn, now);
                        }
                        Turn::BadBody(why) => {
                            self.has_failed(&mut connection, Turn::BadBody(why), now);
                        }
                    }
                }
                Phase::Lingers => match to_client.flush(client, &mut self.tools) {
                    Err(_) => return self.leave(id, connection, Reason::ClientReset, now),
                    Ok(false) => break,
                    Ok(true) => {
                        let _ = client.say_end(&mut self.tools.sealed);
                        client.shut_down();
                        held.clear();
                        if !client.is_readable() {
                            break;
                        }
                        match read(client, held, &mut self.tools) {
                            Ok(None) => break,
                            Ok(Some(false)) => {}
                            Ok(Some(true)) | Err(_) => {
                                return self.leave(id, connection, Reason::ClientClosed, now);
                            }
                        }
                    }
                },
            }
        }
        self.rest(id, connection, now);
    }
}

impl Proxy {
    /// Takes up a request: begins to dial a backend for it, or refuses it.
    fn request(
        &mut self,
        id: Key,
        connection: &mut Connection,
        head: &[u8],
        now: Time,
    ) -> Option<Progress> {
        let snapshot = self.shared.snapshot.load_full();
        let Stage::Serving(serving) = &mut connection.stage else { return None };
        let mut fields: [Field<'_>; MAX_HEADERS] = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let request = match Request::read(head, &mut fields) {
            Ok(request) => request,
            Err(bad) => {
                self.refuse_request(connection, Answer::new(bad.status, bad.why), now);
                return None;
            }
        };
        let trace = trace_of(&request, &mut self.rng);
        let mut made = Made::of(&request, trace, now);
        let ip = connection.client.ip();
        if let Some(wait) = snapshot.admission.limits(ip, now) {
            self.ended.refused(Reason::RateLimited, ip.into());
            let mut answer = Answer::new(429, "too many requests");
            answer.retry_after = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
            self.answer(connection, made, answer, Reason::RateLimited, now);
            return None;
        }
        let name = request.authority.map(without_port);
        let table = match snapshot.app_of(name.as_deref(), serving.listener) {
            Some(Some(table)) => table,
            Some(None) => {
                let answer = Answer::new(503, "no app is served here");
                self.answer(connection, made, answer, Reason::NoBackend, now);
                return None;
            }
            None => {
                let answer = Answer::new(421, "no app has this host");
                self.answer(connection, made, answer, Reason::NoBackend, now);
                return None;
            }
        };
        let about = About { client: ip, secured: serving.client.tls().is_some(), trace, keeps: false };
        let mut bytes = Vec::with_capacity(head.len() + 256);
        request_head(&request, &about, &mut bytes);
        let asked = Asked {
            head: bytes,
            up: Flow::new(request.framing, request.framing),
            to_head: made.to_head,
            repeatable: request.is_idempotent() && request.framing == Framing::None,
            keeps: request.keeps_alive,
            is_11: request.is_11,
            upgrades: request.upgrade.is_some(),
        };
        let table = Arc::clone(table);
        made.key = Some((ip.into(), table.number));
        made.table = Some(table);
        self.dial_for(id, connection, made, asked, &snapshot, now)
    }

    /// Chooses a backend for a request, and begins to dial it.
    fn dial_for(
        &mut self,
        id: Key,
        connection: &mut Connection,
        mut made: Made,
        asked: Asked,
        snapshot: &Snapshot,
        now: Time,
    ) -> Option<Progress> {
        let table = made.table.clone()?;
        let key = made.key?;
        let location = connection.location;
        let origin = table.layout.origin(location.country, location.at_pop);
        let keeper = snapshot.keeper(self.number);
        let client_of = Client { key, origin, keeper };
        let mut draw = |below| self.rng.u64(..below);
        let routed = route::first(&table, client_of, &self.shared.affinity, now, &mut draw);
        let mut routed = match routed {
            Ok(routed) => routed,
            Err(reason) => {
                let why = match reason {
                    Reason::AtHardLimit => "every backend is at its limit",
                    _ => "no backend takes this request",
                };
                self.answer(connection, made, Answer::new(503, why), reason, now);
                return None;
            }
        };
        let leg = routed.kept.as_ref().map(|kept| kept.id);
        let Some(leg) = leg.or_else(|| self.connections.reserve(ticks(now))) else {
            let answer = Answer::new(503, "too many connections");
            self.answer(connection, made, answer, Reason::Internal, now);
            return None;
        };
        connection.key = key;
        self.connections.may_idle(id, super::idle_ticks(table.rules.idle_timeout));
        let (upstream, hard_limit) =
            (Arc::clone(routed.slot.upstream()), table.hard_limit(routed.member));
        let kept = routed.kept.take().map(|kept| (kept.socket, self.adopt(leg, now)));
        let found_warm = kept.is_some();
        let mut dial = Dial::new(table, origin, snapshot.dial);
        let Stage::Serving(serving) = &mut connection.stage else { return None };
        if dial.is_secured() {
            let comer = Comer {
                client: connection.client,
                destination: serving.destination,
                listener: serving.listener,
                accepted: connection.accepted,
                name: connection.name.clone(),
            };
            dial.greet_with(super::relaying::greeting(&dial, &comer, &serving.client));
        }
        self.legs.insert(leg, id);
        let progress = match kept {
            Some((socket, event)) => {
                dial.begin_warm(routed, socket, event, now, &mut dial_tools!(self, leg))
            }
            None => dial.begin(routed, now, &mut dial_tools!(self, leg)),
        };
        made.began = made.began.min(now);
        serving.phase = Phase::Dials(Box::new(Dialling { request: made, asked, dial, leg }));
        if let Some(keeper) = snapshot.keeper(self.number) {
            self.warm_up(&upstream, hard_limit, keeper, found_warm, now);
        }
        Some(progress)
    }

    /// What became of the dial for a request.
    pub(super) fn dialled_for(
        &mut self,
        id: Key,
        mut connection: Box<Connection>,
        progress: Progress,
        now: Time,
    ) {
        match progress {
            Progress::Waits(at) => {
                self.deadlines.push(Reverse((at, id)));
                self.rest(id, connection, now);
            }
            Progress::Connected(connected) => {
                self.hand_over(&mut connection, connected, now);
                self.go_on(id, connection, now);
            }
            Progress::Failed(reason) => {
                let Stage::Serving(serving) = &mut connection.stage else { return };
                let phase = std::mem::replace(&mut serving.phase, Phase::Awaits);
                if let Phase::Dials(dialling) = phase {
                    let Dialling { request, leg, .. } = *dialling;
                    self.drop_leg(leg);
                    let answer = match reason {
                        Reason::ConnectFailed => Answer::new(502, "no backend answers"),
                        _ => Answer::new(503, "no backend can be asked now"),
                    };
                    self.answer(&mut connection, request, answer, reason, now);
                }
                self.go_on(id, connection, now);
            }
        }
    }

    /// Gives a request to the backend that has answered the dial.
    fn hand_over(&mut self, connection: &mut Connection, connected: Connected, now: Time) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        let Phase::Dials(dialling) = std::mem::replace(&mut serving.phase, Phase::Awaits) else {
            return;
        };
        let Dialling { request, mut asked, dial, leg } = *dialling;
        let Connected { end, attempt, tries, routed } = connected;
        let upstream = routed.slot.upstream();
        upstream.meter.cell(self.share).connected();
        let meters = &self.shared.meters;
        meters.set_up(self.share, now.since(request.began));
        dial.route_count(&routed, &mut self.routes, meters).count(self.share);
        if let Some(version) = dial.header() {
            let name = connection.name.as_deref();
            let header = super::relaying::header(
                version,
                connection.client,
                serving.destination,
                name,
                &serving.client,
            );
            asked.head.splice(..0, header.iter().copied());
        }
        if routed.binds {
            let ttl = dial.affinity_ttl();
            let hold = self.shared.affinity.bind(connection.key, upstream.number, ttl, now);
            self.shared.affinity.release(hold, ttl, now);
        }
        serving.until = now + ANSWER;
        serving.phase = Phase::Has(Box::new(Having {
            request,
            exchange: Exchange::new(asked, end, false),
            leg,
            part: attempt + 1,
            slot: routed.slot,
            permit: routed.permit,
            tier: routed.tier,
            tries,
        }));
    }

    /// An answer has been passed on.
    fn over_with(&mut self, connection: &mut Connection, client: bool, _backend: bool, now: Time) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        let after = if client { Phase::Awaits } else { Phase::Lingers };
        serving.until = now + if client { KEEP_ALIVE } else { LINGER };
        let Phase::Has(having) = std::mem::replace(&mut serving.phase, after) else { return };
        self.drop_leg(having.leg);
        let reason = Reason::BackendClosed;
        self.account_for(connection, &having.request, Some(&having), having.exchange.status, reason, now);
    }

    /// A backend has not answered as it must.
    fn has_failed(&mut self, connection: &mut Connection, turn: Turn, now: Time) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        let phase = std::mem::replace(&mut serving.phase, Phase::Awaits);
        let Phase::Has(mut having) = phase else { return };
        self.drop_leg(having.leg);
        let (answer, reason) = match turn {
            Turn::BadBody(why) => (Answer::new(400, why), Reason::ClientClosed),
            Turn::Nonsense(why) => {
                tracing::debug!(backend = %having.slot.upstream().id, "no answer: {why}");
                (Answer::new(502, "the backend's answer cannot be understood"), Reason::BackendReset)
            }
            Turn::Late => (Answer::new(504, "the backend takes too long"), Reason::BackendReset),
            _ => (Answer::new(502, "the backend has closed the connection"), Reason::BackendReset),
        };
        if reason == Reason::BackendReset {
            having.slot.upstream().meter.cell(self.share).reset();
            if let Some(permit) = having.permit.take() {
                having.slot.upstream().report(permit, false, now);
            }
        }
        // What the client has yet to say of it would be taken for the next.
        having.request.keeps &= having.exchange.asked.up.is_over();
        self.answer(connection, having.request, answer, reason, now);
    }

    /// From now on the connection carries bytes.
    fn upgrade(&mut self, id: Key, connection: Box<Connection>, now: Time) {
        // Both sides' bytes go on as in tcp mode.
        self.leave(id, connection, Reason::Internal, now);
    }

    /// Refuses what is no request that could be told from others: the connection ends.
    fn refuse_request(&mut self, connection: &mut Connection, answer: Answer, now: Time) {
        let mut trace = [0; 16];
        self.rng.fill(&mut trace);
        let made = Made::unknown(trace, now);
        self.answer(connection, made, answer, Reason::ClientClosed, now);
    }

    /// Answers a request in the place of a backend.
    fn answer(
        &mut self,
        connection: &mut Connection,
        made: Made,
        answer: Answer,
        reason: Reason,
        now: Time,
    ) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        // After what was not understood nothing is.
        let keeps = made.keeps && answer.status != 400;
        answer.write((made.trace, made.json, made.to_head, keeps), &mut serving.to_client.bytes);
        serving.phase = if keeps { Phase::Awaits } else { Phase::Lingers };
        serving.until = now + if keeps { KEEP_ALIVE } else { LINGER };
        self.account_for(connection, &made, None, Some(answer.status), reason, now);
    }

    fn account_for(
        &mut self,
        _connection: &Connection,
        _made: &Made,
        _having: Option<&Having>,
        _status: Option<u16>,
        _reason: Reason,
        _now: Time,
    ) {
    }

    fn drop_leg(&mut self, leg: Key) {
        self.legs.remove(&leg);
        self.connections.free(leg);
    }

    /// Looks at the time.
    pub(super) fn serving_time(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        if let Phase::Dials(dialling) = &mut serving.phase {
            let leg = dialling.leg;
            let progress = dialling.dial.time(now, &mut dial_tools!(self, leg));
            return self.dialled_for(id, connection, progress, now);
        }
        if serving.until > now {
            if serving.looks <= now {
                serving.looks = serving.until;
                self.deadlines.push(Reverse((serving.until, id)));
            }
            return self.connections.put(id, connection);
        }
        match &mut serving.phase {
            Phase::Awaits if serving.held.is_empty() => {
                return self.leave(id, connection, Reason::Idle, now);
            }
            Phase::Awaits => {
                let answer = Answer::new(408, "the head of the request took too long");
                self.refuse_request(&mut connection, answer, now);
            }
            Phase::Lingers => return self.leave(id, connection, Reason::ClientClosed, now),
            // It goes on: whether it does is looked at elsewhere.
            Phase::Has(having) if having.exchange.status.is_some() => serving.until = now + ANSWER,
            Phase::Has(_) => self.has_failed(&mut connection, Turn::Late, now),
            Phase::Dials(_) => {}
        }
        self.go_on(id, connection, now);
    }

    /// Puts it back, with what the reactor is to tell of it.
    fn rest(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        let Stage::Serving(serving) = &mut connection.stage else { return };
        let Serving { client, to_client, phase, .. } = &mut **serving;
        let (reads, leg) = match phase {
            Phase::Awaits => (to_client.is_empty(), None),
            Phase::Lingers => (true, None),
            Phase::Dials(_) => (false, None),
            Phase::Has(having) => {
                let reads = having.exchange.reads_client();
                let backend_reads = having.exchange.reads_backend(to_client);
                (reads, Some((having.leg, having.part, backend_reads, &mut having.exchange.backend)))
            }
        };
        let watch = client.rewatch(reads);
        let mut fine = watch.is_none_or(|(socket, interest)| {
            self.reactor.rewatch(socket, id.token(CLIENT), interest).is_ok()
        });
        if let Some((leg, part, reads, backend)) = leg
            && let Some((socket, interest)) = backend.rewatch(reads)
        {
            fine &= self.reactor.rewatch(socket, leg.token(part), interest).is_ok();
        }
        if !fine {
            return self.leave(id, connection, Reason::Internal, now);
        }
        if serving.until < serving.looks || serving.looks <= now {
            serving.looks = serving.until;
            self.deadlines.push(Reverse((serving.until, id)));
        }
        self.connections.put(id, connection);
    }

    /// Ends a connection.
    fn leave(&mut self, id: Key, mut connection: Box<Connection>, reason: Reason, now: Time) {
        if let Stage::Serving(serving) = &mut connection.stage {
            let phase = std::mem::replace(&mut serving.phase, Phase::Awaits);
            match phase {
                Phase::Dials(dialling) => {
                    self.drop_leg(dialling.leg);
                    self.account_for(&connection, &dialling.request, None, None, reason, now);
                }
                Phase::Has(having) => {
                    self.drop_leg(having.leg);
                    let status = having.exchange.status;
                    self.account_for(&connection, &having.request, Some(&having), status, reason, now);
                }
                Phase::Awaits | Phase::Lingers => {}
            }
        }
        self.connections.free(id);
        let Connection { stage, admitted, .. } = *connection;
        if let Stage::Serving(serving) = stage {
            match reason {
                Reason::ClientClosed | Reason::Idle => drop(serving),
                _ => serving.client.reset(),
            }
        }
        self.ended.count(reason);
        drop(admitted);
    }
}

fn report(having: &mut Having, now: Time) {
    let failed = having.exchange.status.is_some_and(|status| matches!(status, 502..=504));
    if let Some(permit) = having.permit.take() {
        having.slot.upstream().report(permit, !failed, now);
    }
}

impl Made {
    fn of(request: &Request<'_, '_>, trace: [u8; 16], now: Time) -> Self {
        let path = match request.target {
            crate::infrastructure::http1::Target::Origin(path) => path,
            crate::infrastructure::http1::Target::Asterisk => "*",
        };
        let accepts_json = request
            .fields
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case("accept"))
            .any(|field| field.value.windows(4).any(|word| word.eq_ignore_ascii_case(b"json")));
        Self {
            method: request.method.into(),
            path: path.into(),
            host: request.authority.map(Into::into),
            table: None,
            key: None,
            trace,
            json: accepts_json,
            to_head: request.method == "HEAD",
            keeps: request.keeps_alive && request.framing == Framing::None,
            began: now,
            again: false,
        }
    }

    fn unknown(trace: [u8; 16], now: Time) -> Self {
        Self {
            method: "-".into(),
            path: "-".into(),
            host: None,
            table: None,
            key: None,
            trace,
            json: false,
            to_head: false,
            keeps: false,
            began: now,
            again: false,
        }
    }
}

/// The trace that a request belongs to (W3C Trace Context), else a new one.
fn trace_of(request: &Request<'_, '_>, rng: &mut fastrand::Rng) -> [u8; 16] {
    let parent = request.fields.iter().find(|field| field.name.eq_ignore_ascii_case("traceparent"));
    let hex = parent.and_then(|field| str::from_utf8(field.value.get(3..35)?).ok());
    let given = hex.and_then(|hex| u128::from_str_radix(hex, 16).ok()).filter(|trace| *trace != 0);
    given.unwrap_or_else(|| rng.u128(1..)).to_be_bytes()
}

/// A host without its port, in lower case and without a dot at its end.
fn without_port(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}
