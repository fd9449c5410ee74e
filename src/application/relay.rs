//! Bytes both ways, with half-close: the pump.
//!
//! Bytes are read into one scratch buffer of the worker's and written out at once; only what the
//! other side does not take is copied into a buffer of the connection's own, which is given back
//! when it is empty. Bulk goes through a pipe with `splice(2)` and is not copied at all.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, Result};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};
use rustix::pipe::{SpliceFlags, splice};

use crate::infrastructure::pipes::{Pipe, Pipes};
use crate::infrastructure::reactor::{Event, Interest};

/// Size of the scratch buffer: what one read brings at most. A little less than the largest segment
/// of the loopback interface, so that what is read at once is not sent as a full segment and a crumb.
pub const SCRATCH: usize = 60 << 10;
/// Most that goes through a pipe at once: a few such segments, small enough to stay in the caches.
const PIPED: usize = 4 * SCRATCH;
/// Full reads in a row that make a flow bulk.
const BULK_AFTER: u8 = 4;
/// And how many small ones more than that, in a row, make it a trickle again.
const BULK_UNTIL: u8 = BULK_AFTER + 16;
/// Bytes moved for one connection before others have their turn.
const TURN: usize = 1 << 20;
/// A first write larger than this fills a segment, and Nagle's algorithm would hold back its tail.
const SMALL_WRITE: usize = 1_000;
/// Silence after which the kernel asks whether the peer still lives, and how often.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// What a worker lends to every connection.
#[derive(Debug)]
pub struct Tools {
    /// Where bytes are read to.
    pub scratch: Vec<u8>,
    /// Spare pipes.
    pub pipes: Pipes,
}

impl Default for Tools {
    fn default() -> Self {
        Self { scratch: vec![0; SCRATCH], pipes: Pipes::default() }
    }
}

/// One of a connection's two sockets, and what is known of its readiness.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a socket")]
pub struct End {
    socket: OwnedFd,
    readable: bool,
    read_closed: bool,
    /// Short reads do not tell that the socket is empty: there is urgent data, at which they stop,
    /// or an error after the last byte.
    unsure: bool,
    writable: bool,
    /// Whether small writes go out at once. Set late where it is not inherited: many connections
    /// end after one write, which Nagle's algorithm does not delay.
    nodelay: bool,
    written: bool,
    /// What the reactor tells of it.
    watched: Interest,
}

impl End {
    /// A socket of which nothing is known yet but that it can be written.
    #[must_use]
    pub const fn new(socket: OwnedFd, nodelay: bool, watched: Interest) -> Self {
        Self {
            socket,
            readable: false,
            read_closed: false,
            unsure: false,
            writable: true,
            nodelay,
            written: false,
            watched,
        }
    }

    /// The socket.
    #[must_use]
    pub const fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether the peer has sent its last byte.
    #[must_use]
    pub const fn read_closed(&self) -> bool {
        self.read_closed
    }

    /// Notes an event.
    pub const fn note(&mut self, event: Event) {
        self.readable |= event.readable();
        self.read_closed |= event.read_closed();
        self.unsure |= event.urgent() || event.failed();
        self.writable |= event.writable();
    }

    /// Says a last word and closes. What has arrived, `unread` bytes, is read out before: closing would
    /// else become a reset, which may overtake the word.
    pub fn say_last(self, unread: usize, word: &[u8], scratch: &mut [u8]) {
        let most = unread.min(scratch.len());
        let _ = recv(&self.socket, &mut scratch[..most], RecvFlags::empty());
        let _ = send(&self.socket, word, SendFlags::NOSIGNAL);
    }

    /// Closes it so that the peer sees a reset.
    pub fn reset(self) {
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Asks the kernel to find out when the peer has gone without a word, and to give up on bytes that
    /// are not acknowledged for `user_timeout` (RFC 5482; zero = its own limit, a quarter of an hour).
    pub fn keep_alive(&self, user_timeout: Duration) {
        let (idle, interval, count) = KEEPALIVE;
        let _ = sockopt::set_tcp_keepidle(&self.socket, idle);
        let _ = sockopt::set_tcp_keepintvl(&self.socket, interval);
        let _ = sockopt::set_tcp_keepcnt(&self.socket, count);
        if !user_timeout.is_zero() {
            let millis = u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX);
            let _ = sockopt::set_tcp_user_timeout(&self.socket, millis);
        }
        let _ = sockopt::set_socket_keepalive(&self.socket, true);
    }

