//! A request, from its head to the end of its answer, whoever asks and in whichever version of HTTP:
//! admission -> locate -> route -> connect -> relay -> account.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::reusing::Leg;
use super::{HttpTimes, Proxy, Snapshot, connect, dial_tools, relaying, ticks};
use crate::application::account::{Reason, Record, Requested};
use crate::application::connect::{Connected, Dial, Greeting, Progress};
use crate::application::http::{
    About, Answer, Asked, Asker, Exchange, Flow, Out, Said, Turn, request_head, request_line,
};
use crate::application::locate::Location;
use crate::application::relay::End;
use crate::application::route::{self, Client, Routed};
use crate::application::upstreams::{AppTable, Rested, Upstream};
use crate::domain::affinity::Key as AffinityKey;
use crate::domain::balance::Origin;
use crate::domain::cidr::CidrMap;
use crate::domain::time::Time;
use crate::infrastructure::http1::{Framing, Request, Version};
use crate::infrastructure::reactor::{Event, Reactor};
use crate::infrastructure::slab::Key;
use crate::infrastructure::tls::Policy;

/// How long a connection to a backend lives where the pool does not say.
const LIFETIME: Duration = Duration::from_secs(300);
/// How often a client that goes on making requests is bound anew to its backend.
const BOUND_ANEW: Duration = Duration::from_secs(1);
/// The longest name of a host.
const MAX_HOST: usize = 256;

/// Whose request it is.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    /// The connection, and which of its requests.
    pub id: Key,
    pub stream: u32,
    pub client: SocketAddr,
    pub location: Location,
    pub name: Option<&'a str>,
    pub peer: &'a Peer,
}

/// What is known of a client that makes requests.
#[derive(Debug)]
pub(super) struct Peer {
    pub listener: u16,
    /// Where it wanted to go, when a header said so.
    pub destination: Option<SocketAddr>,
    pub shown: Shown,
    /// What was asked of it in TLS.
    pub policy: Option<Arc<Policy>>,
    /// To which backend it was bound last, and until when that need not be done again.
    pub bound: Cell<Option<(Bound, Time)>>,
}

/// A client bound to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    key: AffinityKey,
    backend: u64,
}

/// What a client has shown of itself in TLS.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub version: Option<&'static str>,
    pub name: Option<String>,
}

/// A request on its way.
pub(super) struct Call {
    pub made: Made,
    pub to_client: Out,
    phase: Phase,
    /// Whether all of it has come from its client, as far as that is known.
    pub heard: bool,
    /// When what it waits for must have come, and when all of it must.
    pub until: Time,
    over_by: Option<Time>,
    /// Why it is to come to its end at its next turn.
    broken: Option<Reason>,
}

enum Phase {
    /// A backend is being dialled.
    Dials(Box<Dialling>),
    /// A backend has it.
    Has(Box<Having>),
    /// It is to be answered by us.
    Answers(Answer),
    /// It has been; that is yet to be sent.
    Answered,
}

struct Dialling {
    asked: Asked,
    dial: Dial,
    leg: Key,
    /// What a backend gets first that expects a PROXY protocol header.
    preamble: Option<Box<[u8]>>,
}

/// A request that a backend has.
pub(super) struct Having {
    pub exchange: Exchange,
    pub leg: Key,
    pub part: usize,
    pub routed: Routed,
    pub table: Arc<AppTable>,
    pub tries: usize,
    dies: Time,
    /// What it got first that expects a PROXY protocol header.
    preamble: Option<Box<[u8]>>,
    /// Bytes that were seen to move, and those that metrics know of.
    moved: u64,
    counted: (u64, u64),
}

/// What there is to tell of a request.
pub(super) struct Made {
    /// What a backend gets of it before its body, once that is known; the method, the path and the host
    /// in it are.
    head: Vec<u8>,
    path: Range<usize>,
    host: Range<usize>,
    pub version: Version,
    pub client: SocketAddr,
    pub location: Location,
    pub table: Option<Arc<AppTable>>,
    pub said: Said,
    pub began: Time,
    pub reason: Reason,
    /// Whether its client may ask again behind it: it has not said that it is the last.
    pub asks_on: bool,
    key: AffinityKey,
    /// Whether it has been made once more already.
    again: bool,
    /// Dials that were begun for it, the backend that was tried last, and bytes to and from backends.
    tries: usize,
    tried: Option<Arc<Upstream>>,
    moved: (u64, u64),
}

