//! What is said of what was done, and of what was not.

use super::Steering;
use crate::adapters::inbound::api::Failure;
use crate::domain::ports::RepositoryError;

/// Writes what was done to the audit log.
macro_rules! audit {
    ($who:expr, $action:literal, $what:expr, $before:expr, $after:expr) => {
        tracing::info!(
            target: "audit", who = %$who, action = $action, what = ?$what.to_string(),
            before = ?$before.to_string(), after = ?$after.to_string(), "done"
        )
    };
}
pub(super) use audit;

pub(super) fn no_backend(id: &str) -> Failure {
    Failure::NotFound(format!("no backend {id:?} in the registry"))
}

/// What is said of a store that does not do what it is asked.
pub(super) fn unavailable(steering: &Steering, error: &RepositoryError) -> Failure {
    if steering.config.borrow().backends.is_some() {
        return Failure::Conflict(error.to_string());
    }
    tracing::warn!("the control API: {error}");
    Failure::Unavailable(error.to_string())
}

pub(super) fn too_slow() -> Failure {
    Failure::Unavailable("it was not done in time; it may be yet".into())
}
