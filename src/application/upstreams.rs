//! The live table: every backend of the registry with what this process observes of it.
//!
//! A new reading of the registry makes a new table, which is swapped in whole. A backend that stays
//! (same id, same address) keeps its [`Upstream`], and with it its count and its dial record.

mod homes;
mod places;
mod resting;
mod route_counts;
mod upstream;
mod warm;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::domain::backend::Ineligible;
use crate::domain::balance::{Layout, Load, Member, Origin, Spill, Standing, Tier};
use crate::domain::ports::Registry;
use crate::domain::region::Atlas;
use crate::domain::time::Time;
use crate::domain::{AdminState, App, Backend, BackendId, Region};
use crate::infrastructure::CircuitBreakerConfig;
use crate::infrastructure::circuit_breaker::Permit;
use crate::infrastructure::health_checker::Health;
use crate::infrastructure::meters::Meters;
use crate::infrastructure::proxy_protocol::Version;
use crate::infrastructure::tls::Originator;
use homes::Homes;
pub use resting::Rested;
pub use route_counts::RouteCounts;
pub use upstream::{Believed, Dials, PROBE_TIME, Slot, Upstream};
pub use warm::{Keeper, Kept, WarmRules};

/// What an operator says of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRules {
    /// How far its clients may be carried.
    pub spill: Spill,
    /// How long a client keeps its backend; zero = no affinity.
    pub affinity_ttl: Duration,
    /// How long a connection may be silent.
    pub idle_timeout: Duration,
    /// Whether its backends are told whom a connection is for.
    pub header: Option<Version>,
    /// How connections to its backends are secured; `None` = they are plain.
    pub tls: Option<Arc<Originator>>,
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
    /// How breakers work; `None` = without them.
    pub breaker: Option<CircuitBreakerConfig>,
    /// How long a recovered or new backend takes to its full share; zero = no time.
    pub slow_start: Duration,
    /// What operators ask of backends on this POP only.
    pub here: Arc<HashMap<BackendId, AdminState>>,
}

impl Rules {
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
    /// Which table it is: never the same for another.
    pub version: u64,
    /// Whether breakers are believed.
    pub breakers: bool,
    slow_start: Duration,
    /// Eligible backends whose probes fail.
    down: AtomicUsize,
    /// The eligible backends, laid out for the decision.
    pub layout: Arc<Layout>,
    /// The eligible backends, by place in the layout.
    upstreams: Vec<Arc<Upstream>>,
    /// Place in the layout, by number.
    places: HashMap<u64, usize>,
    /// All of the app's rows, by id.
    pub rows: Vec<Row>,
    homes: Homes,
}

/// A row of the registry, and whether it takes connections.
#[derive(Debug)]
pub struct Row {
    /// As it is written.
    pub backend: Backend,
    /// What operators ask of it on this POP only.
    pub here: Option<AdminState>,
    /// Its place in the layout, or why it has none.
    pub place: Result<usize, Ineligible>,
}

impl Row {
    /// What operators ask of it, here if not everywhere.
    #[must_use]
    pub fn asked(&self) -> AdminState {
        let here = self.here.filter(|state| *state != AdminState::Ready);
        here.unwrap_or_else(|| self.backend.asked())
    }
}

impl AppTable {
    /// The backend at a place of the layout.
    #[must_use]
    pub fn upstream(&self, place: usize) -> &Arc<Upstream> {
        &self.upstreams[place]
    }

    /// Most connections of the backend at a place of the layout; 0 = any number.
    #[must_use]
    pub fn hard_limit(&self, place: usize) -> u32 {
        self.layout.members()[place].hard_limit
    }

    /// The place of a backend by its number, while it is eligible.
    #[must_use]
    pub fn place(&self, number: u64) -> Option<usize> {
        self.places.get(&number).copied()
    }

    /// The rows in tiers nearer to a client than `tier`, those included that take no connections; by tier.
    pub fn nearer(&self, origin: Origin, tier: Tier) -> impl Iterator<Item = (Tier, &[usize])> {
        self.homes.nearer(&self.layout, origin, tier)
    }

