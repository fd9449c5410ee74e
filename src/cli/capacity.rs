//! `edge-proxy capacity`: which single loss the others could not take over.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::align::align;
use super::live::{Live, Reach, query};
use crate::adapters::inbound::api::wire::{Capacity as Told, Loss};
use crate::domain::App;

/// Asks what would happen if a backend or a region were gone.
#[derive(Args)]
#[command(after_help = "Examples:
  edge-proxy capacity
  edge-proxy capacity --app web --json | jq '.[] | select(.verdict == \"too_much\")'

too_much: the others' hard limits do not hold what is open there now; over_soft: their soft limits do
not. `edge-proxy route IP --without ID` says where one client would go then.")]
pub(super) struct Capacity {
    /// Only of this app
    #[arg(long)]
    app: Option<App>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Capacity {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<u8> {
        let config = super::load(file)?;
        let path = query("/api/v1/capacity", &[("app", self.app.map(|app| app.to_string()))]);
        let told: Told = super::runtime()?
            .block_on(async { Live::needed(&config, &self.reach).await?.get(&path).await })?;
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&told.losses)?)?;
            return Ok(0);
        }
        let headings = ["VERDICT", "APP", "WITHOUT", "OPEN THERE", "ROOM BELOW SOFT", "BELOW HARD"];
        let mut lines = vec![headings.map(String::from).to_vec()];
        lines.extend(told.losses.iter().map(line));
        align(&lines, out)?;
        let bad = told.losses.iter().filter(|loss| loss.verdict == "too_much").count();
        let all = told.losses.len();
        writeln!(
            out,
            "\n{}",
            match bad {
                0 => format!("each of {all} single losses fits"),
                _ => format!("{bad} of {all} single losses do not fit"),
            }
        )?;
        Ok(0)
    }
}

fn line(loss: &Loss) -> Vec<String> {
    let room = |room: Option<u64>| room.map_or("any".into(), |room| room.to_string());
    vec![
        loss.verdict.clone(),
        loss.app.clone(),
        format!("{} {}", loss.kind, loss.name),
        loss.active.to_string(),
        room(loss.room_below_soft),
        room(loss.room_below_hard),
    ]
}
