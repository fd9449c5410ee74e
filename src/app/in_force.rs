//! What is in force: the configuration, the registry and the country data, and the one snapshot, made
//! of them, that the workers go by. Each change swaps it whole; what did not change keeps its state.

use std::sync::Arc;

use tokio::sync::watch;

use super::certificates::{Certificates, Standing};
use super::health::Checks;
use super::listeners::Listening;
use super::origins::Origins;
use super::registry::RegistryState;
use super::reload::Running;
use super::rules::{self, Machine};
use crate::application::proxy::{Shared, Snapshot};
use crate::application::upstreams::{AppTable, Roster, Tables};
use crate::clock;
use crate::config::Config;
use crate::domain::ports::{CountryLookup, Registry};

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
        self.registry = Arc::new(registry);
        self.leases_at = unix_now;
        self.make_tables(Snapshot::clone(&self.shared.snapshot.load()));
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
        self.registry.backends.iter().filter_map(|backend| backend.lease.as_ref()?.expires_at)
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
        }
        if let Some(database) = database {
            self.database = database;
        }
        self.origins = origins;
        let geo = rules::geo(&config, &self.database);
        let before = self.shared.snapshot.load_full();
        let snapshot = rules::snapshot(&config, &self.machine, geo, before.admission.rate());
        self.checks.configure(&config);
        if let Some(standing) = &self.certificates {
            self.listening.show(&standing.in_force(), &config.settings);
        }
        self.config.send_replace(Arc::new(config));
        self.make_tables(snapshot);
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
        let rules = rules::tables(&self.config(), &self.origins);
        let tables = self.roster.tables(&self.registry, &rules, self.leases_at);
        let listeners = self.listening.resolve(&tables);
        let seats = tables.clone();
        let before = self.shared.snapshot.swap(Arc::new(Snapshot { listeners, tables, ..before }));
        self.retired.push(before);
        self.bury();
        self.roster.seat(&seats, clock::now());
        self.tell(&seats);
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
