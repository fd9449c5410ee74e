//! What the users of a pool share: the books, who waits for room, and the task that retires what
//! nobody asks for.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::book::{Book, Limits, Place};
use crate::clock::{self, Time};

/// Connections are retired this much too late at most, for which all are looked at no more often.
const SWEEP_GAP: Duration = Duration::from_millis(10);

/// What a connection is to.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) backend: Box<str>,
    pub(super) address: Box<str>,
}

#[derive(Debug)]
pub(super) struct Shared {
    limits: Limits,
    /// Never held across an await. Sockets are closed under it, so that the bound holds for sockets too.
    state: Mutex<State>,
    /// A connection has become idle that ends before the sweeper wakes.
    sooner: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    backends: HashMap<Arc<Key>, Backend>,
    /// No idle connection ends before this, give or take the gap; `None` when there is none.
    next_expiry: Option<Time>,
    /// One task at most; it ends with the pool.
    sweeper: JoinSet<()>,
}

/// What is known of a backend; forgotten when it has neither connections nor seats.
#[derive(Debug)]
struct Backend {
    book: Book<TcpStream>,
    /// As many as there may be connections out: the queue of those who wait for room.
    permits: Arc<Semaphore>,
    seats: usize,
}

/// One user of a backend, from the moment it asks for a connection until it has given it back.
/// Dropping it at any time gives up what it has.
#[derive(Debug)]
pub(super) struct Seat {
    /// Not a share of it: connections in use do not keep a pool that was dropped.
    shared: Weak<Shared>,
    key: Arc<Key>,
    permits: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    /// Had only with a permit, and ended before it.
    place: Option<Place>,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        let sooner = Arc::new(Notify::new());
        Self { limits, state: Mutex::default(), sooner }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Idle connections to a backend, and those that are out.
    pub(super) fn counts(&self, backend: &str, address: &str) -> (usize, usize) {
        let key = Key { backend: backend.into(), address: address.into() };
        let state = self.lock();
        state.backends.get(&key).map_or((0, 0), |known| (known.book.idle(), known.book.out()))
    }

    #[cfg(test)]
    pub(super) fn backends(&self) -> usize {
        self.lock().backends.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Closes connections whose time is over, if there can be any, and forgets backends.
    fn sweep(&mut self, now: Time, limits: &Limits) {
        if self.next_expiry.is_none_or(|next| now < next) {
            return;
        }
        let mut retired = Vec::new();
        self.backends.retain(|_, backend| {
            backend.book.expire(now, limits, &mut retired);
            !backend.is_forgettable()
        });
        let books = self.backends.values().map(|backend| &backend.book);
        let next = books.filter_map(|book| book.next_expiry(limits)).min();
        self.next_expiry = next.map(|next| next.max(now + SWEEP_GAP));
    }

    /// Has one sweeper run, from the first use of the pool on.
    fn keep_swept(&mut self, shared: &Arc<Shared>) {
        // A sweeper has ended if its runtime has.
        while self.sweeper.try_join_next().is_some() {}
        if self.sweeper.is_empty() {
            self.sweeper.spawn(sweep(Arc::downgrade(shared), Arc::clone(&shared.sooner)));
        }
    }
}

impl Backend {
    fn new(limits: &Limits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.max.min(Semaphore::MAX_PERMITS)));
        Self { book: Book::new(), permits, seats: 0 }
    }

    fn is_forgettable(&self) -> bool {
        self.seats == 0 && self.book.is_empty()
    }
}

impl Seat {
    /// A seat that has no room yet.
    pub(super) fn new(shared: &Arc<Shared>, key: Arc<Key>) -> Self {
        let mut state = shared.lock();
        state.keep_swept(shared);
        state.sweep(clock::now(), &shared.limits);
        let backend = state.backends.entry(Arc::clone(&key));
        let backend = backend.or_insert_with(|| Backend::new(&shared.limits));
        backend.seats += 1;
        let permits = Arc::clone(&backend.permits);
        Self { shared: Arc::downgrade(shared), key, permits, permit: None, place: None }
    }

    /// Waits in turn until there is room, and says whether there is. Dropping the future leaves the
    /// queue.
    pub(super) async fn wait(&mut self) -> bool {
        self.permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        self.permit.is_some()
    }

    /// Uses the room: for an idle connection, or for one that is to be dialled.
    pub(super) fn occupy(&mut self, shared: &Shared) -> Option<TcpStream> {
        let mut retired = Vec::new();
        let mut state = shared.lock();
        let book = &mut state.backends.get_mut(&self.key)?.book;
        let now = clock::now();
        let taken = book.take(now, &shared.limits, is_usable, &mut retired);
        // Closed before anybody else may dial.
        drop(retired);
        let Some((stream, place)) = taken else {
            // Every place has a permit, so this permit has a place.
            self.place = book.open(now, &shared.limits, fastrand::u16(..));
            debug_assert!(self.place.is_some());
            return None;
        };
        self.place = Some(place);
        Some(stream)
    }

    /// Makes the connection idle, or closes it if it has lived long enough.
    pub(super) fn give_back(&mut self, stream: TcpStream) {
        let Some(shared) = self.shared.upgrade() else { return };
        let Some(place) = self.place.take() else { return };
        let mut state = shared.lock();
        let Some(backend) = state.backends.get_mut(&self.key) else { return };
        let now = clock::now();
        if let Ok(ends) = backend.book.put(now, &shared.limits, place, stream, true)
            && state.next_expiry.is_none_or(|next| ends < next)
        {
            state.next_expiry = Some(ends);
            shared.sooner.notify_one();
        }
        state.sweep(now, &shared.limits);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = shared.lock();
        let Some(backend) = state.backends.get_mut(&self.key) else { return };
        if let Some(place) = self.place.take() {
            backend.book.free(place);
        }
        backend.seats -= 1;
        if backend.is_forgettable() {
            state.backends.remove(&self.key);
        }
    }
}

/// Whether an idle connection may be used: its peer has neither ended nor reset it, and, if it was
/// used before, has sent nothing since. What one that was never used has sent is a greeting. Nothing
/// is consumed.
pub fn is_usable<Fd: AsFd>(socket: &Fd, used: bool) -> bool {
    match rustix::net::recv(socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((0, _)) => false,
        Ok(_) => !used,
        Err(error) => error == Errno::AGAIN,
    }
}

/// Retires connections when their time is over, as long as there is a pool.
async fn sweep(shared: Weak<Shared>, sooner: Arc<Notify>) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            let mut state = shared.lock();
            state.sweep(clock::now(), &shared.limits);
            state.next_expiry
        };
        let Some(next) = next else {
            sooner.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep(next.since(clock::now())) => {}
            () = sooner.notified() => {}
        }
    }
}
