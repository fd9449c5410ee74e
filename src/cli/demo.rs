//! `edge-proxy demo`.

/// Serves sample backends and the proxy in one process.
pub(super) fn run() -> anyhow::Result<u8> {
    Ok(0)
}
