//! What edgeProxy reads and writes outside itself.
