//! Where clients come in.

pub mod listener;
pub mod metrics;
pub mod worker;
