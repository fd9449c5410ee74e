//! What a worker does because time has passed.

use std::cmp::Reverse;
use std::time::Duration;

use super::{Proxy, Relaying, Stage, TICKS_PER_SEC, connect, dial_tools, idle_ticks, ticks};
use crate::application::account::Reason;
use crate::domain::time::Time;
use crate::infrastructure::shutdown::Drain;
use crate::infrastructure::slab::Key;

/// How often connections are looked over for idle ones.
const SWEEP: Duration = Duration::from_millis(250);
/// When a connection counts as long-lived and is worth keepalives, in ticks.
const SETTLED: u32 = 30 * TICKS_PER_SEC;
/// How often some connections are closed while a drain runs out of time.
const FORCE_STEP: Duration = Duration::from_millis(20);

/// Connections being closed because a drain runs out of time.
pub(super) struct Forcing {
    drain: Drain,
    left: Option<usize>,
    next: Time,
}

impl Proxy {
    /// When to come back without an event; `None` = only for events.
    #[must_use]
    pub fn wake_at(&mut self, now: Time) -> Option<Time> {
        if !self.unfinished.is_empty() {
            return Some(now);
        }
        while let Some(Reverse((_, id))) = self.deadlines.peek() {
            if self.connections.contains(*id) {
                break;
            }
            self.deadlines.pop();
        }
        let dial = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let sweep = (!self.connections.is_empty()).then(|| self.swept + SWEEP);
        let force = self.forcing.as_ref().map(|forcing| forcing.next);
        [dial, sweep, force, self.log.due()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn time(&mut self, now: Time) {
        while let Some(Reverse((at, id))) = self.deadlines.peek().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop();
            self.dial_time(id, now);
        }
        if now.since(self.swept) >= SWEEP {
            self.swept = now;
            self.sweep(now);
        }
        self.force(now);
        self.log.flush_if_due(now);
    }

    /// Lets open connections end by themselves until the drain runs out of time.
    pub fn drain(&mut self, drain: Drain) {
        self.forcing = Some(Forcing { drain, left: None, next: drain.force_from });
    }

    fn dial_time(&mut self, id: Key, now: Time) {
        let Some(mut connection) = self.connections.take(id) else { return };
        let Stage::Dialing { dial, .. } = &mut connection.stage else {
            return self.connections.put(id, connection);
        };
        let progress = dial.time(now, &mut dial_tools!(self, id));
        self.dialled(id, connection, progress, now);
    }

    /// Looks over all connections: ends the idle ones, asks after the long-lived ones.
    fn sweep(&mut self, now: Time) {
        let tick = ticks(now);
        let snapshot = self.shared.snapshot.load();
        let shortest = idle_ticks(snapshot.shortest_idle);
        let user_timeout = snapshot.user_timeout;
        drop(snapshot);
        let due: Vec<Key> = self
            .connections
            .ages()
            .filter(|(_, age)| {
                let settles = !age.settled && tick.wrapping_sub(age.born) >= SETTLED;
                settles || tick.wrapping_sub(age.touched) > shortest
            })
            .map(|(id, _)| id)
            .collect();
        for id in due {
            let Some(age) = self.connections.age(id) else { continue };
            let Some(connection) = self.connections.take(id) else { continue };
            let Stage::Relaying(Relaying { relay, .. }) = &connection.stage else {
                self.connections.put(id, connection);
                continue;
            };
            // Both moments are rounded down to ticks, so that equal is not yet enough.
            if tick.wrapping_sub(age.touched) > connection.idle_ticks {
                self.end(id, connection, Reason::Idle, now);
                continue;
            }
            if !age.settled && tick.wrapping_sub(age.born) >= SETTLED {
                relay.client.keep_alive(user_timeout);
                relay.backend.keep_alive(user_timeout);
                self.connections.settle(id);
            }
            self.connections.put(id, connection);
        }
        if self.connections.is_empty() {
            self.tools.pipes.release();
        }
    }

    /// Closes as many connections as the time left demands, so that the last goes at the deadline.
    fn force(&mut self, now: Time) {
        let Some(forcing) = &mut self.forcing else { return };
        if now < forcing.next {
            return;
        }
        forcing.next = now + FORCE_STEP;
        let Drain { force_from, deadline } = forcing.drain;
        let at_start = *forcing.left.get_or_insert(self.connections.len());
        let span = deadline.since(force_from).as_millis().max(1);
        let left = deadline.since(now).as_millis();
        let may_stay = usize::try_from(at_start as u128 * left / span).unwrap_or(usize::MAX);
        let surplus = self.connections.len().saturating_sub(may_stay);
        let ids: Vec<Key> = self.connections.ages().map(|(id, _)| id).take(surplus).collect();
        for id in ids {
            if let Some(connection) = self.connections.take(id) {
                connection.admitted.force();
                self.end(id, connection, Reason::Drained, now);
            }
        }
    }
}
