//! A client and its backend joined, until they end.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::getsockname;

use crate::application::account::Reason;
use crate::application::relay::{End, Relay};
use crate::application::upstreams::Slot;
use crate::domain::affinity::Hold;
use crate::domain::balance::Tier;
use crate::domain::time::Time;
use crate::infrastructure::circuit_breaker::Permit;
use crate::infrastructure::meters::{Meters, Share};
use crate::infrastructure::proxy_protocol::Header;

/// A client and its backend joined.
pub(super) struct Relaying {
    pub relay: Relay,
    /// Which of the connection's sockets the backend's is.
    pub backend_part: u8,
    /// Whether it is among those with more to move.
    pub queued: bool,
    pub slot: Slot,
    /// Until the connection has had its result.
    pub permit: Option<Permit>,
    /// Bytes to and from the backend that metrics know of.
    pub counted: (u64, u64),
    pub hold: Option<(Hold, Duration)>,
    pub tier: Tier,
    pub tries: u32,
    pub setup: Duration,
}

impl Relaying {
    /// The backend's first byte is the connection's success.
    pub fn has_answered(&mut self, now: Time) {
        if self.permit.is_some() && self.relay.received() > 0 {
            self.has_proved_good(now);
        }
    }

    pub fn has_proved_good(&mut self, now: Time) {
        if let Some(permit) = self.permit.take() {
            self.slot.upstream().report(permit, true, now);
        }
    }

    /// A reset before any byte of the client's is a failure. After one it is not: else one client that
    /// sends garbage would open the breaker for everybody. An end in order, after bytes that nobody had
    /// to answer, is a success: what only takes must not stay on trial for ever.
    pub fn has_ended(&mut self, reason: Reason, share: Share, now: Time) {
        if reason == Reason::BackendReset {
            self.slot.upstream().meter.cell(share).reset();
        }
        let sent = self.relay.sent() > 0;
        match reason {
            Reason::ClientClosed | Reason::BackendClosed if sent => self.has_proved_good(now),
            Reason::BackendReset if !sent => {
                if let Some(permit) = self.permit.take() {
                    self.slot.upstream().report(permit, false, now);
                }
            }
            _ => {}
        }
    }

    /// Lets metrics know of what has moved since the last time.
    pub fn count(&mut self, meters: &Meters, share: Share) {
        let moved = (self.relay.sent(), self.relay.received());
        let known = std::mem::replace(&mut self.counted, moved);
        let cell = self.slot.upstream().meter.cell(share);
        meters.moved(share, cell, moved.0 - known.0, moved.1 - known.1);
    }
}

/// What a backend is told of a client that wanted to go to `destination`; else to where it came.
pub(super) fn header(client: SocketAddr, destination: Option<SocketAddr>, end: &End) -> Header {
    let own = || getsockname(end.socket()).ok().and_then(|own| own.try_into().ok());
    match destination.or_else(own) {
        Some(destination) => Header::Proxied { source: client, destination },
        None => Header::Unknown,
    }
}
