//! `edge-proxy config`.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::live::{Live, Reach};
use crate::adapters::inbound::api::wire::{Setting, Settings};
use crate::config::{Config, template};

/// Shows the effective settings, secrets masked, or a commented file of all of them.
pub(super) fn run(
    file: Option<PathBuf>,
    as_template: bool,
    as_json: bool,
    reach: &Reach,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    if as_template {
        out.write_all(template().as_bytes())?;
        return Ok(0);
    }
    let config = super::load(file)?;
    let live: Option<Settings> = super::runtime()?.block_on(async {
        match Live::find(&config, reach).await? {
            Ok(live) => live.get("/api/v1/config").await.map(Some),
            Err(_) => Ok(None),
        }
    })?;
    let is_live = live.is_some();
    let Settings { settings, parts, .. } = live.unwrap_or_else(|| offline(&config));
    if as_json {
        let rows: Vec<_> = settings
            .iter()
            .map(|row| {
                json!({
                    "name": row.name, "toml": row.toml, "value": row.value, "origin": row.origin,
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else {
        let width = settings.iter().map(|row| row.name.len()).max().unwrap_or(0);
        for row in &settings {
            writeln!(out, "{:width$} = {}  ({})", row.name, row.value, row.origin)?;
        }
        for part in &parts {
            writeln!(out, "{:width$} = {}  (file)", part.name, part.value)?;
        }
    }
    if !is_live {
        for warning in config.warnings.iter().chain(&config.notices) {
            eprintln!("edge-proxy: {warning}");
        }
    }
    Ok(0)
}

/// What a process would begin with.
fn offline(config: &Config) -> Settings {
    eprintln!("offline: what a process would begin with");
    let settings = config.effective.iter().map(|row| Setting {
        name: row.setting.env.into(),
        toml: row.setting.toml.into(),
        value: row.value.clone(),
        origin: row.origin.to_string(),
        reloadable: row.setting.reloadable,
    });
    Settings { file: None, settings: settings.collect(), parts: Vec::new() }
}
