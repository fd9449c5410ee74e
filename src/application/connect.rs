//! A connection to a backend: one after the other until one answers, and side by side when one
//! takes long. No client waits for a dead backend.

mod cause;
mod flight;

use std::fmt::Display;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt};
use tokio::sync::mpsc;

use super::account::Reason;
use super::choices::Noter;
use super::locate::Location;
use super::relay::{self, End};
use super::route::{self, Routed};
use super::upstreams::{AppTable, RouteCounts, Upstream};
use crate::domain::balance::{Avoid, Origin};
use crate::domain::time::Time;
use crate::domain::{App, Region};
use crate::infrastructure::circuit_breaker::Permit;
use crate::infrastructure::meters::{Counter, Meters, Share};
use crate::infrastructure::proxy_protocol::Version;
use crate::infrastructure::reactor::{Event, Interest, Reactor};
use crate::infrastructure::slab::Key;
use cause::is_shortage;
pub use cause::{Cause, failure, is_local};
use flight::Flight;
pub use flight::Greeting;

/// How long a dial for which there is no descriptor is put off.
const SHORTAGE: Duration = Duration::from_millis(20);
/// How far away a backend may be of which that is not known: half of the way round the earth and back.
const FAR: Duration = Duration::from_millis(300);
/// How long a dial may be unanswered before the next candidate is dialled beside it.
pub const HEDGE_AFTER: Duration = Duration::from_millis(500);
/// Most tries for one connection.
pub const MAX_TRIES: usize = 3;
/// Most sockets that are dialled with for one: before all others there may be a warm one that has waited
/// too long.
const MAX_ATTEMPTS: usize = MAX_TRIES + 1;

/// What dials go by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long one dial may take.
    pub timeout: Duration,
    /// How many backends are tried, 1 to [`MAX_TRIES`].
    pub tries: usize,
}

/// Where demoted backends are told to, so that they are probed without a client waiting.
#[derive(Clone, Debug)]
pub struct Demotions(mpsc::Sender<(Arc<Upstream>, Duration)>);

impl Demotions {
    /// Demotions that `queue` receives, each with the time after which to probe.
    #[must_use]
    pub const fn new(queue: mpsc::Sender<(Arc<Upstream>, Duration)>) -> Self {
        Self(queue)
    }

    /// Notes a failed dial, for now, and `why`. When the queue is full the demotion ends by itself,
    /// unprobed.
    pub fn demote(&self, upstream: &Arc<Upstream>, why: &dyn Display, now: Time) {
        if let Some(delay) = upstream.dials().failed(now) {
            let (backend, addr) = (&upstream.id, &upstream.addr);
            tracing::warn!(%backend, %addr, "dial failed ({why}); it ranks last for {delay:?}");
            if self.0.try_send((Arc::clone(upstream), delay)).is_err() {
                upstream.dials().probe_ended();
            }
        }
    }
}

/// What a worker lends to a dial.
pub struct Tools<'a, D> {
    /// Where new sockets are watched.
    pub reactor: &'a Reactor,
    /// The connection that they are for.
    pub key: Key,
    /// Randomness.
    pub draw: &'a mut D,
    /// Where failures are told.
    pub demotions: &'a Demotions,
    /// A descriptor kept for the dial of a client that took the last one.
    pub spare: &'a mut Spare,
    /// Where the worker counts.
    pub share: Share,
    /// What handshakes are made with.
    pub relay: &'a mut relay::Tools,
}

impl<D> Tools<'_, D> {
    /// An attempt failed: its backend ranks last, and hears of it.
    fn failed(&self, attempt: &Attempt, why: &Cause, permit: Option<Permit>, now: Time) {
        let upstream = &attempt.upstream;
        upstream.meter.cell(self.share).dial_failed(why.kind());
        if let Some(permit) = permit {
            upstream.report(permit, false, now);
        }
        if !attempt.hedged {
            self.demotions.demote(upstream, why, now);
        }
    }
}

