//! One thread of the data plane: its listeners, its connections, and nothing that can wait.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::oneshot;

use super::listener::Listener;
use crate::application::account::Ended;
use crate::application::choices::Choices;
use crate::application::proxy::{Listed, Proxy, Shared, Wanted};
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
    /// Its clients that were carried far.
    pub choices: Arc<Choices>,
    /// How late it has been.
    pub lag: Arc<Lag>,
}

/// What the control plane has asked of a worker. The worker never waits for it: what is being added
/// is taken up after the wake-up that follows.
type Orders = Mutex<Vec<Order>>;

#[derive(Debug)]
enum Order {
    /// To close the connections to a backend, by its number.
    CloseAllOf(u64),
    /// To list connections, from a place on; the oldest, as many as are asked for, and their number.
    List {
        wanted: Arc<Wanted>,
        most: usize,
        from: usize,
        found: Found,
        answer: oneshot::Sender<Found>,
    },
    /// To end connections, from a place on.
    Kill { wanted: Arc<Wanted>, from: usize, killed: usize, answer: oneshot::Sender<usize> },
}

/// Connections of a worker.
#[derive(Debug, Default)]
pub struct Found {
    /// How many there are.
    pub total: usize,
    /// The oldest of them.
    pub listed: Vec<Listed>,
}

impl Found {
    /// Leaves those out that are not among the oldest.
    pub fn keep(&mut self, most: usize) {
        self.listed.sort_by_key(|listed| std::cmp::Reverse(listed.age));
        self.listed.truncate(most);
    }
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
        let choices = Arc::new(Choices::default());
        let told = (Arc::clone(&ended), Arc::clone(&choices));
        let proxy = Proxy::new(Arc::clone(&shared), reactor, log, told, number);
        let (running, ending) = oneshot::channel();
        let (asked, lags) = (Arc::clone(&orders), Arc::clone(&lag));
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            run(proxy, listeners, &shared, &asked, &lags);
            drop(running);
        })?;
        Ok((Self { waker, orders, ended, choices, lag }, Ending(ending)))
    }

    /// Has it close its connections to a backend, by the backend's number.
    pub fn close_all_of(&self, backend: u64) {
        self.order(Order::CloseAllOf(backend));
    }

    /// Has it list its connections, the `most` oldest. The answer is missing if it ends meanwhile.
    #[must_use]
    pub fn list(&self, wanted: &Arc<Wanted>, most: usize) -> oneshot::Receiver<Found> {
        let (answer, found) = oneshot::channel();
        let wanted = Arc::clone(wanted);
        self.order(Order::List { wanted, most, from: 0, found: Found::default(), answer });
        found
    }

    /// Has it end connections; how many. The answer is missing if it ends meanwhile.
    #[must_use]
    pub fn kill(&self, wanted: &Arc<Wanted>) -> oneshot::Receiver<usize> {
        let (answer, killed) = oneshot::channel();
        let wanted = Arc::clone(wanted);
        self.order(Order::Kill { wanted, from: 0, killed: 0, answer });
        killed
    }

    fn order(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
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
    let mut asked: VecDeque<Order> = VecDeque::new();
    let mut woken = clock::now();
    loop {
        let now = clock::now();
        lag.note(now.since(woken), now);
        let wake_at =
            [proxy.wake_at(now), next_resume(&listeners), leaving.as_ref().and_then(Leaving::at)]
                .into_iter()
                .flatten()
                .min();
        let busy = (!asked.is_empty()).then_some(Duration::ZERO);
        let timeout = busy.or_else(|| wake_at.map(|at| at.since(now)));
        if let Err(error) = proxy.reactor().wait(&mut events, timeout) {
            // Nothing that can happen to a healthy process; ending is honest, and loud.
            tracing::error!(%error, "a worker cannot go on");
            return;
        }
        let now = clock::now();
        woken = now;
        if events.woken() {
            let more = orders.try_lock().map(|mut orders| std::mem::take(&mut *orders));
            asked.extend(more.unwrap_or_default());
        }
        // One in each turn, in parts: whoever has many connections open is served meanwhile.
        if let Some(order) = asked.pop_front()
            && let Some(rest) = contained(|| order.obey(&mut proxy, now)).flatten()
        {
            asked.push_front(rest);
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
                    proxy.leave_soon(drain);
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

impl Order {
    /// Does a part of it; what is left to do.
    fn obey(self, proxy: &mut Proxy, now: Time) -> Option<Self> {
        match self {
            Self::CloseAllOf(backend) => proxy.close_all_of(backend, now),
            // Nobody waits for it any more.
            Self::List { answer, .. } if answer.is_closed() => {}
            Self::List { wanted, most, from, mut found, answer } => {
                let next = proxy.list(&wanted, from, now, |listed| {
                    found.total += 1;
                    found.listed.push(listed);
                });
                found.keep(most);
                if let Some(from) = next {
                    return Some(Self::List { wanted, most, from, found, answer });
                }
                let _ = answer.send(found);
            }
            Self::Kill { wanted, from, killed, answer } => {
                let (some, next) = proxy.kill(&wanted, from, now);
                let killed = killed + some;
                if let Some(from) = next {
                    return Some(Self::Kill { wanted, from, killed, answer });
                }
                let _ = answer.send(killed);
            }
        }
        None
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