    fn before_write(&mut self, bytes: usize) {
        if !self.nodelay && (self.written || bytes > SMALL_WRITE) {
            let _ = sockopt::set_tcp_nodelay(&self.socket, true);
            self.nodelay = true;
        }
        self.written = true;
    }
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Client,
    /// The backend's.
    Backend,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both sides have sent their last byte, this one first.
    Closed(Side),
    /// This side reset the connection or can no longer be reached.
    Reset(Side),
}

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do until an event.
    Waits,
    /// There is more to do, after others had their turn.
    More,
    /// It is over.
    Ended(Ending),
}

/// A client and a backend joined.
#[derive(Debug)]
pub struct Relay {
    /// The client's socket.
    pub client: End,
    /// The backend's socket.
    pub backend: End,
    up: Flow,
    down: Flow,
    first: Option<Side>,
    /// Bytes to the backend that are not the client's.
    preamble: u32,
}

impl Relay {
    /// Joins two sockets.
    #[must_use]
    pub fn new(client: End, backend: End) -> Self {
        let (up, down) = (Flow::default(), Flow::default());
        Self { client, backend, up, down, first: None, preamble: 0 }
    }

    /// The same with `preamble` sent to the backend before anything of the client's.
    #[must_use]
    pub fn preceded_by(self, preamble: Box<[u8]>) -> Self {
        let length = u32::try_from(preamble.len()).unwrap_or(u32::MAX);
        let held = Held::Bytes { bytes: preamble, from: 0 };
        // What the client says first is then the second write.
        let backend = End { written: true, ..self.backend };
        Self { backend, up: Flow { held, ..self.up }, preamble: length, ..self }
    }

    /// The client's bytes that have left towards the backend.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.up.moved.saturating_sub(self.preamble.into())
    }

    /// Bytes that have left towards the client.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.down.moved
    }

    /// Moves what can be moved.
    pub fn turn(&mut self, tools: &mut Tools) -> Turn {
        let up = self.up.pump(&mut self.client, &mut self.backend, tools);
        if let Some(ending) = self.finish(up, Side::Client) {
            return Turn::Ended(ending);
        }
        let down = self.down.pump(&mut self.backend, &mut self.client, tools);
        if let Some(ending) = self.finish(down, Side::Backend) {
            return Turn::Ended(ending);
        }
        let more = matches!(up, Pumped::More) || matches!(down, Pumped::More);
        if more { Turn::More } else { Turn::Waits }
    }

    /// What the reactor should tell of a side from now on, when that is not what it tells.
    /// A source whose sink is full would be told of with every segment that arrives, for nothing.
    pub fn rewatch(&mut self, side: Side) -> Option<(&OwnedFd, Interest)> {
        let (end, flow) = match side {
            Side::Client => (&mut self.client, &self.up),
            Side::Backend => (&mut self.backend, &self.down),
        };
        let reads = flow.held.is_empty();
        let wanted = Interest { reads, writes: end.watched.writes || !end.writable };
        if wanted == end.watched {
            return None;
        }
        end.watched = wanted;
        Some((&end.socket, wanted))
    }

    /// Notes that a side has failed, which a flow that reads nothing for now would not notice. What a
    /// client that is gone had sent is not waited for; what a backend had sent is.
    #[must_use]
    pub fn failed(&self, side: Side) -> Option<Ending> {
        let unnoticed = match side {
            Side::Client => self.up.source_ended || !self.up.held.is_empty(),
            Side::Backend => self.down.source_ended,
        };
        unnoticed.then_some(Ending::Reset(side))
    }

    /// Takes the client from the backend's reset, or the other way round.
    pub fn reset(self, also: Ending) {
        match also {
            Ending::Reset(Side::Client) => self.backend.reset(),
            Ending::Reset(Side::Backend) => self.client.reset(),
            Ending::Closed(_) => {}
        }
    }

    /// Closes both sides so that both see a reset.
    pub fn reset_both(self) {
        self.client.reset();
        self.backend.reset();
    }

    /// Gives what the connection borrowed back to the worker.
    pub fn give_back(&mut self, tools: &mut Tools) {
        self.up.idle(tools);
        self.down.idle(tools);
    }

    /// What a flow's turn means for both.
    fn finish(&mut self, pumped: Pumped, from: Side) -> Option<Ending> {
        let to = match from {
            Side::Client => Side::Backend,
            Side::Backend => Side::Client,
        };
        match pumped {
            Pumped::SourceFailed => Some(Ending::Reset(from)),
            Pumped::SinkFailed => Some(Ending::Reset(to)),
            Pumped::Ended if self.up.ended && self.down.ended => {
                Some(Ending::Closed(self.first.unwrap_or(from)))
            }
            Pumped::Ended if self.first.is_none() => {
                self.first = Some(from);
                let sink = if to == Side::Backend { &self.backend } else { &self.client };
                // It fails only when that side is gone, and then its own flow finds out.
                let _ = shutdown(sink.socket(), Shutdown::Write);
                None
            }
            Pumped::Ended | Pumped::Waits | Pumped::More => None,
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    held: Held,
    moved: u64,
    /// Full reads in a row.
    full: u8,
    /// The source's end has been read.
    source_ended: bool,
    /// And everything before it has been written.
    ended: bool,
}

/// Bytes that the sink has not taken yet.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Bytes {
        bytes: Box<[u8]>,
        from: usize,
    },
    Piped(Box<Piped>),
}

