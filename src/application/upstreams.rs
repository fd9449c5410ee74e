//! The live table: every backend of the registry with what this process observes of it.
//!
//! A new reading of the registry makes a new table, which is swapped in whole. A backend that stays
//! (same id, same address) keeps its [`Upstream`], and with it its count and its dial record.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::domain::backend::Ineligible;
use crate::domain::balance::{Layout, Load, Member, Spill};
use crate::domain::ports::Registry;
use crate::domain::region::Atlas;
use crate::domain::time::Time;
use crate::domain::{App, Backend, BackendId, Region};

/// First time that a backend ranks last after a failed dial.
const FIRST_DEMOTION: Duration = Duration::from_secs(1);
/// Longest time that a backend ranks last without another dial.
const LONGEST_DEMOTION: Duration = Duration::from_secs(30);
/// How much longer than that, so that a probing dial has had its answer.
pub const PROBE_TIME: Duration = Duration::from_millis(500);

/// One backend's place in this process: what is observed of it.
#[derive(Debug)]
pub struct Upstream {
    /// Its name.
    pub id: BackendId,
    /// Where it is dialled.
    pub addr: SocketAddr,
    /// The app that it serves.
    pub app: App,
    /// Its number in this process: never used again for another.
    pub number: u64,
    /// The region that it was in when it was first seen.
    pub region: Region,
    active: AtomicU32,
    dials: Dials,
    seat: ArcSwapOption<Seat>,
}

/// Where a backend stands in the table in force.
#[derive(Debug)]
struct Seat {
    layout: Arc<Layout>,
    member: usize,
}

/// A connection's place at a backend, counted while this lives.
#[derive(Debug)]
pub struct Slot(Arc<Upstream>);

impl Upstream {
    /// Open connections, those being dialled included.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::SeqCst)
    }

    /// Whether it takes new connections by the table in force.
    #[must_use]
    pub fn is_seated(&self) -> bool {
        self.seat.load().is_some()
    }

    /// What dials to it have come to.
    #[must_use]
    pub const fn dials(&self) -> &Dials {
        &self.dials
    }

    /// Takes a place, unless that would make more than `limit` (0 = none) of them.
    #[must_use]
    pub fn try_reserve(self: &Arc<Self>, limit: u32) -> Option<Slot> {
        let below = |active| (limit == 0 || active < limit).then(|| active + 1);
        self.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, below).ok()?;
        Some(Slot(Arc::clone(self)))
    }
}

impl Slot {
    /// Where the place is.
    #[must_use]
    pub const fn upstream(&self) -> &Arc<Upstream> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
        if let Some(seat) = &*self.0.seat.load() {
            seat.layout.vacancy().left(seat.member);
        }
    }
}

/// Failed dials in a row, and until when they make a backend rank last.
#[derive(Debug, Default)]
pub struct Dials {
    failures: AtomicU32,
    demoted_until: AtomicU64,
    probing: AtomicBool,
}

impl Dials {
    /// Whether the backend ranks last.
    #[must_use]
    pub fn demoted(&self, now: Time) -> bool {
        now.nanos() < self.demoted_until.load(Ordering::Relaxed)
    }

    /// Notes a dial that failed or was not answered in time. Those that fail while the backend ranks
    /// last already are no news. Gives the time after which to probe it when nobody does yet.
    pub fn failed(&self, now: Time) -> Option<Duration> {
        let until = self.demoted_until.load(Ordering::Relaxed);
        let delay = (now.nanos() >= until).then(|| self.demote(until, now)).flatten()?;
        (!self.probing.swap(true, Ordering::Relaxed)).then_some(delay)
    }

    /// Notes that nobody probes the backend any more.
    pub fn probe_ended(&self) {
        self.probing.store(false, Ordering::Relaxed);
    }

