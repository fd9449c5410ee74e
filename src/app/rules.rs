//! What the configuration means to the data plane.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::denials::Denials;
use super::origins::Origins;
use crate::application::admission;
use crate::application::connect;
use crate::application::locate::Geo;
use crate::application::proxy::{HttpRules, HttpTimes, Snapshot};
use crate::application::upstreams::{AppRules, Rules, Tables, WarmRules};
use crate::config::{AppConfig, Config, SendProxy, Settings};
use crate::domain::balance::Spill;
use crate::domain::host::HostMap;
use crate::domain::ports::CountryLookup;
use crate::domain::{AdminState, App, BackendId};
use crate::infrastructure::proxy_protocol::Version;
use crate::infrastructure::{CircuitBreakerConfig, RateLimitConfig, RateLimiter, descriptors};

/// Most connections of the control API.
const MAX_API_CONNECTIONS: usize = 8_192;

/// What this process has of its machine, for as long as it lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Threads of the data plane.
    pub workers: usize,
    /// Most open descriptors.
    pub descriptors: u64,
}

impl Machine {
    /// Raises the limit of descriptors as far as it goes.
    pub fn new(settings: &Settings) -> Self {
        let cpus = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = settings.workers.map_or_else(cpus, |workers| workers.get() as usize);
        Self { workers, descriptors: descriptors::raise_limit() }
    }

    /// Most client connections: what the settings or the descriptors allow.
    pub fn max_connections(&self, settings: &Settings) -> usize {
        let enough_for = self.enough_for(settings);
        settings.max_connections.map_or(enough_for, |limit| limit.get() as usize)
    }

    /// Most connections of the control API: heartbeats of thousands of backends keep theirs open, but no
    /// stranger takes what clients need.
    pub fn api_connections(&self) -> usize {
        usize::try_from(self.descriptors / 8).unwrap_or(usize::MAX).clamp(4, MAX_API_CONNECTIONS)
    }

    fn enough_for(&self, settings: &Settings) -> usize {
        let api = if settings.api_enabled { self.api_connections() as u64 } else { 0 };
        descriptors::connections_within(self.descriptors.saturating_sub(api), self.workers)
    }

    /// Warns of a limit that the descriptors do not suffice for.
    pub fn warn_of_max_connections(&self, settings: &Settings) {
        let limit = self.max_connections(settings);
        let enough_for = self.enough_for(settings);
        if limit > enough_for {
            tracing::warn!(
                "EDGEPROXY_MAX_CONNECTIONS={limit}: {} descriptors are enough for about \
                 {enough_for}; past them clients wait in the accept queue",
                self.descriptors
            );
        }
    }
}

/// What operators ask of backends on this POP only.
pub(super) type Here = Arc<HashMap<BackendId, AdminState>>;

/// What the workers go by, but for the tables. The `rate` limit in force goes on, with the buckets that
/// it has.
pub(super) fn snapshot(
    config: &Config,
    machine: &Machine,
    geo: Arc<Geo>,
    rate: Option<&admission::Rate>,
    denials: &Denials,
) -> Snapshot {
    let settings = &config.settings;
    Snapshot {
        listeners: Vec::new(),
        tables: Tables::new(),
        names: Arc::new(names(config)),
        hosts: Arc::new(hosts(config)),
        with_hosts: Arc::new(with_hosts(config)),
        trusted: Arc::new(settings.proxy_protocol_trusted.get().iter().map(|c| (*c, ())).collect()),
        admission: Arc::new(admission(settings, machine, rate, denials)),
        geo,
        dial: dial(settings),
        warm: warm(settings, machine),
        http: http(settings),
        user_timeout: settings.tcp_user_timeout_secs.get(),
    }
}

/// Which app the names of servers lead to.
fn names(config: &Config) -> HostMap<App> {
    let patterns = config.apps.iter().flat_map(|(app, rules)| {
        rules.sni.iter().map(move |pattern| (pattern.clone(), app.clone()))
    });
    patterns.collect()
}

/// Which app the hosts of requests lead to.
fn hosts(config: &Config) -> HostMap<App> {
    let patterns = config.apps.iter().flat_map(|(app, rules)| {
        rules.hosts.iter().map(move |pattern| (pattern.clone(), app.clone()))
    });
    patterns.collect()
}

/// Which apps have hosts.
fn with_hosts(config: &Config) -> BTreeSet<App> {
    let apps = config.apps.iter().filter(|(_, rules)| !rules.hosts.is_empty());
    apps.map(|(app, _)| app.clone()).collect()
}

/// Where clients are.
pub(super) fn geo(config: &Config, database: &Arc<dyn CountryLookup>) -> Arc<Geo> {
    let overrides = config.geo_overrides.iter().copied().collect();
    Arc::new(Geo { overrides, database: Arc::clone(database) })
}

