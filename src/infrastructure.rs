//! Building blocks that know nothing of this product's connections.

pub mod backoff;
pub mod circuit_breaker;
pub mod client_hello;
pub mod config_watcher;
pub mod connection_pool;
pub mod descriptors;
pub mod health_checker;
pub mod http1;
pub mod http2;
pub mod log_sink;
pub mod meters;
pub mod pipes;
pub mod proxy_protocol;
pub mod rate_limiter;
pub mod reactor;
pub mod shutdown;
pub mod slab;
pub mod text;
pub mod tls;

pub use circuit_breaker::{CircuitBreaker, CircuitBreakerConfig};
pub use config_watcher::{ConfigChange, ConfigWatcher};
pub use connection_pool::{ConnectionPool, PoolConfig};
pub use health_checker::{HealthCheckConfig, HealthCheckType, HealthChecker, HealthStatus};
pub use rate_limiter::{RateLimitConfig, RateLimiter};
pub use shutdown::{ConnectionGuard, ShutdownController, shutdown_signal};
