//! Connections that have yet to say whom they are for, or where they want to go: by a PROXY protocol
//! header, or by the server's name in a TLS hello; or whose TLS is yet to begin.
//!
//! What has arrived is looked at where it is, in the kernel. Only a header is taken out of it; a hello that
//! is passed through goes on to the backend with everything behind it. No buffer is needed while one waits.

use std::cmp::Reverse;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::securing::{self, Handshake};
use super::{CLIENT, Comer, Proxy, Snapshot, ticks};
use crate::application::account::{Reason, Record};
use crate::application::admission::Admitted;
use crate::application::locate::Location;
use crate::application::relay::{End, Tools};
use crate::domain::time::Time;
use crate::infrastructure::ConnectionGuard;
use crate::infrastructure::client_hello::{self, ServerName};
use crate::infrastructure::proxy_protocol::{self, Header, Outcome};
use crate::infrastructure::reactor::Event;
use crate::infrastructure::slab::Key;

/// Longest wait for a whole header, or hello: they are the first bytes, sent without waiting for any.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest handshake: two round trips of a slow network, with segments lost on the way.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);
/// Most that one worker waits for. A handshake holds about 10 KiB, 40 at most; and who comes in a flood of those that
/// never say anything is served all the same, since the one that has waited longest goes.
const MOST: usize = 8_192;

/// What a client is told whose server's name leads nowhere: a fatal alert, `unrecognized_name` (RFC
/// 6066, 3).
pub(super) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A connection that has not said yet what it must.
pub(super) struct Arriving {
    pub end: End,
    comer: Comer,
    until: Time,
    awaits: Awaits,
}

/// What is waited for.
pub(super) enum Awaits {
    /// Whom it is for.
    Header(ConnectionGuard),
    /// Which server it wants; it has been let in. The hello is whole no sooner than with so many bytes.
    Hello(Admitted, usize),
    /// That the TLS of one that has been let in begins.
    Handshake(Admitted, Box<Handshake>),
}

/// What a look at what has arrived comes to.
pub(super) enum Look {
    /// It is not whole yet.
    Waits,
    /// The header was, and has been taken out.
    Says(Header),
    /// The hello is, of so many bytes.
    Wants(Option<Box<ServerName>>, usize),
    /// Its TLS has begun.
    Secured,
    /// There is no certificate for the name that it asks for.
    Unrecognized,
    /// There will be none.
    Ends(Reason),
}

impl Proxy {
    /// Waits for the header of a connection, if its peer may send one.
    pub(super) fn arrive(&mut self, end: End, comer: Comer, snapshot: &Snapshot, now: Time) {
        let ip = comer.client.ip();
        if snapshot.trusted.get(ip.to_canonical()).is_none() {
            // Summed up: it may be a flood.
            self.ended.untrusted(ip.into());
            return end.reset();
        }
        let limit = snapshot.admission.max_connections;
        let Some(guard) = self.shared.shutdown.try_connection_guard(limit) else {
            self.ended.refused(Reason::GlobalCap, ip.into());
            self.ended.count(Reason::GlobalCap);
            return end.reset();
        };
        self.wait_for(Arriving::new(end, comer, Awaits::Header(guard), now), now);
    }

    /// Has events of a client told under its key, in place of the one it had while it arrived.
    pub(super) fn watch_client(
        &mut self,
        end: &End,
        id: Key,
        before: Option<Key>,
    ) -> rustix::io::Result<()> {
        match before {
            None => self.reactor.watch_reads(end.socket(), id.token(CLIENT)),
            Some(before) if before == id => Ok(()),
            // A warm connection has brought its own.
            Some(before) => {
                self.connections.free(before);
                self.reactor.rewatch(end.socket(), id.token(CLIENT), end.watched())
            }
        }
    }

    /// Waits for the hello of a client that has been let in. One with a `key` is watched under it.
    pub(super) fn await_hello(
        &mut self,
        comer: Comer,
        end: End,
        key: Option<Key>,
        admitted: Admitted,
        now: Time,
    ) {
        self.await_first(Arriving::new(end, comer, Awaits::Hello(admitted, 0), now), key, now);
    }

    /// Waits for the first of a client. One with a `key` is watched under it.
    pub(super) fn await_first(&mut self, arriving: Arriving, key: Option<Key>, now: Time) {
        match key {
            None => self.wait_for(arriving, now),
            // Behind its header: it may have been told of already.
            Some(id) => {
                self.deadlines.push(Reverse((arriving.until, id)));
                self.look_at(id, arriving, now);
            }
        }
    }

    fn wait_for(&mut self, arriving: Arriving, now: Time) {
        self.make_room(now);
        let Some(id) = self.connections.reserve(ticks(now)) else {
            return self.never_came(arriving, Reason::Internal, now);
        };
        if self.reactor.watch_reads(arriving.end.socket(), id.token(CLIENT)).is_err() {
            self.connections.free(id);
            return self.never_came(arriving, Reason::Internal, now);
        }
        self.deadlines.push(Reverse((arriving.until, id)));
        self.arriving.insert(id, arriving);
        self.in_order.push_back(id);
    }