/// What became of a request.
pub(super) enum Came {
    /// Nothing to do until an event.
    Waits,
    /// There is more to do, after others had their turn.
    More,
    /// It has been answered. Whether the client may make another on this connection.
    Over { keeps: bool },
    /// It cannot be: its client is gone, or the answer broke off.
    Gone(Reason),
    /// The connection speaks another protocol from now on.
    Upgraded,
}

impl Call {
    /// One that is answered by us.
    pub fn answered(made: Made, answer: Answer, reason: Reason, until: Time) -> Self {
        let made = Made { reason, ..made };
        let (to_client, phase, over_by) = (Out::default(), Phase::Answers(answer), None);
        Self { made, to_client, phase, heard: false, until, over_by, broken: None }
    }

    /// The number of the backend that has it.
    pub fn backend(&self) -> Option<u64> {
        self.having().map(|having| having.routed.slot.upstream().number)
    }

    pub fn having(&self) -> Option<&Having> {
        if let Phase::Has(having) = &self.phase { Some(having) } else { None }
    }

    /// Gives up the backend.
    pub fn into_having(self) -> Option<(Made, Box<Having>)> {
        if let Phase::Has(having) = self.phase { Some((self.made, having)) } else { None }
    }

    /// Has it come to its end without an answer, or in the midst of one.
    pub fn break_off(&mut self, reason: Reason) {
        self.broken = Some(reason);
    }

    /// Has the reactor tell of the backend what is of use; whether it does.
    pub fn rewatch(&mut self, reactor: &Reactor) -> bool {
        let Phase::Has(having) = &mut self.phase else { return true };
        let Having { exchange, leg, part, .. } = &mut **having;
        let reads = exchange.reads_backend(&self.to_client);
        exchange.backend.rewatch(reads).is_none_or(|(socket, interest)| {
            reactor.rewatch(socket, leg.token(*part), interest).is_ok()
        })
    }

    /// Whether there is more of it to come from its client.
    pub fn waits_for_client(&self) -> bool {
        self.having().is_some_and(|having| having.exchange.waits_for_client())
    }

    /// When it is to be looked at.
    pub fn looks(&self) -> Time {
        self.over_by.map_or(self.until, |by| by.min(self.until))
    }
}

impl Proxy {
    /// What becomes of a request that could not be told from others.
    pub(super) fn refusal(&mut self, client: SocketAddr, answer: Answer, now: Time) -> Box<Call> {
        let made = Made::unknown(client, self.rng.u128(1..).to_be_bytes(), now);
        let reason = if answer.status == 408 { Reason::RequestTimeout } else { Reason::BadRequest };
        let until = now + self.times.body_timeout;
        Box::new(Call::answered(made, answer, reason, until))
    }

