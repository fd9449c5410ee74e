//! Fresh connections to backends that have traffic, kept ready so that a client saves the handshake.
//! They are never used before: in tcp mode a used one would hand a stranger's session on.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::{Proxy, connect, ticks};
use crate::application::connect::Cause;
use crate::application::upstreams::{Keeper, Kept, Upstream};
use crate::domain::time::Time;
use crate::infrastructure::reactor::Event;
use crate::infrastructure::slab::Key;

/// Which of a connection's sockets a warm one becomes: that of its first dial.
const BACKEND: usize = 1;

/// How long no connections are made ahead when descriptors or the like are short.
const SHORTAGE: Duration = Duration::from_secs(10);

/// A connection that waits for a client, as its worker knows it.
pub(super) struct Warming {
    upstream: Arc<Upstream>,
    began: Time,
    /// What was told of it since the backend answered.
    ready: Option<Event>,
    /// When it has waited long enough.
    until: Time,
}

impl Proxy {
    /// Makes connections to a backend that has just had a client: one in place of the one that was
    /// taken, or two where there was none.
    pub(super) fn warm_up(
        &mut self,
        upstream: &Arc<Upstream>,
        hard_limit: u32,
        keeper: Keeper<'_>,
        found_warm: bool,
        now: Time,
    ) {
        for _ in 0..if found_warm { 1 } else { 2 } {
            let wanted = upstream.warm() < keeper.rules.most
                && now >= self.no_warming_until
                && self.forcing.is_none()
                && upstream.may_be_warm(now);
            if !wanted || !self.begin_warm(upstream, hard_limit, keeper, now) {
                return;
            }
        }
    }

    fn begin_warm(
        &mut self,
        upstream: &Arc<Upstream>,
        hard_limit: u32,
        keeper: Keeper<'_>,
        now: Time,
    ) -> bool {
        let Some(id) = self.connections.reserve(ticks(now)) else { return false };
        let reactor = &self.reactor;
        let dial = || {
            let socket = connect::begin_connect(upstream)?;
            if socket.as_raw_fd() >= keeper.rules.last_descriptor {
                return Err(Errno::MFILE);
            }
            reactor.watch_both(&socket, id.token(BACKEND))?;
            Ok(Kept { id, socket })
        };
        match upstream.begin_warm(keeper, hard_limit, (now, self.rng.u16(..)), dial) {
            Some(Ok(())) => {
                let upstream = Arc::clone(upstream);
                // A client's dial would get company then.
                let until = now + connect::HEDGE_AFTER;
                self.warm.insert(id, Warming { upstream, began: now, ready: None, until });
                true
            }
            Some(Err(error)) => {
                self.connections.free(id);
                if connect::is_local(error) {
                    self.no_warming_until = now + SHORTAGE;
                } else {
                    self.warm_failed(upstream, Some(error), now);
                }
                false
            }
            None => {
                self.connections.free(id);
                false
            }
        }
    }

    /// Takes up what an event says of a warm connection.
    pub(super) fn warm_event(&mut self, id: Key, event: Event, now: Time) {
        let Some(warming) = self.warm.get_mut(&id) else { return };
        if event.failed() || event.read_closed() {
            let Some(Warming { upstream, ready, .. }) = self.warm.remove(&id) else { return };
            self.connections.free(id);
            let Some(kept) = upstream.close_warm(self.number, id) else { return };
            if ready.is_none() {
                let error = sockopt::socket_error(&kept.socket).ok().and_then(Result::err);
                self.warm_failed(&upstream, error, now);
            } else if upstream.closed_unused(now) {
                tracing::info!(
                    backend = %upstream.id,
                    "closes connections that wait for a client; it gets no more of them for ten minutes"
                );
            }
            return;
        }
        if let Some(earlier) = warming.ready {
            // A greeting, for the client that will come.
            warming.ready = Some(event.after(earlier));
        } else if event.writable() {
            warming.ready = Some(event);
            let cell = warming.upstream.meter.cell(self.share);
            cell.answered(now.since(warming.began));
            let snapshot = self.shared.snapshot.load();
            let table = snapshot.tables.get(&warming.upstream.app);
            // Where TLS is to follow this says little.
            if table.is_none_or(|table| table.rules.tls.is_none()) {
                warming.upstream.dials().succeeded();
            }
            let keeper = snapshot.keeper(self.number);
            let until = keeper.and_then(|keeper| warming.upstream.warm_is_ready(keeper, id, now));
            match until {
                Some(until) => warming.until = until,
                None => self.forget_warm(id, now),
            }
        }
    }

    /// Makes a warm connection a client's; what was told of it.
    pub(super) fn adopt(&mut self, id: Key, now: Time) -> Event {
        self.connections.renew(id, ticks(now));
        let ready = self.warm.remove(&id).and_then(|warming| warming.ready);
        ready.unwrap_or_else(|| Event::writable_now(id.token(BACKEND)))
    }

    /// Closes warm connections that have waited long enough or whose backend should have none, and
    /// forgets those that another worker has given up.
    pub(super) fn sweep_warm(&mut self, now: Time) {
        let short = Time::from_nanos(self.shared.short_of_descriptors.load(Ordering::Relaxed));
        if short > self.no_warming_until {
            self.no_warming_until = short;
        }
        let keeps =
            self.shared.snapshot.load().warm.is_some() && self.forcing.is_none() && now >= short;
        let mut over = Vec::new();
        for (id, Warming { upstream, until, .. }) in &self.warm {
            if !keeps || *until <= now || !upstream.may_be_warm(now) {
                over.push(*id);
            }
            over.append(&mut upstream.lost_warm(self.number));
        }
        for id in over {
            self.forget_warm(id, now);
        }
    }

    /// Has all workers close their warm connections, because there are no descriptors for clients.
    pub fn leave_descriptors_to_clients(&mut self, now: Time) {
        let until = (now + SHORTAGE).nanos();
        self.shared.short_of_descriptors.fetch_max(until, Ordering::Relaxed);
        self.sweep_warm(now);
        self.sweep_rested(now);
    }

    /// Closes a warm connection.
    fn forget_warm(&mut self, id: Key, now: Time) {
        let Some(warming) = self.warm.remove(&id) else { return };
        self.connections.free(id);
        let was_there = warming.upstream.close_warm(self.number, id).is_some();
        // Not answered in all the time that a dial has?
        if was_there && warming.ready.is_none() && warming.until <= now {
            self.warm_failed(&warming.upstream, Some(Errno::TIMEDOUT), now);
        }
    }

    /// A client would have had the same experience: others are to be spared it.
    fn warm_failed(&self, upstream: &Arc<Upstream>, error: Option<Errno>, now: Time) {
        upstream.meter.cell(self.share).dial_failed(connect::failure(error));
        self.shared.demotions.demote(upstream, &Cause::Socket(error), now);
    }
}
