//! The command line: every command, and the exit code of every failure.

mod align;
mod backends;
mod capacity;
mod check;
mod config;
mod demo;
mod live;
mod route;
mod run;
mod span;
mod top;
mod why;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::app::StartError;
use crate::config::{Config, ConfigErrors, Source};
use crate::domain::ports::RepositoryError;

/// Exit codes besides 0; clap's own is 2.
const RUNTIME: u8 = 1;
const NO_BACKEND: u8 = 3;
const REGISTRY: u8 = 69;
const CONFIGURATION: u8 = 78;

const EXAMPLES: &str = "\
Examples:
  edge-proxy demo                                  three regions on this machine, to play with
  edge-proxy backends add gru-1 --app web --region sa --country BR --addr 10.50.1.1:8080
  EDGEPROXY_REGION=sa edge-proxy                   serve on 0.0.0.0:8080 from routing.db
  edge-proxy top                                   how things are, second by second
  edge-proxy route 203.0.113.7                     where would this client go, and why
  edge-proxy why 203.0.113.7 --since 6h            why did it not go to a nearer one
  edge-proxy backends drain gru-1 --wait 5m        no new connections, until nothing is open
  edge-proxy check /etc/edgeproxy/config.toml      is this configuration right

Commands speak to the process that runs with the same EDGEPROXY_STATE_DIR or EDGEPROXY_DB_PATH, or
to another with --api URL; the first line says `live, pid N` or `offline`.

Exit codes: 0 ok, 1 runtime, 2 usage, 3 no eligible backend, 4 wait timed out, 69 registry
unavailable, 78 configuration.";

#[derive(Parser)]
#[command(name = "edge-proxy", version, about, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file; else `EDGEPROXY_CONFIG`, else /etc/edgeproxy/config.toml if it exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or Ctrl+C (what no command does, too)
    Run,
    /// Serve sample backends in three regions, on loopback, to see how clients are carried
    Demo,
    /// Check the configuration, and say what it would change in a process that runs; unknown names are
    /// errors here
    #[command(after_help = "Example:\n  edge-proxy check /etc/edgeproxy/config.toml")]
    Check {
        /// The file, in place of --config
        file: Option<PathBuf>,
        #[command(flatten)]
        reach: live::Reach,
    },
    /// Show the effective settings and where each came from
    #[command(
        after_help = "Examples:\n  edge-proxy config\n  edge-proxy config --template > config.toml"
    )]
    Config {
        /// Print a commented configuration file instead
        #[arg(long, conflicts_with = "json")]
        template: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: live::Reach,
    },
    /// Read and change the registry, and steer a process
    Backends {
        #[command(subcommand)]
        command: backends::Backends,
    },
    /// Say where a client would go, and why not elsewhere
    Route(route::Route),
    /// Say why clients were carried farther than to their nearest backends, afterwards
    Why(why::Why),
    /// Show a running process in a terminal: load, rates, errors, backends
    Top(top::Top),
    /// Say which single backend or region the others could not do without
    Capacity(capacity::Capacity),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let done = match command.unwrap_or(Command::Run) {
        Command::Run => {
            drop(out);
            run::run(config)
        }
        Command::Demo => {
            drop(out);
            demo::run()
        }
        Command::Check { file, reach } => check::run(file.or(config), &reach, &mut out),
        Command::Config { template, json, reach } => {
            config::run(config, template, json, &reach, &mut out)
        }
        Command::Backends { command } => run_backends(config, command, &mut out),
        Command::Route(route) => route.run(config, &mut out),
        Command::Why(why) => why.run(config, &mut out),
        Command::Top(top) => {
            drop(out);
            top.run(config, &mut std::io::stdout())
        }
        Command::Capacity(capacity) => capacity.run(config, &mut out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "edge-proxy", &mut out);
            Ok(0)
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge-proxy: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// `edge-proxy ... | head` is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigErrors>() {
        CONFIGURATION
    } else if error.is::<RepositoryError>() {
        REGISTRY
    } else {
        match error.downcast_ref::<StartError>() {
            Some(
                StartError::ApiTls(_)
                | StartError::App(_)
                | StartError::Geo(_)
                | StartError::Origins(_)
                | StartError::Tls(_),
            ) => CONFIGURATION,
            Some(StartError::Registry(_)) => REGISTRY,
            Some(StartError::Bind(_) | StartError::System(_)) | None => RUNTIME,
        }
    }
}

fn load(file: Option<PathBuf>) -> anyhow::Result<Config> {
    Ok(crate::config::load(&Source::from_process(file))?)
}

/// The control plane's runtime: one thread, apart from the workers.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn run_backends(
    file: Option<PathBuf>,
    command: backends::Backends,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let config = load(file)?;
    let outcome = runtime()?.block_on(backends::carry_out(command, &config, out))?;
    Ok(outcome.exit_code())
}
