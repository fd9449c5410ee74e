//! `edge-proxy backends`: reads and changes a registry, whoever keeps it.

mod check;
mod columns;
mod live;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod transfer;

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};

use super::live::{Live, Reach};
use super::span::Span;
use crate::adapters::outbound::sqlite::Access;
use crate::config::Config;
use crate::domain::AdminState;
use crate::domain::backend::RawRow;
use crate::domain::ports::BackendRepository;

use columns::{Columns, raw};
use session::Session;

/// What can be done with the registry.
#[derive(Debug, Subcommand)]
pub enum Backends {
    /// Show the backends, and the rows that are not usable
    #[command(after_help = "Examples:\n  edge-proxy backends list --app web\n  \
        edge-proxy backends list --json | jq '.[] | select(.state != \"ready\")'")]
    List {
        /// Print a JSON array instead of a table
        #[arg(long)]
        json: bool,
        /// Only backends of this app
        #[arg(long)]
        app: Option<String>,
        /// Deleted ones too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Add a backend; creates the registry when there is none
    #[command(after_help = "Examples:\n  edge-proxy backends add gru-1 --app web --region sa \
        --country BR --addr 10.50.1.1:8080\n  edge-proxy backends add fra-1 --app web --region eu \
        --wg-ip 10.50.2.1 --port 8080 --weight 2")]
    Add {
        /// Its name, unique in the registry
        id: String,
        /// The app that it serves
        #[arg(long)]
        app: String,
        /// The region that it is in: sa, us, eu, ap or one of your own
        #[arg(long)]
        region: String,
        /// Its other columns
        #[command(flatten)]
        columns: Columns,
    },
    /// Change what is given of a backend, and nothing else
    #[command(
        after_help = "Examples:\n  edge-proxy backends set gru-1 --weight 5 --hard-limit 300\
        \n  edge-proxy backends set gru-1 --healthy true    # undoes drain"
    )]
    Set {
        /// The backend
        id: String,
        /// The app that it serves
        #[arg(long)]
        app: Option<String>,
        /// The region that it is in
        #[arg(long)]
        region: Option<String>,
        /// false = drain: no new connections, open ones go on
        #[arg(long, value_name = "BOOL", value_parser = BoolishValueParser::new())]
        healthy: Option<bool>,
        /// Its other columns
        #[command(flatten)]
        columns: Columns,
    },
    /// Give a backend no new connections; open ones go on
    #[command(after_help = "Examples:\n  edge-proxy backends drain gru-1\n  \
        edge-proxy backends drain gru-1 --wait 5m --close-after 10m\n  \
        edge-proxy backends drain gru-1 --here       on this POP only, until it ends\n\n\
        Undone by: edge-proxy backends ready gru-1\n\
        Exit code 4 when connections are still open after --wait.")]
    Drain {
        /// The backend
        id: String,
        #[command(flatten)]
        leave: Leave,
    },
    /// Give a backend no new connections, and close open ones after the drain timeout
    #[command(after_help = "Examples:\n  edge-proxy backends maint gru-1\n  \
        edge-proxy backends maint gru-1 --close-after 10m --wait 15m\n\n\
        Undone by: edge-proxy backends ready gru-1")]
    Maint {
        /// The backend
        id: String,
        #[command(flatten)]
        leave: Leave,
    },
    /// Give a backend connections again
    #[command(after_help = "Example:\n  edge-proxy backends ready gru-1")]
    Ready {
        /// The backend
        id: String,
        /// On this POP only, where --here was given
        #[arg(long)]
        here: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Drain a backend and forget it
    #[command(after_help = "Example:\n  edge-proxy backends remove gru-1")]
    Remove {
        /// The backend
        id: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Connect to each backend from here: the time it took, refused or timeout
    #[command(after_help = "Examples:\n  edge-proxy backends check\n  \
        edge-proxy backends check gru-1 fra-1\n\nExit code 3 when none answered.")]
    Check {
        /// Only these; all that are not deleted when none is named
        ids: Vec<String>,
    },
    /// Write all rows, deleted ones too, as JSON or CSV
    #[command(after_help = "Examples:\n  edge-proxy backends export backends.csv\n  \
        edge-proxy backends export > backends.json")]
    Export {
        /// A file that ends in .json or .csv; JSON on standard output when not given
        file: Option<PathBuf>,
    },
    /// Read rows from JSON or CSV, new or in place of those with the same ids; all or none
    #[command(after_help = "Examples:\n  edge-proxy backends import backends.csv --dry-run\n  \
        edge-proxy backends export | ssh pop2 edge-proxy backends import -\n\n\
        CSV starts with a line of column names; columns that are left out get their defaults.")]
    Import {
        /// The file; - for standard input
        file: PathBuf,
        /// Check everything, write nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// How a backend is left.
#[derive(Args, Debug)]
pub struct Leave {
    /// Wait until nothing is open at it on this POP, so long at most: 90s, 5m, 1h
    #[arg(long, value_name = "SPAN")]
    wait: Option<Span>,
    /// Close what is still open on this POP after so long
    #[arg(long, value_name = "SPAN")]
    close_after: Option<Span>,
    /// On this POP only, until it ends
    #[arg(long)]
    here: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Backends {
    /// Which process can carry this command out; `None` when the store alone does.
    const fn reach(&self) -> Option<&Reach> {
        match self {
            Self::List { reach, .. }
            | Self::Drain { leave: Leave { reach, .. }, .. }
            | Self::Maint { leave: Leave { reach, .. }, .. }
            | Self::Ready { reach, .. }
            | Self::Remove { reach, .. } => Some(reach),
            Self::Add { .. }
            | Self::Set { .. }
            | Self::Check { .. }
            | Self::Export { .. }
            | Self::Import { .. } => None,
        }
    }

    /// Whether it asks for what only a running process can do.
    fn needs_process(&self) -> bool {
        match self {
            Self::Drain { leave, .. } | Self::Maint { leave, .. } => {
                leave.here || leave.wait.is_some() || leave.close_after.is_some()
            }
            Self::Ready { here, .. } => *here,
            _ => false,
        }
    }

    /// Whether this command makes a registry that is not there.
    const fn creates(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Import { dry_run: false, .. })
    }

    /// Whether it writes to the store.
    const fn changes(&self) -> bool {
        self.creates() || matches!(self, Self::Set { .. })
    }
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// The export was written, but rows that do not parse are not in it.
    Incomplete,
    /// No backend answered the check.
    NoneAnswered,
    /// Connections are still open after the time that was given.
    StillOpen,
}

impl Outcome {
    /// The process's exit code for it.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Incomplete => 1,
            Self::NoneAnswered => 3,
            Self::StillOpen => 4,
        }
    }
}

/// Carries out one command: by a running process if there is one and it can, else with the store.
///
/// # Errors
/// As [`run`], and when a process is named that does not answer.
pub(super) async fn carry_out(
    command: Backends,
    config: &Config,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let none = Reach::default();
    let reach = command.reach().unwrap_or(&none);
    let found = if command.needs_process() {
        Ok(Live::needed(config, reach).await?)
    } else {
        Live::find(config, reach).await?
    };
    let access = if command.creates() { Access::Create } else { Access::Existing };
    match found {
        Ok(process) if command.reach().is_some() => live::run(command, &process, out).await,
        Ok(process) => {
            let repo = crate::app::open_once(config, access).await?;
            eprintln!("{}", repo.describe());
            let changes = command.changes();
            let outcome = run(command, &*repo, out).await?;
            if changes {
                live::refresh(&process).await;
            }
            Ok(outcome)
        }
        Err(_) => {
            let repo = crate::app::open_once(config, access).await?;
            eprintln!("{}, offline: load and probes unknown", repo.describe());
            run(command, &*repo, out).await
        }
    }
}

/// Carries out one command with a store.
///
/// # Errors
/// When the store cannot be read or written, the command asks for something that is not there, or
/// a value is not accepted. Nothing has been written then.
pub async fn run(
    command: Backends,
    repo: &dyn BackendRepository,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let registry = repo.load().await?;
    let session = Session { repo, registry };
    match command {
        Backends::List { json, app, all, .. } => session.list(json, app.as_deref(), all, out),
        Backends::Add { id, app, region, columns } => {
            let row =
                RawRow { id: Some(id), app: Some(app), region: Some(region), ..RawRow::default() };
            session.add(columns.overlay(row)?, out).await
        }
        Backends::Set { id, app, region, healthy, columns } => {
            let nothing = app.is_none() && region.is_none() && healthy.is_none();
            ensure!(!(nothing && columns.is_empty()), "nothing to change; see `--help`");
            let mut row = raw(session.find(&id)?);
            row.app = app.or(row.app);
            row.region = region.or(row.region);
            row.healthy = healthy.map(columns::flag).or(row.healthy);
            session.set(columns.overlay(row)?, healthy == Some(true), out).await
        }
        Backends::Drain { id, .. } => session.ask(&id, AdminState::Drain, out).await,
        Backends::Maint { id, .. } => session.ask(&id, AdminState::Maint, out).await,
        Backends::Ready { id, .. } => session.ask(&id, AdminState::Ready, out).await,
        Backends::Remove { id, .. } => session.remove(&id, out).await,
        Backends::Check { ids } => session.check(&ids, out).await,
        Backends::Export { file } => session.export(file, out),
        Backends::Import { file, dry_run } => {
            let rows = transfer::read(&file)?;
            session.import(rows, dry_run, out).await
        }
    }
}
