//! Watches the certificates' files, whether the configuration is watched or not.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{BadFiles, Certificates, Problem, Reading, Standing};
use crate::app::reload;
use crate::clock::{self, Time};
use crate::config::Config;
use crate::infrastructure::ConfigWatcher;
use crate::infrastructure::config_watcher::Changes;

/// So long a file that cannot be used is waited for without a word: a certificate and its key are
/// written one after the other.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at again meanwhile.
const RETRY: Duration = Duration::from_secs(1);
/// How often the log is told what is doubtful.
const DAY: Duration = Duration::from_secs(86_400);
/// Files that the kernel is asked to tell of; the others are read at every interval, like these.
const MAX_TOLD: usize = 1_000;
/// How often the watcher itself looks. Everything is read at every interval here.
const SELDOM: Duration = Duration::from_secs(3_600);

/// The files of the certificates in force, read again when they change and at every interval.
pub(in crate::app) struct CertificateWatch {
    config: Arc<Config>,
    standing: Arc<Standing>,
    /// What the kernel tells of them.
    told: Option<Told>,
    reading: Option<Under>,
    /// When they are to be read next.
    next: Time,
    /// What cannot be used, by file.
    bad: HashMap<PathBuf, Bad>,
    said_at: Time,
}

struct Told {
    files: Vec<PathBuf>,
    changes: Changes,
    _watcher: ConfigWatcher,
}

/// A reading under way.
struct Under {
    task: JoinHandle<Reading>,
    begun: Time,
    is_late: bool,
}

struct Bad {
    reason: String,
    since: Time,
    /// Whether the log knows that it is wrong.
    is_said: bool,
}

impl CertificateWatch {
    /// Reads what is shown at the start; `None` when no listener ends TLS.
    ///
    /// # Errors
    /// Every file that is not right.
    pub fn begin(config: &Arc<Config>) -> Result<Option<Self>, BadFiles> {
        if !config.ends_tls() {
            return Ok(None);
        }
        let reading = Reading::new(config, None);
        reading.check()?;
        let standing = Standing::new(reading.certificates);
        standing.warn_of_doubts();
        let now = clock::now();
        let mut watch = Self {
            config: Arc::clone(config),
            standing: Arc::new(standing),
            told: None,
            reading: None,
            next: now,
            bad: HashMap::new(),
            said_at: now,
        };
        watch.judge(&reading.problems, now);
        Ok(Some(watch))
    }

