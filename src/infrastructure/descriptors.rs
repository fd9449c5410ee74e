//! The limit of file descriptors, and what it leaves for connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's soft limit of descriptors to its hard limit, and returns it.
/// Where the system refuses, the limit stays what it is.
#[must_use]
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}

/// How many connections `limit` descriptors are enough for: two for each, and a reserve for what
/// is no connection (listeners, database, log, reactors) and for dials made side by side.
#[must_use]
pub fn connections_within(limit: u64, workers: usize) -> usize {
    let reserve = (32 + 4 * workers as u64).max(limit / 32);
    usize::try_from(limit.saturating_sub(reserve) / 2).unwrap_or(usize::MAX).clamp(1, 1 << 26)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_limit_still_leaves_some_and_a_large_one_nearly_half() {
        assert_eq!(connections_within(64, 2), 12);
        assert_eq!(connections_within(10, 2), 1);
        assert_eq!(connections_within(20_000, 2), 9_687);
    }
}
