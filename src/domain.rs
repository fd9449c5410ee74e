//! What edgeProxy decides, as plain data and arithmetic: no clock, no I/O, nothing but `std`.

pub mod affinity;
pub mod backend;
pub mod balance;
pub mod cidr;
pub mod geo;
pub mod host;
pub mod mass_change;
pub mod ports;
pub mod region;
pub mod time;

pub use backend::{AdminState, App, Backend, BackendId, Lease};
pub use geo::{ClientKey, Country};
pub use region::Region;
