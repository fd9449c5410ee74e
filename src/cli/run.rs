//! `edge-proxy run`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::EnvFilter;

use crate::app::{Edge, Process};
use crate::config::{Config, LogFilter, LogFormat, Source};
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::shutdown_signal;

/// How long the end of the process waits for files that are being read or written.
const LAST_FILES: Duration = Duration::from_secs(1);

/// Serves until a signal.
pub(super) fn run(flag: Option<PathBuf>) -> anyhow::Result<u8> {
    let runtime = super::runtime()?;
    // Before anything else: from here on a signal that asks for a reload ends nobody.
    let hangup = {
        let _inside = runtime.enter();
        signal(SignalKind::hangup()).context("SIGHUP cannot be listened for")?
    };
    let source = Source::from_process(flag.clone());
    let config = crate::config::load(&source)?;
    let log = Log::start(&config)?;
    let done = serve(&runtime, hangup, config, &log, move || {
        let again = Source::from_process(flag.clone());
        // A default file that is gone is one that cannot be read, not none.
        Source { file: again.file.or_else(|| source.file.clone()), ..again }
    });
    log.sink.flush();
    // A file system that hangs does not keep the process from ending.
    runtime.shutdown_timeout(LAST_FILES);
    done
}

fn serve(
    runtime: &Runtime,
    hangup: Signal,
    config: Config,
    log: &Log,
    source: impl Fn() -> Source + Send + Sync + 'static,
) -> anyhow::Result<u8> {
    let access_log = LogSink::start("access-log", std::io::stdout())?;
    runtime.block_on(async {
        // From here on: a signal that comes while the proxy starts is a drain too.
        let mut until = std::pin::pin!(shutdown_signal());
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
