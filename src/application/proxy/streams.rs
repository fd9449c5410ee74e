//! Clients that make requests by HTTP/2: many at once on one connection. What becomes of each is in
//! `asking`.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use h2::{Reason as H2Reason, RecvStream};
use http::request::Parts;

use super::asking::{Call, Came, Whose};
use super::made::Takes;
use super::reusing::Own;
use super::serving::{Phase, Serving};
use super::{Connection, Proxy, Stage};
use crate::application::account::Reason;
use crate::application::http::{Answer, Arrived, Out, Stream, cookies, read, request_of};
use crate::application::relay::End;
use crate::application::upstreams::Upstream;
use crate::domain::time::Time;
use crate::infrastructure::http1::{Field, MAX_HEADERS};
use crate::infrastructure::http2::{Polled, Session};
use crate::infrastructure::reactor::Reactor;
use crate::infrastructure::slab::{Key, KeyHasher};

/// How often one connection is taken up before others have their turn.
const ROUNDS: usize = 4;
/// Most requests that are taken up before others have their turn.
const ACCEPTS: usize = 16;
/// How many more requests a client may take back than it lets be answered.
const MAX_TAKEN_BACK: u32 = 200;
/// How long a client is waited for that has been told that no more requests are taken.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection of HTTP/2.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a connection")]
pub(super) struct Streams {
    session: Session,
    calls: HashMap<u32, Asking, BuildHasherDefault<KeyHasher>>,
    /// How many more requests were taken back than answered.
    taken_back: u32,
    to_client: Out,
    /// Whether some of an answer is in that.
    has_answers: bool,
    /// Whether its client says no more, which the library is not told as long as there is an answer to say.
    half_closed: bool,
    /// Whether no more requests are taken, and whether the connection is over but for what is to be sent.
    leaving: bool,
    over: bool,
}

/// A request and who makes it.
struct Asking {
    call: Box<Call>,
    stream: Stream,
    /// What has arrived of its body and is not done with.
    held: Vec<u8>,
}

impl Streams {
    /// One of which the preface has arrived.
    pub fn new(arrived: &[u8], now: Time) -> Self {
        let mut session = Session::new();
        session.arrived(arrived, now);
        let (calls, to_client) = (HashMap::default(), Out::default());
        Self {
            session,
            calls,
            taken_back: 0,
            to_client,
            has_answers: false,
            half_closed: false,
            leaving: false,
            over: false,
        }
    }

    /// The number of a backend that has a request of this client's.
    pub fn has_backend(&self, number: u64) -> bool {
        self.calls.values().any(|asking| asking.call.backend() == Some(number))
    }

    /// A backend that has one of them.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.calls.values().find_map(|asking| asking.call.upstream())
    }

    /// Whether no request is under way, nor anything of an answer.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.to_client.is_empty() && !self.session.is_busy()
    }

    /// Whether its client has had all that it can have of which it says no more: every answer, or as many as
    /// there can be where a body will not come to its end.
    fn is_left(&self) -> bool {
        let lacks =
            |asking: &Asking| asking.call.waits_for_client() && !asking.stream.woken.is_noted();
        self.half_closed && (self.is_idle() || self.calls.values().any(lacks))
    }

    /// Whether a request can go on.
    fn is_woken(&self) -> bool {
        self.calls.values().any(|asking| asking.stream.woken.is_noted())
    }

    /// Has those that a backend has come to their end; they will be looked at.
    pub fn break_off(&mut self, backend: u64, reason: Reason) {
        for asking in self.calls.values_mut() {
            if asking.call.backend() == Some(backend) {
                asking.call.break_off(reason);
                asking.stream.woken.note();
            }
        }
    }

    /// When it is to be looked at next: one of its requests, or all of it when there is none.
    pub fn looks(&self, until: Time) -> Time {
        self.calls.values().map(|asking| asking.call.looks()).min().unwrap_or(until)
    }

    /// The request that is known by a number; it will be looked at.
    pub fn call(&mut self, stream: u32) -> Option<&mut Call> {
        let asking = self.calls.get_mut(&stream)?;
        asking.stream.woken.note();
        Some(&mut asking.call)
    }

    /// Takes no more requests than those under way.
    pub fn shut_down(&mut self) {
        self.leaving = true;
        self.session.shut_down();
    }

    /// Has the reactor tell of backends what is of use; whether it does.
    pub fn rewatch(&mut self, reactor: &Reactor) -> bool {
        self.calls.values_mut().all(|asking| asking.call.rewatch(reactor))
    }

    /// All requests that are under way.
    pub fn take_calls(&mut self) -> Vec<(u32, Box<Call>)> {
        self.calls.drain().map(|(stream, asking)| (stream, asking.call)).collect()
    }
}

