//! edgeProxy: carries each client to its best backend, and can say why.
//!
//! The modules stand in reading order; each uses only those before it (`tests/architecture.rs`
//! checks it). `ARCHITECTURE.md` says how they work together.

pub mod domain;

pub mod clock;

pub mod config;

pub mod infrastructure;

pub mod application;

pub mod adapters;

pub mod app;

pub mod cli;
