//! `edge-proxy route`.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;

use crate::adapters::outbound::sqlite::Access;
use crate::app;
use crate::application::explain::{Explanation, explain};
use crate::application::locate::Geo;
use crate::application::upstreams::{AppTable, Tables};
use crate::clock;
use crate::config::Config;
use crate::domain::App;
use crate::domain::ports::{Registry, RepositoryError};

/// Asks where a client would go.
#[derive(Args)]
#[command(after_help = "Examples:
  edge-proxy route 203.0.113.7
  edge-proxy route 2001:db8::1 --app web --json
  edge-proxy route 203.0.113.7 --without gru-1 --without eu    what if these were gone

Exit code 3 when no backend is eligible.")]
pub(super) struct Route {
    /// The client's address
    ip: IpAddr,
    /// The app; needed when the registry holds several and `EDGEPROXY_APP` is not set
    #[arg(long)]
    app: Option<App>,
    /// As if this backend, or this whole region, were gone
    #[arg(long, value_name = "ID|REGION")]
    without: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Route {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<u8> {
        let config = super::load(file)?;
        let (store, mut registry) = super::runtime()?.block_on(async {
            let repo = app::open_once(&config, Access::ReadOnly).await?;
            Ok::<_, RepositoryError>((repo.describe(), repo.load().await?))
        })?;
        eprintln!("{store}, offline: load, probes and affinity unknown");
        for row in &registry.skipped {
            eprintln!("skipped {row}");
        }
        self.leave_out(&mut registry)?;

        let tables = app::offline_tables(&config, &registry);
        let Some(table) = self.table(&config, &tables)? else {
            eprintln!("the registry is empty; `edge-proxy backends add` adds a backend");
            return Ok(super::NO_BACKEND);
        };
        let overrides = config.geo_overrides.iter().copied().collect();
        let database = app::country_database(&config).map_err(app::StartError::from)?;
        let location = Geo { overrides, database }.locate(self.ip);
        let explanation = explain(&table, self.ip, location, clock::now());
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&explanation)?)?;
        } else {
            print(&explanation, location.at_pop, out)?;
        }
        Ok(if explanation.has_choice() { 0 } else { super::NO_BACKEND })
    }

    fn leave_out(&self, registry: &mut Registry) -> anyhow::Result<()> {
        for gone in &self.without {
            let before = registry.backends.len();
            registry.backends.retain(|backend| {
                backend.id.as_str() != gone && !backend.region.as_str().eq_ignore_ascii_case(gone)
            });
            if registry.backends.len() == before {
                bail!("--without {gone}: neither a backend nor a region of this registry");
            }
        }
        Ok(())
    }

    /// The app's table; `None` when the registry holds nothing.
    fn table(&self, config: &Config, tables: &Tables) -> anyhow::Result<Option<Arc<AppTable>>> {
        let wanted = self.app.as_ref().or(config.settings.app.as_ref());
        let names: Vec<&str> = tables.keys().map(App::as_str).collect();
        let names = names.join(", ");
        let table = match wanted {
            Some(app) => tables.get(app),
            None if tables.len() > 1 => {
                bail!("the registry holds several apps; --app must be one of: {names}")
            }
            None => tables.values().next(),
        };
        match (table, wanted) {
            (None, Some(app)) if !tables.is_empty() => {
                bail!("no app {app} in this registry; it holds: {names}")
            }
            (table, _) => Ok(table.cloned()),
        }
    }
}

/// A share in percent, with as many digits as it takes not to read 0.
fn chance(share: f64) -> String {
    match share {
        0.0 => "-".into(),
        share if share < 1.0 => format!("{share:.2} %"),
        share => format!("{share:.0} %"),
    }
}

fn print(explanation: &Explanation, at_pop: bool, out: &mut dyn Write) -> std::io::Result<()> {
    let unknown = || "unknown".to_owned();
    let place = if at_pop { " (a private address counts as at this POP)" } else { "" };
    writeln!(
        out,
        "{}: country {}, region {}{place}; app {}, spill {}\n",
        explanation.client,
        explanation.country.clone().unwrap_or_else(unknown),
        explanation.region.clone().unwrap_or_else(unknown),
        explanation.app,
        explanation.spill,
    )?;
    let dash = || "-".to_owned();
    let header =
        ["BACKEND", "REGION", "COUNTRY", "TIER", "WEIGHT", "CHANCE", "WHY"].map(str::to_owned);
    let rows = explanation.backends.iter().map(|b| {
        [
            b.id.clone(),
            b.region.clone(),
            b.country.clone().unwrap_or_else(dash),
            b.tier.map_or_else(dash, |tier| tier.to_string()),
            b.weight.to_string(),
            chance(b.share),
            b.reason.clone(),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(header).chain(rows).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
