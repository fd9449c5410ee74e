//! The settings table: every setting, declared once.

use std::path::PathBuf;

use super::list::{Addresses, Cidrs, Listen, Protocols};
use super::log_filter::LogFilter;
use super::number::{Seconds, Whole};
use super::resolve::Resolver;
use super::secret::Secret;
use super::setting::{Setting, settings};
use super::value::{ClientAuth, HealthType, LogFormat, Mode, Value};
use crate::domain::{App, Region};

pub(super) const YEAR: u32 = 31_536_000;
const DAY: u32 = 86_400;
const HOUR: u32 = 3_600;
const MANY: u32 = 1_000_000_000;

settings! {
    listen_addr: Listen = "0.0.0.0:8080", EDGEPROXY_LISTEN_ADDR, "listen_addr", restart,
        "Addresses of the plain listener; `[::]` is dual-stack; `off` = there is none.";
    mode: Mode = "tcp", EDGEPROXY_MODE, "mode", restart,
        "What the plain and the TLS listener carry: tcp or http.";
    app: Option<App> = "-", EDGEPROXY_APP, "app", restart,
        "The app that this POP's listeners serve; needed when the registry holds several.";
    pop: Option<String> = "(host name)", EDGEPROXY_POP, "pop", restart,
        "Name of this POP in logs and metrics.";
    region: Region = "sa", EDGEPROXY_REGION, "region", restart,
        "Region of this POP.";
    workers: Option<Whole<1, 1024>> = "(CPU count)", EDGEPROXY_WORKERS, "workers", restart,
        "Data-plane threads.";
    state_dir: Option<PathBuf> = "($STATE_DIRECTORY, else the folder of DB_PATH)",
        EDGEPROXY_STATE_DIR, "state_dir", restart,
        "Folder for the control socket, the generated token and the last good table of PostgreSQL.";
    db_path: PathBuf = "routing.db", EDGEPROXY_DB_PATH, "db_path", restart,
        "SQLite registry; created with its schema if missing.";
    db_reload_secs: Seconds<1, DAY> = "5", EDGEPROXY_DB_RELOAD_SECS, "db_reload_secs", reload,
        "How often the SQLite registry is looked at, in seconds.";
    geoip_path: Option<PathBuf> = "(embedded)", EDGEPROXY_GEOIP_PATH, "geoip_path", reload,
        "MaxMind-format country database that replaces the embedded one; read anew when it changes.";
    idle_timeout_secs: Seconds<1, YEAR> = "3600", EDGEPROXY_IDLE_TIMEOUT_SECS,
        "idle_timeout_secs", reload,
        "A connection without a byte either way for so many seconds is closed.";
    tcp_user_timeout_secs: Seconds<0, DAY> = "0", EDGEPROXY_TCP_USER_TIMEOUT_SECS,
        "tcp_user_timeout_secs", reload,
        "On connections older than 30 s, give up on bytes unacknowledged for so long, a reader that pauses included; 0 = the system's limit.";
    connect_tries: Whole<1, 3> = "3", EDGEPROXY_CONNECT_TRIES, "connect_tries", reload,
        "How many backends are tried for one connection.";
    max_connections: Option<Whole<1, MANY>> = "(from the descriptor limit)",
        EDGEPROXY_MAX_CONNECTIONS, "max_connections", reload,
        "Most client connections at once.";
    max_connections_per_client: Whole<0, MANY> = "0", EDGEPROXY_MAX_CONNECTIONS_PER_CLIENT,
        "max_connections_per_client", reload,
        "Most connections of one client (IPv4 address or IPv6 /64) at once; 0 = off.";
    deny: Cidrs = "-", EDGEPROXY_DENY, "deny", reload,
        "Clients that are refused, as CIDRs.";
    proxy_protocol: bool = "false", EDGEPROXY_PROXY_PROTOCOL, "proxy_protocol", restart,
        "Expect the PROXY protocol header on the plain and the TLS listener.";
    proxy_protocol_trusted: Cidrs = "-", EDGEPROXY_PROXY_PROTOCOL_TRUSTED,
        "proxy_protocol_trusted", reload,
        "Peers whose PROXY protocol header is believed, as CIDRs.";
    slow_start_secs: Seconds<0, DAY> = "30", EDGEPROXY_SLOW_START_SECS, "slow_start_secs", reload,
        "A recovered or new backend ramps up from 10 % for so many seconds; 0 = off.";
    log: LogFilter = "info", RUST_LOG, "log", reload,
        "What is logged: error, warn, info, debug, trace, or a filter.";
    log_format: LogFormat = "text", EDGEPROXY_LOG_FORMAT, "log_format", restart,
        "How log lines are written: text or json.";

    binding_ttl_secs: Seconds<0, YEAR> = "600", EDGEPROXY_BINDING_TTL_SECS, "binding.ttl_secs",
        reload,
        "A client keeps its backend for so many seconds after its last connection; 0 = off.";
    binding_gc_interval_secs: Seconds<1, DAY> = "60", EDGEPROXY_BINDING_GC_INTERVAL_SECS,
        "binding.gc_interval_secs", reload,
        "How often expired bindings are swept out, in seconds.";

    shutdown_timeout_secs: Seconds<0, DAY> = "30", EDGEPROXY_SHUTDOWN_TIMEOUT_SECS,
        "shutdown.timeout_secs", reload,
        "Longest wait for open connections at shutdown, in seconds.";
    shutdown_delay_secs: Seconds<0, DAY> = "0", EDGEPROXY_SHUTDOWN_DELAY_SECS,
        "shutdown.delay_secs", reload,
        "Keep accepting for so many seconds after the signal.";

    http_header_timeout_secs: Seconds<1, DAY> = "10", EDGEPROXY_HTTP_HEADER_TIMEOUT_SECS,
        "http.header_timeout_secs", reload,
        "Http mode: longest time for the head of a request, in seconds.";
    http_body_timeout_secs: Seconds<1, DAY> = "60", EDGEPROXY_HTTP_BODY_TIMEOUT_SECS,
        "http.body_timeout_secs", reload,
        "Http mode: longest pause in a body, in seconds, either way.";
    http_request_timeout_secs: Seconds<0, DAY> = "0", EDGEPROXY_HTTP_REQUEST_TIMEOUT_SECS,
        "http.request_timeout_secs", reload,
        "Http mode: longest time for all of a request and its answer, in seconds; 0 = off.";
    http_keep_alive_timeout_secs: Seconds<1, DAY> = "60", EDGEPROXY_HTTP_KEEP_ALIVE_TIMEOUT_SECS,
        "http.keep_alive_timeout_secs", reload,
        "Http mode: longest wait for the next request of a client, in seconds.";
    http_response_timeout_secs: Seconds<1, DAY> = "60", EDGEPROXY_HTTP_RESPONSE_TIMEOUT_SECS,
        "http.response_timeout_secs", reload,
        "Http mode: longest wait for a backend to begin its answer, in seconds.";
    http_trusted: Cidrs = "-", EDGEPROXY_HTTP_TRUSTED, "http.trusted", reload,
        "Http mode: peers whose Forwarded and X-Forwarded-* are believed, as CIDRs.";

    rate_limit_enabled: bool = "false", EDGEPROXY_RATE_LIMIT_ENABLED, "rate_limit.enabled", reload,
        "Limit how often one client may connect.";
    rate_limit_max_requests: Whole<1, MANY> = "100", EDGEPROXY_RATE_LIMIT_MAX_REQUESTS,
        "rate_limit.max_requests", reload,
        "Requests a window that a client may make.";
    rate_limit_window_secs: Seconds<1, DAY> = "1", EDGEPROXY_RATE_LIMIT_WINDOW_SECS,
        "rate_limit.window_secs", reload,
        "The window, in seconds.";
    rate_limit_burst: Whole<1, MANY> = "10", EDGEPROXY_RATE_LIMIT_BURST, "rate_limit.burst", reload,
        "Requests that a client may make at once.";
    rate_limit_dry_run: bool = "false", EDGEPROXY_RATE_LIMIT_DRY_RUN, "rate_limit.dry_run", reload,
        "Count what would be refused, and refuse nothing.";
    rate_limit_exempt: Cidrs = "-", EDGEPROXY_RATE_LIMIT_EXEMPT, "rate_limit.exempt", reload,
        "Clients without a rate limit, as CIDRs.";

    circuit_breaker_enabled: bool = "false", EDGEPROXY_CIRCUIT_BREAKER_ENABLED,
        "circuit_breaker.enabled", reload,
        "Leave a backend alone for a while after it failed several times in a row.";
    circuit_breaker_failure_threshold: Whole<1, MANY> = "5", EDGEPROXY_CIRCUIT_FAILURE_THRESHOLD,
        "circuit_breaker.failure_threshold", reload,
        "Failures in a row that open the breaker.";
    circuit_breaker_success_threshold: Whole<1, MANY> = "3", EDGEPROXY_CIRCUIT_SUCCESS_THRESHOLD,
        "circuit_breaker.success_threshold", reload,
        "Successful trials that close it again.";
    circuit_breaker_timeout_secs: Seconds<1, DAY> = "30", EDGEPROXY_CIRCUIT_TIMEOUT_SECS,
        "circuit_breaker.timeout_secs", reload,
        "How long it stays open before trials, in seconds.";

    health_check_enabled: bool = "false", EDGEPROXY_HEALTH_CHECK_ENABLED, "health_check.enabled",
        reload,
        "Probe every backend.";
    health_check_interval_secs: Seconds<1, DAY> = "5", EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS,
        "health_check.interval_secs", reload,
        "Time between two probes of a backend, in seconds.";
    health_check_timeout_secs: Seconds<1, HOUR> = "2", EDGEPROXY_HEALTH_CHECK_TIMEOUT_SECS,
        "health_check.timeout_secs", reload,
        "Longest wait for a probe, in seconds.";
    health_check_type: HealthType = "tcp", EDGEPROXY_HEALTH_CHECK_TYPE, "health_check.type", reload,
        "tcp: the connection opens; http: a GET answers as expected.";
    health_check_path: String = "/health", EDGEPROXY_HEALTH_CHECK_PATH, "health_check.path", reload,
        "Path of the http probe.";
    health_check_expected_status: Whole<100, 599> = "200", EDGEPROXY_HEALTH_CHECK_EXPECTED_STATUS,
        "health_check.expected_status", reload,
        "Status that the http probe expects.";
    health_check_healthy_threshold: Whole<1, MANY> = "2", EDGEPROXY_HEALTH_HEALTHY_THRESHOLD,
        "health_check.healthy_threshold", reload,
        "Good probes in a row that make a backend healthy.";
    health_check_unhealthy_threshold: Whole<1, MANY> = "3", EDGEPROXY_HEALTH_UNHEALTHY_THRESHOLD,
        "health_check.unhealthy_threshold", reload,
        "Bad probes in a row that make a backend unhealthy.";
    health_check_close_connections: bool = "false", EDGEPROXY_HEALTH_CLOSE_CONNECTIONS,
        "health_check.close_connections", reload,
        "Close the open connections of a backend that becomes unhealthy.";

    pool_enabled: bool = "false", EDGEPROXY_POOL_ENABLED, "pool.enabled", reload,
        "Keep connections to backends ready.";
    pool_max_per_backend: Whole<1, 1_000_000> = "10", EDGEPROXY_POOL_MAX_PER_BACKEND,
        "pool.max_per_backend", reload,
        "Most connections kept for one backend.";
    pool_idle_timeout_secs: Seconds<1, YEAR> = "60", EDGEPROXY_POOL_IDLE_TIMEOUT_SECS,
        "pool.idle_timeout_secs", reload,
        "An idle one is closed after so many seconds.";
    pool_max_lifetime_secs: Seconds<1, YEAR> = "300", EDGEPROXY_POOL_MAX_LIFETIME_SECS,
        "pool.max_lifetime_secs", reload,
        "Any one is closed after so many seconds.";
    pool_connect_timeout_secs: Seconds<1, 300> = "5", EDGEPROXY_POOL_CONNECT_TIMEOUT_SECS,
        "pool.connect_timeout_secs", reload,
        "Longest wait for a backend to accept, in seconds, pool on or off.";

    metrics_enabled: bool = "false", EDGEPROXY_METRICS_ENABLED, "metrics.enabled", restart,
        "Serve metrics in Prometheus format.";
    metrics_listen_addr: Addresses = "0.0.0.0:9090", EDGEPROXY_METRICS_LISTEN_ADDR,
        "metrics.listen_addr", restart,
        "Addresses of the metrics listener.";
    metrics_path: String = "/metrics", EDGEPROXY_METRICS_PATH, "metrics.path", restart,
        "Path of the metrics.";

    config_watch_enabled: bool = "false", EDGEPROXY_CONFIG_WATCH_ENABLED, "config_watch.enabled",
        restart,
        "Reload when the configuration file changes.";
    config_watch_interval_secs: Seconds<1, DAY> = "5", EDGEPROXY_CONFIG_WATCH_INTERVAL_SECS,
        "config_watch.interval_secs", restart,
        "How often it and the geo database are looked at, besides when the kernel tells of a change, in seconds.";

    postgres_enabled: bool = "false", EDGEPROXY_POSTGRES_ENABLED, "postgres.enabled", restart,
        "Keep the registry in PostgreSQL.";
    postgres_url: Option<Secret> = "(required when enabled)", EDGEPROXY_POSTGRES_URL,
        "postgres.url", restart,
        "Database address, `postgres://user:password@host:5432/name`.";
    postgres_max_connections: Whole<1, 1000> = "10", EDGEPROXY_POSTGRES_MAX_CONNECTIONS,
        "postgres.max_connections", restart,
        "Most connections to the database.";
    postgres_min_connections: Whole<0, 1000> = "2", EDGEPROXY_POSTGRES_MIN_CONNECTIONS,
        "postgres.min_connections", restart,
        "Connections to the database that are kept open.";
    postgres_connect_timeout_secs: Seconds<1, 300> = "5", EDGEPROXY_POSTGRES_CONNECT_TIMEOUT_SECS,
        "postgres.connect_timeout_secs", restart,
        "Longest wait for the database to accept, in seconds.";
    postgres_query_timeout_secs: Seconds<1, HOUR> = "10", EDGEPROXY_POSTGRES_QUERY_TIMEOUT_SECS,
        "postgres.query_timeout_secs", restart,
        "Longest wait for an answer, in seconds.";
    postgres_reload_secs: Seconds<1, DAY> = "5", EDGEPROXY_POSTGRES_RELOAD_SECS,
        "postgres.reload_secs", restart,
        "How often the whole table is read, in seconds.";
    postgres_wait_secs: Seconds<0, YEAR> = "0", EDGEPROXY_POSTGRES_WAIT_SECS, "postgres.wait_secs",
        restart,
        "Longest wait at start for a database that does not answer, without a snapshot to serve from, in seconds; 0 = end with an error.";

    tls_enabled: bool = "false", EDGEPROXY_TLS_ENABLED, "tls.enabled", restart,
        "Serve TLS as well.";
    tls_listen_addr: Addresses = "0.0.0.0:8443", EDGEPROXY_TLS_LISTEN_ADDR, "tls.listen_addr",
        restart,
        "Addresses of the TLS listener; TLS ends here, backends get what is in it.";
    tls_cert: Option<PathBuf> = "-", EDGEPROXY_TLS_CERT, "tls.cert", reload,
        "Certificate chain (PEM), for its own names and for names without one; when no certificate at all is given, one is made for development.";
    tls_key: Option<PathBuf> = "-", EDGEPROXY_TLS_KEY, "tls.key", reload,
        "Its private key (PEM).";
    tls_cert_dir: Option<PathBuf> = "-", EDGEPROXY_TLS_CERT_DIR, "tls.cert_dir", reload,
        "Folder of certificates: NAME.crt or NAME.pem beside NAME.key, or folders with fullchain.pem and privkey.pem.";
    tls_strict_sni: bool = "false", EDGEPROXY_TLS_STRICT_SNI, "tls.strict_sni", reload,
        "Refuse clients that ask for no name, or for one without a certificate.";
    tls_alpn: Protocols = "-", EDGEPROXY_TLS_ALPN, "tls.alpn", reload,
        "Protocols offered to clients (ALPN), the most wanted first.";
    tls_client_ca: Option<PathBuf> = "-", EDGEPROXY_TLS_CLIENT_CA, "tls.client_ca", reload,
        "CAs (PEM) that clients' certificates must come from; none = no certificate is asked for.";
    tls_client_auth: Option<ClientAuth> = "(required)", EDGEPROXY_TLS_CLIENT_AUTH,
        "tls.client_auth", reload,
        "With such CAs, whether a client must have a certificate: required or optional.";

    api_enabled: bool = "false", EDGEPROXY_API_ENABLED, "api.enabled", restart,
        "Serve the control API and the dashboard over TCP.";
    api_listen_addr: Addresses = "127.0.0.1:8081", EDGEPROXY_API_LISTEN_ADDR, "api.listen_addr",
        restart,
        "Addresses of the control API.";
    api_token: Option<Secret> = "(generated)", EDGEPROXY_API_TOKEN, "api.token", reload,
        "Bearer token for every write, and for reads from other machines.";
    api_register_token: Option<Secret> = "-", EDGEPROXY_API_REGISTER_TOKEN, "api.register_token",
        reload,
        "Bearer token that may only register, heartbeat and deregister.";
    api_register_allow: Cidrs = "-", EDGEPROXY_API_REGISTER_ALLOW, "api.register_allow", reload,
        "Loopback and link-local addresses that may be registered all the same, as CIDRs.";
    api_heartbeat_ttl_secs: Seconds<1, DAY> = "60", EDGEPROXY_HEARTBEAT_TTL_SECS,
        "api.heartbeat_ttl_secs", reload,
        "A registered backend lives so many seconds after its last heartbeat.";
    api_tls_cert: Option<PathBuf> = "-", EDGEPROXY_API_TLS_CERT, "api.tls_cert", restart,
        "Certificate chain (PEM) of the control API; with it the API speaks TLS only.";
    api_tls_key: Option<PathBuf> = "-", EDGEPROXY_API_TLS_KEY, "api.tls_key", restart,
        "Its private key (PEM).";
    api_tls_client_ca: Option<PathBuf> = "-", EDGEPROXY_API_TLS_CLIENT_CA, "api.tls_client_ca",
        restart,
        "CAs (PEM) that clients of the control API must have a certificate from; none = no certificate is asked for.";
}