    /// The eligible backends.
    #[must_use]
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// What is observed of the backends, for a decision made now.
    #[must_use]
    pub fn load(&self, now: Time) -> Observed<'_> {
        let believed =
            Believed { probes: !self.fails_open(), breakers: self.breakers, early: false };
        Observed { table: self, now, believed }
    }

    /// Whether probes are ignored, because they say that no eligible backend at all is up.
    #[must_use]
    pub fn fails_open(&self) -> bool {
        !self.upstreams.is_empty() && self.down.load(Ordering::SeqCst) == self.upstreams.len()
    }

    /// Notes what health checks say of a backend. Called by the control plane alone, and not between
    /// the making of tables and their being put in force.
    pub fn checked(&self, upstream: &Upstream, health: Health, now: Time) {
        let before = upstream.set_health(health, now);
        if self.place(upstream.number).is_some() {
            let down = self.down.load(Ordering::SeqCst) + usize::from(!health.is_healthy())
                - usize::from(!before.is_healthy());
            self.down.store(down, Ordering::SeqCst);
        }
    }
}

/// The state of an app's backends at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    table: &'a AppTable,
    now: Time,
    believed: Believed,
}

impl Observed<'_> {
    /// The same when every backend is out: open breakers may be tried at once.
    #[must_use]
    pub const fn early(mut self) -> Self {
        self.believed.early = true;
        self
    }

    /// The moment.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Lets a connection through a backend's breaker, or not.
    #[must_use]
    pub fn permit(&self, upstream: &Upstream) -> Option<Permit> {
        upstream.permit(self.now, self.believed.early)
    }

    /// The word for why a backend is out.
    #[must_use]
    pub fn why_out(&self, member: usize) -> &'static str {
        let healthy = self.table.upstreams[member].health().is_healthy();
        if self.believed.probes && !healthy { "probe_down" } else { "breaker_open" }
    }

    /// Whether no backend of the app can be chosen, whatever its load.
    #[must_use]
    pub fn all_out(&self) -> bool {
        (0..self.table.upstreams.len()).all(|member| self.standing(member) == Standing::Out)
    }
}

impl Load for Observed<'_> {
    fn active(&self, member: usize) -> u32 {
        self.table.upstreams[member].active()
    }

    fn standing(&self, member: usize) -> Standing {
        self.table.upstreams[member].standing(self.now, self.believed)
    }

    fn share(&self, member: usize) -> u32 {
        self.table.upstreams[member].share(self.now, self.table.slow_start)
    }
}

/// Every app's table, by name.
pub type Tables = BTreeMap<App, Arc<AppTable>>;

/// Makes tables, and remembers across them what must be the same.
#[derive(Debug)]
pub struct Roster {
    meters: Arc<Meters>,
    known: HashMap<(BackendId, App, SocketAddr), Weak<Upstream>>,
    seated: Vec<Arc<Upstream>>,
    /// How the breakers of those known work.
    breaker: CircuitBreakerConfig,
    apps: HashMap<App, u32>,
    numbers: u64,
    versions: u64,
}

impl Roster {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(meters: Arc<Meters>) -> Self {
        let (known, seated, breaker, apps) = Default::default();
        Self { meters, known, seated, breaker, apps, numbers: 0, versions: 0 }
    }