    /// How what is in force stands.
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing)
    }

    /// Goes by what a reload has put in force. What is being read is of before.
    pub fn follow(&mut self, config: Arc<Config>) {
        self.config = config;
        self.reading = None;
        self.next = clock::now();
    }

    /// The next reading of the files. Nothing is lost when the future is dropped.
    pub async fn read(watch: &mut Option<Self>) -> Reading {
        let Some(watch) = watch else { return std::future::pending().await };
        loop {
            if let Some(under) = &mut watch.reading {
                let Some(read) = under.end().await else { continue };
                watch.reading = None;
                let pause = if watch.is_waiting() { RETRY } else { watch.interval() };
                watch.next = clock::now() + pause;
                match read {
                    Ok(reading) => return reading,
                    Err(error) => tracing::error!("the certificates were not read: {error}"),
                }
            }
            watch.told().await;
            let pause = watch.next.since(clock::now());
            tokio::select! {
                () = Told::changed(&mut watch.told) => {}
                () = tokio::time::sleep(pause) => {}
            }
            watch.begin_reading();
        }
    }

    fn begin_reading(&mut self) {
        let (config, before) = (Arc::clone(&self.config), self.standing.in_force());
        let task = tokio::task::spawn_blocking(move || Reading::new(&config, Some(&before)));
        self.reading = Some(Under { task, begun: clock::now(), is_late: false });
    }

    fn interval(&self) -> Duration {
        self.config.settings.config_watch_interval_secs.get()
    }

    /// Takes note of what cannot be used: the log is told of it when it stays so.
    pub fn judge(&mut self, problems: &[Problem], now: Time) {
        self.bad.retain(|file, bad| {
            let is_still = problems.iter().any(|problem| problem.about == *file);
            if !is_still && bad.is_said {
                tracing::info!("{}: can be used again", file.display());
            }
            is_still
        });
        let mut judged = HashSet::new();
        for problem in problems.iter().filter(|problem| judged.insert(&problem.about)) {
            let reason = problem.error.to_string();
            let bad = self.bad.entry(problem.about.clone()).or_insert_with(|| {
                tracing::info!("{reason}; waiting for it to change");
                Bad { reason: reason.clone(), since: now, is_said: false }
            });
            let is_news = std::mem::replace(&mut bad.reason, reason) != bad.reason;
            if now.since(bad.since) >= PATIENCE && (is_news || !bad.is_said) {
                tracing::error!("{}; what is in force stays", bad.reason);
                bad.is_said = true;
                self.standing.fails();
            }
        }
    }

    /// Whether something is wrong that may be right in a moment.
    fn is_waiting(&self) -> bool {
        self.bad.values().any(|bad| !bad.is_said)
    }

    /// Says once a day what is doubtful.
    pub fn remind(&mut self) {
        let now = clock::now();
        if now.since(self.said_at) >= DAY {
            self.said_at = now;
            self.standing.warn_of_doubts();
        }
    }

    /// Has the kernel tell of the files that there are now.
    async fn told(&mut self) {
        let mut files = Certificates::files(&self.standing.in_force());
        let folder = self.config.settings.tls_cert_dir.as_ref();
        files.extend(self.bad.keys().filter(|file| Some(*file) != folder).cloned());
        files.sort();
        files.dedup();
        files.truncate(MAX_TOLD);
        if self.told.as_ref().is_some_and(|told| told.files == files) {
            return;
        }
        let watcher = ConfigWatcher::new(SELDOM);
        let changes = watcher.subscribe();
        for file in &files {
            if let Err(error) = reload::in_time(watcher.watch_file(file)).await {
                let every = self.interval();
                tracing::info!("{error}; a change is seen within {every:?}");
            }
        }
        self.told = Some(Told { files, changes, _watcher: watcher });
        // They may have changed between their reading and now.
        self.next = clock::now();
    }
}

impl Told {
    /// Until a file has changed.
    async fn changed(told: &mut Option<Self>) {
        if let Some(told) = told
            && told.changes.recv().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}

impl Under {
    /// What it comes to; `None` when it has lasted too long, which the log is told once.
    async fn end(&mut self) -> Option<Result<Reading, tokio::task::JoinError>> {
        if self.is_late {
            return Some((&mut self.task).await);
        }
        let left = reload::LONGEST_READ.saturating_sub(clock::now().since(self.begun));
        let ended = timeout(left, &mut self.task).await.ok();
        if ended.is_none() {
            self.is_late = true;
            let limit = reload::LONGEST_READ;
            tracing::error!("the certificates were not read within {limit:?}; those in force stay");
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Source, load};
    use crate::infrastructure::tls::BadFile;

    #[test]
    fn what_cannot_be_used_is_waited_for_before_the_log_is_told() {
        let env = vec![("EDGEPROXY_TLS_ENABLED".into(), "true".into())];
        let config = load(&Source { env, ..Source::default() }).unwrap();
        let mut watch = CertificateWatch::begin(&Arc::new(config)).unwrap().unwrap();
        let problem = |reason: &str| Problem {
            about: "a.crt".into(),
            error: BadFile::new(Path::new("a.key"), reason),
            is_fatal: false,
        };
        let at = |secs| Time::from_nanos(Duration::from_secs(secs).as_nanos().try_into().unwrap());
        // At which time what is wrong; whether it is waited for, and how often the log was told.
        for (secs, reasons, waits, failures) in [
            (0, &["one"][..], true, 0),
            (29, &["other"], true, 0),
            (30, &["other"], false, 1),
            (90, &["other"], false, 1),
            (95, &["one", "twice"], false, 2),
            (96, &["one", "twice"], false, 2),
            (99, &[], false, 2),
            (100, &["one"], true, 2),
            (129, &["one"], true, 2),
            (131, &["one"], false, 3),
        ] {
            let problems: Vec<Problem> = reasons.iter().map(|reason| problem(reason)).collect();
            watch.judge(&problems, at(secs));
            let said = (watch.is_waiting(), watch.standing.failures());
            assert_eq!(said, (waits, failures), "after {secs} s");
        }
    }
}
