//! Building blocks that know nothing of this product's connections.

pub mod access_log;
pub mod descriptors;
pub mod pipes;
pub mod reactor;
mod shutdown;

pub use shutdown::{ConnectionGuard, ShutdownController, shutdown_signal};
