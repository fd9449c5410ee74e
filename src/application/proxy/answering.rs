//! What becomes of a request: its answer, passed on or ours, and what there is to tell of it.

use std::sync::Arc;

use super::asking::{Call, Came, Having, Phase, Whose};
use super::reusing::Own;
use super::{Proxy, connect, dial_tools};
use crate::application::account::{Reason, Record, Requested};
use crate::application::http::{Answer, Asker, Turn};
use crate::application::route::Routed;
use crate::application::upstreams::Rested;
use crate::domain::time::Time;

impl Proxy {
    /// Goes on with a request as far as that goes without waiting.
    pub(super) fn turn_call(
        &mut self,
        whose: &Whose<'_>,
        call: &mut Call,
        asker: &mut impl Asker,
        held: &mut Vec<u8>,
        own: &mut Option<Own>,
        now: Time,
    ) -> Came {
        if let Some(reason) = call.broken {
            return Came::Gone(reason);
        }
        loop {
            match &mut call.phase {
                Phase::Dials(_) => return Came::Waits,
                Phase::Answers(answer) => {
                    call.made.said.keeps &= self.forcing.is_none();
                    if asker.answer(answer, &call.made.said, &mut call.to_client).is_err() {
                        return Came::Gone(Reason::ClientReset);
                    }
                    let status = answer.status;
                    self.tell_of(whose, call, Some(status), now);
                    call.phase = Phase::Answered;
                }
                Phase::Answered => {
                    let keeps = call.made.said.keeps;
                    return match asker.send(&mut call.to_client, (true, !keeps), &mut self.tools) {
                        Ok(false) => Came::Waits,
                        Ok(true) if asker.end(&[]).is_ok() => Came::Over { keeps },
                        _ => Came::Gone(Reason::ClientReset),
                    };
                }
                Phase::Has(having) => {
                    let exchange = &mut having.exchange;
                    if self.forcing.is_some() && exchange.status.is_none() {
                        exchange.asked.keeps = false;
                    }
                    let turn = exchange.turn(asker, held, &mut call.to_client, &mut self.tools);
                    let moved = exchange.sent + exchange.received;
                    if moved != having.moved {
                        having.moved = moved;
                        let rules = self.times;
                        let waits_for_head =
                            exchange.status.is_none() && !exchange.waits_for_client();
                        call.until = now
                            + if waits_for_head {
                                rules.response_timeout
                            } else {
                                rules.body_timeout
                            };
                    }
                    if let Some(status) = exchange.status
                        && let Some(permit) = having.routed.permit.take()
                    {
                        let failed = matches!(status, 502..=504);
                        having.routed.slot.upstream().report(permit, !failed, now);
                    }
                    match turn {
                        Turn::Waits => return Came::Waits,
                        Turn::More => return Came::More,
                        Turn::Upgraded => return Came::Upgraded,
                        Turn::ClientGone => return Came::Gone(Reason::ClientReset),
                        // Another answer in the midst of the one that has begun would be a part of it.
                        Turn::BadBody(..) if exchange.status.is_some() => {
                            return Came::Gone(Reason::BadRequest);
                        }
                        Turn::BrokeOff => return Came::Gone(Reason::BackendReset),
                        Turn::Over { client, backend } => {
                            self.answered(whose, call, backend, own, now);
                            return Came::Over { keeps: client };
                        }
                        Turn::Unanswered | Turn::Nonsense(_) | Turn::BadBody(..) => {
                            self.call_failed(whose, call, &turn, now);
                        }
                    }
                }
            }
        }
    }

