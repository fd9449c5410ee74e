//! TLS that ends here, from the first byte to the last.

mod admission;
mod ends;
mod hello;
mod hostile;
mod patience;
mod peer;
mod resumption;
mod scan;
mod traffic;
