//! Connections to backends between two requests: kept for any client where there is a pool, else for
//! the client whose request they had.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Proxy, Snapshot};
use crate::application::route::Routed;
use crate::application::upstreams::{AppRules, Rested, Upstream};
use crate::domain::time::Time;
use crate::infrastructure::reactor::Event;
use crate::infrastructure::slab::Key;

/// A connection that is kept for one client, and the number of its backend.
pub(super) type Own = Box<(u64, Rested)>;

/// What a connection to a backend is for, in http mode.
pub(super) enum Leg {
    /// A request of a client's.
    Call { client: Key, stream: u32 },
    /// The next request of one client's.
    Own { client: Key },
    /// Whoever's comes first, until then.
    Rests { upstream: Arc<Upstream>, until: Time },
}

impl Proxy {
    /// A connection to the backend chosen that has had requests before. That of `own` was begun in the
    /// name of whoever speaks to us: not everybody's request `may_be_its`.
    pub(super) fn take_rested(
        &mut self,
        routed: &Routed,
        rules: &AppRules,
        (own, may_be_its): (&mut Option<Own>, bool),
        snapshot: &Snapshot,
        now: Time,
    ) -> Option<Rested> {
        let upstream = routed.slot.upstream();
        let secured_by = rules.tls.as_ref();
        // What came between two requests would be taken for the answer to the next. It may be there
        // before anybody has told of it.
        if let Some((number, rested)) = own.take().map(|own| *own) {
            let is_right = number == upstream.number && may_be_its;
            if is_right && rested.is_usable(secured_by, now) {
                return Some(rested);
            }
            self.drop_leg(rested.id);
        }
        // Where who asks is said at a connection's beginning, it is not for everybody.
        let keeper = snapshot.keeper(self.number).filter(|_| rules.header.is_none())?;
        loop {
            let rested = upstream.take_rested(keeper, now)?;
            if rested.is_usable(secured_by, now) {
                return Some(rested);
            }
            self.drop_leg(rested.id);
        }
    }

    /// Keeps a connection whose request has been answered: for anybody if it may be `shared`.
    pub(super) fn rest(
        &mut self,
        client: Key,
        mut rested: Rested,
        upstream: &Arc<Upstream>,
        shared: bool,
        own: &mut Option<Own>,
        now: Time,
    ) {
        let leg = rested.id;
        let snapshot = self.shared.snapshot.load();
        if self.forcing.is_some() || now >= rested.dies || rested.end.is_readable() {
            return self.drop_leg(leg);
        }
        // Nothing was read of it while its client took nothing; now its end is to be seen.
        let rewatched = rested.end.rewatch(true);
        if rewatched.is_some_and(|(socket, interest)| {
            self.reactor.rewatch(socket, leg.token(rested.part), interest).is_err()
        }) {
            return self.drop_leg(leg);
        }
        if let Some(keeper) = snapshot.keeper(self.number).filter(|_| shared) {
            match upstream.rest(keeper, rested, now) {
                Ok(until) => {
                    let upstream = Arc::clone(upstream);
                    self.legs.insert(leg, Leg::Rests { upstream, until });
                }
                Err(_) => self.drop_leg(leg),
            }
            return;
        }
        self.legs.insert(leg, Leg::Own { client });
        if let Some(before) = own.replace(Box::new((upstream.number, rested))) {
            self.drop_leg(before.1.id);
        }
    }

    /// Takes up an event of a connection that rests: what is said to nobody ends it.
    pub(super) fn rested_event(&mut self, leg: Key, event: Event) {
        if !event.readable() && !event.failed() && !event.read_closed() {
            return;
        }
        if let Some(Leg::Rests { upstream, .. }) = self.legs.get(&leg) {
            drop(upstream.take_rested_away(self.number, leg));
            self.drop_leg(leg);
        }
    }

    /// Closes those that have rested long enough, or whose backend is to have none.
    pub(super) fn sweep_rested(&mut self, now: Time) {
        let keeps = self.shared.snapshot.load().warm.is_some()
            && now >= self.no_warming_until
            && self.forcing.is_none();
        let (mut over, mut seen) = (Vec::new(), HashSet::new());
        for (leg, what) in &self.legs {
            let Leg::Rests { upstream, until } = what else { continue };
            if seen.insert(upstream.number) {
                over.append(&mut upstream.lost_rested(self.number));
            }
            if !keeps || *until <= now || !upstream.is_seated() {
                drop(upstream.take_rested_away(self.number, *leg));
                over.push(*leg);
            }
        }
        for leg in over {
            self.drop_leg(leg);
        }
    }

    /// Forgets the connections to backends of a client that is lost, or that of which this is one; whose
    /// it was.
    pub(super) fn abandon_legs(&mut self, id: Key) -> Key {
        let client_of = |leg: &Leg| match leg {
            Leg::Call { client, .. } | Leg::Own { client } => Some(*client),
            Leg::Rests { .. } => None,
        };
        let client = self.legs.get(&id).and_then(client_of).unwrap_or(id);
        let is_its = |(leg, what): &(&Key, &Leg)| **leg == id || client_of(what) == Some(client);
        let lost: Vec<Key> = self.legs.iter().filter(is_its).map(|(leg, _)| *leg).collect();
        for leg in lost {
            self.drop_leg(leg);
        }
        client
    }

    /// Closes those that rest at a backend.
    pub(super) fn drop_rested(&mut self, backend: u64) {
        let is_its = |leg: &Leg| match leg {
            Leg::Rests { upstream, .. } => upstream.number == backend,
            Leg::Call { .. } | Leg::Own { .. } => false,
        };
        let all: Vec<Key> =
            self.legs.iter().filter(|(_, leg)| is_its(leg)).map(|(leg, _)| *leg).collect();
        for leg in all {
            if let Some(Leg::Rests { upstream, .. }) = self.legs.get(&leg) {
                drop(upstream.take_rested_away(self.number, leg));
            }
            self.drop_leg(leg);
        }
    }

    /// How many rest.
    pub(super) fn resting(&self) -> usize {
        self.legs.values().filter(|leg| matches!(leg, Leg::Rests { .. })).count()
    }

    pub(super) fn drop_leg(&mut self, leg: Key) {
        if self.legs.remove(&leg).is_some() {
            self.connections.free(leg);
        }
    }
}
