//! `edge-proxy route`.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;

use super::align::{align, or_dash};
use super::live::{Live, Reach, query};
use crate::adapters::outbound::sqlite::Access;
use crate::app;
use crate::application::explain::{Explanation, explain};
use crate::application::locate::Geo;
use crate::application::upstreams::{AppTable, Tables};
use crate::clock;
use crate::config::Config;
use crate::domain::App;
use crate::domain::ports::Registry;

/// Asks where a client would go.
#[derive(Args)]
#[command(after_help = "Examples:
  edge-proxy route 203.0.113.7
  edge-proxy route 2001:db8::1 --app web --json
  edge-proxy route 203.0.113.7 --without gru-1 --without eu    what if these were gone

A process that runs here is asked; without one the registry and the configuration are looked at.
LOAD is what is open, against the soft and the hard limit. Exit code 3 when no backend is eligible.")]
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
    #[command(flatten)]
    reach: Reach,
}

impl Route {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<u8> {
        let config = super::load(file)?;
        let explanation = super::runtime()?.block_on(async {
            match Live::find(&config, &self.reach).await? {
                Ok(live) if live.status.registry.backends == 0 => Ok(None),
                Ok(live) => live.get(&self.path()).await.map(Some),
                Err(_) => self.offline(&config).await,
            }
        })?;
        let Some(explanation) = explanation else {
            eprintln!("the registry is empty; `edge-proxy backends add` adds a backend");
            return Ok(super::NO_BACKEND);
        };
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&explanation)?)?;
        } else {
            print(&explanation, out)?;
        }
        Ok(if explanation.has_choice() { 0 } else { super::NO_BACKEND })
    }

    /// What a running process is asked.
    fn path(&self) -> String {
        let mut given = vec![
            ("client", Some(self.ip.to_string())),
            ("app", self.app.as_ref().map(ToString::to_string)),
        ];
        given.extend(self.without.iter().map(|gone| ("without", Some(gone.clone()))));
        query("/api/v1/route", &given)
    }

    /// What the registry and the configuration say; `None` when there is no backend.
    async fn offline(&self, config: &Config) -> anyhow::Result<Option<Explanation>> {
        let repo = app::open_once(config, Access::ReadOnly).await?;
        let registry = repo.load().await?;
        eprintln!("{}, offline: load, probes and affinity unknown", repo.describe());
        for row in &registry.skipped {
            eprintln!("skipped {row}");
        }
        self.check_without(&registry)?;
        let tables = app::offline_tables(config, &registry);
        let Some(table) = self.table(config, &tables)? else { return Ok(None) };
        let overrides = config.geo_overrides.iter().copied().collect();
        let database = app::country_database(config).map_err(app::StartError::from)?;
        let location = Geo { overrides, database }.locate(self.ip);
        Ok(Some(explain(&table, (self.ip, location), None, &self.without, clock::now())))
    }

    /// Refuses to leave out what is not there.
    fn check_without(&self, registry: &Registry) -> anyhow::Result<()> {
        let is_known = |gone: &str| {
            registry.backends.iter().any(|backend| {
                backend.id.as_str() == gone || backend.region.as_str().eq_ignore_ascii_case(gone)
            })
        };
        match self.without.iter().find(|gone| !is_known(gone)) {
            Some(gone) => {
                bail!("--without {gone}: neither a backend nor a region of this registry")
            }
            None => Ok(()),
        }
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

fn print(explanation: &Explanation, out: &mut dyn Write) -> std::io::Result<()> {
    let unknown = || "unknown".to_owned();
    let at_pop = explanation.country.is_none() && explanation.region.is_some();
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
    let headings = ["BACKEND", "REGION", "COUNTRY", "TIER", "LOAD", "WEIGHT", "CHANCE", "WHY"];
    let mut lines = vec![headings.map(String::from).to_vec()];
    lines.extend(explanation.backends.iter().map(|b| {
        let limit = |limit: u32| if limit == 0 { "-".into() } else { limit.to_string() };
        vec![
            b.id.clone(),
            b.region.clone(),
            or_dash(b.country.as_deref()),
            b.tier.map_or_else(|| "-".into(), |tier| tier.to_string()),
            format!("{}/{}/{}", b.active, limit(b.soft_limit), limit(b.hard_limit)),
            b.weight.to_string(),
            chance(b.share),
            b.reason.clone(),
        ]
    }));
    align(&lines, out)
}
