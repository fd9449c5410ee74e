//! The life of a connection. The modules stand in the order in which a connection meets them.

pub mod account;
pub mod admission;
pub mod connect;
pub mod http;
pub mod locate;
pub mod relay;
pub mod route;

pub mod proxy;
pub mod upstreams;

pub mod choices;
pub mod explain;