    /// Ends the one that has waited longest, when too many wait.
    fn make_room(&mut self, now: Time) {
        if self.in_order.len() < MOST {
            return;
        }
        if self.in_order.len() > self.arriving.len() + MOST {
            self.in_order.retain(|id| self.arriving.contains_key(id));
        }
        while self.arriving.len() >= MOST
            && let Some(id) = self.in_order.pop_front()
        {
            if let Some(arriving) = self.arriving.remove(&id) {
                self.connections.free(id);
                let reason = arriving.awaits.missing();
                self.never_came(arriving, reason, now);
            }
        }
    }

    /// Takes up what an event says of one that has been taken out of those that arrive.
    pub(super) fn arrival_event(
        &mut self,
        id: Key,
        mut arriving: Arriving,
        event: Event,
        now: Time,
    ) {
        arriving.end.note(event);
        if event.failed() {
            self.connections.free(id);
            return self.never_came(arriving, Reason::ClientReset, now);
        }
        self.look_at(id, arriving, now);
    }

    fn look_at(&mut self, id: Key, mut arriving: Arriving, now: Time) {
        let look = arriving.look(&mut self.tools);
        self.looked(id, arriving, look, now);
    }

    fn looked(&mut self, id: Key, mut arriving: Arriving, look: Look, now: Time) {
        match look {
            Look::Waits if !self.watch_handshake(id, &mut arriving) => {
                self.connections.free(id);
                self.never_came(arriving, Reason::Internal, now);
            }
            Look::Waits => {
                self.arriving.insert(id, arriving);
            }
            Look::Ends(reason) => {
                self.connections.free(id);
                self.never_came(arriving, reason, now);
            }
            Look::Says(header) => {
                let Arriving { end, mut comer, awaits, .. } = arriving;
                let Awaits::Header(guard) = awaits else { return self.connections.free(id) };
                if let Header::Proxied { source, destination } = header {
                    comer.client = source;
                    comer.destination = Some(destination);
                }
                let snapshot = self.shared.snapshot.load_full();
                self.enter(comer, end, Some((id, guard)), &snapshot, now);
            }
            Look::Wants(name, length) => {
                let Arriving { end, mut comer, awaits, .. } = arriving;
                let Awaits::Hello(admitted, _) = awaits else { return self.connections.free(id) };
                let snapshot = self.shared.snapshot.load_full();
                comer.name = name.map(|name| name.as_str().into());
                let table = snapshot.table_of(comer.name.as_deref(), comer.listener);
                let Some(table) = table else {
                    end.say_last(length, &UNRECOGNIZED_NAME, &mut self.tools.scratch);
                    let location = snapshot.geo.locate(comer.client.ip());
                    let record = Record::new(comer.client, Reason::NoBackend);
                    return self.refuse(&comer, Some(id), (None, location), record, now);
                };
                self.carry(comer, end, Some(id), admitted, Some(table), &snapshot, now);
            }
            Look::Secured => {
                let Arriving { end, mut comer, awaits, .. } = arriving;
                let Awaits::Handshake(admitted, handshake) = awaits else {
                    return self.connections.free(id);
                };
                if let Some(session) = end.tls() {
                    let meters = &self.shared.meters;
                    meters.shaken_hands(self.share, session.version(), session.resumed());
                }
                let snapshot = self.shared.snapshot.load_full();
                let rules = snapshot.listener(comer.listener);
                let now_asked = rules.and_then(|rules| rules.tls.as_ref());
                let is_enough = end.tls().is_some_and(|tls| handshake.is_enough(tls, now_asked));
                let (name, policy) = handshake.into_parts();
                comer.name = name;
                if !is_enough {
                    let why = (None, Location::default(), Reason::TlsFailed);
                    return self.turn_away(&comer, end, Some(id), why, now);
                }
                if rules.is_some_and(|rules| rules.http) {
                    return self.serve(comer, end, policy, Some(id), admitted, &snapshot, now);
                }
                let table = snapshot.table_of(comer.name.as_deref(), comer.listener);
                self.carry(comer, end, Some(id), admitted, table, &snapshot, now);
            }
            Look::Unrecognized => {
                let Arriving { end, mut comer, awaits, .. } = arriving;
                if let Awaits::Handshake(_, handshake) = awaits {
                    comer.name = handshake.name;
                }
                securing::refuse(end, &mut self.tools);
                let record = Record::new(comer.client, Reason::TlsFailed);
                self.refuse(&comer, Some(id), (None, Location::default()), record, now);
            }
        }
    }