/// A descriptor that is held for the moment when there are no others left.
#[derive(Debug)]
pub struct Spare(Option<OwnedFd>);

impl Spare {
    /// Holds one, if there is one left.
    #[must_use]
    pub fn hold() -> Self {
        let mut spare = Self(None);
        spare.restock();
        spare
    }

    /// Holds one again; whether there is one to hold.
    pub fn restock(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = eventfd(0, EventfdFlags::CLOEXEC).ok();
        }
        self.0.is_some()
    }
}

/// A connection being made.
#[derive(Debug)]
pub struct Dial {
    table: Arc<AppTable>,
    origin: Origin,
    rules: Rules,
    attempts: [Option<Attempt>; MAX_ATTEMPTS],
    tries: usize,
    /// Whether the client is bound to the backend that answers.
    binds: bool,
    /// What is said where connections are secured.
    greeting: Greeting,
    /// When it is tried again for which there was no descriptor.
    short: Option<Time>,
    /// Since when there is none.
    short_since: Option<Time>,
}

#[derive(Debug)]
struct Attempt {
    upstream: Arc<Upstream>,
    member: usize,
    began: Time,
    /// How long it may be unanswered before others are dialled beside it.
    patience: Duration,
    /// Gone once the attempt has failed, and with it the place at the backend.
    flight: Option<Flight>,
    hedged: bool,
    failed: bool,
    /// Whether it was of a warm connection that had waited too long: it says nothing of the backend.
    stale: bool,
}

/// A backend that answered.
#[derive(Debug)]
pub struct Connected {
    /// Its socket, watched by the reactor for reads and writes, with what was told of it.
    pub end: End,
    /// Which dial it was, from 0; its socket's part is one more.
    pub attempt: usize,
    /// How many dials were begun, this one included.
    pub tries: usize,
    /// What was chosen.
    pub routed: Routed,
}

/// What became of a dial.
#[derive(Debug)]
pub enum Progress {
    /// It goes on; look again at this moment.
    Waits(Time),
    /// A backend answered; the other attempts are closed and their places given back.
    Connected(Connected),
    /// No backend that was tried answered.
    Failed(Reason),
}

impl Dial {
    /// A dial that has not begun.
    #[must_use]
    pub fn new(table: Arc<AppTable>, origin: Origin, rules: Rules) -> Self {
        let attempts = [const { None }; MAX_ATTEMPTS];
        let (greeting, short, short_since) = (Greeting::default(), None, None);
        Self { table, origin, rules, attempts, tries: 0, binds: true, greeting, short, short_since }
    }

    /// What is to be said where connections are secured.
    pub fn greet_with(&mut self, greeting: Greeting) {
        self.greeting = greeting;
    }

    /// Attempts begun so far.
    #[must_use]
    pub const fn tries(&self) -> usize {
        self.tries
    }

    /// The backend tried last.
    #[must_use]
    pub fn last(&self) -> Option<&Arc<Upstream>> {
        self.attempts().last().map(|attempt| &attempt.upstream)
    }

    /// The backends that did not answer, or not in time.
    pub fn failed(&self) -> impl Iterator<Item = &Upstream> {
        self.attempts().filter(|attempt| attempt.failed).map(|attempt| &*attempt.upstream)
    }

    /// How long the client will keep the backend that answers.
    #[must_use]
    pub fn affinity_ttl(&self) -> Duration {
        self.table.rules.affinity_ttl
    }

    /// The app that the client asked for.
    #[must_use]
    pub fn app(&self) -> &App {
        &self.table.name
    }