impl Held {
    fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Bytes { bytes, from } => *from == bytes.len(),
            Self::Piped(piped) => piped.filled == 0,
        }
    }
}

/// A pipe lent to a flow, and how much is in it.
#[derive(Debug)]
struct Piped {
    pipe: Pipe,
    filled: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pumped {
    Waits,
    More,
    Ended,
    SourceFailed,
    SinkFailed,
}

impl Flow {
    fn pump(&mut self, source: &mut End, sink: &mut End, tools: &mut Tools) -> Pumped {
        if self.ended {
            return Pumped::Waits;
        }
        let mut budget = TURN;
        loop {
            match self.flush(sink) {
                Ok(true) => {}
                Ok(false) => return Pumped::Waits,
                Err(_) => return Pumped::SinkFailed,
            }
            if self.source_ended {
                self.idle(tools);
                self.ended = true;
                return Pumped::Ended;
            }
            if !source.readable {
                self.idle(tools);
                return Pumped::Waits;
            }
            if budget == 0 {
                return Pumped::More;
            }
            let moved = if self.full >= BULK_AFTER && !source.unsure {
                self.splice_in(source, sink, tools)
            } else {
                self.copy(source, sink, tools)
            };
            match moved {
                Ok(bytes) => budget = budget.saturating_sub(bytes),
                Err(failed) => return failed,
            }
        }
    }

    /// Reads once and writes it out at once.
    fn copy(
        &mut self,
        source: &mut End,
        sink: &mut End,
        tools: &mut Tools,
    ) -> std::result::Result<usize, Pumped> {
        let read = match retry(|| recv(&source.socket, &mut *tools.scratch, RecvFlags::empty())) {
            Ok((_, read)) => read,
            Err(Errno::AGAIN) => {
                source.readable = false;
                return Ok(0);
            }
            Err(_) => return Err(Pumped::SourceFailed),
        };
        if read == 0 {
            self.source_ended = true;
            return Ok(0);
        }
        if read == tools.scratch.len() {
            self.full = self.full.saturating_add(1);
        } else {
            self.full = 0;
            // A short read has emptied the socket, and after it the end that was announced.
            if !source.unsure {
                source.readable = false;
                self.source_ended = source.read_closed;
            }
        }
        let bytes = &tools.scratch[..read];
        sink.before_write(read);
        // The last bytes wait for the end that follows in this turn, to go out in one segment with it.
        let flags = if self.source_ended { SendFlags::MORE } else { SendFlags::empty() };
        let Ok(written) = write(&sink.socket, bytes, flags) else {
            return Err(Pumped::SinkFailed);
        };
        self.moved += written as u64;
        if written < read {
            sink.writable = false;
            self.held = Held::Bytes { bytes: bytes[written..].into(), from: 0 };
        }
        Ok(read)
    }

