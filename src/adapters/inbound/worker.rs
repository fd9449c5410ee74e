//! One thread of the data plane: its listeners, its connections, and nothing that can wait.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::oneshot;

use super::listener::Listener;
use crate::application::account::Ended;
use crate::application::proxy::{Proxy, Shared};
use crate::clock;
use crate::domain::time::Time;
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::reactor::{Events, Reactor, Token, Waker};
use crate::infrastructure::shutdown::Drain;
use crate::infrastructure::slab::Key;

/// Listeners' tokens are above all that connections can have; the reactor's own is `u64::MAX`.
const LISTENERS: u64 = u64::MAX - 0x1_0000;
/// How long handshakes under way may take to end when a drain begins.
const LAST_HANDSHAKES: Duration = Duration::from_millis(50);

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    waker: Waker,
    orders: Arc<Orders>,
    /// How its connections ended.
    pub ended: Arc<Ended>,
    /// How late it has been.
    pub lag: Arc<Lag>,
}

/// What the control plane has asked of a worker. The worker never waits for it: what is being added
/// is taken up after the wake-up that follows.
#[derive(Debug, Default)]
struct Orders {
    /// Backends whose connections are to be closed, by number.
    close: Mutex<Vec<u64>>,
}

impl Worker {
    /// Starts a thread that serves `listeners` until a drain of `shared` ends, which the second
    /// value tells.
    ///
    /// # Errors
    /// When the system has no descriptors or threads left.
    pub fn start(
        number: usize,
        listeners: Vec<Listener>,
        reactor: Reactor,
        shared: Arc<Shared>,
        log: &LogSink,
    ) -> std::io::Result<(Self, Ending)> {
        let waker = reactor.waker();
        for (place, listener) in listeners.iter().enumerate() {
            reactor.watch_listener(listener.socket(), listener_token(place))?;
        }
        let ended = Arc::new(Ended::default());
        let (orders, lag) = (Arc::new(Orders::default()), Arc::new(Lag::default()));
        let log = log.writer();
        let proxy = Proxy::new(Arc::clone(&shared), reactor, log, Arc::clone(&ended), number);
        let (running, ending) = oneshot::channel();
        let (asked, lags) = (Arc::clone(&orders), Arc::clone(&lag));
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            run(proxy, listeners, &shared, &asked, &lags);
            drop(running);
        })?;
        Ok((Self { waker, orders, ended, lag }, Ending(ending)))
    }

    /// Has it close its connections to a backend, by the backend's number.
    pub fn close_all_of(&self, backend: u64) {
        self.orders.close.lock().unwrap_or_else(PoisonError::into_inner).push(backend);
        self.wake();
    }

    /// Makes it look at what has changed in what it shares.
    pub fn wake(&self) {
        self.waker.wake();
    }
}

/// How long events had to wait for a worker that was busy with others: the longest time between two
/// waits, of late.
#[derive(Debug, Default)]
pub struct Lag {
    /// Nanoseconds: the longest of the window before, and of the window that runs.
    longest: [AtomicU64; 2],
    begun: AtomicU64,
}

impl Lag {
    /// How long is of late: one to two of these.
    const WINDOW: Duration = Duration::from_secs(10);

    /// The longest of late.
    #[must_use]
    pub fn longest(&self, now: Time) -> Duration {
        let passed = now.since(Time::from_nanos(self.begun.load(Ordering::Relaxed)));
        let [before, running] = &self.longest;
        // A worker that sleeps on does not begin windows.
        let nanos = if passed < Self::WINDOW {
            before.load(Ordering::Relaxed).max(running.load(Ordering::Relaxed))
        } else if passed < 2 * Self::WINDOW {
            running.load(Ordering::Relaxed)
        } else {
            0
        };
        Duration::from_nanos(nanos)
    }

    fn note(&self, busy: Duration, now: Time) {
        let [before, running] = &self.longest;
        let passed = now.since(Time::from_nanos(self.begun.load(Ordering::Relaxed)));
        if passed >= Self::WINDOW {
            self.begun.store(now.nanos(), Ordering::Relaxed);
            let last = running.swap(0, Ordering::Relaxed);
            before.store(if passed < 2 * Self::WINDOW { last } else { 0 }, Ordering::Relaxed);
        }
        let nanos = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        if nanos > running.load(Ordering::Relaxed) {
            running.store(nanos, Ordering::Relaxed);
        }
    }
}

/// Tells when a worker has ended.
#[derive(Debug)]
pub struct Ending(oneshot::Receiver<Infallible>);

