//! One of a connection's two sockets: reading and writing, through TLS where it ends here.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, Result};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

use super::Tools;
use crate::infrastructure::reactor::{Event, Interest};
use crate::infrastructure::tls::{Session, sealed_length};

/// A first write larger than this fills a segment, and Nagle's algorithm would hold back its tail.
const SMALL_WRITE: usize = 1_000;
/// Silence after which the kernel asks whether the peer still lives, and how often.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// One of a connection's two sockets, and what is known of its readiness.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a socket")]
pub struct End {
    pub(super) socket: OwnedFd,
    pub(super) readable: bool,
    pub(super) read_closed: bool,
    /// Short reads do not tell that the socket is empty: there is urgent data, at which they stop,
    /// or an error after the last byte.
    pub(super) unsure: bool,
    /// Nobody is there any more.
    failed: bool,
    pub(super) writable: bool,
    /// Whether small writes go out at once. Set late where it is not inherited: many connections
    /// end after one write, which Nagle's algorithm does not delay.
    nodelay: bool,
    pub(super) written: bool,
    /// What the reactor tells of it.
    pub(super) watched: Interest,
    tls: Option<Box<Session>>,
}

/// What a read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Bytes for the other side, at the head of the buffer that is for them.
    pub bytes: usize,
    /// Bytes that came from the socket.
    pub raw: usize,
    /// Whether they filled what there was room for.
    pub full: bool,
    /// Whether they are the last.
    pub ended: bool,
}

