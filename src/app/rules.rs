//! What the configuration means to the data plane.

use std::sync::Arc;
use std::time::Duration;

use crate::application::admission;
use crate::application::connect;
use crate::application::upstreams::{AppRules, Rules, WarmRules};
use crate::config::{Config, Settings};
use crate::domain::balance::Spill;
use crate::infrastructure::{CircuitBreakerConfig, RateLimitConfig, RateLimiter};

/// What tables are made with.
#[must_use]
pub fn rules(config: &Config) -> Rules {
    let settings = &config.settings;
    let default = AppRules {
        spill: Spill::Any,
        affinity_ttl: settings.binding_ttl_secs.get(),
        idle_timeout: settings.idle_timeout_secs.get(),
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
    }
}

/// Who may come in.
pub(super) fn admission(settings: &Settings, max_connections: usize) -> admission::Rules {
    let max_per_client = settings.max_connections_per_client.get();
    let rules = admission::Rules::new(settings.deny.get(), max_connections, max_per_client);
    match rate(settings) {
        Some(rate) => rules.with_rate(rate),
        None => rules,
    }
}

/// How often clients may come, if that is limited.
fn rate(settings: &Settings) -> Option<admission::Rate> {
    let config = RateLimitConfig {
        max_requests: settings.rate_limit_max_requests.get(),
        window: settings.rate_limit_window_secs.get(),
        burst_size: settings.rate_limit_burst.get(),
    };
    settings.rate_limit_enabled.then(|| admission::Rate {
        limiter: Arc::new(RateLimiter::new(config)),
        exempt: Arc::new(settings.rate_limit_exempt.get().iter().map(|c| (*c, ())).collect()),
        dry_run: settings.rate_limit_dry_run,
    })
}

/// How backends are dialled.
pub(super) fn dial(settings: &Settings) -> connect::Rules {
    connect::Rules {
        timeout: settings.pool_connect_timeout_secs.get(),
        tries: settings.connect_tries.get() as usize,
    }
}

/// How many warm connections are kept, if any.
pub(super) fn warm(settings: &Settings, workers: usize, descriptors: u64) -> Option<WarmRules> {
    settings.pool_enabled.then(|| WarmRules {
        most: settings.pool_max_per_backend.get(),
        workers,
        idle_timeout: settings.pool_idle_timeout_secs.get(),
        max_lifetime: settings.pool_max_lifetime_secs.get(),
        // The last quarter is for clients.
        last_descriptor: i32::try_from(descriptors / 4 * 3).unwrap_or(i32::MAX),
    })
}