impl Proxy {
    /// Goes on as far as it goes without waiting.
    pub(super) fn go_on_streams(&mut self, id: Key, mut connection: Box<Connection>, now: Time) {
        for _ in 0..ROUNDS {
            match self.round(id, &mut connection, now) {
                Ok(true) => {}
                Ok(false) => return self.pause(id, connection, now),
                Err(reason) => return self.leave(id, connection, reason, now),
            }
        }
        if let Stage::Serving(serving) = &mut connection.stage
            && !std::mem::replace(&mut serving.queued, true)
        {
            self.unfinished.push(id);
        }
        self.pause(id, connection, now);
    }

    /// Whether there is more to do.
    fn round(&mut self, id: Key, connection: &mut Connection, now: Time) -> Result<bool, Reason> {
        let Connection { client, name, location, stage, .. } = connection;
        let Stage::Serving(serving) = stage else { return Ok(false) };
        let Serving { client: end, peer, held, phase, own, until, .. } = &mut **serving;
        let Phase::Streams(streams) = phase else { return Ok(false) };
        let whose = Whose {
            id,
            stream: 0,
            client: *client,
            location: *location,
            name: name.as_deref(),
            peer,
        };
        self.hear(streams, end, held, now)?;
        let mut more = self.accept_streams(streams, &whose, end, own, now);
        self.turn_streams(streams, &whose, own, until, now);
        if self.forcing.is_some() && !streams.leaving {
            streams.shut_down();
        }
        // What has been said goes to where it is sent from.
        more |= self.accept_streams(streams, &whose, end, own, now);
        loop {
            if streams.to_client.is_empty() {
                let taken = streams.session.take_outgoing(&mut streams.to_client.bytes);
                streams.has_answers = taken.has_answers;
                more |= taken.is_full;
            }
            if streams.to_client.is_empty() {
                break;
            }
            let left = streams.to_client.left().len();
            let sent = streams.to_client.flush(end, false, &mut self.tools);
            // Who is only told that it is heard has still asked for nothing.
            if streams.to_client.left().len() < left && streams.has_answers {
                *until = (*until).max(now + self.patience(streams));
            }
            match sent {
                Err(_) => return Err(Reason::ClientReset),
                // Whoever has more to say waits with it.
                Ok(false) => return Ok(false),
                Ok(true) => {}
            }
        }
        if streams.over {
            let _ = end.say_end(&mut self.tools.sealed);
            let is_all = streams.calls.is_empty();
            return Err(if is_all { Reason::ClientClosed } else { Reason::ClientReset });
        }
        more |= end.is_readable() || streams.session.has_arrived() || streams.is_woken();
        more |= streams.is_left();
        if !more {
            // Who is silent holds nothing.
            self.tools.spare.give(std::mem::take(held));
            self.tools.spare.give(std::mem::take(&mut streams.to_client.bytes));
            streams.session.rest();
        }
        Ok(more)
    }

    /// How long a client may be silent that has no request under way.
    const fn patience(&self, streams: &Streams) -> Duration {
        if streams.leaving { FAREWELL } else { self.times.keep_alive_timeout }
    }

    /// Reads what has come. What has and is not taken up keeps us from reading more.
    fn hear(
        &mut self,
        streams: &mut Streams,
        end: &mut End,
        held: &mut Vec<u8>,
        now: Time,
    ) -> Result<(), Reason> {
        if streams.session.has_arrived() {
            return Ok(());
        }
        if streams.is_left() {
            streams.half_closed = false;
            streams.session.ended();
        }
        held.clear();
        match read(end, held, &mut self.tools) {
            Ok(Arrived::Nothing) => {}
            Ok(Arrived::More) => streams.session.arrived(held, now),
            Ok(Arrived::End) => {
                streams.half_closed = true;
                end.no_more();
            }
            Err(_) => return Err(Reason::ClientReset),
        }
        Ok(())
    }

