//! How connections to the backends of each app are secured.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::config::{BackendTls, Config, TlsName};
use crate::domain::App;
use crate::infrastructure::tls::{OriginSpec, Originator};

/// By app; those that are not here speak plainly.
pub(super) type Origins = BTreeMap<App, Arc<Originator>>;

/// Reads the files that the configuration names. What has not changed is the one of `before`, with the
/// sessions that go on. Blocks while it reads.
///
/// # Errors
/// Each app's file that is not what it should be.
pub(super) fn read(config: &Config, before: &Origins) -> Result<Origins, Vec<String>> {
    let mut origins = Origins::new();
    let mut errors = Vec::new();
    for (app, rules) in &config.apps {
        let Some(tls) = &rules.tls else { continue };
        match Originator::read(&spec(tls), before.contains_key(app)) {
            Err(error) => errors.push(format!("app.{app}.tls: {error}")),
            Ok(fresh) => {
                let same = before.get(app).filter(|before| before.is_like(&fresh));
                origins.insert(app.clone(), same.cloned().unwrap_or_else(|| Arc::new(fresh)));
            }
        }
    }
    if errors.is_empty() { Ok(origins) } else { Err(errors) }
}

/// Reads the files as a start would.
///
/// # Errors
/// Each app's file that is not what it should be.
pub fn check(config: &Config) -> Result<(), Vec<String>> {
    read(config, &Origins::new()).map(drop)
}

/// Reads the files again, from time to time.
#[derive(Default)]
pub(super) struct Rereading {
    under_way: Option<JoinHandle<Result<Origins, Vec<String>>>>,
    complaint: Vec<String>,
}

impl Rereading {
    /// Begins, unless there is nothing to read or the last reading has not come to its end.
    pub fn begin(&mut self, config: Arc<Config>, before: Origins) {
        if !before.is_empty() && self.under_way.is_none() {
            self.under_way = Some(tokio::task::spawn_blocking(move || read(&config, &before)));
        }
    }

    /// Forgets what is being read: something else is in force.
    pub fn forget(&mut self) {
        self.under_way = None;
    }

    /// What the reading under way finds. Nothing is lost when the future is dropped.
    pub async fn end(&mut self) -> Option<Origins> {
        let Some(reading) = &mut self.under_way else { return std::future::pending().await };
        let read = reading.await;
        self.under_way = None;
        let errors = match read {
            Ok(Ok(origins)) => {
                self.complaint.clear();
                return Some(origins);
            }
            Ok(Err(errors)) => errors,
            Err(error) => vec![error.to_string()],
        };
        for error in errors.iter().filter(|error| !self.complaint.contains(error)) {
            tracing::error!("{error}; what is in force stays");
        }
        self.complaint = errors;
        None
    }
}

/// Warns of those that are encrypted to nobody knows whom.
pub(super) fn warn_of_unverified(config: &Config) {
    for (app, rules) in &config.apps {
        if rules.tls.as_ref().is_some_and(|tls| !tls.verify) {
            tracing::warn!(
                "app.{app}.tls: verify = false: whoever is between here and the backends can read \
                 and change what is carried"
            );
        }
    }
}

fn spec(tls: &BackendTls) -> OriginSpec {
    let BackendTls { verify, ca, name, identity } = tls.clone();
    let name = name.as_ref().map(TlsName::get).cloned();
    OriginSpec { verify, ca, name, identity }
}
