//! A request, from its head to the end of its answer, whoever asks and in whichever version of HTTP:
//! admission -> locate -> route -> connect -> relay -> account.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::made::{Made, Takes, trace_of};
use super::reusing::{Leg, Own};
use super::snapshot::UnknownHost;
use super::{HttpTimes, Proxy, Snapshot, connect, dial_tools, relaying, ticks};
use crate::application::account::Reason;
use crate::application::admission::TooOften;
use crate::application::connect::{Connected, Dial, Greeting, Progress};
use crate::application::http::{
    About, Answer, Asked, Exchange, Flow, Hops, Out, Said, request_head,
};
use crate::application::locate::Location;
use crate::application::relay::End;
use crate::application::route::{self, Client, Routed};
use crate::application::upstreams::{AppTable, Rested, Upstream};
use crate::domain::balance::Origin;
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
    /// What it has said before its first request, if anything.
    pub told: Option<Box<Told>>,
    /// To which backend it was bound last, and until when that need not be done again.
    pub bound: Cell<Option<Bound>>,
}

/// A client bound to a backend of an app, under its own address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    app: u32,
    backend: u64,
    until: Time,
}

/// What a client has said of itself by a PROXY protocol header, and in TLS.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Where it wanted to go.
    pub destination: Option<SocketAddr>,
    /// The version of TLS, and the name in its certificate.
    pub tls: Option<&'static str>,
    pub name: Option<String>,
    /// What was asked of it.
    pub policy: Option<Arc<Policy>>,
}

impl Peer {
    fn destination(&self) -> Option<SocketAddr> {
        self.told.as_ref()?.destination
    }
}

/// A request on its way.
pub(super) struct Call {
    pub made: Made,
    pub to_client: Out,
    pub phase: Phase,
    /// Whether all of it has come from its client, as far as that is known.
    pub heard: bool,
    /// When what it waits for must have come, and when all of it must.
    pub until: Time,
    pub over_by: Option<Time>,
    /// Why it is to come to its end at its next turn.
    pub broken: Option<Reason>,
}

pub(super) enum Phase {
    /// A backend is being dialled.
    Dials(Box<Dialling>),
    /// A backend has it.
    Has(Box<Having>),
    /// It is to be answered by us.
    Answers(Answer),
    /// It has been; that is yet to be sent.
    Answered,
}

pub(super) struct Dialling {
    pub asked: Asked,
    pub dial: Dial,
    pub leg: Key,
    /// What a backend gets first that expects a PROXY protocol header.
    pub preamble: Option<Box<[u8]>>,
}

/// A request that a backend has.
pub(super) struct Having {
    pub exchange: Exchange,
    pub leg: Key,
    pub part: usize,
    pub routed: Routed,
    pub table: Arc<AppTable>,
    pub tries: usize,
    pub dies: Time,
    /// What it got first that expects a PROXY protocol header.
    pub preamble: Option<Box<[u8]>>,
    /// Bytes that were seen to move, and those that metrics know of.
    pub moved: u64,
    pub counted: (u64, u64),
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

