//! TLS that ends here.

mod certificates;
