//! Bytes both ways, with half-close: the pump.
//!
//! Bytes are read into one scratch buffer of the worker's and written out at once; only what the
//! other side does not take is copied into a buffer of the connection's own, which is given back
//! when it is empty. Bulk goes through a pipe with `splice(2)` and is not copied at all.

mod end;

use std::os::fd::OwnedFd;

use rustix::io::{Errno, Result};
use rustix::pipe::{SpliceFlags, splice};

use crate::infrastructure::pipes::{Pipe, Pipes};
use crate::infrastructure::reactor::Interest;
use end::retry;
pub use end::{End, Failed};

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
/// The same where TLS is opened first: a few full reads, for the smallest records take 40 times as long.
const SECURED_TURN: usize = 128 << 10;

/// What a worker lends to every connection.
#[derive(Debug)]
pub struct Tools {
    /// Where bytes are read to.
    pub scratch: Vec<u8>,
    /// What TLS has decrypted of them.
    pub plain: Vec<u8>,
    /// What it has encrypted.
    pub sealed: Vec<u8>,
    /// Spare pipes.
    pub pipes: Pipes,
    /// Spare buffers.
    pub spare: Spares,
}

/// Buffers that nobody uses now, so that who needs one for a moment need not ask the allocator.
#[derive(Debug, Default)]
pub struct Spares(Vec<Vec<u8>>);

/// Most spare buffers, and the largest that is kept.
const SPARES: usize = 32;
const SPARE: usize = 16 << 10;
/// How large they begin.
const FRESH: usize = 1 << 10;

impl Spares {
    /// An empty one.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(FRESH))
    }

    /// Takes one back, whatever is in it.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        if (1..=SPARE).contains(&buffer.capacity()) && self.0.len() < SPARES {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

