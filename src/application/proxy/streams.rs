//! Clients that make requests by HTTP/2: many at once on one connection. What becomes of each is in
//! `asking`.

use std::collections::HashMap;
use std::time::Duration;

use h2::{Reason as H2Reason, RecvStream};
use http::request::Parts;

use super::asking::{Call, Came, Whose};
use super::serving::Phase;
use super::{Connection, Proxy, Stage};
use crate::application::account::Reason;
use crate::application::http::{Answer, Arrived, Out, Stream, cookies, read, request_of};
use crate::application::relay::End;
use crate::application::upstreams::Rested;
use crate::domain::time::Time;
use crate::infrastructure::http1::{Field, MAX_HEADERS};
use crate::infrastructure::http2::{Polled, Session};
use crate::infrastructure::reactor::Reactor;
use crate::infrastructure::slab::Key;

/// How often one connection is taken up before others have their turn.
const ROUNDS: usize = 16;
/// How long a client is waited for that has been told that no more requests are taken.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection of HTTP/2.
pub(super) struct Streams {
    session: Session,
    calls: HashMap<u32, Asking>,
    to_client: Out,
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
    pub fn new(arrived: &[u8]) -> Self {
        let session = Session::new();
        session.arrived(arrived);
        let (calls, to_client) = (HashMap::new(), Out::default());
        Self { session, calls, to_client, leaving: false, over: false }
    }

    /// The number of a backend that has a request of this client's.
    pub fn has_backend(&self, number: u64) -> bool {
        self.calls.values().any(|asking| asking.call.backend() == Some(number))
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty()
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
        let (end, own) = (&mut serving.client, &mut serving.own);
        let Phase::Streams(streams) = &mut serving.phase else { return Ok(false) };
        let whose = |stream| Whose {
            id,
            stream,
            client: *client,
            location: *location,
            name: name.as_deref(),
            peer: &serving.peer,
        };
        let mut more = false;
        // What is not taken up is not read.
        if !streams.session.has_arrived() {
            serving.held.clear();
            match read(end, &mut serving.held, &mut self.tools) {
                Ok(Arrived::Nothing) => {}
                Ok(Arrived::More) => {
                    streams.session.arrived(&serving.held);
                    more = true;
                }
                Ok(Arrived::End) => {
                    streams.session.ended();
                    end.no_more();
                }
                Err(_) => return Err(Reason::ClientReset),
            }
        }
        while !streams.over {
            match streams.session.poll() {
                Polled::Waits => break,
                Polled::Over => streams.over = true,
                Polled::Request(request, respond) => {
                    more = true;
                    let number = respond.stream_id().as_u32();
                    let (parts, body) = request.into_parts();
                    let call = self.ask_in_stream(&whose(number), end, (&parts, &body), own, now);
                    let stream = Stream::new(body, respond);
                    stream.woken.note();
                    let asking = Asking { call, stream, held: Vec::new() };
                    streams.calls.insert(number, asking);
                }
            }
        }
        let woken: Vec<u32> = streams
            .calls
            .iter()
            .filter(|(_, asking)| asking.stream.woken.take())
            .map(|(number, _)| *number)
            .collect();
        for number in woken {
            more = true;
            let Some(Asking { call, stream, held }) = streams.calls.get_mut(&number) else {
                continue;
            };
            let whose = whose(number);
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
                Came::Over { .. } => {}
                Came::Gone(Reason::ClientReset) => stream.reset(H2Reason::CANCEL),
                Came::Gone(_) | Came::Upgraded => stream.reset(H2Reason::INTERNAL_ERROR),
            }
            // What is still to come of a request that has been answered is not wanted: the library says
            // so when its stream goes (RFC 9113, 8.1).
            let Some(asking) = streams.calls.remove(&number) else { continue };
            if let Came::Gone(reason) = came {
                self.give_up(&whose, asking.call, reason, now);
            }
            serving.until = now + self.times.keep_alive_timeout;
        }
        if self.forcing.is_some() && !streams.leaving {
            streams.shut_down();
            more = true;
        }
        // Whoever was woken had something to say.
        let before = streams.to_client.is_empty();
        if before && streams.session.has_outgoing() {
            streams.session.take_outgoing(&mut streams.to_client.bytes);
            more = true;
        }
        match streams.to_client.flush(end, false, &mut self.tools) {
            Err(_) => Err(Reason::ClientReset),
            Ok(true) if streams.over && !streams.session.has_outgoing() => {
                let _ = end.say_end(&mut self.tools.sealed);
                let gone = streams.calls.is_empty();
                Err(if gone { Reason::ClientClosed } else { Reason::ClientReset })
            }
            Ok(true) => {
                if !more {
                    streams.to_client = Out::default();
                }
                Ok(more)
            }
            // What is to be sent waits, and with it whoever has more.
            Ok(false) => Ok(false),
        }
    }

    /// Takes up a request.
    fn ask_in_stream(
        &mut self,
        whose: &Whose<'_>,
        end: &End,
        (parts, body): (&Parts, &RecvStream),
        own: &mut Option<(u64, Rested)>,
        now: Time,
    ) -> Box<Call> {
        let cookies = cookies(parts);
        let mut fields: [Field<'_>; MAX_HEADERS] = [httparse::EMPTY_HEADER; MAX_HEADERS];
        match request_of(parts, cookies.as_deref(), !body.is_end_stream(), &mut fields) {
            Ok(request) => self.ask(whose, end, &request, own, now),
            Err(bad) => self.refusal(whose.client, Answer::new(bad.status, bad.why), now),
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
        if streams.is_idle() && *until <= now {
            if streams.leaving {
                return Some(Reason::Idle);
            }
            streams.shut_down();
            *until = now + FAREWELL;
        }
        None
    }
}
