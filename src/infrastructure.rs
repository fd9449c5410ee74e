//! Building blocks that know nothing of this product's connections.

pub mod circuit_breaker;
pub mod descriptors;
pub mod log_sink;
pub mod pipes;
pub mod reactor;
pub mod shutdown;
pub mod slab;

pub use circuit_breaker::{CircuitBreaker, CircuitBreakerConfig};
pub use shutdown::{ConnectionGuard, ShutdownController, shutdown_signal};