    /// Notes that the probing dial failed too. Gives the time after which to probe it again.
    pub fn probe_failed(&self, now: Time) -> Option<Duration> {
        let until = self.demoted_until.load(Ordering::Relaxed);
        (until != 0).then(|| self.demote(until, now)).flatten()
    }

    /// Notes a dial that succeeded.
    pub fn succeeded(&self) {
        if self.demoted_until.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.demoted_until.store(0, Ordering::Relaxed);
        }
    }

    fn demote(&self, seen: u64, now: Time) -> Option<Duration> {
        let doublings = self.failures.load(Ordering::Relaxed).min(10);
        let delay = (FIRST_DEMOTION * (1 << doublings)).min(LONGEST_DEMOTION);
        let until = (now + delay + PROBE_TIME * 3 / 2).nanos();
        // Of several that fail at once, one is counted.
        self.demoted_until
            .compare_exchange(seen, until, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        self.failures.fetch_add(1, Ordering::Relaxed);
        Some(delay)
    }
}

/// What an operator says of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRules {
    /// How far its clients may be carried.
    pub spill: Spill,
    /// How long a client keeps its backend; zero = no affinity.
    pub affinity_ttl: Duration,
    /// How long a connection may be silent.
    pub idle_timeout: Duration,
}

/// What a table is made with besides the registry.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The region of this POP.
    pub pop_region: Region,
    /// Countries to regions, and their distances.
    pub atlas: Atlas,
    /// For apps without rules of their own.
    pub default: AppRules,
    /// By app.
    pub apps: BTreeMap<App, AppRules>,
}

impl Rules {
    /// The shortest idle timeout that any connection can have.
    #[must_use]
    pub fn shortest_idle(&self) -> Duration {
        let all = self.apps.values().chain([&self.default]);
        all.map(|rules| rules.idle_timeout).min().unwrap_or_default()
    }

    fn of(&self, app: &App) -> &AppRules {
        self.apps.get(app).unwrap_or(&self.default)
    }
}

/// One app's backends.
#[derive(Debug)]
pub struct AppTable {
    /// Its name.
    pub name: App,
    /// Its number in this process.
    pub number: u32,
    /// What its operator says of it.
    pub rules: AppRules,
    /// The eligible backends, laid out for the decision.
    pub layout: Arc<Layout>,
    /// The eligible backends, by place in the layout.
    upstreams: Vec<Arc<Upstream>>,
    /// Place in the layout, by number.
    places: HashMap<u64, usize>,
    /// All of the app's rows, by id.
    pub rows: Vec<Row>,
}

/// A row of the registry, and whether it takes connections.
#[derive(Debug)]
pub struct Row {
    /// As it is written.
    pub backend: Backend,
    /// Its place in the layout, or why it has none.
    pub place: Result<usize, Ineligible>,
}

impl AppTable {
    /// The backend at a place of the layout.
    #[must_use]
    pub fn upstream(&self, place: usize) -> &Arc<Upstream> {
        &self.upstreams[place]
    }

    /// The place of a backend by its number, while it is eligible.
    #[must_use]
    pub fn place(&self, number: u64) -> Option<usize> {
        self.places.get(&number).copied()
    }

    /// What is observed of the backends, for a decision made now.
    #[must_use]
    pub const fn load(&self, now: Time) -> Observed<'_> {
        Observed { table: self, now }
    }
}

/// The state of an app's backends at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    table: &'a AppTable,
    now: Time,
}

impl Load for Observed<'_> {
    fn active(&self, member: usize) -> u32 {
        self.table.upstreams[member].active()
    }

    fn demoted(&self, member: usize) -> bool {
        self.table.upstreams[member].dials.demoted(self.now)
    }
}

/// Every app's table, by name.
pub type Tables = BTreeMap<App, Arc<AppTable>>;

/// Makes tables, and remembers across them what must be the same.
#[derive(Debug, Default)]
pub struct Roster {
    known: HashMap<(BackendId, App, SocketAddr), Weak<Upstream>>,
    seated: Vec<Arc<Upstream>>,
    apps: HashMap<App, u32>,
    numbers: u64,
}

