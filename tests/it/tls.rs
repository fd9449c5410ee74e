//! TLS that ends here, from the first byte to the last, and the certificates that it shows.

mod admission;
mod certificates;
mod ends;
mod hello;
mod hostile;
mod patience;
pub mod peer;
mod resumption;
mod scan;
mod swaps;
mod traffic;
