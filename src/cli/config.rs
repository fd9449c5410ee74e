//! `edge-proxy config`.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::config::template;

/// Shows the effective settings, secrets masked, or a commented file of all of them.
pub(super) fn run(
    file: Option<PathBuf>,
    as_template: bool,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    if as_template {
        out.write_all(template().as_bytes())?;
        return Ok(0);
    }
    let config = super::load(file)?;
    if as_json {
        let rows: Vec<_> = config
            .effective
            .iter()
            .map(|row| {
                json!({
                    "name": row.setting.env,
                    "toml": row.setting.toml,
                    "value": row.value,
                    "origin": row.origin.to_string(),
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else {
        let width = config.effective.iter().map(|row| row.setting.env.len()).max().unwrap_or(0);
        for row in &config.effective {
            writeln!(out, "{:width$} = {}  ({})", row.setting.env, row.value, row.origin)?;
        }
    }
    for warning in config.warnings.iter().chain(&config.notices) {
        eprintln!("edge-proxy: {warning}");
    }
    Ok(0)
}
