//! What is in force: the configuration, the registry and the country data, and the one snapshot, made
//! of them, that the workers go by. Each change swaps it whole; what did not change keeps its state.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::certificates::{Certificates, Standing};
use super::closings::Closings;
use super::denials::Denials;
use super::health::Checks;
use super::listeners::Listening;
use super::origins::Origins;
use super::registry::RegistryState;
use super::reload::Running;
use super::rules::{self, Here, Machine};
use super::summary;
use crate::application::proxy::{Shared, Snapshot};
use crate::application::upstreams::{AppTable, Roster, Tables};
use crate::clock;
use crate::config::Config;
use crate::domain::ports::{CountryLookup, Registry};
use crate::domain::{AdminState, Backend, BackendId};

/// What is in force, and what it is made with.
pub(super) struct InForce {
    /// Those who go by single settings follow it.
    pub config: watch::Sender<Arc<Config>>,
    pub registry: Arc<Registry>,
    pub database: Arc<dyn CountryLookup>,
    /// `None` when no listener ends TLS.
    pub certificates: Option<Arc<Standing>>,
    pub roster: Roster,
    pub listening: Listening,
    pub origins: Origins,
    pub checks: Checks,
    pub shared: Arc<Shared>,
    pub machine: Machine,
    pub state: Arc<RegistryState>,
    /// Up to when leases have been looked at, in seconds since the epoch.
    pub leases_at: i64,
    /// What operators ask of backends on this POP only.
    pub here: Here,
    /// Whom they deny.
    pub denials: Arc<Denials>,
    pub closings: Closings,
    /// Snapshots that somebody may still go by.
    pub retired: Vec<Arc<Snapshot>>,
}

impl InForce {
    /// The configuration.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// What a reload is in place of.
    pub fn running(&self) -> Running {
        let certificates = self.certificates.as_ref().map(|standing| standing.in_force());
        Running { config: self.config(), origins: self.origins.clone(), certificates }
    }

    /// Puts another registry in force, with the leases that have not ended at `unix_now` (seconds since
    /// the epoch).
    pub fn take_registry(&mut self, registry: Registry, unix_now: i64) {
        let before = std::mem::replace(&mut self.registry, Arc::new(registry));
        // Heartbeats alone change no table.
        let is_eligible = |backend: &Backend, at| backend.eligible(at).is_ok();
        let is_same =
            before.is_same_but_for_expiries(&self.registry)
                && before.backends.iter().zip(&self.registry.backends).all(|(old, new)| {
                    is_eligible(old, self.leases_at) == is_eligible(new, unix_now)
                });
        self.leases_at = unix_now;
        self.state.takes(&self.registry, unix_now);
        if is_same {
            return;
        }
        self.make_tables(Snapshot::clone(&self.shared.snapshot.load()));
        // Whoever reads it may count on it.
        log_difference(&before, &self.registry);
    }

    /// Whether a lease that the tables in force still count has ended at `unix_now`.
    pub fn has_ended_leases(&self, unix_now: i64) -> bool {
        self.expiries().any(|at| self.leases_at < at && at <= unix_now)
    }

    /// When the next lease ends after `now`, in seconds since the epoch.
    pub fn next_expiry(&self, now: i64) -> Option<i64> {
        self.expiries().filter(|at| *at > now).min()
    }

    fn expiries(&self) -> impl Iterator<Item = i64> {
        let live = self.registry.backends.iter().filter(|backend| !backend.deleted);
        live.filter_map(|backend| backend.lease.as_ref()?.expires_at)
    }

    /// Puts another configuration in force, with another country database and another registry if they
    /// come with it. Certificates for it are in force already.
    pub fn take_config(
        &mut self,
        config: Config,
        database: Option<Arc<dyn CountryLookup>>,
        origins: Origins,
        registry: Option<Registry>,
    ) {
        if let Some(registry) = registry {
            self.registry = Arc::new(registry);
            self.state.takes(&self.registry, self.leases_at);
        }
        if let Some(database) = database {
            self.database = database;
        }
        self.origins = origins;
        let geo = rules::geo(&config, &self.database);
        let before = self.shared.snapshot.load_full();
        let rate = before.admission.rate();
        let snapshot = rules::snapshot(&config, &self.machine, geo, rate, &self.denials);
        self.checks.configure(&config);
        if let Some(standing) = &self.certificates {
            self.listening.show(&standing.in_force(), &config.settings);
        }
        self.config.send_replace(Arc::new(config));
        self.make_tables(snapshot);
    }

