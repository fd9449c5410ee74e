//! A client and its backend joined, until they end.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::getsockname;

use super::Comer;
use crate::application::account::Reason;
use crate::application::connect::{Dial, Greeting};
use crate::application::relay::{End, Relay};
use crate::application::upstreams::Slot;
use crate::domain::affinity::Hold;
use crate::domain::balance::Tier;
use crate::domain::time::Time;
use crate::infrastructure::circuit_breaker::Permit;
use crate::infrastructure::meters::{Meters, Share};
use crate::infrastructure::proxy_protocol::{ClientCertificate, Header, Tls, Tlvs, Version};
use crate::infrastructure::tls::Session;

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

/// Where a client wanted to go, by what a header said of that; else where it came.
pub(super) fn went_to(destination: Option<SocketAddr>, end: &End) -> Option<SocketAddr> {
    let own = || getsockname(end.socket()).ok().and_then(|own| own.try_into().ok());
    destination.or_else(own)
}

/// What a backend is told of a client that wanted to go to `destination`; else to where it came.
pub(super) fn header(
    version: Version,
    client: SocketAddr,
    destination: Option<SocketAddr>,
    name: Option<&str>,
    end: &End,
) -> Box<[u8]> {
    let header = match went_to(destination, end) {
        Some(destination) => Header::Proxied { source: client, destination },
        None => Header::Unknown,
    };
    let common_name = end.tls().and_then(Session::peer_name);
    let tls = end.tls().and_then(|session| {
        Some(Tls {
            version: session.version()?,
            cipher: session.cipher(),
            common_name: common_name.as_deref(),
            certificate: match (session.peer_certificate(), session.resumed()) {
                (None, _) => ClientCertificate::Absent,
                (Some(_), true) => ClientCertificate::Resumed { verify: 0 },
                (Some(_), false) => ClientCertificate::Presented { verify: 0 },
            },
        })
    });
    let alpn = end.tls().and_then(Session::alpn);
    header.written(version, &Tlvs { alpn, authority: name, tls, checksum: false })
}

/// What a backend is told whose connections are secured.
pub(super) fn greeting(dial: &Dial, comer: &Comer, end: &End) -> Greeting {
    let Comer { client, destination, name, .. } = comer;
    let written = |version| header(version, *client, *destination, name.as_deref(), end);
    let alpn = end.tls().and_then(Session::alpn);
    Greeting { preamble: dial.expects().map(written), alpn: alpn.map(Into::into) }
}