impl Ending {
    /// Returns once the worker's thread has let go of everything, its last log lines included.
    pub async fn wait(&mut self) {
        let Err(_) = (&mut self.0).await;
    }
}

/// The token of the worker's listener at `place`. Several can have one number.
const fn listener_token(place: usize) -> Token {
    Token(LISTENERS + place as u64)
}

fn run(
    mut proxy: Proxy,
    mut listeners: Vec<Listener>,
    shared: &Shared,
    orders: &Orders,
    lag: &Lag,
) {
    let mut events = Events::default();
    let mut leaving: Option<Leaving> = None;
    let mut woken = clock::now();
    loop {
        let now = clock::now();
        lag.note(now.since(woken), now);
        let wake_at =
            [proxy.wake_at(now), next_resume(&listeners), leaving.as_ref().and_then(Leaving::at)]
                .into_iter()
                .flatten()
                .min();
        let timeout = wake_at.map(|at| at.since(now));
        if let Err(error) = proxy.reactor().wait(&mut events, timeout) {
            // Nothing that can happen to a healthy process; ending is honest, and loud.
            tracing::error!(%error, "a worker cannot go on");
            return;
        }
        let now = clock::now();
        woken = now;
        if events.woken() {
            let closing = orders.close.try_lock().map(|mut close| std::mem::take(&mut *close));
            for backend in closing.unwrap_or_default() {
                contained(|| proxy.close_all_of(backend, now));
            }
        }
        for event in events.iter() {
            match event.token.0.checked_sub(LISTENERS) {
                Some(place) => {
                    let place = usize::try_from(place).unwrap_or(usize::MAX);
                    if let Some(listener) = listeners.get_mut(place) {
                        accept(listener, &mut proxy, now);
                    }
                }
                None => {
                    if contained(|| proxy.event(event, now)).is_none() {
                        proxy.abandon(Key::of(event.token).0);
                    }
                }
            }
        }
        for id in proxy.take_unfinished() {
            if contained(|| proxy.resume(id, now)).is_none() {
                proxy.abandon(id);
            }
        }
        contained(|| proxy.time(now));
        for (place, listener) in listeners.iter_mut().enumerate() {
            if !listener.resume(now) || leaving.is_some() {
                continue;
            }
            let token = listener_token(place);
            if !proxy.has_spare(now)
                || proxy.reactor().watch_listener(listener.socket(), token).is_err()
            {
                listener.pause(now, Errno::MFILE);
            }
        }
        match &mut leaving {
            None => {
                if let Some(drain) = shared.shutdown.drain() {
                    proxy.leave_soon();
                    leaving = Some(Leaving::begin(drain, &listeners, now));
                }
            }
            Some(leaving) => leaving.go_on(&mut listeners, &mut proxy, now),
        }
        if leaving.is_some() && listeners.is_empty() && proxy.is_empty() {
            return;
        }
    }
}

fn accept(listener: &mut Listener, proxy: &mut Proxy, now: Time) {
    let number = listener.number;
    contained(|| {
        listener.accept(now, |socket, peer| {
            proxy.accepted(socket, peer, number, now);
            proxy.has_spare(now)
        });
    });
    if listener.paused_until().is_some() {
        proxy.leave_descriptors_to_clients(now);
        let _ = proxy.reactor().unwatch(listener.socket());
    }
}

/// A panic is a bug of ours; it ends the connection that met it and none beside it.
fn contained<T>(act: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act))
        .inspect_err(|_| {
            tracing::error!("a bug in edge-proxy ended a connection; please report it");
        })
        .ok()
}

fn next_resume(listeners: &[Listener]) -> Option<Time> {
    listeners.iter().filter_map(Listener::paused_until).min()
}

/// A drain as one worker sees it: first nobody new may begin a handshake, then the queues are
/// emptied and the listeners closed, then connections end.
struct Leaving {
    drain: Drain,
    closes_at: Option<Time>,
}

impl Leaving {
    fn begin(drain: Drain, listeners: &[Listener], now: Time) -> Self {
        for listener in listeners {
            listener.turn_away();
        }
        Self { drain, closes_at: Some((now + LAST_HANDSHAKES).min(drain.force_from)) }
    }

    const fn at(&self) -> Option<Time> {
        self.closes_at
    }

    fn go_on(&mut self, listeners: &mut Vec<Listener>, proxy: &mut Proxy, now: Time) {
        if self.closes_at.is_some_and(|at| at <= now) {
            self.closes_at = None;
            for listener in listeners.drain(..) {
                let number = listener.number;
                listener.accept_last(now, |socket, peer| proxy.accepted(socket, peer, number, now));
            }
            proxy.drain(self.drain, now);
        }
    }
}