    /// Takes up requests; whether there may be more of them than one turn takes.
    fn accept_streams(
        &mut self,
        streams: &mut Streams,
        whose: &Whose<'_>,
        end: &End,
        own: &mut Option<Own>,
        now: Time,
    ) -> bool {
        for _ in 0..ACCEPTS {
            match streams.session.poll() {
                Polled::Waits => return false,
                Polled::Over => {
                    streams.over = true;
                    return false;
                }
                Polled::Request(request, respond) => {
                    let stream = respond.stream_id().as_u32();
                    let (parts, body) = request.into_parts();
                    let whose = Whose { stream, ..*whose };
                    let call = self.ask_in_stream(&whose, end, (&parts, &body), own, now);
                    let asker = Stream::new(body, respond);
                    asker.woken.note();
                    let asking = Asking { call, stream: asker, held: Vec::new() };
                    streams.calls.insert(stream, asking);
                }
            }
        }
        true
    }

    /// Goes on with the requests that can.
    fn turn_streams(
        &mut self,
        streams: &mut Streams,
        whose: &Whose<'_>,
        own: &mut Option<Own>,
        until: &mut Time,
        now: Time,
    ) {
        let woken = streams.calls.iter().filter(|(_, asking)| asking.stream.woken.take());
        let woken: Vec<u32> = woken.map(|(number, _)| *number).collect();
        for number in woken {
            let Some(Asking { call, stream, held }) = streams.calls.get_mut(&number) else {
                continue;
            };
            let whose = Whose { stream: number, ..*whose };
            let came = if stream.is_taken_back() {
                Came::Gone(Reason::ClientReset)
            } else {
                self.turn_call(&whose, call, stream, held, own, now)
            };
            match came {
                Came::Waits => continue,
                Came::More => {
                    stream.woken.note();
                    continue;
                }
                Came::Over { .. } => streams.taken_back = streams.taken_back.saturating_sub(1),
                Came::Gone(Reason::ClientReset) => {
                    streams.taken_back += 1;
                    stream.reset(H2Reason::CANCEL);
                }
                Came::Gone(_) | Came::Upgraded => stream.reset(H2Reason::INTERNAL_ERROR),
            }
            // What is still to come of a request that has been answered is not wanted: the library says
            // so when its stream goes (RFC 9113, 8.1).
            let Some(asking) = streams.calls.remove(&number) else { continue };
            if let Came::Gone(reason) = came {
                self.give_up(&whose, asking.call, reason, now);
            }
            *until = now + self.patience(streams);
        }
        if streams.taken_back > MAX_TAKEN_BACK {
            streams.session.break_off(H2Reason::ENHANCE_YOUR_CALM);
            streams.taken_back = 0;
        }
    }

    /// Takes up a request.
    fn ask_in_stream(
        &mut self,
        whose: &Whose<'_>,
        end: &End,
        (parts, body): (&Parts, &RecvStream),
        own: &mut Option<Own>,
        now: Time,
    ) -> Box<Call> {
        let cookies = cookies(parts);
        let mut fields: [Field<'_>; MAX_HEADERS] = [httparse::EMPTY_HEADER; MAX_HEADERS];
        match request_of(parts, cookies.as_deref(), !body.is_end_stream(), &mut fields) {
            Ok(request) => self.ask(whose, end, &request, own, now),
            Err(bad) => {
                let answer = Answer::new(bad.status, bad.why);
                self.refusal(whose.client, (answer, Takes::of_http2(parts)), now)
            }
        }
    }

    /// Looks at the time. Whether the connection is over by it.
    pub(super) fn streams_time(
        &mut self,
        streams: &mut Streams,
        until: &mut Time,
        now: Time,
    ) -> Option<Reason> {
        for asking in streams.calls.values_mut() {
            if asking.call.looks() <= now {
                if let Some(Came::Gone(reason)) = self.call_time(&mut asking.call, now) {
                    asking.call.break_off(reason);
                }
                asking.stream.woken.note();
            }
        }
        if streams.calls.is_empty() && *until <= now {
            // Who has taken nothing for so long of what it has asked for does not come back to it.
            if streams.leaving || !streams.is_idle() {
                return Some(Reason::Idle);
            }
            streams.shut_down();
            *until = now + FAREWELL;
        }
        None
    }
}