    /// Moves once from the source into a pipe; flushing moves it on.
    fn splice_in(
        &mut self,
        source: &mut End,
        sink: &mut End,
        tools: &mut Tools,
    ) -> std::result::Result<usize, Pumped> {
        if !matches!(self.held, Held::Piped(_)) {
            let Ok(pipe) = tools.pipes.take() else {
                // No descriptors for a pipe: go on copying.
                self.full = 0;
                return Ok(0);
            };
            self.held = Held::Piped(Box::new(Piped { pipe, filled: 0 }));
        }
        let Held::Piped(piped) = &mut self.held else { return Ok(0) };
        sink.before_write(PIPED);
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let (socket, pipe) = (&source.socket, &piped.pipe);
        match retry(|| splice(socket, None, &pipe.input, None, pipe.capacity.min(PIPED), flags)) {
            // The end, or urgent data, before which splice stops for good: a read can tell.
            Ok(0) => {
                self.idle(tools);
                self.copy(source, sink, tools)
            }
            // Should urgent data be the cause, its own event is on its way.
            Err(Errno::AGAIN) => {
                source.readable = false;
                Ok(0)
            }
            Ok(bytes) => {
                piped.filled = bytes;
                // A trickle is copied again: a pipe is for bulk.
                self.full = if bytes < SCRATCH / 4 { self.full - 1 } else { BULK_UNTIL };
                Ok(bytes)
            }
            Err(_) => Err(Pumped::SourceFailed),
        }
    }

    /// Writes what is held; whether nothing is left.
    fn flush(&mut self, sink: &mut End) -> Result<bool> {
        loop {
            let left = match &self.held {
                Held::Nothing => return Ok(true),
                Held::Piped(piped) => piped.filled,
                Held::Bytes { bytes, from } => bytes.len() - from,
            };
            if left == 0 {
                if matches!(self.held, Held::Bytes { .. }) {
                    self.held = Held::Nothing;
                }
                return Ok(true);
            }
            if !sink.writable {
                return Ok(false);
            }
            let written = match &self.held {
                Held::Nothing => 0,
                Held::Bytes { bytes, from } => {
                    write(&sink.socket, &bytes[*from..], SendFlags::empty())?
                }
                Held::Piped(piped) => {
                    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                    let output = &piped.pipe.output;
                    match retry(|| splice(output, None, &sink.socket, None, left, flags)) {
                        Err(Errno::AGAIN) => 0,
                        other => other?,
                    }
                }
            };
            self.moved += written as u64;
            match &mut self.held {
                Held::Nothing => {}
                Held::Bytes { from, .. } => *from += written,
                Held::Piped(piped) => piped.filled -= written,
            }
            // A pipe may give less than asked without the sink being full.
            sink.writable =
                if matches!(self.held, Held::Piped(_)) { written > 0 } else { written == left };
        }
    }

    /// Gives an empty pipe back.
    fn idle(&mut self, tools: &mut Tools) {
        if let Held::Piped(piped) = &self.held
            && piped.filled == 0
            && let Held::Piped(piped) = std::mem::take(&mut self.held)
        {
            tools.pipes.give_back(piped.pipe);
        }
    }
}

/// Writes what the socket takes now, which may be nothing.
fn write(socket: &OwnedFd, bytes: &[u8], flags: SendFlags) -> Result<usize> {
    match retry(|| send(socket, bytes, flags | SendFlags::NOSIGNAL)) {
        Err(Errno::AGAIN) => Ok(0),
        other => other,
    }
}

/// Calls again when a signal came between.
fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
