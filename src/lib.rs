//! edgeProxy: carries each client to its best backend, and can say why.

pub mod adapters;
pub mod clock;
pub mod domain;
pub mod infrastructure;
