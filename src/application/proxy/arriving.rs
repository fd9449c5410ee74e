//! Connections that begin with a PROXY protocol header: until it is whole they are nobody's.
//!
//! What has arrived is looked at where it is, in the kernel, and only the header is taken out of it: what
//! follows is the client's, and no buffer is needed while one waits.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::{CLIENT, Comer, Proxy, Snapshot, ticks};
use crate::application::account::{Reason, Record};
use crate::application::locate::Location;
use crate::application::relay::End;
use crate::domain::time::Time;
use crate::infrastructure::ConnectionGuard;
use crate::infrastructure::proxy_protocol::{self, Header, Outcome};
use crate::infrastructure::reactor::Event;
use crate::infrastructure::slab::Key;

/// Longest wait for a whole header. It is a peer's first bytes, sent with or before its client's.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that has not said yet whom it is for.
pub(super) struct Arriving {
    end: End,
    peer: SocketAddr,
    listener: u16,
    accepted: Time,
    guard: ConnectionGuard,
}

/// What a look at what has arrived comes to.
enum Look {
    /// The header is not whole yet.
    Waits,
    /// It was, and has been taken out.
    Says(Header),
    /// There will be none.
    Ends(Reason),
}

impl Proxy {
    /// Waits for the header of a connection, if its peer may send one.
    pub(super) fn arrive(
        &mut self,
        end: End,
        peer: SocketAddr,
        listener: u16,
        snapshot: &Snapshot,
        now: Time,
    ) {
        let ip = peer.ip();
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
        let id = self.connections.reserve(ticks(now));
        let watched =
            id.filter(|id| self.reactor.watch_reads(end.socket(), id.token(CLIENT)).is_ok());
        let arriving = Arriving { end, peer, listener, accepted: now, guard };
        match (id, watched) {
            (Some(id), Some(_)) => {
                self.deadlines.push(Reverse((now + HEADER_TIMEOUT, id)));
                self.arriving.insert(id, arriving);
            }
            (id, _) => {
                if let Some(id) = id {
                    self.connections.free(id);
                }
                self.never_came(arriving, Reason::Internal, now);
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
        let look = if event.failed() {
            Look::Ends(Reason::ClientReset)
        } else {
            arriving.look(&mut self.tools.scratch)
        };
        match look {
            Look::Waits => {
                self.arriving.insert(id, arriving);
            }
            Look::Ends(reason) => {
                self.connections.free(id);
                self.never_came(arriving, reason, now);
            }
            Look::Says(header) => self.has_come(id, arriving, header, now),
        }
    }

    /// Ends one whose header is not there in time; whether it was one that arrives.
    pub(super) fn arrival_time(&mut self, id: Key, now: Time) -> bool {
        let Some(arriving) = self.arriving.remove(&id) else { return false };
        // It may be there, and its event among more than this worker has taken up yet.
        if let Look::Says(header) = arriving.look(&mut self.tools.scratch) {
            self.has_come(id, arriving, header, now);
        } else {
            self.connections.free(id);
            self.never_came(arriving, Reason::ProxyHeader, now);
        }
        true
    }

    /// Ends all of them, because a drain runs out of time.
    pub(super) fn end_arrivals(&mut self, now: Time) {
        for (id, arriving) in std::mem::take(&mut self.arriving) {
            self.connections.free(id);
            arriving.guard.force();
            self.never_came(arriving, Reason::Drained, now);
        }
    }

    fn has_come(&mut self, id: Key, arriving: Arriving, header: Header, now: Time) {
        let Arriving { end, peer, listener, accepted, guard } = arriving;
        let (client, destination) = match header {
            Header::Proxied { source, destination } => (source, Some(destination)),
            Header::Local | Header::Unknown => (peer, None),
        };
        let comer = Comer { client, destination, listener, accepted };
        let snapshot = self.shared.snapshot.load_full();
        self.enter(&comer, end, Some((id, guard)), &snapshot, now);
    }

    fn never_came(&mut self, arriving: Arriving, reason: Reason, now: Time) {
        let Arriving { end, peer, listener, accepted, guard } = arriving;
        if reason != Reason::ClientClosed {
            end.reset();
        }
        let record = Record { total: now.since(accepted), ..Record::new(peer, reason) };
        self.account(listener, Location::default(), &record, now);
        drop(guard);
    }
}

impl Arriving {
    fn look(&self, scratch: &mut [u8]) -> Look {
        let most = &mut scratch[..proxy_protocol::MAX_LENGTH];
        let arrived = match recv(self.end.socket(), &mut *most, RecvFlags::PEEK) {
            // Balancers look like this whether somebody listens.
            Ok((_, 0)) => return Look::Ends(Reason::ClientClosed),
            Ok((_, arrived)) => arrived,
            Err(Errno::AGAIN | Errno::INTR) => return Look::Waits,
            Err(_) => return Look::Ends(Reason::ClientReset),
        };
        match proxy_protocol::read(&most[..arrived]) {
            Outcome::More { .. } if self.end.read_closed() => Look::Ends(Reason::ProxyHeader),
            Outcome::More { .. } => Look::Waits,
            Outcome::Wrong(wrong) => {
                tracing::debug!(peer = %self.peer, "no PROXY protocol header: {wrong}");
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