    /// Takes up a request. `own` is the connection to a backend that is kept for this client alone.
    pub(super) fn ask(
        &mut self,
        whose: &Whose<'_>,
        end: &End,
        request: &Request<'_, '_>,
        own: &mut Option<(u64, Rested)>,
        now: Time,
    ) -> Box<Call> {
        let snapshot = self.shared.snapshot.load_full();
        self.times = snapshot.http.times;
        let (rules, times) = (&snapshot.http, self.times);
        let given = request.field("traceparent").and_then(parent_of);
        let trace = given.unwrap_or_else(|| self.rng.u128(1..)).to_be_bytes();
        let trusted = !rules.trusted.is_empty() && rules.trusted.get(whose.client.ip()).is_some();
        let client = if trusted { forwarded_for(request, &rules.trusted) } else { None };
        let client = client.map_or(whose.client, |ip| SocketAddr::new(ip, 0));
        let mut made = Made::of(request, client, trace, self.tools.spare.take(), now);
        let keeps = request.keeps_alive && request.framing == Framing::None;
        let refused = |made: Made, answer: Answer, reason| {
            let said = Said { keeps: keeps && !matches!(answer.status, 400 | 405), ..made.said };
            let call =
                Call::answered(Made { said, ..made }, answer, reason, now + times.body_timeout);
            Box::new(Call { heard: request.framing == Framing::None, ..call })
        };
        if let Some(wait) = snapshot.admission.limits(client.ip(), now) {
            let answer = Answer::new(429, "too many requests");
            let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let answer = Answer { retry_after: Some(secs), ..answer };
            self.ended.refused(Reason::RateLimited, client.ip().into());
            return refused(made, answer, Reason::RateLimited);
        }
        if matches!(request.method, "CONNECT" | "TRACE") {
            let answer = Answer::new(405, "neither CONNECT nor TRACE is for this server");
            return refused(made, answer, Reason::BadRequest);
        }
        made.location = match client == whose.client {
            true => whose.location,
            false => snapshot.geo.locate(client.ip()),
        };
        let mut buffer = [0; MAX_HOST];
        let host = request.authority.and_then(|host| without_port(host, &mut buffer));
        // Who was let in under one name must not have another's that asks for more.
        let terminator =
            snapshot.listener(whose.peer.listener).and_then(|rules| rules.tls.as_ref());
        let is_same = whose
            .peer
            .policy
            .as_ref()
            .zip(terminator)
            .is_none_or(|(policy, terminator)| terminator.asks_the_same(host, policy));
        if !is_same {
            let answer = Answer::new(421, "this host asks for another certificate of its clients");
            return refused(made, answer, Reason::UnknownHost);
        }
        let table = match snapshot.app_of(host, whose.peer.listener) {
            Some(Some(table)) => Arc::clone(table),
            Some(None) => {
                let answer = Answer::new(503, "no backend serves this");
                return refused(made, answer, Reason::NoBackend);
            }
            None => {
                let answer = Answer::new(421, "no app has this host");
                return refused(made, answer, Reason::UnknownHost);
            }
        };
        let origin = table.layout.origin(made.location.country, made.location.at_pop);
        made.key = (client.ip().into(), table.number);
        made.table = Some(Arc::clone(&table));
        let client_of = Client { key: made.key, origin, keeper: None };
        let mut draw = |below| self.rng.u64(..below);
        let routed = match route::first(&table, client_of, &self.shared.affinity, now, &mut draw) {
            Ok(routed) => routed,
            Err(reason) => {
                let why = match reason {
                    Reason::AtHardLimit => "every backend is at its limit",
                    _ => "no backend takes requests now",
                };
                let answer = Answer { retry_after: Some(1), ..Answer::new(503, why) };
                return refused(made, answer, reason);
            }
        };
        let named = || relaying::went_to(whose.peer.destination, end);
        let about = About {
            named: request.authority.map_or_else(named, |_| None),
            peer: whose.client.ip(),
            secured: end.tls().is_some(),
            trusted,
            trace: (trace, given.is_some()),
            parent: self.rng.u64(1..),
            version: request.version,
        };
        request_head(request, &about, &mut made.head);
        let arrives = match request.framing {
            // The frames say where it ends.
            Framing::Chunked if request.version == Version::Http2 => Framing::UntilClose,
            framing => framing,
        };
        let asked = Asked {
            up: Flow::new(arrives, request.framing),
            to_head: made.said.to_head,
            repeatable: request.framing == Framing::None && request.is_idempotent(),
            keeps: request.keeps_alive,
            is_11: request.version >= Version::Http11,
            upgrades: request.upgrade.is_some(),
        };
        let preamble = table.rules.header.map(|version| {
            relaying::header(version, client, whose.peer.destination, whose.name, end)
        });
        let over_by = (!times.request_timeout.is_zero()).then(|| now + times.request_timeout);
        let until = now + first_wait(&asked, times);
        // It has been said for whom it is.
        let may_be_its = preamble.is_none() || client == whose.client;
        let rested = self.take_rested(&routed, own, may_be_its, &snapshot, now);
        if let Some(Rested { id: leg, part, end, dies }) = rested {
            self.legs.insert(leg, Leg::Call { client: whose.id, stream: whose.stream });
            let mut head = self.tools.spare.take();
            head.extend_from_slice(&made.head);
            let exchange = Exchange::new(asked, end, true, head);
            let (tries, moved, counted) = (1, 0, (0, 0));
            self.bind(Some(whose.peer), &routed, &made, &table, now);
            let having = Having {
                exchange,
                leg,
                part,
                routed,
                table,
                tries,
                dies,
                preamble,
                moved,
                counted,
            };
            let phase = Phase::Has(Box::new(having));
            let to_client = Out::default();
            return Box::new(Call {
                made,
                to_client,
                phase,
                heard: false,
                until,
                over_by,
                broken: None,
            });
        }
        let (to_client, phase) = (Out::default(), Phase::Answered);
        let mut call =
            Box::new(Call { made, to_client, phase, heard: false, until, over_by, broken: None });
        self.dial_for(whose, &mut call, (asked, preamble), (table, origin, routed), &snapshot, now);
        call
    }

