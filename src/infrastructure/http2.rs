//! HTTP/2 of a client (RFC 9113), by the library `h2`, which is polled by a worker: bytes go in and out by
//! memory, and whoever is woken is noted, not run.

mod budget;
mod frames;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::budget::Budget;
use self::frames::{DATA, Frames, HEADERS};
use crate::domain::time::Time;

/// What a client begins with (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most requests at once.
const MAX_STREAMS: u32 = 128;
/// The longest head, as the library counts: 32 bytes more for each field.
const MAX_HEAD: u32 = 64 << 10;
/// How much of one body may be under way, and of all.
const STREAM_WINDOW: u32 = 256 << 10;
const WINDOW: u32 = 1 << 20;
/// How much of an answer is kept until the client takes it.
const SEND_BUFFER: usize = 64 << 10;
/// How much is kept for the socket before the library has to wait.
const OUTGOING: usize = 128 << 10;
/// Requests that a client may take back before anybody has looked at them (CVE-2023-44487).
const MAX_TAKEN_BACK: usize = 32;
/// Errors of its own streams after which a connection is over.
const MAX_ERRORS: usize = 256;

/// A connection of a client's.
pub struct Session {
    state: State,
    wire: Wire,
    woken: Arc<Woken>,
}

enum State {
    Begins(Box<Handshake<Wire, Bytes>>),
    Open(Box<Connection<Wire, Bytes>>),
    Over,
}

/// What has come of polling.
pub enum Polled {
    /// A request.
    Request(Box<Request<RecvStream>>, SendResponse<Bytes>),
    /// Nothing, until more has arrived.
    Waits,
    /// The connection is over, once what is to be sent has been.
    Over,
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Whether it is so much that the library waits with more.
    pub is_full: bool,
    /// Whether some of an answer is in it.
    pub has_answers: bool,
}

/// Whether somebody has been woken.
#[derive(Debug, Default)]
pub struct Woken(AtomicBool);

impl Woken {
    /// Whether it was since the last call.
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }

    /// Whether it was since the last that was taken.
    #[must_use]
    pub fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that it is to be looked at.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.note();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.note();
    }
}

impl Session {
    /// A connection of which nothing has arrived, the preface included.
    #[must_use]
    pub fn new() -> Self {
        let wire = Wire::default();
        wire.lock().heard = Frames::behind_preface();
        let mut builder = Builder::new();
        builder
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_TAKEN_BACK)
            .max_local_error_reset_streams(Some(MAX_ERRORS));
        let state = State::Begins(Box::new(builder.handshake(wire.clone())));
        Self { state, wire, woken: Arc::default() }
    }

    /// Takes what has arrived. Whoever floods it with frames that ask for nothing is cut off (CVE-2019-9512
    /// and others).
    pub fn arrived(&mut self, bytes: &[u8], now: Time) {
        let mut wire = self.wire.lock();
        if wire.is_cut {
            return;
        }
        let Buffers { heard, budget, .. } = &mut *wire;
        budget.comes_at(now);
        heard.follow(bytes, |frame| budget.heard(frame));
        if !budget.is_overdrawn(now) {
            return wire.incoming.extend_from_slice(bytes);
        }
        wire.is_cut = true;
        wire.incoming.clear();
        wire.from = 0;
        drop(wire);
        self.break_off(Reason::ENHANCE_YOUR_CALM);
    }

    /// Notes that nothing more will.
    pub fn ended(&self) {
        self.wire.lock().ended = true;
    }

    /// Whether something has arrived that has not been looked at.
    #[must_use]
    pub fn has_arrived(&self) -> bool {
        let wire = self.wire.lock();
        wire.from < wire.incoming.len()
    }

    /// Takes what is to be sent, in place of what `before` held.
    pub fn take_outgoing(&self, before: &mut Vec<u8>) -> Taken {
        let mut wire = self.wire.lock();
        before.clear();
        std::mem::swap(&mut wire.outgoing, before);
        let has_answers = std::mem::take(&mut wire.has_answers);
        Taken { is_full: before.len() >= OUTGOING, has_answers }
    }

    /// Whether there is something of a request or an answer that has not come to its end.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let has_streams = matches!(&self.state, State::Open(open) if open.has_streams());
        has_streams || !self.wire.lock().outgoing.is_empty()
    }

    /// Holds no memory for what has come and gone.
    pub fn rest(&self) {
        let mut wire = self.wire.lock();
        if wire.incoming.is_empty() {
            wire.incoming = Vec::new();
        }
        if wire.outgoing.is_empty() {
            wire.outgoing = Vec::new();
        }
    }

    /// Goes on as far as what has arrived leads.
    pub fn poll(&mut self) -> Polled {
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut context = Context::from_waker(&waker);
        if let State::Begins(handshake) = &mut self.state {
            match pin!(&mut **handshake).poll(&mut context) {
                Poll::Pending => return Polled::Waits,
                Poll::Ready(Ok(connection)) => self.state = State::Open(Box::new(connection)),
                Poll::Ready(Err(error)) => return self.over(&error),
            }
        }
        let State::Open(connection) = &mut self.state else { return Polled::Over };
        match connection.poll_accept(&mut context) {
            Poll::Pending => Polled::Waits,
            Poll::Ready(Some(Ok((request, respond)))) => {
                Polled::Request(Box::new(request), respond)
            }
            Poll::Ready(Some(Err(error))) => self.over(&error),
            Poll::Ready(None) => {
                self.state = State::Over;
                Polled::Over
            }
        }
    }

    /// Takes no more requests than those under way: says so twice, so that none is lost (RFC 9113, 6.8).
    pub fn shut_down(&mut self) {
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    /// Ends it, with all that is under way.
    pub fn break_off(&mut self, reason: Reason) {
        match &mut self.state {
            State::Open(connection) => connection.abrupt_shutdown(reason),
            State::Begins(_) | State::Over => self.state = State::Over,
        }
    }

    fn over(&mut self, error: &h2::Error) -> Polled {
        tracing::debug!(%error, "HTTP/2 ends");
        self.state = State::Over;
        Polled::Over
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

/// The library's end of the memory by which bytes go in and out.
#[derive(Clone, Debug, Default)]
struct Wire(Arc<Mutex<Buffers>>);

#[derive(Debug, Default)]
struct Buffers {
    incoming: Vec<u8>,
    from: usize,
    ended: bool,
    outgoing: Vec<u8>,
    /// Whether some of an answer is in that.
    has_answers: bool,
    /// Where frames begin, in what comes and in what goes, and how many of them may come.
    heard: Frames,
    said: Frames,
    budget: Budget,
    /// Whether nothing more is taken.
    is_cut: bool,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Buffers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.lock();
        let left = &wire.incoming[wire.from..];
        if left.is_empty() {
            return if wire.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..length]);
        wire.from += length;
        if wire.from == wire.incoming.len() {
            wire.incoming.clear();
            wire.from = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.lock();
        let room = OUTGOING.saturating_sub(wire.outgoing.len()).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        let taken = &bytes[..room];
        let Buffers { outgoing, has_answers, said, budget, .. } = &mut *wire;
        *has_answers |= room > 0 && matches!(said.within(), Some(DATA | HEADERS));
        said.follow(taken, |frame| {
            *has_answers |= matches!(frame.kind, DATA | HEADERS);
            budget.said(frame);
        });
        outgoing.extend_from_slice(taken);
        Poll::Ready(Ok(room))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
