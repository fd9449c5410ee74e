//! The `edge-proxy` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    edgeproxy::cli::main()
}
