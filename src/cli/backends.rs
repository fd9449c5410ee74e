//! `edge-proxy backends`: reads and changes a registry, whoever keeps it.

mod check;
mod columns;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod transfer;

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Subcommand;
use clap::builder::BoolishValueParser;

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
    #[command(after_help = "Example:\n  edge-proxy backends drain gru-1\n\n\
        Undone by: edge-proxy backends set gru-1 --healthy true")]
    Drain {
        /// The backend
        id: String,
    },
    /// Drain a backend and forget it
    #[command(after_help = "Example:\n  edge-proxy backends remove gru-1")]
    Remove {
        /// The backend
        id: String,
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

impl Backends {
    /// Whether this command makes a registry that is not there.
    #[must_use]
    pub const fn creates(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Import { dry_run: false, .. })
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
}

impl Outcome {
    /// The process's exit code for it.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Incomplete => 1,
            Self::NoneAnswered => 3,
        }
    }
}

/// Carries out one command: results to `out`, which store and what is skipped to standard error.
///
/// # Errors
/// When the store cannot be read or written, the command asks for something that is not there, or
/// a value is not accepted. Nothing has been written then.
pub async fn run(
    command: Backends,
    repo: &dyn BackendRepository,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    eprintln!(
        "{} (offline: a running process sees changes of it at its next look or reload)",
        repo.describe()
    );
    let registry = repo.load().await?;
    let session = Session { repo, registry };
    match command {
        Backends::List { json, app, all } => session.list(json, app.as_deref(), all, out),
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
            session.set(columns.overlay(row)?, out).await
        }
        Backends::Drain { id } => session.drain(&id, out).await,
        Backends::Remove { id } => session.remove(&id, out).await,
        Backends::Check { ids } => session.check(&ids, out).await,
        Backends::Export { file } => session.export(file, out),
        Backends::Import { file, dry_run } => {
            let rows = transfer::read(&file)?;
            session.import(rows, dry_run, out).await
        }
    }
}