/// What tables are made with.
pub(super) fn tables(config: &Config, origins: &Origins, here: &Here) -> Rules {
    let settings = &config.settings;
    let default = AppRules {
        spill: Spill::Any,
        affinity_ttl: settings.binding_ttl_secs.get(),
        idle_timeout: settings.idle_timeout_secs.get(),
        header: None,
        tls: None,
    };
    let secs = |given: Option<u32>, other| given.map_or(other, |s| Duration::from_secs(s.into()));
    let apps = config
        .apps
        .iter()
        .map(|(name, app)| {
            let rules = AppRules {
                spill: app.spill,
                affinity_ttl: secs(app.affinity_ttl_secs, default.affinity_ttl),
                idle_timeout: secs(app.idle_timeout_secs, default.idle_timeout),
                header: header(app),
                tls: origins.get(name).cloned(),
            };
            (name.clone(), rules)
        })
        .collect();
    Rules {
        pop_region: settings.region.clone(),
        atlas: config.atlas.clone(),
        default,
        apps,
        breaker: settings.circuit_breaker_enabled.then(|| CircuitBreakerConfig {
            failure_threshold: settings.circuit_breaker_failure_threshold.get(),
            success_threshold: settings.circuit_breaker_success_threshold.get(),
            timeout: settings.circuit_breaker_timeout_secs.get(),
        }),
        slow_start: settings.slow_start_secs.get(),
        here: Arc::clone(here),
    }
}

/// What an app's backends are told of a connection before its first byte.
pub(super) const fn header(app: &AppConfig) -> Option<Version> {
    match app.proxy_protocol {
        SendProxy::Off => None,
        SendProxy::V1 => Some(Version::V1),
        SendProxy::V2 => Some(Version::V2),
    }
}

/// Who may come in.
pub(super) fn admission(
    settings: &Settings,
    machine: &Machine,
    rate_before: Option<&admission::Rate>,
    denials: &Denials,
) -> admission::Rules {
    let max_connections = machine.max_connections(settings);
    let max_per_client = settings.max_connections_per_client.get();
    let mut deny = settings.deny.get().to_vec();
    deny.extend(denials.all().iter().map(|denial| denial.cidr));
    let rules = admission::Rules::new(&deny, max_connections, max_per_client);
    match rate(settings, rate_before) {
        Some(rate) => rules.with_rate(rate),
        None => rules,
    }
}

/// How often clients may come, if that is limited.
fn rate(settings: &Settings, before: Option<&admission::Rate>) -> Option<admission::Rate> {
    if !settings.rate_limit_enabled {
        return None;
    }
    let config = RateLimitConfig {
        max_requests: settings.rate_limit_max_requests.get(),
        window: settings.rate_limit_window_secs.get(),
        burst_size: settings.rate_limit_burst.get(),
    };
    let limiter = match before {
        Some(before) => {
            before.limiter.set_config(config);
            Arc::clone(&before.limiter)
        }
        None => Arc::new(RateLimiter::new(config)),
    };
    let exempt = Arc::new(settings.rate_limit_exempt.get().iter().map(|c| (*c, ())).collect());
    Some(admission::Rate { limiter, exempt, dry_run: settings.rate_limit_dry_run })
}

/// How backends are dialled.
fn dial(settings: &Settings) -> connect::Rules {
    connect::Rules {
        timeout: settings.pool_connect_timeout_secs.get(),
        tries: settings.connect_tries.get() as usize,
    }
}

/// How long requests may take.
fn http(settings: &Settings) -> HttpRules {
    let times = HttpTimes {
        header_timeout: settings.http_header_timeout_secs.get(),
        body_timeout: settings.http_body_timeout_secs.get(),
        request_timeout: settings.http_request_timeout_secs.get(),
        keep_alive_timeout: settings.http_keep_alive_timeout_secs.get(),
        response_timeout: settings.http_response_timeout_secs.get(),
    };
    let trusted = settings.http_trusted.get().iter().map(|c| (*c, ())).collect();
    HttpRules { times, trusted: Arc::new(trusted) }
}

/// How many warm connections are kept, if any.
fn warm(settings: &Settings, machine: &Machine) -> Option<WarmRules> {
    settings.pool_enabled.then(|| WarmRules {
        most: settings.pool_max_per_backend.get(),
        workers: machine.workers,
        idle_timeout: settings.pool_idle_timeout_secs.get(),
        max_lifetime: settings.pool_max_lifetime_secs.get(),
        // The last quarter is for clients.
        last_descriptor: i32::try_from(machine.descriptors / 4 * 3).unwrap_or(i32::MAX),
    })
}
