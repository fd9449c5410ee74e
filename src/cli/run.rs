//! `edge-proxy run`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::EnvFilter;

use crate::app::{Edge, Process};
use crate::config::{Config, LogFilter, LogFormat, Source};
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::shutdown_signal;

/// Serves until a signal.
pub(super) fn run(flag: Option<PathBuf>) -> anyhow::Result<u8> {
    let source = Source::from_process(flag.clone());
    let config = crate::config::load(&source)?;
    let log = Log::start(&config)?;
    let done = serve(config, &log, move || {
        let again = Source::from_process(flag.clone());
        // A default file that is gone is one that cannot be read, not none.
        Source { file: again.file.or_else(|| source.file.clone()), ..again }
    });
    log.sink.flush();
    done
}

fn serve(
    config: Config,
    log: &Log,
    source: impl Fn() -> Source + Send + Sync + 'static,
) -> anyhow::Result<u8> {
    let access_log = LogSink::start("access-log", std::io::stdout())?;
    super::runtime()?.block_on(async {
        // From here on: a signal that comes while the proxy starts is a drain too, and one that asks
        // for a reload ends nobody.
        let mut until = std::pin::pin!(shutdown_signal());
        let hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be listened for")?;
        let process = Process {
            source: Arc::new(source),
            set_log: log.setter(&access_log),
            access_log,
            hangup: Some(hangup),
        };
        let edge = tokio::select! {
            edge = Edge::start(config, process) => edge?,
            () = &mut until => return Ok(0),
        };
        edge.run(until).await;
        Ok(0)
    })
}

/// The log on standard error, which nobody ever waits for.
pub(super) struct Log {
    pub sink: LogSink,
    set: Arc<dyn Fn(EnvFilter) + Send + Sync>,
}

impl Log {
    /// Sends what `tracing` says there.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let sink = LogSink::start("log", std::io::stderr()).context("no thread for the log")?;
        let filter = config.settings.log.filter();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(sink.clone());
        let set: Arc<dyn Fn(EnvFilter) + Send + Sync> = match config.settings.log_format {
            LogFormat::Text => {
                let log = log.with_ansi(false).with_filter_reloading();
                let handle = log.reload_handle();
                log.init();
                Arc::new(move |filter| drop(handle.reload(filter)))
            }
            LogFormat::Json => {
                let log = log.json().flatten_event(true).with_filter_reloading();
                let handle = log.reload_handle();
                log.init();
                Arc::new(move |filter| drop(handle.reload(filter)))
            }
        };
        Ok(Self { sink, set })
    }

    /// Changes what is logged, of connections too.
    pub fn setter(&self, access_log: &LogSink) -> Arc<dyn Fn(&LogFilter) + Send + Sync> {
        let (set, access_log) = (Arc::clone(&self.set), access_log.clone());
        let keeps = || tracing::enabled!(target: "access", tracing::Level::INFO);
        access_log.set_on(keeps());
        Arc::new(move |filter| {
            set(filter.filter());
            access_log.set_on(keeps());
        })
    }
}