    /// Has something else asked of a backend on this POP only.
    pub fn ask_here(&mut self, id: BackendId, state: AdminState) {
        let mut here = HashMap::clone(&self.here);
        match state {
            AdminState::Ready => here.remove(&id),
            AdminState::Drain | AdminState::Maint => here.insert(id, state),
        };
        self.here = Arc::new(here);
        self.make_tables(Snapshot::clone(&self.shared.snapshot.load()));
    }

    /// Goes by the deny list as it is now.
    pub fn take_denials(&self) {
        let config = self.config();
        let before = self.shared.snapshot.load_full();
        let rate = before.admission.rate();
        let rules = rules::admission(&config.settings, &self.machine, rate, &self.denials);
        let snapshot = Snapshot { admission: Arc::new(rules), ..Snapshot::clone(&before) };
        self.shared.snapshot.store(Arc::new(snapshot));
    }

    /// Has connections to backends secured otherwise from now on.
    pub fn take_origins(&mut self, origins: Origins) {
        self.origins = origins;
        self.make_tables(Snapshot::clone(&self.shared.snapshot.load()));
    }

    /// Puts other country data in force.
    pub fn take_database(&mut self, database: Arc<dyn CountryLookup>) {
        self.database = database;
        let before = Snapshot::clone(&self.shared.snapshot.load());
        let geo = rules::geo(&self.config(), &self.database);
        self.shared.snapshot.store(Arc::new(Snapshot { geo, ..before }));
    }

    /// Puts other certificates in force, if they are others: clients are shown them from their next
    /// handshake on.
    pub fn take_certificates(&mut self, certificates: &Arc<Certificates>) {
        let Some(standing) = &self.certificates else { return };
        if !standing.take(certificates) {
            return;
        }
        self.listening.show(certificates, &self.config().settings);
        let mut snapshot = Snapshot::clone(&self.shared.snapshot.load());
        for (rules, shown) in snapshot.listeners.iter_mut().zip(self.listening.shown()) {
            rules.tls.clone_from(shown);
        }
        self.shared.snapshot.store(Arc::new(snapshot));
    }

    /// Puts a snapshot in force, with tables made anew in the place of those that it has.
    fn make_tables(&mut self, before: Snapshot) {
        let rules = rules::tables(&self.config(), &self.origins, &self.here);
        let tables = self.roster.tables(&self.registry, &rules, self.leases_at);
        let listeners = self.listening.resolve(&tables);
        let seats = tables.clone();
        let before = self.shared.snapshot.swap(Arc::new(Snapshot { listeners, tables, ..before }));
        self.retired.push(before);
        self.bury();
        self.roster.seat(&seats, clock::now());
        self.tell(&seats);
        self.follow_closings();
    }

    /// Has those closed in time that are in maintenance.
    pub fn follow_closings(&mut self) {
        let timeout = self.config().settings.shutdown_timeout_secs.get();
        self.closings.follow(&self.shared.snapshot.load(), timeout, clock::now());
    }

    /// Frees the tables of the past that nobody goes by any more. A worker that is the last to let go of
    /// one would else have to, which takes milliseconds when it is a large one.
    pub fn bury(&mut self) {
        let is_used = |past: &Arc<Snapshot>| {
            let is_used = |table: &Arc<AppTable>| {
                let listeners = past.listeners.iter().filter_map(|rules| rules.table.as_ref());
                let own = 1 + listeners.filter(|own| Arc::ptr_eq(own, table)).count();
                Arc::strong_count(table) > own
            };
            Arc::strong_count(past) > 1 || past.tables.values().any(is_used)
        };
        self.retired.retain(is_used);
    }

    /// Lets those know who follow the tables.
    pub fn tell(&mut self, tables: &Tables) {
        self.checks.follow(tables);
        self.state.knows(self.roster.known());
    }
}

fn log_difference(before: &Registry, after: &Registry) {
    fn by_id(registry: &Registry) -> HashMap<&BackendId, &Backend> {
        registry.backends.iter().map(|backend| (&backend.id, backend)).collect()
    }
    let (old, new) = (by_id(before), by_id(after));
    let added = new.keys().filter(|id| !old.contains_key(*id)).count();
    let removed = old.keys().filter(|id| !new.contains_key(*id)).count();
    let changed =
        new.iter().filter(|(id, b)| old.get(*id).is_some_and(|was| !was.is_same_but_for_expiry(b)));
    let changed = changed.count();
    tracing::info!(added, removed, changed, backends = new.len(), "registry changed");
    summary::skipped(after.skipped.iter().filter(|row| !before.skipped.contains(row)));
}