/// Why nothing more can be read, or a handshake has no end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failed {
    /// The peer is gone.
    #[error("{0}")]
    Socket(Errno),
    /// The peer does not keep to TLS, or is not who it must be.
    #[error("{0}")]
    Tls(rustls::Error),
    /// It has sent a message of which no more can be kept.
    #[error("a message of TLS that is too long")]
    TooLong,
    /// It has sent its last byte in the midst of a handshake.
    #[error("the connection was closed during the handshake")]
    Closed,
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
            failed: false,
            writable: true,
            nodelay,
            written: false,
            watched,
            tls: None,
        }
    }

    /// Puts it behind TLS, which ends here.
    pub fn secure(&mut self, session: Box<Session>) {
        self.tls = Some(session);
    }

    /// The socket.
    #[must_use]
    pub const fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The TLS that ends here.
    #[must_use]
    pub fn tls(&self) -> Option<&Session> {
        self.tls.as_deref()
    }

    /// The TLS that ends here.
    pub fn tls_mut(&mut self) -> Option<&mut Session> {
        self.tls.as_deref_mut()
    }

    /// What TLS has decrypted before anybody could take it.
    pub fn take_early(&mut self) -> Vec<u8> {
        self.tls.as_mut().map(|session| session.take_early()).unwrap_or_default()
    }

    /// What the reactor tells of it.
    #[must_use]
    pub const fn watched(&self) -> Interest {
        self.watched
    }

    /// What the reactor should tell of it from now on, if it has something to say that is not told when
    /// it can.
    pub fn rewatch_writes(&mut self) -> Option<(&OwnedFd, Interest)> {
        if !self.is_behind() || self.watched.writes {
            return None;
        }
        self.watched.writes = true;
        Some((&self.socket, self.watched))
    }

    /// Whether something can be written.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    /// Has nothing more be read.
    pub const fn no_more(&mut self) {
        self.readable = false;
    }

    /// Has the end that was read be read once more, behind what came before it.
    pub const fn ends_again(&mut self) {
        self.readable = true;
    }

    /// What the reactor should tell of it from now on, when that is not what it tells.
    pub fn rewatch(&mut self, reads: bool) -> Option<(&OwnedFd, Interest)> {
        let wanted = Interest { reads, writes: self.watched.writes || !self.writable };
        if wanted == self.watched {
            return None;
        }
        self.watched = wanted;
        Some((&self.socket, wanted))
    }

    /// Whether there may be something to read.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether nothing has come that was not read, not even its end, whatever has been told of it.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let peek = || retry(|| recv(&self.socket, &mut [0; 1], RecvFlags::PEEK));
        let has_part = self.tls.as_ref().is_some_and(|session| session.unread() > 0);
        !self.readable && self.writable && !has_part && matches!(peek(), Err(Errno::AGAIN))
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
        self.failed |= event.failed();
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

    /// Reads once: to [`Tools::scratch`], or what is decrypted to [`Tools::plain`]. `None` = there is
    /// nothing to read.
    ///
    /// # Errors
    /// When the peer is gone, or does not keep to TLS.
    pub fn read(&mut self, tools: &mut Tools) -> std::result::Result<Option<Read>, Failed> {
        let Some(session) = &mut self.tls else {
            let room = tools.scratch.len();
            let received = self.receive(&mut tools.scratch).map_err(Failed::Socket)?;
            let Some(raw) = received else { return Ok(None) };
            return Ok(Some(self.note_read(raw, raw, room)));
        };
        if let Some(error) = session.failure() {
            return Err(Failed::Tls(error.clone()));
        }
        let unread = session.unread_into(&mut tools.scratch);
        let room = tools.scratch.len() - unread;
        if room == 0 {
            return Err(Failed::TooLong);
        }
        let received = self.receive(&mut tools.scratch[unread..]);
        let Some(session) = &mut self.tls else { return Ok(None) };
        let arrived =
            &mut tools.scratch[..unread + received.unwrap_or_default().unwrap_or_default()];
        tools.plain.clear();
        // Also when nothing has come: what was not whole is kept.
        let taken = session.take(arrived, &mut tools.plain);
        let peer_closed = session.peer_closed();
        // What has been said in TLS is the end, whatever comes of the socket.
        let raw = match received {
            Ok(Some(raw)) => raw,
            _ if peer_closed => 0,
            Ok(None) => return Ok(None),
            Err(error) => return Err(Failed::Socket(error)),
        };
        if let Err(error) = taken {
            // Says why, if that can be said now.
            let _ = self.flush();
            if tools.plain.is_empty() {
                return Err(Failed::Tls(error));
            }
            // What came before it counts; then it is found once more.
            self.readable = true;
            return Ok(Some(Read { bytes: tools.plain.len(), raw, full: false, ended: false }));
        }
        let mut read = self.note_read(raw, tools.plain.len(), room);
        read.ended |= peer_closed;
        Ok(Some(read))
    }

    /// Goes on with the handshake as far as what has arrived leads; whether it is over.
    ///
    /// # Errors
    /// When it has failed.
    pub fn handshake(&mut self, tools: &mut Tools) -> std::result::Result<bool, Failed> {
        loop {
            self.flush().map_err(Failed::Socket)?;
            if self.tls.as_ref().is_some_and(|session| session.is_open()) {
                return Ok(true);
            }
            if !self.readable {
                // Nobody tells of an end again.
                return if self.read_closed { Err(Failed::Closed) } else { Ok(false) };
            }
            let Some(read) = self.read(tools)? else { return Ok(false) };
            let Some(session) = &mut self.tls else { return Ok(false) };
            session.keep_early(&tools.plain);
            match (read.ended, session.is_open()) {
                (false, _) => {}
                // The end is to be read again, by whoever is to know of it.
                (true, true) => self.readable = true,
                (true, false) => return Err(Failed::Closed),
            }
        }
    }

    /// Reads from the socket; `None` = there is nothing, 0 = nothing will come.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match retry(|| recv(&self.socket, &mut *buffer, RecvFlags::empty())) {
            Ok((_, raw)) => {
                // A short read has emptied the socket.
                self.readable &= raw == buffer.len() || raw == 0 || self.unsure;
                Ok(Some(raw))
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What a read of `raw` bytes says.
    const fn note_read(&self, raw: usize, bytes: usize, room: usize) -> Read {
        // The end that was announced comes after what has emptied the socket.
        let ended = raw == 0 || (!self.readable && self.read_closed);
        Read { bytes, raw, full: raw == room, ended }
    }

    /// Writes `bytes`, which are what is left of it if they are the `last`, as far as the socket takes
    /// them; how many. Those of TLS are taken all, and kept as far as the socket does not.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn write(&mut self, bytes: &[u8], last: bool, sealed: &mut Vec<u8>) -> Result<usize> {
        let Some(session) = &mut self.tls else {
            self.before_write(bytes.len());
            // The last bytes wait for the end that follows in this turn, to go out in one segment with it.
            let flags = if last { SendFlags::MORE } else { SendFlags::empty() };
            let written = write(&self.socket, bytes, flags)?;
            self.writable &= written == bytes.len();
            return Ok(written);
        };
        let most = sealed_length(bytes.len());
        if sealed.len() < most {
            sealed.resize(most, 0);
        }
        let length = session.seal(bytes, last, sealed).map_err(|error| {
            tracing::debug!(%error, "TLS cannot go on");
            Errno::PROTO
        })?;
        let sealed = &sealed[..length];
        if !session.outgoing().is_empty() || !self.writable {
            session.queue(sealed);
            self.flush()?;
            return Ok(bytes.len());
        }
        self.before_write(length);
        let written = write(&self.socket, sealed, SendFlags::empty())?;
        if written < length {
            self.writable = false;
            if let Some(session) = &mut self.tls {
                session.queue(&sealed[written..]);
            }
        }
        Ok(bytes.len())
    }

    /// The same for bytes that had to wait: the socket takes what it can in one go.
    ///
    /// # Errors
    /// When the peer is gone.
    pub(super) fn write_held(&mut self, bytes: &[u8], sealed: &mut Vec<u8>) -> Result<usize> {
        match self.tls {
            Some(_) => self.write(bytes, false, sealed),
            None => write(&self.socket, bytes, SendFlags::empty()),
        }
    }

    /// Sends what TLS has to say; whether nothing is left.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn flush(&mut self) -> Result<bool> {
        let Some(length) = self.tls.as_ref().map(|session| session.outgoing().len()) else {
            return Ok(true);
        };
        if length == 0 || !self.writable {
            return Ok(length == 0);
        }
        self.before_write(length);
        let Some(session) = &mut self.tls else { return Ok(true) };
        let written = write(&self.socket, session.outgoing(), SendFlags::empty())?;
        session.sent(written);
        self.writable = written == length;
        Ok(self.writable)
    }

    /// Whether TLS has something to say that has not been sent.
    pub(super) fn is_behind(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| !session.outgoing().is_empty())
    }

    /// Whether the peer's end may be somebody else's: it did not say that it was the end.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| !session.peer_closed())
    }

    /// Notes that nothing can be sent any more.
    pub(super) const fn fail(&mut self) {
        self.failed = true;
    }

    /// Whether the peer has gone, and has said in TLS before that nothing follows. Then it was no reset
    /// that was meant: who goes without reading its tickets causes one.
    pub(super) fn has_gone_in_order(&self) -> bool {
        self.failed && self.is_finished()
    }

    /// Whether the peer has said in TLS that nothing follows.
    pub(super) fn is_finished(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.peer_closed())
    }

    /// Whether TLS has yet to say that nothing follows.
    pub(super) fn has_end_to_say(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.is_open() && !session.closed())
    }

    /// Says in TLS, if it has not been said, that nothing follows.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn say_end(&mut self, sealed: &mut Vec<u8>) -> Result<()> {
        if self.has_end_to_say() {
            self.write(&[], true, sealed)?;
        }
        Ok(())
    }

    /// Nothing more is sent. It fails only when the peer is gone, and then reading finds out.
    pub fn shut_down(&self) {
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    pub(super) fn before_write(&mut self, bytes: usize) {
        if !self.nodelay && (self.written || bytes > SMALL_WRITE) {
            let _ = sockopt::set_tcp_nodelay(&self.socket, true);
            self.nodelay = true;
        }
        self.written = true;
    }
}

/// Writes what the socket takes now, which may be nothing.
pub(super) fn write(socket: &OwnedFd, bytes: &[u8], flags: SendFlags) -> Result<usize> {
    match retry(|| send(socket, bytes, flags | SendFlags::NOSIGNAL)) {
        Err(Errno::AGAIN) => Ok(0),
        other => other,
    }
}

/// Calls again when a signal came between.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