    /// An answer has been passed on.
    fn answered(
        &mut self,
        whose: &Whose<'_>,
        call: &mut Call,
        backend_keeps: bool,
        own: &mut Option<Own>,
        now: Time,
    ) {
        call.made.reason = Reason::Served;
        self.tell_of(whose, call, None, now);
        let phase = std::mem::replace(&mut call.phase, Phase::Answered);
        let Phase::Has(having) = phase else { return };
        let Having { exchange, leg, part, routed, dies, table, .. } = *having;
        call.heard = exchange.asked.up.is_over();
        let end = exchange.into_backend(&mut self.tools.spare);
        self.tools.spare.give(std::mem::take(&mut call.made.head));
        let secured_by = table.rules.tls.clone();
        let rested = Rested { id: leg, part, end, secured_by, dies };
        if !backend_keeps {
            self.drop_leg(leg);
        } else if table.rules.header.is_some() && whose.client != call.made.client {
            // It has been said for whom it is, and the next may be another's.
            self.drop_leg(leg);
        } else {
            let upstream = routed.slot.upstream();
            self.rest(whose.id, rested, upstream, table.rules.header.is_none(), own, now);
        }
    }

    /// A backend has not answered as it must: it is asked again on another connection where that can do
    /// no harm, else the client is told.
    fn call_failed(&mut self, whose: &Whose<'_>, call: &mut Call, turn: &Turn, now: Time) {
        let phase = std::mem::replace(&mut call.phase, Phase::Answered);
        let Phase::Has(mut having) = phase else { return };
        self.drop_leg(having.leg);
        self.count(&mut having);
        let Having { exchange, mut routed, table, preamble, tries, .. } = *having;
        let keeps = exchange.asked.keeps && exchange.asked.up.is_over();
        call.heard = exchange.asked.up.is_over();
        call.made.tries += tries;
        call.made.tried = Some(Arc::clone(routed.slot.upstream()));
        call.made.moved = (call.made.moved.0 + exchange.sent, call.made.moved.1);
        let was_used = exchange.was_used();
        if *turn == Turn::Unanswered
            && !std::mem::replace(&mut call.made.again, true)
            && let Some(asked) = exchange.take_again()
        {
            let snapshot = self.shared.snapshot.load();
            let origin = table.layout.origin(call.made.location.country, call.made.location.at_pop);
            routed.binds = false;
            return self.dial_for(
                whose,
                call,
                (asked, preamble),
                (table, origin, routed),
                &snapshot,
                now,
            );
        }
        let (answer, reason) = match turn {
            Turn::BadBody(status, why) => (Answer::new(*status, why), Reason::BadRequest),
            Turn::Nonsense(why) => {
                tracing::debug!(backend = %routed.slot.upstream().id, "no answer: {why}");
                let why = "the backend's answer cannot be understood";
                (Answer::new(502, why), Reason::BackendReset)
            }
            _ => (Answer::new(502, "the backend closed the connection"), Reason::BackendReset),
        };
        // One that was kept too long says nothing of the backend.
        if reason == Reason::BackendReset && !was_used {
            self.blame(&mut routed, now);
        }
        self.answer(call, (answer, reason), keeps, now);
    }

    /// Looks at the time. Whether anything has come of it.
    pub(super) fn call_time(&mut self, call: &mut Call, now: Time) -> Option<Came> {
        let is_over = call.over_by.is_some_and(|by| by <= now);
        match &mut call.phase {
            Phase::Dials(dialling) if !is_over => {
                let leg = dialling.leg;
                let progress = dialling.dial.time(now, &mut dial_tools!(self, leg));
                self.progressed(call, progress, now);
                return None;
            }
            _ if !is_over && now < call.until => return None,
            Phase::Answers(_) | Phase::Answered => return Some(Came::Gone(Reason::Idle)),
            Phase::Has(having) if having.exchange.status.is_some() => {
                // Who does not go on? What has not been taken is the client's doing.
                let is_clients = !call.to_client.is_empty();
                let reason = if is_clients { Reason::Idle } else { Reason::ResponseTimeout };
                return Some(Came::Gone(reason));
            }
            Phase::Has(_) | Phase::Dials(_) => {}
        }
        let is_clients = call.waits_for_client();
        let keeps = false;
        let verdict = if is_clients {
            (Answer::new(408, "the body of the request took too long"), Reason::RequestTimeout)
        } else {
            (Answer::new(504, "the backend takes too long"), Reason::ResponseTimeout)
        };
        match std::mem::replace(&mut call.phase, Phase::Answered) {
            Phase::Has(mut having) => {
                self.drop_leg(having.leg);
                self.count(&mut having);
                call.made.tries += having.tries;
                call.made.tried = Some(Arc::clone(having.routed.slot.upstream()));
                call.made.moved.0 += having.exchange.sent;
                call.heard = having.exchange.asked.up.is_over();
                if !is_clients {
                    self.blame(&mut having.routed, now);
                }
            }
            Phase::Dials(dialling) => self.drop_leg(dialling.leg),
            Phase::Answers(_) | Phase::Answered => {}
        }
        self.answer(call, verdict, keeps, now);
        None
    }

