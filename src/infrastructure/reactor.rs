//! Readiness of sockets: a thin face on epoll, edge-triggered for connections.
//!
//! Edge-triggered means that an event is told once: whoever is told keeps the fact until a call says
//! `EAGAIN`, or moves fewer bytes than asked for, which says the same without another call.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{self, Errno};
use rustix::time::Timespec;

/// Events taken from the system at once.
const BATCH: usize = 256;

/// What a registered descriptor is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The token of the reactor's own wake-up.
const WAKE: Token = Token(u64::MAX);

/// What happened to a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose.
    pub token: Token,
    flags: EventFlags,
}

impl Event {
    /// That a descriptor can be written, and nothing else.
    #[must_use]
    pub const fn writable_now(token: Token) -> Self {
        Self { token, flags: EventFlags::OUT }
    }

    /// What is known when this comes after `earlier`, of the same descriptor.
    #[must_use]
    pub const fn after(self, earlier: Self) -> Self {
        Self { token: self.token, flags: self.flags.union(earlier.flags) }
    }

    /// Bytes, an end or an error wait to be read.
    #[must_use]
    pub const fn readable(self) -> bool {
        self.flags
            .intersects(EventFlags::IN.union(EventFlags::PRI).union(EventFlags::RDHUP).union(END))
    }

    /// The peer has sent its last byte, and all of them have arrived. Not so after a reset, which
    /// closes for reading too.
    #[must_use]
    pub const fn read_closed(self) -> bool {
        self.flags.contains(EventFlags::RDHUP) && !self.failed()
    }

    /// There is room to write, or an error to find out about.
    #[must_use]
    pub const fn writable(self) -> bool {
        self.flags.intersects(EventFlags::OUT.union(END))
    }

    /// The connection failed or was reset.
    #[must_use]
    pub const fn failed(self) -> bool {
        self.flags.contains(EventFlags::ERR)
    }

    /// There is urgent data, at which reads stop short.
    #[must_use]
    pub const fn urgent(self) -> bool {
        self.flags.contains(EventFlags::PRI)
    }
}

const END: EventFlags = EventFlags::ERR.union(EventFlags::HUP);
const READ: EventFlags =
    EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::PRI).union(EventFlags::ET);

/// What is to be told of a connection. Failures are always told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// When it can be read.
    pub reads: bool,
    /// When it can be written.
    pub writes: bool,
}

/// Wakes a reactor from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Makes the reactor's wait return.
    pub fn wake(&self) {
        // The counter cannot overflow in a process's life, and no other error is possible.
        let _ = io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// One thread's descriptors.
pub struct Reactor {
    epoll: OwnedFd,
    waker: Waker,
}

/// What one wait brought. It stays with the thread that waits.
pub struct Events(Vec<epoll::Event>);

impl Default for Events {
    fn default() -> Self {
        Self(Vec::with_capacity(BATCH))
    }
}

impl Events {
    /// Whether the reactor was woken by its [`Waker`].
    #[must_use]
    pub fn woken(&self) -> bool {
        self.0.iter().any(|event| event.data.u64() == WAKE.0)
    }

    /// The events, without the reactor's own wake-up.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.0
            .iter()
            .map(|event| Event { token: Token(event.data.u64()), flags: event.flags })
            .filter(|event| event.token != WAKE)
    }
}

impl Reactor {
    /// A reactor with nothing in it.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE.0), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll, waker: Waker(Arc::new(wake)) })
    }

    /// What other threads wake it with.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Tells when a connection can be read.
    ///
    /// # Errors
    /// When the system refuses (its limit of watches, or memory).
    pub fn watch_reads(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        epoll::add(&self.epoll, socket, EventData::new_u64(token.0), READ)
    }

    /// Tells when a connection can be read and when it can be written.
    ///
    /// # Errors
    /// As [`watch_reads`](Self::watch_reads).
    pub fn watch_both(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        epoll::add(&self.epoll, socket, EventData::new_u64(token.0), READ | EventFlags::OUT)
    }

    /// Changes what is told of a connection that is watched. What is so already is told at once.
    ///
    /// # Errors
    /// As [`watch_reads`](Self::watch_reads).
    pub fn rewatch(&self, socket: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let reads = if interest.reads { READ } else { EventFlags::ET };
        let writes = if interest.writes { EventFlags::OUT } else { EventFlags::empty() };
        epoll::modify(&self.epoll, socket, EventData::new_u64(token.0), reads | writes)
    }

    /// Tells, at every wait, while connections wait to be accepted.
    ///
    /// # Errors
    /// As [`watch_reads`](Self::watch_reads).
    pub fn watch_listener(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        epoll::add(&self.epoll, socket, EventData::new_u64(token.0), EventFlags::IN)
    }

    /// Stops watching. Closing a descriptor does this by itself.
    ///
    /// # Errors
    /// When it was not watched.
    pub fn unwatch(&self, socket: impl AsFd) -> io::Result<()> {
        epoll::delete(&self.epoll, socket)
    }

    /// Waits for events, `timeout` at most (`None` = for ever), and puts them in place of those in
    /// `events`. Returns early, maybe with none, when woken or when a signal came.
    ///
    /// # Errors
    /// When the reactor itself is broken.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.0.clear();
        let timeout = timeout.map(round_up);
        match epoll::wait(&self.epoll, spare_capacity(&mut events.0), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// To the system call's unit, milliseconds, and never early; at most about twelve days.
fn round_up(timeout: Duration) -> Timespec {
    let millis = timeout.as_nanos().div_ceil(1_000_000).min(1 << 30);
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    Timespec { tv_sec: millis / 1_000, tv_nsec: millis % 1_000 * 1_000_000 }
}
