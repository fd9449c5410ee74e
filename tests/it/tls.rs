//! TLS that ends here, from the first byte to the last, and the certificates that it shows.

mod certificates;
mod hostile;
mod peer;
mod swaps;
mod traffic;
