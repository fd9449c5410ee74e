//! What is counted on the way of a connection: each thread counts in a share of its own, so that no
//! two write to one cache line, and whoever reads adds the shares up.

mod histogram;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use crate::domain::Country;
pub use histogram::{BOUNDS, Histogram, Reading};

/// Most shares; past as many threads, some count in one share.
const MAX_SHARES: usize = 16;
/// Most backends with series of their own. Later ones are counted under [`OTHERS`].
const MAX_BACKENDS: usize = 20_000;
/// Most kinds of routes with series of their own. Later ones are counted under [`OTHERS`].
const MAX_ROUTES: usize = 1_000;
/// The versions of TLS whose handshakes are counted.
pub const TLS_VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];
/// The classes of the status of answers; requests without an answer are of the first.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// The name under which what is beyond the bounds is counted.
pub const OTHERS: &str = "_others";

/// The counts of one process.
#[derive(Debug)]
pub struct Meters {
    shares: Box<[Totals]>,
    backends: Mutex<HashMap<Arc<str>, Arc<BackendMeter>>>,
    routes: Mutex<BTreeMap<Route, Arc<Counter>>>,
}

/// Which of the shares a thread counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(usize);

/// What is counted over all backends.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Totals {
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    setup: Histogram,
    /// Answers of each class of status, from 1xx on; the first counts requests without one.
    answers: [AtomicU64; CLASSES.len()],
    /// How long requests took.
    requests: Histogram,
    /// Of each version of TLS, and whether they were resumed.
    handshakes: [[AtomicU64; 2]; TLS_VERSIONS.len()],
    /// Where clients came from.
    countries: Countries,
}

/// A count for each country, by [`Country::index`], and one for clients of whom nobody knows.
#[derive(Debug)]
struct Countries(Box<[AtomicU64]>);

impl Default for Countries {
    fn default() -> Self {
        Self((0..=Country::COUNT).map(|_| AtomicU64::new(0)).collect())
    }
}

/// The counts of one backend.
#[derive(Debug)]
pub struct BackendMeter {
    region: Mutex<Arc<str>>,
    /// Made when a thread first counts something.
    cells: Box<[OnceLock<Box<Cell>>]>,
}

/// One share of a backend's counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Cell {
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    resets: AtomicU64,
    dial_failures: [AtomicU64; DialFailure::ALL.len()],
    rtt: Histogram,
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// The machine answered that nobody listens.
    Refused,
    /// Nobody answered in time.
    Timeout,
    /// The network says that there is no way.
    Unreachable,
    /// There is no TLS to be had with it, or none with whom it must be.
    Tls,
    /// Anything else.
    Other,
}

impl DialFailure {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Refused, Self::Timeout, Self::Unreachable, Self::Tls, Self::Other];

    /// The name of it in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Other => "other",
        }
    }
}

/// Where clients come from and where they are carried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The client's region.
    pub client_region: Arc<str>,
    /// The backend's region.
    pub backend_region: Arc<str>,
    /// How near the one is to the other, 0 to 3.
    pub tier: u8,
}