    /// Dials a backend for a request.
    fn dial_for(
        &mut self,
        whose: &Whose<'_>,
        call: &mut Call,
        (asked, preamble): (Asked, Option<Box<[u8]>>),
        (table, origin, routed): (Arc<AppTable>, Origin, Routed),
        snapshot: &Snapshot,
        now: Time,
    ) {
        let Some(leg) = self.connections.reserve(ticks(now)) else {
            let answer = (Answer::new(503, "there is no room"), Reason::Internal);
            return self.answer(call, answer, false, now);
        };
        self.legs.insert(leg, Leg::Call { client: whose.id, stream: whose.stream });
        let mut dial = Dial::new(table, origin, snapshot.dial);
        if dial.is_secured() {
            let alpn = Some((*b"http/1.1").into());
            dial.greet_with(Greeting { preamble: preamble.clone(), alpn });
        }
        let progress = dial.begin(routed, now, &mut dial_tools!(self, leg));
        call.phase = Phase::Dials(Box::new(Dialling { asked, dial, leg, preamble }));
        self.progressed(call, progress, now);
    }

    /// Takes up an event of a backend's.
    pub(super) fn call_event(
        &mut self,
        call: &mut Call,
        (leg, part): (Key, usize),
        event: Event,
        now: Time,
    ) {
        match &mut call.phase {
            Phase::Dials(dialling) if dialling.leg == leg => {
                let progress =
                    dialling.dial.event(part - 1, event, now, &mut dial_tools!(self, leg));
                self.progressed(call, progress, now);
            }
            Phase::Has(having) if having.leg == leg && having.part == part => {
                having.exchange.backend.note(event);
            }
            // Told of what has ended while the event was on its way.
            _ => {}
        }
    }

    /// Takes up what became of a dial.
    fn progressed(&mut self, call: &mut Call, progress: Progress, now: Time) {
        match progress {
            Progress::Waits(at) => {
                call.until = at;
            }
            Progress::Connected(connected) => self.hand_over(call, connected, now),
            Progress::Failed(reason) => {
                let phase = std::mem::replace(&mut call.phase, Phase::Answered);
                let Phase::Dials(dialling) = phase else { return };
                self.drop_leg(dialling.leg);
                call.made.tries += dialling.dial.tries();
                call.made.tried = dialling.dial.last().cloned();
                let answer = match reason {
                    Reason::ConnectFailed | Reason::TlsFailed => {
                        Answer::new(502, "no backend answers")
                    }
                    _ => Answer::new(503, "no backend can be asked now"),
                };
                let reason =
                    if reason == Reason::TlsFailed { Reason::ConnectFailed } else { reason };
                let keeps = dialling.asked.keeps && dialling.asked.up.is_over();
                self.answer(call, (answer, reason), keeps, now);
            }
        }
    }

    /// Has a call answered by us, which no backend has any more.
    fn answer(&self, call: &mut Call, (answer, reason): (Answer, Reason), keeps: bool, now: Time) {
        call.made.said.keeps = keeps && answer.status != 400;
        call.made.reason = reason;
        call.until = now + self.times.body_timeout;
        call.phase = Phase::Answers(answer);
    }

