//! `edge-proxy top`: how things are, second by second, in a terminal.

mod frame;
mod screen;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use http_body_util::BodyExt;

use super::live::{Answer, Live, Reach};
use crate::adapters::inbound::api::wire;
use frame::frame;
use screen::Screen;

/// Longest line that is taken in, in bytes: one holds 200 backends.
const MAX_LINE: usize = 4 << 20;

/// Watches a process.
#[derive(Args)]
#[command(after_help = "Examples:
  edge-proxy top
  edge-proxy top --api http://10.0.0.1:8081
  edge-proxy top --json | jq .connections     a line a second

Ends with q or Ctrl+C. Without a terminal it prints one picture and ends.")]
pub(super) struct Top {
    /// Print JSON, a line a second
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Top {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<u8> {
        let config = super::load(file)?;
        super::runtime()?.block_on(async {
            let live = Live::needed(&config, &self.reach).await?;
            let mut lines = Lines::of(live.stream("/api/v1/live").await?);
            if self.json {
                while let Some(line) = lines.next().await? {
                    out.write_all(&line)?;
                    out.flush()?;
                }
                bail!("the process has ended");
            }
            // Rates are of the time since the line before.
            let first = lines.next().await?.context("the process has ended")?;
            let Some(mut screen) = Screen::open()? else {
                let second = lines.next().await?.context("the process has ended")?;
                for line in frame(&serde_json::from_slice(&second)?, None) {
                    writeln!(out, "{line}")?;
                }
                return Ok(0);
            };
            screen.show(&frame(&serde_json::from_slice(&first)?, Some(screen.size())))?;
            loop {
                let line = tokio::select! {
                    line = lines.next() => line?.context("the process has ended")?,
                    () = screen.left() => return Ok(0),
                };
                let moment: wire::Live = serde_json::from_slice(&line)?;
                screen.show(&frame(&moment, Some(screen.size())))?;
            }
        })
    }
}

/// The lines of an answer, as they come.
struct Lines {
    answer: Answer,
    begun: Vec<u8>,
}

impl Lines {
    const fn of(answer: Answer) -> Self {
        Self { answer, begun: Vec::new() }
    }

    /// The next one with its end; `None` = there is none any more. Nothing is lost when the future is
    /// dropped.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                let rest = self.begun.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.begun, rest)));
            }
            let Some(part) = self.answer.response.body_mut().frame().await else { return Ok(None) };
            let Ok(part) = part else { return Ok(None) };
            if let Ok(data) = part.into_data() {
                self.begun.extend_from_slice(&data);
            }
            if self.begun.len() > MAX_LINE {
                bail!("the process says more than it should");
            }
        }
    }
}