/// What only goes up, in shares.
#[derive(Debug)]
pub struct Counter(Box<[Padded]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Meters {
    /// Counts that `threads` threads write.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shares = threads.clamp(1, MAX_SHARES);
        Self {
            shares: (0..shares).map(|_| Totals::default()).collect(),
            backends: Mutex::default(),
            routes: Mutex::default(),
        }
    }

    /// The share of thread number `thread`.
    #[must_use]
    pub const fn share(&self, thread: usize) -> Share {
        Share(thread % self.shares.len())
    }

    /// A share for the calling thread, whoever it is.
    #[must_use]
    pub fn own_share(&self) -> Share {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        self.share(NUMBER.with(|number| *number))
    }

    /// Counts a connection that was accepted.
    pub fn accepted(&self, share: Share) {
        self.shares[share.0].connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection by where it came from.
    pub fn came_from(&self, share: Share, country: Option<Country>) {
        let place = country.map_or(Country::COUNT, Country::index);
        self.shares[share.0].countries.0[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Connections by where they came from, those countries that there were.
    #[must_use]
    pub fn countries(&self) -> Vec<(Option<Country>, u64)> {
        let count = |place: usize| self.sum(|totals| &totals.countries.0[place]);
        let unknown = (None, count(Country::COUNT));
        let known = Country::all().map(|country| (Some(country), count(country.index())));
        known.chain([unknown]).filter(|(_, count)| *count > 0).collect()
    }

    /// Counts how long it took from accepting a client to its backend's answer.
    pub fn set_up(&self, share: Share, took: Duration) {
        self.shares[share.0].setup.observe(took);
    }

    /// Counts a request that was answered with `status`, or not at all, and how long it took.
    pub fn answered(&self, share: Share, status: Option<u16>, took: Duration) {
        let class = usize::from(status.unwrap_or_default() / 100);
        let totals = &self.shares[share.0];
        if let Some(count) = totals.answers.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        totals.requests.observe(took);
    }

    /// Requests by the class of their answers' status.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let classes = CLASSES.iter().enumerate();
        classes.map(|(place, class)| (*class, self.sum(|totals| &totals.answers[place])))
    }

    /// How long requests took.
    #[must_use]
    pub fn requests(&self) -> Reading {
        self.shares.iter().map(|totals| totals.requests.read()).sum()
    }

    /// Counts a handshake of TLS with a client.
    pub fn shaken_hands(&self, share: Share, version: Option<&str>, resumed: bool) {
        let version = TLS_VERSIONS.iter().position(|known| Some(*known) == version);
        if let Some(version) = version {
            let counts = &self.shares[share.0].handshakes[version];
            counts[usize::from(resumed)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Handshakes of TLS with clients: of which version, whether resumed, how many.
    pub fn handshakes(&self) -> impl Iterator<Item = (&'static str, bool, u64)> {
        TLS_VERSIONS.iter().enumerate().flat_map(move |(place, version)| {
            [false, true].map(|resumed| {
                (*version, resumed, self.sum(|t| &t.handshakes[place][usize::from(resumed)]))
            })
        })
    }

    /// Counts bytes to and from a backend.
    pub fn moved(&self, share: Share, cell: &Cell, sent: u64, received: u64) {
        let totals = &self.shares[share.0];
        if sent > 0 {
            totals.sent.fetch_add(sent, Ordering::Relaxed);
            cell.sent.fetch_add(sent, Ordering::Relaxed);
        }
        if received > 0 {
            totals.received.fetch_add(received, Ordering::Relaxed);
            cell.received.fetch_add(received, Ordering::Relaxed);
        }
    }

    /// The counts of a backend, begun when there are none yet.
    #[must_use]
    pub fn backend(&self, id: &str) -> Arc<BackendMeter> {
        let mut backends = self.backends();
        if let Some(known) = backends.get(id) {
            return Arc::clone(known);
        }
        let id = if backends.len() < MAX_BACKENDS { id } else { OTHERS };
        let begun = || Arc::new(BackendMeter::new(self.shares.len()));
        Arc::clone(backends.entry(id.into()).or_insert_with(begun))
    }

    /// The counts of a backend, if there are any.
    #[must_use]
    pub fn known_backend(&self, id: &str) -> Option<Arc<BackendMeter>> {
        self.backends().get(id).cloned()
    }

    /// Counts on with what was counted before, for a backend that comes back.
    pub fn restore(&self, id: &str, meter: &Arc<BackendMeter>) {
        let mut backends = self.backends();
        let is_others = backends.get(OTHERS).is_some_and(|others| Arc::ptr_eq(others, meter));
        if !is_others && backends.len() < MAX_BACKENDS {
            backends.entry(id.into()).or_insert_with(|| Arc::clone(meter));
        }
    }

    /// Forgets the backends that `keep` does not name. Their part of the totals stays.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.backends().retain(|id, _| &**id == OTHERS || keep(id));
    }

    /// All backends by name.
    #[must_use]
    pub fn all_backends(&self) -> BTreeMap<Arc<str>, Arc<BackendMeter>> {
        self.backends().iter().map(|(id, meter)| (Arc::clone(id), Arc::clone(meter))).collect()
    }

    /// The count of connections carried this way.
    #[must_use]
    pub fn route(&self, route: Route) -> Arc<Counter> {
        let mut routes = self.routes();
        let others = || Route {
            client_region: OTHERS.into(),
            backend_region: OTHERS.into(),
            tier: route.tier,
        };
        let known = routes.len() < MAX_ROUTES || routes.contains_key(&route);
        let route = if known { route } else { others() };
        let begun = || Arc::new(Counter::new(self.shares.len()));
        Arc::clone(routes.entry(route).or_insert_with(begun))
    }

    /// All routes and how often each was taken.
    #[must_use]
    pub fn all_routes(&self) -> Vec<(Route, u64)> {
        self.routes().iter().map(|(route, count)| (route.clone(), count.total())).collect()
    }

    /// Connections accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.sum(|totals| &totals.connections)
    }

    /// Bytes towards backends.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sum(|totals| &totals.sent)
    }

    /// Bytes from backends.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.sum(|totals| &totals.received)
    }

    /// From accepting clients to their backends' answers.
    #[must_use]
    pub fn setup(&self) -> Reading {
        self.shares.iter().map(|totals| totals.setup.read()).sum()
    }

    fn sum(&self, count: impl Fn(&Totals) -> &AtomicU64) -> u64 {
        self.shares.iter().map(|totals| count(totals).load(Ordering::Relaxed)).sum()
    }

    fn backends(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<BackendMeter>>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<Route, Arc<Counter>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Meters {
    /// Counts that as many threads write as the machine has cores.
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

impl BackendMeter {
    fn new(shares: usize) -> Self {
        let cells = (0..shares).map(|_| OnceLock::new()).collect();
        Self { region: Mutex::new("".into()), cells }
    }

    /// The cell of a share. The first call for each allocates it.
    #[must_use]
    pub fn cell(&self, share: Share) -> &Cell {
        self.cells[share.0].get_or_init(Box::default)
    }

    /// Says where the backend is.
    pub fn set_region(&self, region: &str) {
        let mut known = self.region.lock().unwrap_or_else(PoisonError::into_inner);
        if **known != *region {
            *known = region.into();
        }
    }

    /// Where the backend is; empty when nobody said.
    #[must_use]
    pub fn region(&self) -> Arc<str> {
        Arc::clone(&self.region.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Connections to it.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.sum(|cell| &cell.connections)
    }

    /// Bytes towards it.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sum(|cell| &cell.sent)
    }

    /// Bytes from it.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.sum(|cell| &cell.received)
    }

    /// Dials that failed, and connections that it reset.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let dials: u64 = DialFailure::ALL.iter().map(|reason| self.dial_failures(*reason)).sum();
        dials + self.sum(|cell| &cell.resets)
    }

    /// Dials that failed for a reason.
    #[must_use]
    pub fn dial_failures(&self, reason: DialFailure) -> u64 {
        self.sum(|cell| &cell.dial_failures[reason as usize])
    }

    /// How long dials took to be answered.
    #[must_use]
    pub fn rtt(&self) -> Reading {
        self.cells().map(|cell| cell.rtt.read()).sum()
    }

    fn sum(&self, count: impl Fn(&Cell) -> &AtomicU64) -> u64 {
        self.cells().map(|cell| count(cell).load(Ordering::Relaxed)).sum()
    }

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter_map(|cell| cell.get().map(|cell| &**cell))
    }
}

impl Cell {
    /// Counts a connection to the backend.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts how long a dial took to be answered.
    pub fn answered(&self, after: Duration) {
        self.rtt.observe(after);
    }

    /// Counts a dial that failed.
    pub fn dial_failed(&self, reason: DialFailure) {
        self.dial_failures[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that the backend reset.
    pub fn reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    fn new(shares: usize) -> Self {
        Self((0..shares).map(|_| Padded::default()).collect())
    }

    /// Counts one.
    pub fn count(&self, share: Share) {
        self.0[share.0].0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|share| share.0.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_totals_outlive_their_backends() {
        let meters = Meters::new(3);
        let meter = meters.backend("a");
        std::thread::scope(|scope| {
            for thread in 0..9 {
                let (meters, meter) = (&meters, &meter);
                scope.spawn(move || {
                    let share = meters.share(thread);
                    meters.accepted(share);
                    meter.cell(share).connected();
                    meters.moved(share, meter.cell(share), 10, 1);
                });
            }
        });
        assert_eq!((meter.connections(), meter.sent(), meter.received()), (9, 90, 9));
        meters.retain(|_| false);
        assert!(meters.all_backends().is_empty());
        assert_eq!((meters.connections(), meters.sent(), meters.received()), (9, 90, 9));
        meters.restore("a", &meter);
        assert_eq!(meters.backend("a").connections(), 9);
    }

    #[test]
    fn backends_and_routes_past_the_bound_are_counted_together() {
        let meters = Meters::new(1);
        let share = meters.share(0);
        for number in 0..MAX_BACKENDS + 5 {
            meters.backend(&number.to_string()).cell(share).connected();
        }
        assert_eq!(meters.all_backends().len(), MAX_BACKENDS + 1);
        assert_eq!(meters.backend(OTHERS).connections(), 5);
        meters.restore("late", &meters.backend("late"));
        assert_eq!(meters.all_backends().len(), MAX_BACKENDS + 1, "it is counted once");
        for number in 0..MAX_ROUTES + 5 {
            let client_region: Arc<str> = number.to_string().into();
            let route = Route { client_region, backend_region: "sa".into(), tier: 3 };
            meters.route(route).count(share);
        }
        let others: Vec<u64> = meters
            .all_routes()
            .into_iter()
            .filter(|(route, _)| &*route.client_region == OTHERS)
            .map(|(_, count)| count)
            .collect();
        assert_eq!(others, [5]);
    }
}
