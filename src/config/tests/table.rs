//! The table against the documented text.

use super::*;

#[test]
fn every_variable_of_the_documented_text_has_its_documented_default() {
    for (env, default) in [
        ("EDGEPROXY_SHUTDOWN_TIMEOUT_SECS", "30"),
        ("EDGEPROXY_RATE_LIMIT_ENABLED", "false"),
        ("EDGEPROXY_RATE_LIMIT_MAX_REQUESTS", "100"),
        ("EDGEPROXY_RATE_LIMIT_WINDOW_SECS", "1"),
        ("EDGEPROXY_RATE_LIMIT_BURST", "10"),
        ("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "false"),
        ("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "5"),
        ("EDGEPROXY_CIRCUIT_SUCCESS_THRESHOLD", "3"),
        ("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "30"),
        ("EDGEPROXY_HEALTH_CHECK_ENABLED", "false"),
        ("EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS", "5"),
        ("EDGEPROXY_HEALTH_CHECK_TIMEOUT_SECS", "2"),
        ("EDGEPROXY_HEALTH_CHECK_TYPE", "tcp"),
        ("EDGEPROXY_HEALTH_CHECK_PATH", "/health"),
        ("EDGEPROXY_HEALTH_HEALTHY_THRESHOLD", "2"),
        ("EDGEPROXY_HEALTH_UNHEALTHY_THRESHOLD", "3"),
        ("EDGEPROXY_POOL_ENABLED", "false"),
        ("EDGEPROXY_POOL_MAX_PER_BACKEND", "10"),
        ("EDGEPROXY_POOL_IDLE_TIMEOUT_SECS", "60"),
        ("EDGEPROXY_POOL_MAX_LIFETIME_SECS", "300"),
        ("EDGEPROXY_POOL_CONNECT_TIMEOUT_SECS", "5"),
        ("EDGEPROXY_METRICS_ENABLED", "false"),
        ("EDGEPROXY_METRICS_LISTEN_ADDR", "0.0.0.0:9090"),
        ("EDGEPROXY_METRICS_PATH", "/metrics"),
        ("EDGEPROXY_CONFIG_WATCH_ENABLED", "false"),
        ("EDGEPROXY_CONFIG_WATCH_INTERVAL_SECS", "5"),
        ("EDGEPROXY_POSTGRES_ENABLED", "false"),
        ("EDGEPROXY_POSTGRES_URL", "-"),
        ("EDGEPROXY_POSTGRES_MAX_CONNECTIONS", "10"),
        ("EDGEPROXY_POSTGRES_MIN_CONNECTIONS", "2"),
        ("EDGEPROXY_POSTGRES_CONNECT_TIMEOUT_SECS", "5"),
        ("EDGEPROXY_POSTGRES_QUERY_TIMEOUT_SECS", "10"),
        ("EDGEPROXY_POSTGRES_RELOAD_SECS", "5"),
        // Named in the example, defaults from the specification.
        ("EDGEPROXY_LISTEN_ADDR", "0.0.0.0:8080"),
        ("EDGEPROXY_REGION", "sa"),
        ("EDGEPROXY_TLS_ENABLED", "false"),
        ("EDGEPROXY_TLS_LISTEN_ADDR", "0.0.0.0:8443"),
        ("EDGEPROXY_TLS_CERT", "-"),
        ("EDGEPROXY_TLS_KEY", "-"),
        ("EDGEPROXY_API_ENABLED", "false"),
        ("EDGEPROXY_API_LISTEN_ADDR", "127.0.0.1:8081"),
    ] {
        let config = load(&Source::default()).unwrap();
        let row = config.effective.iter().find(|row| row.setting.env == env);
        assert_eq!(row.map(|row| row.value.as_str()), Some(default), "{env}");
    }
}

#[test]
fn the_documented_production_example_is_accepted_as_it_is_written() {
    let config = env(&[
        ("EDGEPROXY_LISTEN_ADDR", "0.0.0.0:8080"),
        ("EDGEPROXY_REGION", "sa"),
        ("EDGEPROXY_POSTGRES_ENABLED", "true"),
        ("EDGEPROXY_POSTGRES_URL", "postgres://edgeproxy:secret@postgres:5432/edgeproxy"),
        ("EDGEPROXY_TLS_ENABLED", "true"),
        ("EDGEPROXY_TLS_LISTEN_ADDR", "0.0.0.0:8443"),
        ("EDGEPROXY_TLS_CERT", "/etc/ssl/edgeproxy.crt"),
        ("EDGEPROXY_TLS_KEY", "/etc/ssl/edgeproxy.key"),
        ("EDGEPROXY_API_ENABLED", "true"),
        ("EDGEPROXY_API_LISTEN_ADDR", "0.0.0.0:8081"),
        ("EDGEPROXY_RATE_LIMIT_ENABLED", "true"),
        ("EDGEPROXY_RATE_LIMIT_MAX_REQUESTS", "1000"),
        ("EDGEPROXY_RATE_LIMIT_BURST", "50"),
        ("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true"),
        ("EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD", "5"),
        ("EDGEPROXY_CIRCUIT_TIMEOUT_SECS", "30"),
        ("EDGEPROXY_HEALTH_CHECK_ENABLED", "true"),
        ("EDGEPROXY_HEALTH_CHECK_TYPE", "http"),
        ("EDGEPROXY_HEALTH_CHECK_PATH", "/health"),
        ("EDGEPROXY_POOL_ENABLED", "true"),
        ("EDGEPROXY_POOL_MAX_PER_BACKEND", "20"),
        ("EDGEPROXY_METRICS_ENABLED", "true"),
        ("EDGEPROXY_METRICS_LISTEN_ADDR", "0.0.0.0:9090"),
        ("EDGEPROXY_SHUTDOWN_TIMEOUT_SECS", "60"),
    ])
    .loaded();
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.notices, [""; 0]);
}

#[test]
fn a_field_is_its_path_and_names_are_unique() {
    let shown = format!("{:#?}", Settings::default());
    let fields: Vec<_> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()))
        .filter_map(|line| line.split_once(':').map(|(field, _)| field.to_owned()))
        .collect();
    let paths: Vec<_> = TABLE.iter().map(|setting| setting.toml.replace('.', "_")).collect();
    assert_eq!(fields, paths);
    for names in [|s: &Setting| s.env, |s: &Setting| s.toml] {
        let distinct: std::collections::HashSet<_> = TABLE.iter().map(names).collect();
        assert_eq!(distinct.len(), TABLE.len());
    }
}
