//! `edge-proxy check`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;

use crate::app;

/// Says whether the configuration is right; stricter than `run`, which only warns of unknown names.
pub(super) fn run(file: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<u8> {
    let config = super::load(file)?;
    for notice in &config.notices {
        eprintln!("note: {notice}");
    }
    for warning in &config.warnings {
        eprintln!("edge-proxy: {warning}");
    }
    if !config.warnings.is_empty() {
        return Ok(super::CONFIGURATION);
    }
    if let Err(error) = app::country_database(&config) {
        bail!(app::StartError::from(error));
    }
    match app::check_certificates(&config) {
        Ok(doubts) => doubts.iter().for_each(|doubt| eprintln!("note: {doubt}")),
        Err(error) => bail!(app::StartError::from(error)),
    }
    if let Err(errors) = app::check_origins(&config) {
        bail!(app::StartError::Origins(errors));
    }
    for (name, _) in config.apps.iter().filter(|(_, a)| a.tls.as_ref().is_some_and(|t| !t.verify)) {
        eprintln!("note: app.{name}.tls: verify = false: nobody checks who the backends are");
    }
    let from = config.file.as_ref().map_or("environment and defaults".into(), |file| {
        format!("{} and environment", file.display())
    });
    writeln!(out, "configuration ok ({from})")?;
    Ok(0)
}
