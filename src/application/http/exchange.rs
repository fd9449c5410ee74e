//! One request and its answer, between whoever asks and a backend: the pump of http mode.

use bytes::Bytes;
use rustix::io::Errno;

use super::{Answer, Flow, Passed, Said, answer_head};
use crate::application::relay::{End, Failed, Spares, Tools};
use crate::infrastructure::http1::{Chunks, Found, Framing, Response, find, room};

/// The longest head of a response, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// So much to be sent is enough for once.
const ENOUGH: usize = 32 << 10;
/// The most answers that may go before the answer (status 100 to 199).
const MAX_INTERIM: u32 = 100;
/// Bytes moved for one request before others have their turn.
const TURN: u64 = 1 << 20;

/// Bytes that are to be sent.
#[derive(Debug, Default)]
pub struct Out {
    /// Those that have been sent at the head.
    pub bytes: Vec<u8>,
    from: usize,
}

impl Out {
    /// Whether all of it has been sent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.from == self.bytes.len()
    }

    /// What has not been sent.
    #[must_use]
    pub fn left(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    /// Takes at most so much of it out.
    pub fn take(&mut self, most: usize) -> Bytes {
        if self.from == 0 && self.bytes.len() <= most {
            return Bytes::from(std::mem::take(&mut self.bytes));
        }
        let length = self.left().len().min(most);
        let taken = Bytes::copy_from_slice(&self.left()[..length]);
        self.sent(length);
        taken
    }

    /// Notes that so much of it has been sent.
    pub fn sent(&mut self, bytes: usize) {
        self.from += bytes;
        if self.is_empty() {
            self.bytes.clear();
            self.from = 0;
        }
    }

    /// Sends what can be sent; whether that was all. When it is the `last`, the end may go with it.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn flush(&mut self, end: &mut End, last: bool, tools: &mut Tools) -> Result<bool, Errno> {
        loop {
            if !end.flush()? {
                return Ok(false);
            }
            if self.is_empty() {
                return Ok(true);
            }
            if !end.is_writable() {
                return Ok(false);
            }
            let written = end.write(&self.bytes[self.from..], last, &mut tools.sealed)?;
            self.sent(written);
        }
    }
}

/// What has come of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// Nothing, until an event.
    Nothing,
    /// Something.
    More,
    /// All that will ever come.
    End,
}

/// Who has made a request, in whichever version of HTTP.
pub trait Asker {
    /// Reads what has come of the body, to the end of `held`.
    ///
    /// # Errors
    /// When whoever asked is gone.
    fn read(&mut self, held: &mut Vec<u8>, tools: &mut Tools) -> Result<Arrived, Failed>;

    /// Fields behind the body of a request that has come to its end, a line each.
    fn trailers(&mut self) -> Vec<u8>;

    /// Sends what can be sent of an answer; whether that was all. Whether the answer ends with it, and
    /// the connection does then.
    ///
    /// # Errors
    /// When whoever asked is gone.
    fn send(&mut self, out: &mut Out, ends: (bool, bool), tools: &mut Tools)
    -> Result<bool, Errno>;

    /// Begins an answer, or has one go before it (status 100 to 199).
    ///
    /// # Errors
    /// When whoever asked is gone.
    fn begin(
        &mut self,
        response: &Response<'_, '_>,
        passed: Passed,
        out: &mut Out,
    ) -> Result<(), Errno>;

    /// Ends an answer, all of which has been sent, with the fields behind it if there are any.
    ///
    /// # Errors
    /// When whoever asked is gone.
    fn end(&mut self, trailers: &[u8]) -> Result<(), Errno>;

    /// Says an answer of our own, of which the rest is to be sent.
    ///
    /// # Errors
    /// When whoever asked is gone.
    fn answer(&mut self, answer: &Answer, said: &Said, out: &mut Out) -> Result<(), Errno>;

    /// How the body of an answer is framed for whoever asked, which comes framed otherwise.
    fn framing(&self, framing: Framing) -> Framing;
}

/// Who asks by HTTP/1: the connection itself.
impl Asker for End {
    fn read(&mut self, held: &mut Vec<u8>, tools: &mut Tools) -> Result<Arrived, Failed> {
        read(self, held, tools)
    }