    /// Gives a request to the backend that has answered the dial.
    fn hand_over(&mut self, call: &mut Call, connected: Connected, now: Time) {
        let Phase::Dials(dialling) = std::mem::replace(&mut call.phase, Phase::Answered) else {
            return;
        };
        let Dialling { asked, dial, leg, preamble } = *dialling;
        let Connected { end, attempt, tries, routed } = connected;
        let upstream = routed.slot.upstream();
        upstream.meter.cell(self.share).connected();
        let meters = &self.shared.meters;
        meters.set_up(self.share, now.since(call.made.began));
        dial.route_count(&routed, &mut self.routes, meters).count(self.share);
        let Some(table) = call.made.table.clone() else { return };
        self.bind(None, &routed, &call.made, &table, now);
        let snapshot = self.shared.snapshot.load();
        let lifetime = snapshot.warm.map_or(LIFETIME, |rules| rules.max_lifetime);
        // Up to a fifth less, so that those made together do not end together.
        let lifetime = lifetime - lifetime / 5 * self.rng.u32(..1_000) / 1_000;
        // Where connections are secured it has been said before.
        let said = preamble.as_deref().filter(|_| !dial.is_secured());
        call.until = now + first_wait(&asked, self.times);
        let mut head = self.tools.spare.take();
        head.extend_from_slice(said.unwrap_or_default());
        head.extend_from_slice(&call.made.head);
        let exchange = Exchange::new(asked, end, false, head);
        let (part, dies, moved, counted) = (attempt + 1, now + lifetime, 0, (0, 0));
        let having =
            Having { exchange, leg, part, routed, table, tries, dies, preamble, moved, counted };
        call.phase = Phase::Has(Box::new(having));
    }

    /// Binds a client to its backend, unless that has just been done.
    fn bind(&self, peer: Option<&Peer>, routed: &Routed, made: &Made, table: &AppTable, now: Time) {
        let (ttl, backend) = (table.rules.affinity_ttl, routed.slot.upstream().number);
        let bound = Bound { key: made.key, backend };
        let is_done = |(known, until): (Bound, Time)| known == bound && now < until;
        if !routed.binds || peer.and_then(|peer| peer.bound.get()).is_some_and(is_done) {
            return;
        }
        let affinity = &self.shared.affinity;
        let hold = affinity.bind(made.key, backend, ttl, now);
        affinity.release(hold, ttl, now);
        if let Some(peer) = peer {
            peer.bound.set(Some((bound, now + ttl.min(BOUND_ANEW * 4) / 4)));
        }
    }

    /// Goes on with a request as far as that goes without waiting.
    pub(super) fn turn_call(
        &mut self,
        whose: &Whose<'_>,
        call: &mut Call,
        asker: &mut impl Asker,
        held: &mut Vec<u8>,
        own: &mut Option<(u64, Rested)>,
        now: Time,
    ) -> Came {
        if let Some(reason) = call.broken {
            return Came::Gone(reason);
        }
        loop {
            match &mut call.phase {
                Phase::Dials(_) => return Came::Waits,
                Phase::Answers(answer) => {
                    call.made.said.keeps &= self.forcing.is_none();
                    if asker.answer(answer, &call.made.said, &mut call.to_client).is_err() {
                        return Came::Gone(Reason::ClientReset);
                    }
                    let status = answer.status;
                    self.tell_of(whose, call, Some(status), now);
                    call.phase = Phase::Answered;
                }
                Phase::Answered => {
                    let keeps = call.made.said.keeps;
                    return match asker.send(&mut call.to_client, (true, !keeps), &mut self.tools) {
                        Ok(false) => Came::Waits,
                        Ok(true) if asker.end(&[]).is_ok() => Came::Over { keeps },
                        _ => Came::Gone(Reason::ClientReset),
                    };
                }
                Phase::Has(having) => {
                    let exchange = &mut having.exchange;
                    if self.forcing.is_some() && exchange.status.is_none() {
                        exchange.asked.keeps = false;
                    }
                    let turn = exchange.turn(asker, held, &mut call.to_client, &mut self.tools);
                    let moved = exchange.sent + exchange.received;
                    if moved != having.moved {
                        having.moved = moved;
                        let rules = self.times;
                        let waits_for_head =
                            exchange.status.is_none() && !exchange.waits_for_client();
                        call.until = now
                            + if waits_for_head {
                                rules.response_timeout
                            } else {
                                rules.body_timeout
                            };
                    }
                    if let Some(status) = exchange.status
                        && let Some(permit) = having.routed.permit.take()
                    {
                        let failed = matches!(status, 502..=504);
                        having.routed.slot.upstream().report(permit, !failed, now);
                    }
                    match turn {
                        Turn::Waits => return Came::Waits,
                        Turn::More => return Came::More,
                        Turn::Upgraded => return Came::Upgraded,
                        Turn::ClientGone => return Came::Gone(Reason::ClientReset),
                        // Another answer in the midst of the one that has begun would be a part of it.
                        Turn::BadBody(..) if exchange.status.is_some() => {
                            return Came::Gone(Reason::BadRequest);
                        }
                        Turn::BrokeOff => return Came::Gone(Reason::BackendReset),
                        Turn::Over { client, backend } => {
                            self.answered(whose, call, backend, own, now);
                            return Came::Over { keeps: client };
                        }
                        Turn::Unanswered | Turn::Nonsense(_) | Turn::BadBody(..) => {
                            self.call_failed(whose, call, &turn, now);
                        }
                    }
                }
            }
        }
    }