    /// The tables of a registry at `unix_now` (seconds since the epoch, for leases). Put them in force,
    /// and then [`seat`](Self::seat) them.
    pub fn tables(&mut self, registry: &Registry, rules: &Rules, unix_now: i64) -> Tables {
        self.set_breakers(rules.breaker);
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
    /// in force were told to the tables before, so everyone counts as having room once more. A backend
    /// that was not in the tables before starts slowly, but for the first tables of all.
    pub fn seat(&mut self, tables: &Tables, now: Time) {
        let first = self.seated.is_empty();
        for table in tables.values() {
            for (member, upstream) in table.upstreams.iter().enumerate() {
                if !first && !upstream.is_seated() {
                    upstream.start_slowly(now);
                }
                upstream.sit(Some((&table.layout, member)));
            }
            table.layout.vacancy().refill();
        }
        let now_seated: Vec<_> = tables.values().flat_map(|t| t.upstreams.clone()).collect();
        let numbers: HashSet<u64> = now_seated.iter().map(|u| u.number).collect();
        for left in self.seated.iter().filter(|u| !numbers.contains(&u.number)) {
            left.sit(None);
        }
        self.seated = now_seated;
        self.known.retain(|_, known| known.strong_count() > 0);
        let named: HashSet<&str> = self.known.keys().map(|(id, _, _)| id.as_str()).collect();
        self.meters.retain(|id| named.contains(id));
    }

    /// Every backend of which something is observed: those in the tables, and those that have left
    /// them and still have connections.
    pub fn known(&self) -> impl Iterator<Item = Arc<Upstream>> {
        self.known.values().filter_map(Weak::upgrade)
    }

    /// Has breakers work otherwise from now on; what they count and the states they are in stay. Those
    /// that are not asked work as before.
    fn set_breakers(&mut self, config: Option<CircuitBreakerConfig>) {
        let Some(config) = config.filter(|config| *config != self.breaker) else { return };
        self.breaker = config;
        for upstream in self.known() {
            upstream.breaker().set_config(config);
        }
    }

    fn app_table(
        &mut self,
        name: App,
        backends: Vec<Backend>,
        rules: &Rules,
        unix_now: i64,
    ) -> AppTable {
        let here = |backend: &Backend| rules.here.get(&backend.id).copied();
        let eligible: Vec<Result<(), Ineligible>> = backends
            .iter()
            .map(|backend| match here(backend) {
                None | Some(AdminState::Ready) => backend.eligible(unix_now),
                Some(_) => backend.eligible(unix_now).and(Err(Ineligible::Draining)),
            })
            .collect();
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
            .map(|((backend, eligible), place)| Row {
                here: here(&backend),
                backend,
                place: eligible.map(|()| place),
            })
            .collect::<Vec<_>>();
        self.versions += 1;
        let next = u32::try_from(self.apps.len()).unwrap_or(u32::MAX);
        let number = *self.apps.entry(name.clone()).or_insert(next);
        let layout = Arc::new(layout);
        let down = upstreams.iter().filter(|u| !u.health().is_healthy()).count();
        AppTable {
            name,
            number,
            version: self.versions,
            rules: app_rules,
            breakers: rules.breaker.is_some(),
            slow_start: rules.slow_start,
            down: AtomicUsize::new(down),
            upstreams,
            places,
            homes: Homes::of(&rows, &layout),
            layout,
            rows,
        }
    }

    /// The backend's place in this process: the one that it has, also when it comes back while
    /// connections of its earlier row are still open, so that they count against its hard limit.
    fn upstream(&mut self, backend: &Backend) -> Arc<Upstream> {
        let identity = (backend.id.clone(), backend.app.clone(), backend.addr());
        let id = backend.id.as_str();
        if let Some(known) = self.known.get(&identity).and_then(Weak::upgrade) {
            self.meters.restore(id, &known.meter);
            known.meter.set_region(backend.region.as_str());
            return known;
        }
        self.numbers += 1;
        let meter = self.meters.backend(id);
        meter.set_region(backend.region.as_str());
        let region = backend.region.clone();
        let upstream = Upstream::new(identity.clone(), self.numbers, region, meter, self.breaker);
        let upstream = Arc::new(upstream);
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
                header: None,
                tls: None,
            },
            apps: BTreeMap::new(),
            breaker: None,
            slow_start: Duration::from_secs(30),
            here: Arc::default(),
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
        let mut roster = Roster::new(Arc::default());
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
        let mut roster = Roster::new(Arc::default());
        let row = backend("a", "10.0.0.1");
        let tables = roster.tables(&registry(std::slice::from_ref(&row)), &rules(), 0);
        roster.seat(&tables, Time::ZERO);
        let upstream = Arc::clone(tables.values().next().unwrap().upstream(0));
        let slot = upstream.try_reserve(1, None, Time::ZERO).unwrap();
        let none = roster.tables(&registry(&[]), &rules(), 0);
        roster.seat(&none, Time::ZERO);
        assert!(!upstream.is_seated());
        let tables = roster.tables(&registry(&[row]), &rules(), 0);
        let again = tables.values().next().unwrap().upstream(0);
        assert!(again.try_reserve(1, None, Time::ZERO).is_none());
        drop(slot);
        assert!(again.try_reserve(1, None, Time::ZERO).is_some());
    }
}
