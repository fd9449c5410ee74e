//! `edge-proxy check`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;

use super::live::{Live, Offline, Reach};
use crate::adapters::inbound::api::wire::{Part, Setting, Settings};
use crate::app;
use crate::config::{Config, MASK, Source, parts_of};

/// Says whether the configuration is right, and what it would change in a process that runs; stricter
/// than `run`, which only warns of unknown names.
pub(super) fn run(file: Option<PathBuf>, reach: &Reach, out: &mut dyn Write) -> anyhow::Result<u8> {
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
    let running = super::runtime()?.block_on(async {
        match Live::find(&config, reach).await? {
            Ok(live) => live.get("/api/v1/config").await.map(Some),
            Err(Offline(reason)) => {
                eprintln!("offline: {reason}; compared with no process");
                Ok::<Option<Settings>, anyhow::Error>(None)
            }
        }
    })?;
    if let Some(running) = running {
        let hidden =
            running.settings.iter().filter(|row| row.origin != "env" && row.value.contains(MASK));
        for row in hidden {
            eprintln!("note: {} is a secret, and is not compared", row.toml);
        }
        let changes = difference(&running, &config);
        match changes.len() {
            0 => writeln!(out, "no difference from the running process")?,
            _ => writeln!(out, "difference from the running process:")?,
        }
        for change in changes {
            writeln!(out, "  {change}")?;
        }
    }
    Ok(0)
}

/// What a reload, or a restart, would change. The process keeps its own environment, whatever that of
/// this command is.
fn difference(running: &Settings, config: &Config) -> Vec<String> {
    let kept = running.settings.iter().filter(|row| row.origin == "env" && row.value != "-");
    // A secret is compared as it is shown; no two of them are the same.
    let value = |row: &Setting| match row.value.as_str() {
        MASK => format!("{MASK} {}", row.name),
        shown => shown.into(),
    };
    let env = kept.map(|row| (row.name.clone(), value(row))).collect();
    let planned = crate::config::load(&Source { env, file: config.file.clone() });
    let planned = planned.as_ref().unwrap_or(config);
    let mut changes = Vec::new();
    for row in &planned.effective {
        let (name, new) = (row.setting.toml, &row.value);
        let Some(old) = running.settings.iter().find(|old| old.toml == name) else { continue };
        let restart = if row.setting.reloadable { "" } else { " (needs a restart)" };
        if old.value != *new {
            changes.push(format!("{name}: {} -> {new}{restart}", old.value));
        } else if let Some(said) = row.in_file.as_ref().filter(|said| *said != new) {
            let variable = row.setting.env;
            changes.push(format!("{name}: stays {new}: {variable} overrides {said} in the file"));
        }
    }
    let new: Vec<Part> =
        parts_of(planned).into_iter().map(|(name, value)| Part { name, value }).collect();
    let value = |parts: &[Part], name: &str| {
        parts
            .iter()
            .find(|part| part.name == name)
            .map_or("-".to_owned(), |part| part.value.clone())
    };
    let mut names: Vec<&str> =
        running.parts.iter().chain(&new).map(|part| part.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (old, new) = (value(&running.parts, name), value(&new, name));
        let restart =
            if matches!(name, "listener" | "backend") { " (needs a restart)" } else { "" };
        if old != new {
            changes.push(format!("{name}: {old} -> {new}{restart}"));
        }
    }
    changes
}