    /// An answer has been passed on.
    fn answered(
        &mut self,
        whose: &Whose<'_>,
        call: &mut Call,
        backend_keeps: bool,
        own: &mut Option<(u64, Rested)>,
        now: Time,
    ) {
        call.made.reason = Reason::Served;
        self.tell_of(whose, call, None, now);
        let phase = std::mem::replace(&mut call.phase, Phase::Answered);
        let Phase::Has(having) = phase else { return };
        let Having { exchange, leg, part, routed, dies, table, .. } = *having;
        call.heard = exchange.asked.up.is_over();
        let end = exchange.into_backend(&mut self.tools.spare);
        self.tools.spare.give(std::mem::take(&mut call.made.head));
        let rested = Rested { id: leg, part, end, dies };
        if !backend_keeps {
            self.drop_leg(leg);
        } else if table.rules.header.is_some() && whose.client != call.made.client {
            // It has been said for whom it is, and the next may be another's.
            self.drop_leg(leg);
        } else {
            let upstream = routed.slot.upstream();
            self.rest(whose.id, rested, upstream, table.rules.header.is_none(), own, now);
        }
    }

    /// A backend has not answered as it must: it is asked again on another connection where that can do
    /// no harm, else the client is told.
    fn call_failed(&mut self, whose: &Whose<'_>, call: &mut Call, turn: &Turn, now: Time) {
        let phase = std::mem::replace(&mut call.phase, Phase::Answered);
        let Phase::Has(mut having) = phase else { return };
        self.drop_leg(having.leg);
        self.count(&mut having);
        let Having { exchange, mut routed, table, preamble, tries, .. } = *having;
        let keeps = exchange.asked.keeps && exchange.asked.up.is_over();
        call.heard = exchange.asked.up.is_over();
        call.made.tries += tries;
        call.made.tried = Some(Arc::clone(routed.slot.upstream()));
        call.made.moved = (call.made.moved.0 + exchange.sent, call.made.moved.1);
        let was_used = exchange.was_used();
        if *turn == Turn::Unanswered
            && !std::mem::replace(&mut call.made.again, true)
            && let Some(asked) = exchange.take_again()
        {
            let snapshot = self.shared.snapshot.load_full();
            let origin = table.layout.origin(call.made.location.country, call.made.location.at_pop);
            routed.binds = false;
            return self.dial_for(
                whose,
                call,
                (asked, preamble),
                (table, origin, routed),
                &snapshot,
                now,
            );
        }
        let (answer, reason) = match turn {
            Turn::BadBody(status, why) => (Answer::new(*status, why), Reason::BadRequest),
            Turn::Nonsense(why) => {
                tracing::debug!(backend = %routed.slot.upstream().id, "no answer: {why}");
                let why = "the backend's answer cannot be understood";
                (Answer::new(502, why), Reason::BackendReset)
            }
            _ => (Answer::new(502, "the backend closed the connection"), Reason::BackendReset),
        };
        // One that was kept too long says nothing of the backend.
        if reason == Reason::BackendReset && !was_used {
            self.blame(&mut routed, now);
        }
        self.answer(call, (answer, reason), keeps, now);
    }