impl Default for Tools {
    fn default() -> Self {
        let (plain, sealed, spare) = (Vec::new(), Vec::new(), Spares::default());
        Self { scratch: vec![0; SCRATCH], plain, sealed, pipes: Pipes::default(), spare }
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
    /// Joins two sockets. What TLS has decrypted already goes first.
    #[must_use]
    pub fn new(mut client: End, mut backend: End) -> Self {
        let (up, down) = (Flow::holding(client.take_early()), Flow::holding(backend.take_early()));
        Self { client, backend, up, down, first: None, preamble: 0 }
    }

    /// The same with `preamble` sent to the backend before anything of the client's.
    #[must_use]
    pub fn preceded_by(self, preamble: Box<[u8]>) -> Self {
        let length = u32::try_from(preamble.len()).unwrap_or(u32::MAX);
        let bytes = match self.up.held {
            Held::Bytes { bytes, .. } => [preamble, bytes].concat().into(),
            Held::Nothing | Held::Piped(_) => preamble,
        };
        let held = Held::Bytes { bytes, from: 0 };
        // What the client says first is then the second write.
        let mut backend = self.backend;
        backend.written = true;
        Self { backend, up: Flow { held, ..self.up }, preamble: length, ..self }
    }

    /// The same with `bytes` of the backend's that have been read already.
    #[must_use]
    pub fn followed_by(self, bytes: Box<[u8]>) -> Self {
        Self { down: Flow { held: Held::Bytes { bytes, from: 0 }, ..self.down }, ..self }
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
        // What TLS has to say by itself.
        for (end, side) in [(&mut self.client, Side::Client), (&mut self.backend, Side::Backend)] {
            if end.flush().is_err() {
                end.fail();
                if !end.has_gone_in_order() {
                    return Turn::Ended(Ending::Reset(side));
                }
            }
        }
        if self.up.ended && self.client.has_gone_in_order() {
            return Turn::Ended(Ending::Closed(Side::Client));
        }
        let more = matches!(up, Pumped::More) || matches!(down, Pumped::More);
        if more { Turn::More } else { Turn::Waits }
    }

    /// What the reactor should tell of a side from now on, when that is not what it tells.
    /// A source whose sink is full would be told of with every segment that arrives, for nothing.
    pub fn rewatch(&mut self, side: Side) -> Option<(&OwnedFd, Interest)> {
        let (end, flow, sink) = match side {
            Side::Client => (&mut self.client, &self.up, &self.backend),
            Side::Backend => (&mut self.backend, &self.down, &self.client),
        };
        let reads = flow.held.is_empty() && !sink.is_behind();
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
            // What it has said goes to the backend before.
            Side::Client if self.client.has_gone_in_order() => false,
            Side::Client => {
                self.up.source_ended || !self.up.held.is_empty() || self.backend.is_behind()
            }
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

    /// Closes both sides in order.
    pub fn close(mut self, tools: &mut Tools) {
        for end in [&mut self.client, &mut self.backend] {
            // Who does not take it now, or is gone, sees the end of the connection all the same.
            let _ = end.say_end(&mut tools.sealed);
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
            Pumped::SinkFailed if to == Side::Client && self.client.is_finished() => {
                self.client.fail();
                self.down.ended = true;
                None
            }
            Pumped::SinkFailed => Some(Ending::Reset(to)),
            Pumped::Ended if self.up.ended && self.down.ended => {
                Some(Ending::Closed(self.first.unwrap_or(from)))
            }
            Pumped::Ended if self.first.is_none() => {
                self.first = Some(from);
                if to == Side::Backend { &self.backend } else { &self.client }.shut_down();
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
    /// One that begins with `bytes`.
    fn holding(bytes: Vec<u8>) -> Self {
        let held = if bytes.is_empty() {
            Held::Nothing
        } else {
            Held::Bytes { bytes: bytes.into(), from: 0 }
        };
        Self { held, ..Self::default() }
    }

    fn pump(&mut self, source: &mut End, sink: &mut End, tools: &mut Tools) -> Pumped {
        if self.ended {
            return Pumped::Waits;
        }
        let mut budget = if source.tls().is_some() { SECURED_TURN } else { TURN };
        loop {
            match self.flush(sink, tools) {
                Ok(true) => {}
                Ok(false) => return Pumped::Waits,
                Err(_) => return Pumped::SinkFailed,
            }
            if self.source_ended {
                if !source.is_cut_off() && sink.has_end_to_say() {
                    if sink.say_end(&mut tools.sealed).is_err() {
                        return Pumped::SinkFailed;
                    }
                    continue;
                }
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
        let read = match source.read(tools) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(0),
            Err(failed) => {
                if source.tls().is_some() {
                    tracing::debug!("a connection breaks off: {failed}");
                }
                return Err(Pumped::SourceFailed);
            }
        };
        self.source_ended = read.ended;
        let splices = read.full && source.tls().is_none() && sink.tls().is_none();
        self.full = if splices { self.full.saturating_add(1) } else { 0 };
        if read.bytes == 0 {
            return Ok(read.raw);
        }
        let Tools { scratch, plain, sealed, .. } = tools;
        let bytes = if source.tls().is_some() { &plain[..] } else { &scratch[..read.bytes] };
        // Behind TLS whoever reads could not tell an end from one that was forged.
        let last = read.ended && !(sink.tls().is_some() && source.is_cut_off());
        let Ok(written) = sink.write(bytes, last, sealed) else {
            return Err(Pumped::SinkFailed);
        };
        self.moved += written as u64;
        if written < bytes.len() {
            self.held = Held::Bytes { bytes: bytes[written..].into(), from: 0 };
        }
        Ok(read.raw)
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
    fn flush(&mut self, sink: &mut End, tools: &mut Tools) -> Result<bool> {
        loop {
            if !sink.flush()? {
                return Ok(false);
            }
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
                    sink.write_held(&bytes[*from..], &mut tools.sealed)?
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
            sink.writable &=
                written == left || (written > 0 && matches!(self.held, Held::Piped(_)));
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

#[cfg(test)]
mod tests;
