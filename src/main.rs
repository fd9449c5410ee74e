//! The `edge-proxy` binary.
fn main() {}