    /// Looks at the time. Whether anything has come of it.
    pub(super) fn call_time(&mut self, call: &mut Call, now: Time) -> Option<Came> {
        let is_over = call.over_by.is_some_and(|by| by <= now);
        match &mut call.phase {
            Phase::Dials(dialling) if !is_over => {
                let leg = dialling.leg;
                let progress = dialling.dial.time(now, &mut dial_tools!(self, leg));
                self.progressed(call, progress, now);
                return None;
            }
            _ if !is_over && now < call.until => return None,
            Phase::Answers(_) | Phase::Answered => return Some(Came::Gone(Reason::Idle)),
            Phase::Has(having) if having.exchange.status.is_some() => {
                // Who does not go on? What has not been taken is the client's doing.
                let is_clients = !call.to_client.is_empty();
                let reason = if is_clients { Reason::Idle } else { Reason::ResponseTimeout };
                return Some(Came::Gone(reason));
            }
            Phase::Has(_) | Phase::Dials(_) => {}
        }
        let is_clients = call.waits_for_client() && !is_over;
        let keeps = false;
        let verdict = if is_clients {
            (Answer::new(408, "the body of the request took too long"), Reason::RequestTimeout)
        } else {
            (Answer::new(504, "the backend takes too long"), Reason::ResponseTimeout)
        };
        match std::mem::replace(&mut call.phase, Phase::Answered) {
            Phase::Has(mut having) => {
                self.drop_leg(having.leg);
                self.count(&mut having);
                call.made.tries += having.tries;
                call.made.tried = Some(Arc::clone(having.routed.slot.upstream()));
                call.made.moved.0 += having.exchange.sent;
                call.heard = having.exchange.asked.up.is_over();
                if !is_clients {
                    self.blame(&mut having.routed, now);
                }
            }
            Phase::Dials(dialling) => self.drop_leg(dialling.leg),
            Phase::Answers(_) | Phase::Answered => {}
        }
        self.answer(call, verdict, keeps, now);
        None
    }

    /// Ends a request whose answer nobody will have.
    pub(super) fn give_up(
        &mut self,
        whose: &Whose<'_>,
        mut call: Box<Call>,
        reason: Reason,
        now: Time,
    ) {
        let leg = match &call.phase {
            Phase::Dials(dialling) => Some(dialling.leg),
            Phase::Has(having) => Some(having.leg),
            Phase::Answers(_) | Phase::Answered => None,
        };
        let Some(leg) = leg else { return };
        self.drop_leg(leg);
        call.made.reason = reason;
        let status = call.having().and_then(|having| having.exchange.status);
        if let Phase::Has(having) = &mut call.phase
            && matches!(reason, Reason::BackendReset | Reason::ResponseTimeout)
        {
            self.blame(&mut having.routed, now);
        }
        self.tell_of(whose, &mut call, status, now);
    }

    /// A backend has not done what it should have.
    fn blame(&self, routed: &mut Routed, now: Time) {
        let upstream = routed.slot.upstream();
        upstream.meter.cell(self.share).reset();
        if let Some(permit) = routed.permit.take() {
            upstream.report(permit, false, now);
        }
    }

    /// Lets metrics know of what has moved since the last time.
    pub(super) fn count(&self, having: &mut Having) {
        let moved = (having.exchange.sent, having.exchange.received);
        let known = std::mem::replace(&mut having.counted, moved);
        let cell = having.routed.slot.upstream().meter.cell(self.share);
        self.shared.meters.moved(self.share, cell, moved.0 - known.0, moved.1 - known.1);
    }

    /// Counts and logs a request.
    pub(super) fn tell_of(
        &mut self,
        whose: &Whose<'_>,
        call: &mut Call,
        own: Option<u16>,
        now: Time,
    ) {
        let mut record = Record::new(call.made.client, call.made.reason);
        if let Phase::Has(having) = &mut call.phase {
            self.count(having);
            record.backend = Some(Arc::clone(having.routed.slot.upstream()));
            record.tier = Some(having.routed.tier);
            call.made.tries += having.tries;
            call.made.moved.0 += having.exchange.sent;
            call.made.moved.1 += having.exchange.received;
        } else {
            record.backend = call.made.tried.take();
        }
        let made = &call.made;
        let status = own.or_else(|| call.having().and_then(|having| having.exchange.status));
        record.country = made.location.country;
        record.server_name = whose.name.map(Into::into);
        record.tls = whose.peer.shown.version;
        record.client_name.clone_from(&whose.peer.shown.name);
        record.tries = u32::try_from(made.tries).unwrap_or(u32::MAX);
        (record.sent, record.received) = made.moved;
        record.total = now.since(made.began);
        record.request = Some(Requested {
            method: made.text(0..made.path.start.saturating_sub(1)).unwrap_or("-"),
            path: made.text(made.path.clone()).unwrap_or("-"),
            host: made.text(made.host.clone()),
            version: made.version.as_str(),
            status,
            id: made.said.trace,
        });
        if made.reason != Reason::Served {
            self.ended.count_request(made.reason);
        }
        self.shared.meters.answered(self.share, status, record.total);
        self.line(made.table.as_deref(), made.location, &record, now);
    }
}

