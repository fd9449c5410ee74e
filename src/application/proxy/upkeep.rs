//! What a worker does because time has passed.

use std::cmp::Reverse;
use std::time::Duration;

use super::{Proxy, Stage, TICKS_PER_SEC, connect, dial_tools, ticks};
use crate::application::account::Reason;
use crate::domain::time::Time;
use crate::infrastructure::shutdown::Drain;
use crate::infrastructure::slab::{Age, Key};

/// How often connections are looked over for idle ones.
const SWEEP: Duration = Duration::from_millis(250);
/// How long a connected backend must not reset to count as a success, without having said anything.
const PROVED: Duration = Duration::from_secs(1);
/// How often metrics hear of connections that go on.
const COUNT: Duration = Duration::from_secs(1);
/// What connections reach with age, each at so many ticks.
const MILESTONES: [(u8, u32); 2] = [(PROVED_GOOD, TICKS_PER_SEC), (SETTLED, 30 * TICKS_PER_SEC)];
const PROVED_GOOD: u8 = 1;
/// Long-lived, and worth keepalives.
const SETTLED: u8 = 2;
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
            self.sweep_warm(now);
            self.sweep_rested(now);
        }
        self.force(now);
        self.log.flush_if_due(now);
    }

    /// The process ends: from now on each answer says that its connection does.
    pub const fn leave_soon(&mut self, drain: Drain) {
        self.forcing = Some(Forcing { drain, left: None, next: drain.force_from });
    }

    /// Lets open connections end by themselves until the drain runs out of time.
    pub fn drain(&mut self, drain: Drain, now: Time) {
        self.leave_soon(drain);
        self.sweep_warm(now);
        self.sweep_rested(now);
        let all: Vec<Key> = self.connections.ages().map(|(id, _)| id).collect();
        for id in all {
            self.drain_serving(id, drain.force_from.since(now), now);
        }
    }

    /// Closes all connections to a backend.
    pub fn close_all_of(&mut self, backend: u64, now: Time) {
        self.drop_rested(backend);
        let all: Vec<Key> = self.connections.ages().map(|(id, _)| id).collect();
        for id in all {
            let Some(connection) = self.connections.take(id) else { continue };
            match &connection.stage {
                Stage::Relaying(relaying) if relaying.slot.upstream().number == backend => {
                    self.end(id, connection, Reason::Killed, now);
                }
                Stage::Serving(serving) if serving.has_backend(backend) => {
                    self.kill_serving(id, connection, backend, now);
                }
                _ => self.connections.put(id, connection),
            }
        }
    }

    fn dial_time(&mut self, id: Key, now: Time) {
        if self.arrival_time(id, now) {
            return;
        }
        let Some(mut connection) = self.connections.take(id) else { return };
        if matches!(connection.stage, Stage::Serving(_)) {
            return self.serving_time(id, connection, now);
        }
        let Stage::Dialing { dial, .. } = &mut connection.stage else {
            return self.connections.put(id, connection);
        };
        let progress = dial.time(now, &mut dial_tools!(self, id));
        self.dialled(id, connection, progress, now);
    }

    /// Looks over all connections: ends the idle ones, counts what the others moved, and sees who has
    /// come of age.
    fn sweep(&mut self, now: Time) {
        let tick = ticks(now);
        let snapshot = self.shared.snapshot.load();
        let (user_timeout, per_client) =
            (snapshot.user_timeout, snapshot.admission.max_per_client > 0);
        drop(snapshot);
        if per_client && self.uncounted {
            self.count_clients();
            self.uncounted = false;
        }
        let since = ticks(self.counted).wrapping_sub(1);
        let counts = now.since(self.counted) >= COUNT;
        if counts {
            self.counted = now;
        }
        let due: Vec<Key> = self
            .connections
            .ages()
            .filter(|(_, age)| {
                next_milestone(age, tick).is_some()
                    || tick.wrapping_sub(age.touched) > age.may_idle
                    || (counts && tick.wrapping_sub(age.touched) <= tick.wrapping_sub(since))
            })
            .map(|(id, _)| id)
            .collect();
        for id in due {
            let Some(age) = self.connections.age(id) else { continue };
            let Some(mut connection) = self.connections.take(id) else { continue };
            let accepted = connection.accepted;
            let idle = tick.wrapping_sub(age.touched) > age.may_idle;
            let Stage::Relaying(relaying) = &mut connection.stage else {
                if idle && matches!(connection.stage, Stage::Serving(_)) {
                    self.end(id, connection, Reason::Idle, now);
                } else {
                    self.connections.put(id, connection);
                }
                continue;
            };
            // Both moments are rounded down to ticks, so that equal is not yet enough.
            if tick.wrapping_sub(age.touched) > age.may_idle {
                self.end(id, connection, Reason::Idle, now);
                continue;
            }
            relaying.count(&self.shared.meters, self.share);
            match next_milestone(&age, tick) {
                Some(PROVED_GOOD) if now.since(accepted + relaying.setup) >= PROVED => {
                    relaying.has_proved_good(now);
                    self.connections.reach(id, PROVED_GOOD);
                }
                Some(SETTLED) => {
                    relaying.relay.client.keep_alive(user_timeout);
                    relaying.relay.backend.keep_alive(user_timeout);
                    self.connections.reach(id, SETTLED);
                }
                _ => {}
            }
            self.connections.put(id, connection);
        }
        if self.is_empty() {
            self.tools.pipes.release();
        }
    }

    /// Counts those among their clients' who came while there was no limit for a client.
    fn count_clients(&mut self) {
        let all: Vec<Key> = self.connections.ages().map(|(id, _)| id).collect();
        for id in all {
            let Some(mut connection) = self.connections.take(id) else { continue };
            connection.admitted.count(connection.client.ip(), &self.shared.clients);
            self.connections.put(id, connection);
        }
    }

    /// Closes as many connections as the time left demands, so that the last goes at the deadline.
    fn force(&mut self, now: Time) {
        if self.forcing.as_ref().is_none_or(|forcing| now < forcing.next) {
            return;
        }
        self.end_arrivals(now);
        let Some(forcing) = &mut self.forcing else { return };
        forcing.next = now + FORCE_STEP;
        let Drain { force_from, deadline } = forcing.drain;
        let open = self.connections.ages().count();
        let at_start = *forcing.left.get_or_insert(open);
        let span = deadline.since(force_from).as_millis().max(1);
        let left = deadline.since(now).as_millis();
        let may_stay = usize::try_from(at_start as u128 * left / span).unwrap_or(usize::MAX);
        let surplus = open.saturating_sub(may_stay);
        let ids: Vec<Key> = self.connections.ages().map(|(id, _)| id).take(surplus).collect();
        for id in ids {
            if let Some(connection) = self.connections.take(id) {
                connection.admitted.force();
                self.end(id, connection, Reason::Drained, now);
            }
        }
    }
}

/// What a connection of this age has not reached yet and could.
fn next_milestone(age: &Age, tick: u32) -> Option<u8> {
    let lived = tick.wrapping_sub(age.born);
    let next = MILESTONES.iter().find(|(milestone, _)| age.milestone < *milestone);
    next.filter(|(_, at)| lived >= *at).map(|(milestone, _)| *milestone)
}