    /// The backend that has it, or had it last.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.having().map_or(self.made.tried.as_ref(), |having| Some(having.routed.slot.upstream()))
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
    pub(super) fn refusal(
        &mut self,
        client: SocketAddr,
        (answer, takes): (Answer, Takes),
        now: Time,
    ) -> Box<Call> {
        let mut made = Made::unknown(client, self.rng.u128(1..).to_be_bytes(), now);
        (made.said.json, made.said.to_head) = (takes.json, takes.to_head);
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
        own: &mut Option<Own>,
        now: Time,
    ) -> Box<Call> {
        let snapshot = self.shared.snapshot.load();
        self.times = snapshot.http.times;
        let (rules, times) = (&snapshot.http, self.times);
        let given = trace_of(request);
        let trace = given.unwrap_or_else(|| self.rng.u128(1..)).to_be_bytes();
        let trusted = !rules.trusted.is_empty() && rules.trusted.get(whose.client.ip()).is_some();
        let hops = trusted.then(|| Hops::told(request.fields, &rules.trusted));
        let client = hops.as_ref().and_then(Hops::client);
        let client = client.map_or(whose.client, |ip| SocketAddr::new(ip, 0));
        let mut made = Made::of(request, client, trace, self.tools.spare.take(), now);
        let keeps = request.keeps_alive && request.framing == Framing::None;
        let refused = |made: Made, answer: Answer, reason| {
            let said = Said { keeps: keeps && !matches!(answer.status, 400 | 405), ..made.said };
            let call =
                Call::answered(Made { said, ..made }, answer, reason, now + times.body_timeout);
            Box::new(Call { heard: request.framing == Framing::None, ..call })
        };
        let (table, origin, routed) =
            match self.route_request(whose, request, &mut made, &snapshot, now) {
                Ok(routed) => routed,
                Err((answer, reason)) => return refused(made, answer, reason),
            };
        let named = || relaying::went_to(whose.peer.destination(), end);
        let about = About {
            named: request.authority.map_or_else(named, |_| None),
            peer: whose.client.ip(),
            secured: end.tls().is_some(),
            hops: hops.as_ref(),
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
            relaying::header(version, client, whose.peer.destination(), whose.name, end)
        });
        let over_by = (!times.request_timeout.is_zero()).then(|| now + times.request_timeout);
        let until = now + first_wait(&asked, times);
        // It has been said for whom it is.
        let may_be_its = preamble.is_none() || client == whose.client;
        let rested = self.take_rested(&routed, &table.rules, (own, may_be_its), &snapshot, now);
        if let Some(Rested { id: leg, part, end, dies, .. }) = rested {
            self.legs.insert(leg, Leg::Call { client: whose.id, stream: whose.stream });
            let mut head = self.tools.spare.take();
            head.extend_from_slice(&made.head);
            let exchange = Exchange::new(asked, end, true, head);
            let (tries, moved, counted) = (1, 0, (0, 0));
            self.choices.note(&table, client.ip(), made.location, &routed, now);
            self.bind((client == whose.client).then_some(whose.peer), &routed, &made, &table, now);
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

    /// Whether whoever asks may, where it is, and of whom it asks: a place at a backend, else what it is told.
    fn route_request(
        &mut self,
        whose: &Whose<'_>,
        request: &Request<'_, '_>,
        made: &mut Made,
        snapshot: &Snapshot,
        now: Time,
    ) -> Result<(Arc<AppTable>, Origin, Routed), (Answer, Reason)> {
        let (ip, is_itself) = (made.client.ip(), made.client == whose.client);
        // Whoever speaks to us was let in; for whom it speaks need not be.
        if !is_itself && snapshot.admission.denies(ip) {
            self.ended.refused(Reason::Denied, ip.into());
            return Err((Answer::new(403, "not for you"), Reason::Denied));
        }
        let too_often = snapshot.admission.limits(ip, now);
        if too_often == Some(TooOften::DryRun) {
            self.ended.would_be_limited(ip.into());
        }
        if let Some(TooOften::Refused(wait)) = too_often {
            let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let answer = Answer::new(429, "too many requests");
            self.ended.refused(Reason::RateLimited, ip.into());
            return Err((Answer { retry_after: Some(secs), ..answer }, Reason::RateLimited));
        }
        if matches!(request.method, "CONNECT" | "TRACE") {
            let answer = Answer::new(405, "neither CONNECT nor TRACE is for this server");
            return Err((answer, Reason::BadRequest));
        }
        made.location = if is_itself { whose.location } else { snapshot.geo.locate(ip) };
        let mut buffer = [0; MAX_HOST];
        let host = request.authority.and_then(|host| without_port(host, &mut buffer));
        // Who was let in under one name must not have another's that asks for more.
        let listener = snapshot.listener(whose.peer.listener);
        let terminator = listener.and_then(|rules| rules.tls.as_ref());
        let asked = whose.peer.told.as_ref().and_then(|told| told.policy.as_ref()).zip(terminator);
        if !asked.is_none_or(|(policy, terminator)| terminator.asks_the_same(host, policy)) {
            let answer = Answer::new(421, "this host asks for another certificate of its clients");
            return Err((answer, Reason::UnknownHost));
        }
        let table = snapshot.app_of(host, whose.peer.listener).map_err(|UnknownHost| {
            (Answer::new(421, "no app has this host"), Reason::UnknownHost)
        })?;
        let nobody = (Answer::new(503, "no backend serves this"), Reason::NoBackend);
        let table = Arc::clone(table.ok_or(nobody)?);
        let origin = table.layout.origin(made.location.country, made.location.at_pop);
        made.key = (ip.into(), table.number);
        made.table = Some(Arc::clone(&table));
        let client = Client { key: made.key, origin, keeper: None };
        let mut draw = |below| self.rng.u64(..below);
        match route::first(&table, client, &self.shared.affinity, now, &mut draw) {
            Ok(routed) => Ok((table, origin, routed)),
            Err(reason) => {
                let why = match reason {
                    Reason::AtHardLimit => "every backend is at its limit",
                    _ => "no backend takes requests now",
                };
                Err((Answer { retry_after: Some(1), ..Answer::new(503, why) }, reason))
            }
        }
    }

    /// Dials a backend for a request.
    pub(super) fn dial_for(
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
    pub(super) fn progressed(&mut self, call: &mut Call, progress: Progress, now: Time) {
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
    pub(super) fn answer(
        &self,
        call: &mut Call,
        (answer, reason): (Answer, Reason),
        keeps: bool,
        now: Time,
    ) {
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
        let made = &call.made;
        self.choices.note(&table, made.client.ip(), made.location, &routed, now);
        self.bind(None, &routed, &call.made, &table, now);
        let snapshot = self.shared.snapshot.load();
        let lifetime = snapshot.warm.map_or(LIFETIME, |rules| rules.max_lifetime);
        // Up to a fifth less, so that those made together do not end together.
        let lifetime = lifetime / 5_000 * (5_000 - self.rng.u32(..1_000));
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
    pub(super) fn bind(
        &self,
        peer: Option<&Peer>,
        routed: &Routed,
        made: &Made,
        table: &AppTable,
        now: Time,
    ) {
        let (ttl, backend) = (table.rules.affinity_ttl, routed.slot.upstream().number);
        let app = made.key.1;
        let is_done =
            |bound: Bound| bound.app == app && bound.backend == backend && now < bound.until;
        if !routed.binds || peer.and_then(|peer| peer.bound.get()).is_some_and(is_done) {
            return;
        }
        let affinity = &self.shared.affinity;
        let hold = affinity.bind(made.key, backend, ttl, now);
        affinity.release(hold, ttl, now);
        if let Some(peer) = peer {
            let until = now + ttl.min(BOUND_ANEW * 4) / 4;
            peer.bound.set(Some(Bound { app, backend, until }));
        }
    }
}

/// How long is waited for a byte of the body, or else of the answer, once a backend has a request.
const fn first_wait(asked: &Asked, rules: HttpTimes) -> Duration {
    if asked.up.is_over() { rules.response_timeout } else { rules.body_timeout }
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