    fn trailers(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn send(
        &mut self,
        out: &mut Out,
        (_, closes): (bool, bool),
        tools: &mut Tools,
    ) -> Result<bool, Errno> {
        out.flush(self, closes, tools)
    }

    fn begin(
        &mut self,
        response: &Response<'_, '_>,
        passed: Passed,
        out: &mut Out,
    ) -> Result<(), Errno> {
        answer_head(response, passed, &mut out.bytes);
        Ok(())
    }

    fn end(&mut self, _trailers: &[u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn answer(&mut self, answer: &Answer, said: &Said, out: &mut Out) -> Result<(), Errno> {
        answer.write(said, &mut out.bytes);
        Ok(())
    }

    fn framing(&self, framing: Framing) -> Framing {
        framing
    }
}

/// What is known of a request when its answer comes.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a request")]
pub struct Asked {
    /// Its body.
    pub up: Flow,
    /// Whether the answer has no body.
    pub to_head: bool,
    /// Whether it may be made twice: it is idempotent, and has no body.
    pub repeatable: bool,
    /// Whether its client wants the connection to go on.
    pub keeps: bool,
    /// Whether whoever asks understands HTTP/1.1: chunks and interim answers.
    pub is_11: bool,
    /// Whether the connection may change its protocol.
    pub upgrades: bool,
}

/// A request that a backend has, and its answer.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about both sides")]
pub struct Exchange {
    /// The request.
    pub asked: Asked,
    /// The connection to the backend that has it.
    pub backend: End,
    /// Whether the request may be made once more, when a connection that was used before turns out to be
    /// over.
    again: bool,
    used: bool,
    to_backend: Out,
    /// What has arrived from the backend and is not done with.
    held: Vec<u8>,
    looked: usize,
    interim: u32,
    down: Option<Flow>,
    /// The status of the answer, once it has begun.
    pub status: Option<u16>,
    backend_keeps: bool,
    /// Whether the backend takes no more.
    deaf: bool,
    ended: bool,
    /// Bytes of the request's body towards the backend.
    pub sent: u64,
    /// Bytes of the answer towards the client.
    pub received: u64,
}

/// What became of a turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do until an event.
    Waits,
    /// There is more to do, after others had their turn.
    More,
    /// The answer has come to its end, and all of it has been sent. Whether each connection may go on.
    Over {
        /// The client's.
        client: bool,
        /// The backend's.
        backend: bool,
    },
    /// The connection speaks another protocol from now on.
    Upgraded,
    /// The backend's connection ended before a byte of the answer.
    Unanswered,
    /// What the backend says is no answer.
    Nonsense(&'static str),
    /// The answer broke off in the midst.
    BrokeOff,
    /// The client is gone.
    ClientGone,
    /// The client's body is not what it must be.
    BadBody(u16, &'static str),
}

impl Exchange {
    /// One whose backend has yet to be told of it: of `head` first. Its connection has had requests before,
    /// or not.
    #[must_use]
    pub fn new(asked: Asked, mut backend: End, reused: bool, head: Vec<u8>) -> Self {
        let held = backend.take_early();
        Self {
            again: reused && asked.repeatable,
            used: reused,
            asked,
            backend,
            to_backend: Out { bytes: head, from: 0 },
            held,
            looked: 0,
            interim: 0,
            down: None,
            status: None,
            backend_keeps: false,
            deaf: false,
            ended: false,
            sent: 0,
            received: 0,
        }
    }

    /// Moves what can be moved. `held` is what has arrived from the client and is not done with.
    pub fn turn(
        &mut self,
        asker: &mut impl Asker,
        held: &mut Vec<u8>,
        to_client: &mut Out,
        tools: &mut Tools,
    ) -> Turn {
        let most = self.sent + self.received + TURN;
        let up = match self.pump_up(asker, held, most, tools) {
            Ok(more) => more,
            Err(turn) => return turn,
        };
        match self.pump_down(asker, to_client, most, tools) {
            Ok(Turn::Waits) if up => Turn::More,
            Ok(turn) | Err(turn) => turn,
        }
    }

    /// The request, to be made once more on another connection: `None` when that must not be. It may
    /// when nothing of it has left, or when it is repeatable and the connection was used before.
    #[must_use]
    pub fn take_again(self) -> Option<Asked> {
        let out = &self.to_backend;
        let nothing_left = self.used && self.sent == 0 && out.from == 0 && !out.is_empty();
        (nothing_left || self.again).then_some(self.asked)
    }

    /// Gives up what it holds, for others; the backend's connection is left.
    #[must_use]
    pub fn into_backend(self, spare: &mut Spares) -> End {
        spare.give(self.held);
        spare.give(self.to_backend.bytes);
        self.backend
    }

    /// Whether the backend's connection has had requests before.
    #[must_use]
    pub const fn was_used(&self) -> bool {
        self.used
    }

    /// What has arrived from the backend behind the head that has changed the protocol.
    #[must_use]
    pub fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Whether it is for the client to go on: there is more of its request to come.
    #[must_use]
    pub const fn waits_for_client(&self) -> bool {
        !self.asked.up.is_over() && self.to_backend.is_empty() && !self.deaf
    }

    /// Whether what the backend says is of use now.
    #[must_use]
    pub const fn reads_backend(&self, to_client: &Out) -> bool {
        to_client.is_empty()
    }

    fn pump_up(
        &mut self,
        asker: &mut impl Asker,
        held: &mut Vec<u8>,
        most: u64,
        tools: &mut Tools,
    ) -> Result<bool, Turn> {
        loop {
            if self.deaf {
                return Ok(false);
            }
            // Its beginning goes in one with what is in front of it.
            self.pass_up(held)?;
            match self.to_backend.flush(&mut self.backend, false, tools) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                // It may have said why.
                Err(_) => {
                    self.deaf = true;
                    return Ok(false);
                }
            }
            if self.asked.up.is_over() {
                // Who waits for an answer holds nothing.
                tools.spare.give(std::mem::take(&mut self.to_backend.bytes));
                return Ok(false);
            }
            if self.sent + self.received > most {
                return Ok(true);
            }
            match asker.read(held, tools) {
                Ok(Arrived::More) => {}
                Ok(Arrived::Nothing) => return Ok(false),
                Ok(Arrived::End) => {
                    let trailers = asker.trailers();
                    if !self.asked.up.close_with(trailers, &mut self.to_backend.bytes) {
                        return Err(Turn::ClientGone);
                    }
                }
                Err(_) => return Err(Turn::ClientGone),
            }
        }
    }

    /// Passes on what has arrived of the body, unless there is enough to be sent.
    fn pass_up(&mut self, held: &mut Vec<u8>) -> Result<(), Turn> {
        while !self.asked.up.is_over() && self.to_backend.left().len() < ENOUGH {
            let before = self.to_backend.bytes.len();
            let passed = self.asked.up.pass(held, &mut self.to_backend.bytes);
            let taken = passed.map_err(|bad| Turn::BadBody(bad.status, bad.why))?;
            self.sent += (self.to_backend.bytes.len() - before) as u64;
            if taken == 0 {
                break;
            }
            held.drain(..taken);
        }
        Ok(())
    }

    fn pump_down(
        &mut self,
        asker: &mut impl Asker,
        to_client: &mut Out,
        most: u64,
        tools: &mut Tools,
    ) -> Result<Turn, Turn> {
        loop {
            // The beginning of a body goes in one with its head.
            while to_client.left().len() < ENOUGH
                && !self.down.as_ref().is_some_and(Flow::is_over)
                && self.status != Some(101)
                && self.pass(asker, to_client, &mut tools.spare)?
            {}
            let upgrades = self.status == Some(101);
            let is_over = !upgrades && self.down.as_ref().is_some_and(Flow::is_over);
            let has_trailers = self.down.as_ref().is_some_and(|down| !down.trailers().is_empty());
            let ends = (is_over && !has_trailers, is_over && !self.asked.keeps);
            match asker.send(to_client, ends, tools) {
                Ok(true) => {}
                Ok(false) => return Ok(Turn::Waits),
                Err(_) => return Err(Turn::ClientGone),
            }
            if upgrades {
                return Ok(Turn::Upgraded);
            }
            if is_over {
                if !self.ended {
                    self.ended = true;
                    let trailers = self.down.as_ref().map(Flow::trailers).unwrap_or_default();
                    asker.end(trailers).map_err(|_| Turn::ClientGone)?;
                    continue;
                }
                tools.spare.give(std::mem::take(&mut to_client.bytes));
                let up_is_over =
                    self.asked.up.is_over() && self.to_backend.is_empty() && !self.deaf;
                // What TLS has not been able to send yet nobody would.
                let up_is_over = up_is_over && self.backend.flush() == Ok(true);
                return Ok(Turn::Over {
                    client: self.asked.keeps && self.asked.up.is_over(),
                    backend: self.backend_keeps && up_is_over && self.held.is_empty(),
                });
            }
            if !self.backend.is_readable() {
                return Ok(Turn::Waits);
            }
            if self.sent + self.received > most {
                return Ok(Turn::More);
            }
            match read(&mut self.backend, &mut self.held, tools) {
                Ok(Arrived::More) => {}
                Ok(Arrived::Nothing) => return Ok(Turn::Waits),
                Ok(Arrived::End) => self.backend_closed(to_client)?,
                Err(_) => return Err(self.broken()),
            }
        }
    }

    /// Passes on what has arrived of the answer; whether anything was.
    fn pass(
        &mut self,
        asker: &mut impl Asker,
        to_client: &mut Out,
        spare: &mut Spares,
    ) -> Result<bool, Turn> {
        if let Some(down) = &mut self.down {
            let before = to_client.bytes.len();
            let taken = down.pass(&self.held, &mut to_client.bytes).map_err(|_| Turn::BrokeOff)?;
            self.received += (to_client.bytes.len() - before) as u64;
            self.held.drain(..taken);
            return Ok(taken > 0);
        }
        match find(&self.held, self.looked) {
            // Also when all of it has come at once.
            Found::More(length) | Found::Whole(length) if length > MAX_HEAD => {
                Err(Turn::Nonsense("too long a head"))
            }
            Found::More(looked) => {
                self.looked = looked;
                Ok(false)
            }
            Found::Bad(bad) => Err(Turn::Nonsense(bad.why)),
            Found::Whole(length) => {
                if to_client.bytes.capacity() == 0 {
                    to_client.bytes = spare.take();
                }
                self.again = false;
                self.looked = 0;
                let mut held = std::mem::take(&mut self.held);
                self.begin(held.split_at(length), asker, to_client)?;
                held.drain(..length);
                self.held = held;
                Ok(true)
            }
        }
    }

    /// Takes up the head of an answer, behind which there is already something.
    fn begin(
        &mut self,
        (head, behind): (&[u8], &[u8]),
        asker: &mut impl Asker,
        to_client: &mut Out,
    ) -> Result<(), Turn> {
        let mut fields = room();
        let asked = &mut self.asked;
        let read = Response::read(head, &mut fields, asked.to_head);
        let response = read.map_err(|bad| Turn::Nonsense(bad.why))?;
        let upgrades = response.status == 101;
        self.interim += u32::from(response.status < 200);
        if self.interim > MAX_INTERIM {
            return Err(Turn::Nonsense("answers that go before the answer, and no answer"));
        }
        if upgrades && !asked.upgrades {
            return Err(Turn::Nonsense("a change of protocol that nobody asked for"));
        }
        let before = to_client.bytes.len();
        let gone = |_| Turn::ClientGone;
        if response.status < 200 && !upgrades {
            if asked.is_11 {
                let passed = Passed { framing: Framing::None, keeps: true, is_11: true, upgrades };
                asker.begin(&response, passed, to_client).map_err(gone)?;
            }
            return Ok(());
        }
        if response.framing == Framing::Chunked && Chunks::default().next(behind).is_err() {
            return Err(Turn::Nonsense("a body in chunks that begins with none"));
        }
        let framing = asker.framing(match response.framing {
            Framing::UntilClose | Framing::Chunked if asked.is_11 => Framing::Chunked,
            Framing::UntilClose | Framing::Chunked => Framing::UntilClose,
            framing => framing,
        });
        self.backend_keeps = response.keeps_alive && !upgrades;
        // What the client has yet to say would be taken for its next request.
        asked.keeps &= framing != Framing::UntilClose && asked.up.is_over();
        let passed = Passed { framing, keeps: asked.keeps, is_11: asked.is_11, upgrades };
        asker.begin(&response, passed, to_client).map_err(gone)?;
        self.received += (to_client.bytes.len() - before) as u64;
        self.status = Some(response.status);
        self.down = Some(Flow::new(response.framing, framing));
        Ok(())
    }

    /// The backend has sent its last byte.
    fn backend_closed(&mut self, to_client: &mut Out) -> Result<(), Turn> {
        let cut_off = self.backend.is_cut_off();
        let down = self.down.as_mut().filter(|_| !cut_off);
        if down.is_some_and(|down| down.close(&mut to_client.bytes)) {
            self.backend_keeps = false;
            return Ok(());
        }
        Err(self.broken())
    }

    fn broken(&self) -> Turn {
        match (&self.down, self.held.is_empty()) {
            (Some(_), _) => Turn::BrokeOff,
            (None, true) => Turn::Unanswered,
            (None, false) => Turn::Nonsense("an answer that breaks off in its head"),
        }
    }
}

/// Reads once, to the end of `held`.
///
/// # Errors
/// When the peer is gone.
pub fn read(end: &mut End, held: &mut Vec<u8>, tools: &mut Tools) -> Result<Arrived, Failed> {
    if !end.is_readable() {
        return Ok(Arrived::Nothing);
    }
    let Some(read) = end.read(tools)? else { return Ok(Arrived::Nothing) };
    if held.capacity() == 0 {
        *held = tools.spare.take();
    }
    let bytes = if end.tls().is_some() { &tools.plain[..] } else { &tools.scratch[..read.bytes] };
    held.extend_from_slice(bytes);
    if read.ended && read.bytes > 0 {
        // The end is read again, behind what came before it.
        end.ends_again();
        return Ok(Arrived::More);
    }
    // With TLS there may have been something that is not for us.
    let nothing =
        if read.bytes == 0 && end.is_readable() { Arrived::More } else { Arrived::Nothing };
    Ok(match (read.ended, read.bytes) {
        (true, _) => Arrived::End,
        (false, 0) => nothing,
        (false, _) => Arrived::More,
    })
}
