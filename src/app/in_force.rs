//! What is in force: the configuration, the registry and the country data, and the one snapshot, made
//! of them, that the workers go by. Each change swaps it whole; what did not change keeps its state.

use std::sync::Arc;

use tokio::sync::watch;

use super::health::Checks;
use super::listeners::Listening;
use super::registry::RegistryState;
use super::rules::{self, Machine};
use super::unix_now;
use crate::application::proxy::{Shared, Snapshot};
use crate::application::upstreams::{Roster, Tables};
use crate::clock;
use crate::config::Config;
use crate::domain::ports::{CountryLookup, Registry};

/// What is in force, and what it is made with.
pub(super) struct InForce {
    /// Those who go by single settings follow it.
    pub config: watch::Sender<Arc<Config>>,
    pub registry: Arc<Registry>,
    pub database: Arc<dyn CountryLookup>,
    pub roster: Roster,
    pub listening: Listening,
    pub checks: Checks,
    pub shared: Arc<Shared>,
    pub machine: Machine,
    pub state: Arc<RegistryState>,
    /// Up to when leases have been looked at, in seconds since the epoch.
    pub leases_at: i64,
}

impl InForce {
    /// The configuration.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Puts another registry in force.
    pub fn take_registry(&mut self, registry: Registry) {
        self.registry = Arc::new(registry);
        self.leases_at = unix_now();
        self.make_tables(Snapshot::clone(&self.shared.snapshot.load()));
    }

    /// Takes those out whose leases have ended, when there are any. Only for a registry that was read
    /// just now: while it cannot be read no lease ends.
    pub fn end_leases(&mut self) {
        let now = unix_now();
        if self.expiries().any(|at| self.leases_at < at && at <= now) {
            self.leases_at = now;
            self.make_tables(Snapshot::clone(&self.shared.snapshot.load()));
        }
    }

    /// When the next lease ends, in seconds since the epoch.
    pub fn next_expiry(&self) -> Option<i64> {
        let now = unix_now();
        self.expiries().filter(|at| *at > now).min()
    }

    fn expiries(&self) -> impl Iterator<Item = i64> {
        self.registry.backends.iter().filter_map(|backend| backend.lease.as_ref()?.expires_at)
    }

    /// Puts another configuration in force, with another country database and another registry if they
    /// come with it.
    pub fn take_config(
        &mut self,
        config: Config,
        database: Option<Arc<dyn CountryLookup>>,
        registry: Option<Registry>,
    ) {
        if let Some(registry) = registry {
            self.registry = Arc::new(registry);
            self.leases_at = unix_now();
        }
        if let Some(database) = database {
            self.database = database;
        }
        let geo = rules::geo(&config, &self.database);
        let before = self.shared.snapshot.load_full();
        let snapshot = rules::snapshot(&config, &self.machine, geo, before.admission.rate());
        self.checks.configure(&config);
        self.config.send_replace(Arc::new(config));
        self.make_tables(snapshot);
    }

    /// Puts other country data in force.
    pub fn take_database(&mut self, database: Arc<dyn CountryLookup>) {
        self.database = database;
        let before = Snapshot::clone(&self.shared.snapshot.load());
        let geo = rules::geo(&self.config(), &self.database);
        self.shared.snapshot.store(Arc::new(Snapshot { geo, ..before }));
    }

    /// Puts a snapshot in force, with tables made anew in the place of those that it has.
    fn make_tables(&mut self, before: Snapshot) {
        let rules = rules::tables(&self.config());
        let tables = self.roster.tables(&self.registry, &rules, self.leases_at);
        let listeners = self.listening.resolve(&tables);
        let seats = tables.clone();
        self.shared.snapshot.store(Arc::new(Snapshot { listeners, tables, ..before }));
        self.roster.seat(&seats, clock::now());
        self.tell(&seats);
    }

    /// Lets those know who follow the tables.
    pub fn tell(&mut self, tables: &Tables) {
        self.checks.follow(tables);
        self.state.knows(self.roster.known());
    }
}
