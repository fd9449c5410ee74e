//! What edgeProxy reads and writes outside itself.

pub mod geo;
pub mod sqlite;
