//! `edge-proxy run`.

use std::path::PathBuf;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::app::Edge;
use crate::config::{Config, ConfigError, ConfigErrors, LogFormat};
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::shutdown_signal;

/// Serves until a signal.
pub(super) fn run(file: Option<PathBuf>) -> anyhow::Result<u8> {
    let config = super::load(file)?;
    let log = start_log(&config)?;
    let done = serve(config);
    log.flush();
    done
}

fn serve(config: Config) -> anyhow::Result<u8> {
    let access_log = if tracing::enabled!(target: "access", tracing::Level::INFO) {
        LogSink::start("access-log", std::io::stdout())?
    } else {
        LogSink::off()
    };
    super::runtime()?.block_on(async {
        // From here on: a signal that comes while the proxy starts is a drain too.
        let signal = shutdown_signal();
        let edge = Edge::start(config, access_log).await?;
        edge.run(signal).await;
        Ok(0)
    })
}

/// Sends what `tracing` says to standard error, without ever waiting for it.
pub(super) fn start_log(config: &Config) -> anyhow::Result<LogSink> {
    let filter = EnvFilter::try_new(&config.settings.log).map_err(|error| {
        ConfigErrors(vec![ConfigError {
            place: None,
            subject: Some(format!("RUST_LOG = {:?}", config.settings.log)),
            problem: format!(
                "{error}; must be error, warn, info, debug, trace or a filter such as info,access=off"
            ),
        }])
    })?;
    let sink = LogSink::start("log", std::io::stderr()).context("no thread for the log")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(sink.clone());
    match config.settings.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(sink)
}