    /// Whether connections to its backends are secured.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.table.rules.tls.is_some()
    }

    /// The header that the backend expects, in the open or before TLS.
    #[must_use]
    pub fn expects(&self) -> Option<Version> {
        self.table.rules.header
    }

    /// The header that the backend expects and has not been given.
    #[must_use]
    pub fn header(&self) -> Option<Version> {
        self.expects().filter(|_| !self.is_secured())
    }

    /// Notes where the client was carried, if that is farther than it need be.
    pub fn note(
        &self,
        choices: &mut Noter,
        client: IpAddr,
        location: Location,
        routed: &Routed,
        now: Time,
    ) {
        choices.note(&self.table, client, location, routed, now);
    }

    /// The count of clients like this one that are carried where `routed` is.
    pub fn route_count<'c>(
        &self,
        routed: &Routed,
        counts: &'c mut RouteCounts,
        meters: &Meters,
    ) -> &'c Counter {
        counts.of(&self.table, self.origin, routed.member, routed.tier, meters)
    }

    /// Goes on with a warm connection, of which `event` was told.
    pub fn begin_warm<D: FnMut(u64) -> u64>(
        &mut self,
        routed: Routed,
        socket: OwnedFd,
        event: Event,
        now: Time,
        tools: &mut Tools<'_, D>,
    ) -> Progress {
        self.binds = routed.binds;
        let (upstream, member) = (Arc::clone(routed.slot.upstream()), routed.member);
        let end = End::new(socket, false, Interest { reads: true, writes: true });
        let flight = Some(Flight { end, routed, answered: false, warm: true });
        self.attempts[0] = Some(Attempt { flight, ..Attempt::new(upstream, member, now) });
        self.tries = 1;
        self.event(0, event, now, tools)
    }

    /// Dials the first candidate.
    pub fn begin<D: FnMut(u64) -> u64>(
        &mut self,
        routed: Routed,
        now: Time,
        tools: &mut Tools<'_, D>,
    ) -> Progress {
        self.binds = routed.binds;
        let dialled = self.attempt(routed, now, tools);
        self.go_on_from(dialled, now, tools)
    }

    /// Looks at what happened to the socket of attempt `number`, from 0.
    pub fn event<D: FnMut(u64) -> u64>(
        &mut self,
        number: usize,
        event: Event,
        now: Time,
        tools: &mut Tools<'_, D>,
    ) -> Progress {
        let tries = self.tries;
        let Some(attempt) = self.attempts.get_mut(number).and_then(Option::as_mut) else {
            return self.waits();
        };
        let Some(mut flight) = attempt.flight.take() else { return self.waits() };
        flight.end.note(event);
        match self.table.rules.tls.as_ref().map(|tls| (tls, &self.greeting)) {
            _ if !flight.answered && !event.writable() => {
                attempt.flight = Some(flight);
                return self.waits();
            }
            _ if event.failed() => {
                let error = sockopt::socket_error(flight.end.socket()).ok().and_then(Result::err);
                return self.lose(number, flight, &Cause::Socket(error), now, tools);
            }
            tls => {
                if !flight.answered {
                    let took = if flight.warm { FAR } else { now.since(attempt.began) };
                    attempt.patience = secured_after(took);
                    if !flight.warm {
                        attempt.upstream.meter.cell(tools.share).answered(took);
                    }
                }
                match tls.map_or(Ok(true), |tls| flight.secure(&attempt.upstream, tls, tools.relay))
                {
                    Ok(true) => {}
                    Ok(false) => {
                        attempt.flight = Some(flight);
                        return self.waits();
                    }
                    Err(failed) => {
                        return self.lose(number, flight, &Cause::Tls(failed), now, tools);
                    }
                }
            }
        }
        attempt.upstream.dials().succeeded();
        let Flight { end, mut routed, .. } = flight;
        routed.binds &= self.binds;
        self.give_up_others(now, tools);
        Progress::Connected(Connected { end, attempt: number, tries, routed })
    }

    /// Goes on after attempt `number` has failed. A warm connection may have waited too long: its backend
    /// is dialled in its place, which the client keeps.
    fn lose<D: FnMut(u64) -> u64>(
        &mut self,
        number: usize,
        flight: Flight,
        why: &Cause,
        now: Time,
        tools: &mut Tools<'_, D>,
    ) -> Progress {
        let Flight { end, mut routed, warm, .. } = flight;
        drop(end);
        if why.is_of_the_client() {
            // No other backend of the app would speak it either.
            return Progress::Failed(Reason::TlsFailed);
        }
        if let Some(attempt) = &mut self.attempts[number] {
            tracing::debug!(backend = %attempt.upstream.id, "dial failed: {why}");
            if warm {
                attempt.stale = true;
                let dialled = self.attempt(routed, now, tools);
                return self.go_on_from(dialled, now, tools);
            }
            attempt.failed = true;
            tools.failed(attempt, why, routed.permit.take(), now);
        }
        drop(routed);
        self.go_on(Ok(()), now, tools)
    }

    /// Closes the attempts that lost. Those that were long unanswered count as failed.
    fn give_up_others<D>(&mut self, now: Time, tools: &Tools<'_, D>) {
        for attempt in self.attempts.iter_mut().flatten() {
            if let Some(mut flight) = attempt.flight.take()
                && attempt.hedged
            {
                attempt.failed = true;
                tools.failed(attempt, &Cause::Timeout, flight.routed.permit.take(), now);
            }
        }
    }

    /// Looks at the time: attempts that took too long fail, one that is long unanswered gets company.
    pub fn time<D: FnMut(u64) -> u64>(&mut self, now: Time, tools: &mut Tools<'_, D>) -> Progress {
        let mut late = false;
        for attempt in self.attempts.iter_mut().flatten() {
            let waited = now.since(attempt.began);
            if attempt.flight.is_none() || waited < attempt.patience.min(self.rules.timeout) {
                continue;
            }
            if waited >= self.rules.timeout {
                let permit = attempt.flight.take().and_then(|flight| flight.routed.permit);
                attempt.failed = true;
                tools.failed(attempt, &Cause::Timeout, permit, now);
            } else if !attempt.hedged {
                let why = format!("no answer for {:?}", attempt.patience);
                tools.demotions.demote(&attempt.upstream, &why, now);
                attempt.hedged = true;
            } else {
                continue;
            }
            late = true;
        }
        let again = self.short.take_if(|at| *at <= now).is_some();
        if late || again { self.go_on(Ok(()), now, tools) } else { self.waits() }
    }

    fn go_on_from<D: FnMut(u64) -> u64>(
        &mut self,
        dialled: Result<(), Reason>,
        now: Time,
        tools: &mut Tools<'_, D>,
    ) -> Progress {
        if dialled.is_ok() { self.waits() } else { self.go_on(dialled, now, tools) }
    }

    /// Dials further candidates until one dial is under way or none is left.
    fn go_on<D: FnMut(u64) -> u64>(
        &mut self,
        mut last: Result<(), Reason>,
        now: Time,
        tools: &mut Tools<'_, D>,
    ) -> Progress {
        while self.short.is_none()
            && let Some(routed) = self.candidate(now, tools.draw)
        {
            last = self.attempt(routed, now, tools);
            if last.is_ok() {
                return self.waits();
            }
        }
        if self.short.is_some() || self.attempts().any(|attempt| attempt.flight.is_some()) {
            return self.waits();
        }
        Progress::Failed(last.err().unwrap_or(Reason::ConnectFailed))
    }

    /// The next backend to try. The last try goes to a region not tried yet if there is one.
    fn candidate(&self, now: Time, draw: &mut impl FnMut(u64) -> u64) -> Option<Routed> {
        let stale = self.attempts().filter(|attempt| attempt.stale).count();
        let most = self.rules.tries.min(MAX_TRIES) + stale;
        if self.tries >= most {
            return None;
        }
        let tried = || self.attempts().filter(|attempt| !attempt.stale);
        let mut members = [usize::MAX; MAX_TRIES];
        for (place, attempt) in members.iter_mut().zip(tried()) {
            *place = attempt.member;
        }
        let members = &members[..self.tries - stale];
        if !members.is_empty() && self.tries + 1 == most {
            let region = |a: &Attempt| self.table.layout.members()[a.member].region.clone();
            let regions: Vec<Region> = tried().map(region).collect();
            let avoid = Avoid { members, regions: &regions };
            // A region not tried yet is worth a try, a backend known to fail is not.
            let elsewhere = route::next(&self.table, self.origin, avoid, None, now, draw)
                .filter(|routed| !routed.slot.upstream().dials().demoted(now));
            if elsewhere.is_some() {
                return elsewhere;
            }
        }
        let avoid = Avoid { members, regions: &[] };
        route::next(&self.table, self.origin, avoid, None, now, draw)
    }

    /// Begins an attempt, which counts as a try whether or not the system lets it begin. Only when it
    /// has no descriptor the client waits for one: somebody else of this process may have taken the
    /// last in this moment.
    fn attempt<D>(
        &mut self,
        routed: Routed,
        now: Time,
        tools: &mut Tools<'_, D>,
    ) -> Result<(), Reason> {
        let upstream = Arc::clone(routed.slot.upstream());
        let member = routed.member;
        let part = self.tries + 1;
        let dialled = begin_connect(&upstream).or_else(|error| {
            if is_shortage(error) && tools.spare.0.take().is_some() {
                return begin_connect(&upstream);
            }
            Err(error)
        });
        let begun = dialled.and_then(|socket| {
            tools.reactor.watch_both(&socket, tools.key.token(part))?;
            Ok(socket)
        });
        let mut attempt = Attempt::new(upstream, member, now);
        let outcome = match begun {
            Ok(socket) => {
                let end = End::new(socket, false, Interest { reads: true, writes: true });
                attempt.flight = Some(Flight { end, routed, answered: false, warm: false });
                Ok(())
            }
            Err(error) if is_shortage(error) && self.may_wait(now) => return Err(Reason::Internal),
            Err(error) => {
                attempt.failed = true;
                if is_local(error) {
                    let id = &attempt.upstream.id;
                    tracing::debug!(backend = %id, %error, "cannot dial: this process lacks what it takes");
                    Err(Reason::Internal)
                } else {
                    tools.failed(&attempt, &Cause::Socket(Some(error)), routed.permit, now);
                    Err(Reason::ConnectFailed)
                }
            }
        };
        self.attempts[self.tries] = Some(attempt);
        self.tries += 1;
        outcome
    }

    /// Puts the dial off for a moment, unless it has been for as long as a dial may take.
    fn may_wait(&mut self, now: Time) -> bool {
        let since = self.short_since.get_or_insert(now);
        let may_wait = now.since(*since) < self.rules.timeout;
        self.short = may_wait.then(|| now + SHORTAGE);
        may_wait
    }

    fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().flatten()
    }

    fn waits(&self) -> Progress {
        let next = self
            .attempts()
            .filter(|attempt| attempt.flight.is_some())
            .map(|attempt| {
                let patience = if attempt.hedged { Duration::MAX } else { attempt.patience };
                attempt.began + patience.min(self.rules.timeout)
            })
            .chain(self.short)
            .min();
        Progress::Waits(next.unwrap_or_default())
    }
}

impl Attempt {
    const fn new(upstream: Arc<Upstream>, member: usize, began: Time) -> Self {
        let (flight, hedged, failed, stale) = (None, false, false, false);
        Self { upstream, member, began, patience: HEDGE_AFTER, flight, hedged, failed, stale }
    }
}

/// How long an attempt may take that has TLS to begin, when the machine took so long to answer: a handshake
/// goes to and fro three times at most, and once more when its first guess was wrong.
#[must_use]
pub fn secured_after(answered: Duration) -> Duration {
    HEDGE_AFTER + answered * 5
}

/// Starts to connect; the reactor tells how it went.
///
/// # Errors
/// The system's.
pub fn begin_connect(upstream: &Upstream) -> Result<OwnedFd, Errno> {
    let family = if upstream.addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match connect(&socket, &upstream.addr) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(error) => Err(error),
    }
}