impl Made {
    fn of(
        request: &Request<'_, '_>,
        client: SocketAddr,
        trace: [u8; 16],
        mut head: Vec<u8>,
        now: Time,
    ) -> Self {
        let (path, host) = request_line(request, &mut head);
        let mut accepts =
            request.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("accept"));
        let is_json = |word: &[u8]| word.eq_ignore_ascii_case(b"json");
        let said = Said {
            trace,
            json: accepts.any(|field| field.value.windows(4).any(is_json)),
            to_head: request.method == "HEAD",
            keeps: request.keeps_alive && request.framing == Framing::None,
        };
        Self {
            head,
            path,
            host,
            version: request.version,
            asks_on: request.keeps_alive,
            said,
            ..Self::unknown(client, trace, now)
        }
    }

    /// A part of the head.
    fn text(&self, part: Range<usize>) -> Option<&str> {
        let part = self.head.get(part).filter(|part| !part.is_empty())?;
        str::from_utf8(part).ok()
    }

    /// What there is to tell of one that could not be understood.
    pub fn unknown(client: SocketAddr, trace: [u8; 16], now: Time) -> Self {
        Self {
            head: Vec::new(),
            path: 0..0,
            host: 0..0,
            version: Version::Http11,
            client,
            location: Location::default(),
            table: None,
            said: Said { trace, json: false, to_head: false, keeps: false },
            began: now,
            reason: Reason::BadRequest,
            asks_on: true,
            key: (client.ip().into(), 0),
            again: false,
            tries: 0,
            tried: None,
            moved: (0, 0),
        }
    }
}

/// How long is waited for a byte of the body, or else of the answer, once a backend has a request.
const fn first_wait(asked: &Asked, rules: HttpTimes) -> Duration {
    if asked.up.is_over() { rules.response_timeout } else { rules.body_timeout }
}

/// The trace of a `traceparent` that is well-formed (W3C Trace Context, 3.2): a version, 32 digits, 16
/// digits and 2 digits, with `-` between them.
fn parent_of(value: &[u8]) -> Option<u128> {
    let is_hex = |bytes: &[u8]| {
        bytes.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
    };
    let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let digits = [0..2, 3..35, 36..52, 53..55];
    if !dashes || !digits.into_iter().all(|range| value.get(range).is_some_and(is_hex)) {
        return None;
    }
    // What later versions have is behind what is known; there is no version ff.
    let is_whole = match &value[..2] {
        b"00" => value.len() == 55,
        b"ff" => false,
        _ => value.get(55).is_none_or(|byte| *byte == b'-'),
    };
    if !is_whole {
        return None;
    }
    let trace = u128::from_str_radix(str::from_utf8(&value[3..35]).ok()?, 16).ok()?;
    (trace != 0 && value[36..52].iter().any(|digit| *digit != b'0')).then_some(trace)
}

/// Who asks, by what trusted hops have written: the last who is not one of them.
fn forwarded_for(request: &Request<'_, '_>, trusted: &CidrMap<()>) -> Option<IpAddr> {
    let fields = request.fields.iter().rev();
    let fields = fields.filter(|field| field.name.eq_ignore_ascii_case("x-forwarded-for"));
    let mut first = None;
    for field in fields {
        for item in field.value.rsplit(|byte| *byte == b',') {
            let ip: IpAddr = str::from_utf8(item.trim_ascii()).ok()?.parse().ok()?;
            if trusted.get(ip).is_none() {
                return Some(ip);
            }
            first = Some(ip);
        }
    }
    first
}

/// A host without its port, in lower case and without a dot at its end; `None` when it is longer than any
/// name can be.
fn without_port<'b>(authority: &str, buffer: &'b mut [u8; MAX_HOST]) -> Option<&'b str> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    let name = buffer.get_mut(..host.len())?;
    name.copy_from_slice(host);
    name.make_ascii_lowercase();
    str::from_utf8(name).ok()
}