    /// Ends one that has not said in time what it must; whether it was one that arrives.
    pub(super) fn arrival_time(&mut self, id: Key, now: Time) -> bool {
        if self.arriving.get(&id).is_none_or(|arriving| arriving.until > now) {
            return self.arriving.contains_key(&id);
        }
        let Some(mut arriving) = self.arriving.remove(&id) else { return false };
        // It may be there, and its event among more than this worker has taken up yet.
        match arriving.look(&mut self.tools) {
            Look::Waits => {
                self.connections.free(id);
                let reason = arriving.awaits.missing();
                self.never_came(arriving, reason, now);
            }
            look => self.looked(id, arriving, look, now),
        }
        true
    }

    /// Ends all of them, because a drain runs out of time.
    pub(super) fn end_arrivals(&mut self, now: Time) {
        for (id, arriving) in std::mem::take(&mut self.arriving) {
            self.connections.free(id);
            match &arriving.awaits {
                Awaits::Header(guard) => guard.force(),
                Awaits::Hello(admitted, _) | Awaits::Handshake(admitted, _) => admitted.force(),
            }
            self.never_came(arriving, Reason::Drained, now);
        }
    }

    fn never_came(&mut self, arriving: Arriving, reason: Reason, now: Time) {
        let Arriving { end, comer, awaits, .. } = arriving;
        // An alert may be on its way.
        let has_been_told = reason == Reason::TlsFailed && end.tls().is_some();
        if reason != Reason::ClientClosed && !has_been_told {
            end.reset();
        }
        let total = now.since(comer.accepted);
        let server_name = awaits.name().map(Into::into);
        let record = Record { server_name, total, ..Record::new(comer.client, reason) };
        self.account(None, Location::default(), &record, now);
        drop(awaits);
    }
}

impl Awaits {
    /// The server's name that is known already.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Handshake(_, handshake) => handshake.name.as_deref(),
            Self::Header(_) | Self::Hello(..) => None,
        }
    }

    /// Why one ends that does not say it.
    const fn missing(&self) -> Reason {
        match self {
            Self::Header(_) => Reason::ProxyHeader,
            Self::Hello(..) | Self::Handshake(..) => Reason::TlsFailed,
        }
    }
}

impl Arriving {
    pub fn new(end: End, comer: Comer, awaits: Awaits, now: Time) -> Self {
        let patience = match &awaits {
            Awaits::Header(_) | Awaits::Hello(..) => PATIENCE,
            Awaits::Handshake(..) => LONGEST_HANDSHAKE,
        };
        Self { end, comer, until: now + patience, awaits }
    }

    fn look(&mut self, tools: &mut Tools) -> Look {
        let most = match &mut self.awaits {
            Awaits::Handshake(_, handshake) => return handshake.go_on(&mut self.end, tools),
            Awaits::Header(_) => &mut tools.scratch[..proxy_protocol::MAX_LENGTH],
            Awaits::Hello(..) => &mut tools.scratch[..client_hello::MAX_LENGTH],
        };
        let arrived = match recv(self.end.socket(), &mut *most, RecvFlags::PEEK) {
            // Balancers look like this whether somebody listens.
            Ok((_, 0)) => return Look::Ends(Reason::ClientClosed),
            Ok((_, arrived)) => arrived,
            Err(Errno::AGAIN | Errno::INTR) => return Look::Waits,
            Err(_) => return Look::Ends(Reason::ClientReset),
        };
        let is_all = self.end.read_closed();
        match &mut self.awaits {
            Awaits::Header(_) | Awaits::Handshake(..) => self.header(most, arrived, is_all),
            Awaits::Hello(_, need) if arrived < *need && !is_all => Look::Waits,
            Awaits::Hello(_, need) => match client_hello::read(&most[..arrived]) {
                client_hello::Outcome::More { .. } if is_all => Look::Ends(Reason::TlsFailed),
                client_hello::Outcome::More { need: more } => {
                    *need = more;
                    Look::Waits
                }
                client_hello::Outcome::Wrong(wrong) => {
                    tracing::debug!(client = %self.comer.client, "no TLS hello: {wrong}");
                    Look::Ends(Reason::TlsFailed)
                }
                client_hello::Outcome::Done { hello, length } => {
                    Look::Wants(hello.name().cloned().map(Box::new), length)
                }
            },
        }
    }

    fn header(&self, most: &mut [u8], arrived: usize, is_all: bool) -> Look {
        match proxy_protocol::read(&most[..arrived]) {
            Outcome::More { .. } if is_all => Look::Ends(Reason::ProxyHeader),
            Outcome::More { .. } => Look::Waits,
            Outcome::Wrong(wrong) => {
                tracing::debug!(peer = %self.comer.client, "no PROXY protocol header: {wrong}");
                Look::Ends(Reason::ProxyHeader)
            }
            Outcome::Done { header, length } => {
                match recv(self.end.socket(), &mut most[..length], RecvFlags::empty()) {
                    Ok((_, taken)) if taken == length => Look::Says(header),
                    _ => Look::Ends(Reason::Internal),
                }
            }
        }
    }
}
