//! `edge-proxy why`: why a client was carried farther than to its nearest backends, afterwards.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::align::{align, or_dash};
use super::live::{Live, Reach, query};
use super::span::{Span, moment};
use crate::adapters::inbound::api::wire::{Choice, Choices};
use crate::domain::cidr::Cidr;

/// Asks for the last choices outside the best tier.
#[derive(Args)]
#[command(after_help = "Examples:
  edge-proxy why 203.0.113.7 --since 6h
  edge-proxy why 203.0.113.0/24 --json
  edge-proxy why                          whoever it was

A running process remembers the last 4,096 clients that were not carried to the tier nearest to them;
`edge-proxy route IP` says where one would go now.")]
pub(super) struct Why {
    /// The client's address, or a range (CIDR); everybody when not given
    client: Option<Cidr>,
    /// Only of so long ago: 90s, 5m, 6h, 2d
    #[arg(long, value_name = "SPAN")]
    since: Option<Span>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Why {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<u8> {
        let config = super::load(file)?;
        let path = query(
            "/api/v1/choices",
            &[
                ("client", self.client.map(|cidr| cidr.to_string())),
                ("since_secs", self.since.map(|span| span.0.as_secs().to_string())),
                ("limit", Some(self.limit.to_string())),
            ],
        );
        let choices: Choices = super::runtime()?
            .block_on(async { Live::needed(&config, &self.reach).await?.get(&path).await })?;
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&choices.choices)?)?;
        } else if choices.choices.is_empty() {
            let whom = self.client.map_or("anybody".into(), |client| client.to_string());
            writeln!(
                out,
                "nothing is remembered of {whom} that went elsewhere than to its nearest tier"
            )?;
        } else {
            let headings =
                ["LAST", "TIMES", "CLIENT", "COUNTRY", "APP", "WENT TO", "TIER", "WHY NOT NEARER"];
            let mut lines = vec![headings.map(String::from).to_vec()];
            lines.extend(choices.choices.iter().map(line));
            align(&lines, out)?;
        }
        Ok(0)
    }
}

fn line(choice: &Choice) -> Vec<String> {
    let more = if choice.more > 0 { format!("; and {} more", choice.more) } else { String::new() };
    vec![
        moment(choice.at),
        choice.count.to_string(),
        choice.client.to_string(),
        or_dash(choice.country.as_deref()),
        choice.app.clone(),
        choice.backend.clone(),
        format!("{} (best {})", choice.tier, choice.best_tier),
        format!("{}{more}", choice.reasons.join("; ")),
    ]
}