impl Roster {
    /// The tables of a registry at `unix_now` (seconds since the epoch, for leases). Put them in force,
    /// and then [`seat`](Self::seat) them.
    pub fn tables(&mut self, registry: &Registry, rules: &Rules, unix_now: i64) -> Tables {
        let mut by_app: BTreeMap<App, Vec<Backend>> = BTreeMap::new();
        for backend in &registry.backends {
            by_app.entry(backend.app.clone()).or_default().push(backend.clone());
        }
        by_app
            .into_iter()
            .map(|(app, backends)| {
                let table = self.app_table(app.clone(), backends, rules, unix_now);
                (app, Arc::new(table))
            })
            .collect()
    }

    /// Has places that are given back told to the tables in force. Those given back since they are
    /// in force were told to the tables before, so everyone counts as having room once more.
    pub fn seat(&mut self, tables: &Tables) {
        for table in tables.values() {
            for (member, upstream) in table.upstreams.iter().enumerate() {
                let seat = Seat { layout: Arc::clone(&table.layout), member };
                upstream.seat.store(Some(Arc::new(seat)));
            }
            table.layout.vacancy().refill();
        }
        let now_seated: Vec<_> = tables.values().flat_map(|t| t.upstreams.clone()).collect();
        let numbers: HashSet<u64> = now_seated.iter().map(|u| u.number).collect();
        for left in self.seated.iter().filter(|u| !numbers.contains(&u.number)) {
            left.seat.store(None);
        }
        self.seated = now_seated;
        self.known.retain(|_, known| known.strong_count() > 0);
    }

    fn app_table(
        &mut self,
        name: App,
        backends: Vec<Backend>,
        rules: &Rules,
        unix_now: i64,
    ) -> AppTable {
        let eligible: Vec<Result<(), Ineligible>> =
            backends.iter().map(|backend| backend.eligible(unix_now)).collect();
        let chosen: Vec<usize> = (0..backends.len()).filter(|&i| eligible[i].is_ok()).collect();
        let members: Vec<Member> = chosen
            .iter()
            .map(|&i| Member {
                region: backends[i].region.clone(),
                country: backends[i].country,
                weight: backends[i].weight,
                soft_limit: backends[i].soft_limit,
                hard_limit: backends[i].hard_limit,
            })
            .collect();
        let app_rules = rules.of(&name).clone();
        let (layout, order) =
            Layout::new(&members, &rules.pop_region, &rules.atlas, app_rules.spill);

        let mut place_of = vec![0; backends.len()];
        let mut upstreams = Vec::with_capacity(order.len());
        for (place, &among_chosen) in order.iter().enumerate() {
            let row = chosen[among_chosen];
            place_of[row] = place;
            upstreams.push(self.upstream(&backends[row]));
        }
        let places = upstreams.iter().enumerate().map(|(p, u)| (u.number, p)).collect();
        let rows = backends
            .into_iter()
            .zip(eligible)
            .zip(place_of)
            .map(|((backend, eligible), place)| Row { backend, place: eligible.map(|()| place) })
            .collect();
        let next = u32::try_from(self.apps.len()).unwrap_or(u32::MAX);
        let number = *self.apps.entry(name.clone()).or_insert(next);
        let layout = Arc::new(layout);
        AppTable { name, number, rules: app_rules, layout, upstreams, places, rows }
    }

