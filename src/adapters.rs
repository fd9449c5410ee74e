//! The outside world: clients on one side, stores and databases on the other.

pub mod inbound;
pub mod outbound;
