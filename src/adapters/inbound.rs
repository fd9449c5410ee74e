//! Where clients come in.

pub mod listener;
pub mod worker;
