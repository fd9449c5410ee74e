//! What comes in: clients, programs that steer, and whoever scrapes.

pub mod api;
pub mod listener;
pub mod metrics;
mod served;
pub mod worker;