    /// Ends a request whose answer nobody will have.
    pub(super) fn give_up(
        &mut self,
        whose: &Whose<'_>,
        mut call: Box<Call>,
        reason: Reason,
        now: Time,
    ) {
        let leg = match &call.phase {
            Phase::Dials(dialling) => dialling.leg,
            Phase::Has(having) => having.leg,
            // For the reason that it has.
            Phase::Answers(_) => return self.tell_of(whose, &mut call, None, now),
            Phase::Answered => return,
        };
        self.drop_leg(leg);
        call.made.reason = reason;
        let status = call.having().and_then(|having| having.exchange.status);
        if let Phase::Has(having) = &mut call.phase
            && matches!(reason, Reason::BackendReset | Reason::ResponseTimeout)
        {
            self.blame(&mut having.routed, now);
        }
        self.tell_of(whose, &mut call, status, now);
    }

    /// A backend has not done what it should have.
    fn blame(&self, routed: &mut Routed, now: Time) {
        let upstream = routed.slot.upstream();
        upstream.meter.cell(self.share).reset();
        if let Some(permit) = routed.permit.take() {
            upstream.report(permit, false, now);
        }
    }

    /// Lets metrics know of what has moved since the last time.
    pub(super) fn count(&self, having: &mut Having) {
        let moved = (having.exchange.sent, having.exchange.received);
        let known = std::mem::replace(&mut having.counted, moved);
        let cell = having.routed.slot.upstream().meter.cell(self.share);
        self.shared.meters.moved(self.share, cell, moved.0 - known.0, moved.1 - known.1);
    }

    /// Counts and logs a request.
    pub(super) fn tell_of(
        &mut self,
        whose: &Whose<'_>,
        call: &mut Call,
        own: Option<u16>,
        now: Time,
    ) {
        let mut record = Record::new(call.made.client, call.made.reason);
        if let Phase::Has(having) = &mut call.phase {
            self.count(having);
            record.backend = Some(Arc::clone(having.routed.slot.upstream()));
            record.tier = Some(having.routed.tier);
            call.made.tries += having.tries;
            call.made.moved.0 += having.exchange.sent;
            call.made.moved.1 += having.exchange.received;
        } else {
            record.backend = call.made.tried.take();
        }
        let made = &call.made;
        let status = own.or_else(|| call.having().and_then(|having| having.exchange.status));
        record.country = made.location.country;
        record.server_name = whose.name.map(Into::into);
        if let Some(told) = &whose.peer.told {
            record.tls = told.tls;
            record.client_name.clone_from(&told.name);
        }
        record.tries = u32::try_from(made.tries).unwrap_or(u32::MAX);
        (record.sent, record.received) = made.moved;
        record.total = now.since(made.began);
        record.request = Some(Requested {
            method: made.text(0..made.path.start.saturating_sub(1)).unwrap_or("-"),
            path: made.text(made.path.clone()).unwrap_or("-"),
            host: made.text(made.host.clone()),
            version: made.version.as_str(),
            status,
            id: made.said.trace,
        });
        if made.reason != Reason::Served {
            self.ended.count_request(made.reason);
        }
        self.shared.meters.answered(self.share, status, record.total);
        self.line(made.table.as_deref(), made.location, &record, now);
    }
}