    /// The backend's place in this process: the one that it has, also when it comes back while
    /// connections of its earlier row are still open, so that they count against its hard limit.
    fn upstream(&mut self, backend: &Backend) -> Arc<Upstream> {
        let identity = (backend.id.clone(), backend.app.clone(), backend.addr());
        if let Some(known) = self.known.get(&identity).and_then(Weak::upgrade) {
            return known;
        }
        self.numbers += 1;
        let upstream = Arc::new(Upstream {
            id: backend.id.clone(),
            addr: backend.addr(),
            app: backend.app.clone(),
            number: self.numbers,
            region: backend.region.clone(),
            active: AtomicU32::new(0),
            dials: Dials::default(),
            seat: ArcSwapOption::empty(),
        });
        self.known.insert(identity, Arc::downgrade(&upstream));
        upstream
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::backend::{Number, RawRow};

    fn rules() -> Rules {
        Rules {
            pop_region: "sa".parse().unwrap(),
            atlas: Atlas::default(),
            default: AppRules {
                spill: Spill::Any,
                affinity_ttl: Duration::from_secs(600),
                idle_timeout: Duration::from_secs(3_600),
            },
            apps: BTreeMap::new(),
        }
    }

    fn backend(id: &str, ip: &str) -> Backend {
        Backend::try_from(RawRow {
            id: Some(id.into()),
            app: Some("web".into()),
            region: Some("sa".into()),
            wg_ip: Some(ip.into()),
            port: Some(Number::Whole(80)),
            ..RawRow::default()
        })
        .unwrap()
    }

    fn registry(backends: &[Backend]) -> Registry {
        Registry { backends: backends.to_vec(), skipped: Vec::new() }
    }

    fn number(tables: &Tables, id: &str) -> u64 {
        let table = tables.values().next().unwrap();
        table.upstreams.iter().find(|u| u.id.as_str() == id).unwrap().number
    }

    #[test]
    fn a_backend_that_stays_keeps_its_count_and_one_that_moves_starts_afresh() {
        let mut roster = Roster::default();
        let (a, b) = (backend("a", "10.0.0.1"), backend("b", "10.0.0.2"));
        let first = roster.tables(&registry(&[a.clone(), b]), &rules(), 0);
        let mut heavier = a;
        heavier.weight = 7;
        let second = roster.tables(&registry(&[heavier, backend("b", "10.0.0.3")]), &rules(), 0);
        assert_eq!(number(&first, "a"), number(&second, "a"));
        assert_ne!(number(&first, "b"), number(&second, "b"));
    }

    #[test]
    fn connections_of_a_removed_row_count_when_it_comes_back() {
        let mut roster = Roster::default();
        let row = backend("a", "10.0.0.1");
        let tables = roster.tables(&registry(std::slice::from_ref(&row)), &rules(), 0);
        roster.seat(&tables);
        let upstream = Arc::clone(tables.values().next().unwrap().upstream(0));
        let slot = upstream.try_reserve(1).unwrap();
        let none = roster.tables(&registry(&[]), &rules(), 0);
        roster.seat(&none);
        assert!(!upstream.is_seated());
        let tables = roster.tables(&registry(&[row]), &rules(), 0);
        let again = tables.values().next().unwrap().upstream(0);
        assert!(again.try_reserve(1).is_none());
        drop(slot);
        assert!(again.try_reserve(1).is_some());
    }

    #[test]
    fn a_dead_backend_ranks_last_for_a_second_doubling_to_thirty_until_a_dial_succeeds() {
        let dials = Dials::default();
        let mut now = Time::ZERO + Duration::from_secs(1);
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let delay = dials.probe_failed(now).or_else(|| dials.failed(now)).unwrap();
            assert_eq!(delay, Duration::from_secs(expected));
            assert_eq!(dials.failed(now), None, "a second failure at once is no news");
            now = now + delay;
            assert!(dials.demoted(now), "until the probe has its answer");
        }
        dials.succeeded();
        dials.probe_ended();
        assert!(!dials.demoted(now));
        assert_eq!(dials.failed(now), Some(FIRST_DEMOTION));
    }

    #[test]
    fn without_a_probe_the_demotion_ends_by_itself() {
        let dials = Dials::default();
        let _ = dials.failed(Time::ZERO);
        assert!(!dials.demoted(Time::ZERO + Duration::from_secs(2)));
    }
}
