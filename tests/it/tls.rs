//! TLS that ends here, from the first byte to the last.

mod hostile;
mod peer;
mod traffic;
