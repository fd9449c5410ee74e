//! Which app each listener serves.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::application::upstreams::{AppTable, Tables};
use crate::config::Config;
use crate::domain::App;

/// A listener without an app, and several to choose from.
#[derive(Debug)]
pub struct AppError {
    addrs: Vec<SocketAddr>,
    apps: Vec<App>,
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| items.join(", ");
        write!(
            f,
            "the registry holds several apps ({}), and nothing says which of them {} serves: \
             set EDGEPROXY_APP to one of them, or `app` in a [[listener]]",
            list(self.apps.iter().map(ToString::to_string).collect()),
            list(self.addrs.iter().map(ToString::to_string).collect()),
        )
    }
}

impl std::error::Error for AppError {}

/// The configured listeners, by number.
pub(super) struct Listening {
    groups: Vec<(Vec<SocketAddr>, Option<App>)>,
    /// What a listener without an app serves: the registry's only app, or the one that was its only
    /// app when the listener began.
    only: Option<App>,
    ignored: Vec<App>,
}

impl Listening {
    pub fn new(config: &Config) -> Self {
        let settings = &config.settings;
        let main = (settings.listen_addr.get().to_vec(), settings.app.clone());
        let others = config.listeners.iter().map(|listener| {
            (listener.addr.clone(), listener.app.clone().or_else(|| settings.app.clone()))
        });
        let groups = std::iter::once(main).chain(others).collect();
        Self { groups, only: None, ignored: Vec::new() }
    }

    /// Every address, with the number of its listener.
    pub fn addrs(&self) -> impl Iterator<Item = (u16, SocketAddr)> {
        let numbered = (0..).zip(&self.groups);
        numbered.flat_map(|(number, (addrs, _))| addrs.iter().map(move |addr| (number, *addr)))
    }

    /// The app of each listener by the first reading of the registry.
    pub fn at_start(&mut self, tables: &Tables) -> Result<Vec<Option<Arc<AppTable>>>, AppError> {
        let apps = live_apps(tables);
        let undecided: Vec<SocketAddr> = self
            .groups
            .iter()
            .filter(|(_, app)| app.is_none())
            .flat_map(|(addrs, _)| addrs.clone())
            .collect();
        if apps.len() > 1 && !undecided.is_empty() {
            return Err(AppError { addrs: undecided, apps });
        }
        Ok(self.resolve(tables))
    }

    /// The app of each listener by a later reading, which may warn but not fail.
    pub fn resolve(&mut self, tables: &Tables) -> Vec<Option<Arc<AppTable>>> {
        let apps = live_apps(tables);
        if self.only.is_none() {
            self.only = match apps.as_slice() {
                [only] => Some(only.clone()),
                _ => None,
            };
        }
        self.warn_of_ignored(apps);
        let only = self.only.as_ref();
        self.groups
            .iter()
            .map(|(_, app)| app.as_ref().or(only).and_then(|app| tables.get(app)).cloned())
            .collect()
    }

    fn warn_of_ignored(&mut self, apps: Vec<App>) {
        let served = |app: &App| {
            self.only.as_ref() == Some(app)
                || self.groups.iter().any(|(_, own)| own.as_ref() == Some(app))
        };
        let undecided = self.groups.iter().any(|(_, app)| app.is_none());
        let ignored: Vec<App> = if undecided {
            apps.into_iter().filter(|app| !served(app)).collect()
        } else {
            Vec::new()
        };
        if !ignored.is_empty() && ignored != self.ignored {
            let names: Vec<&str> = ignored.iter().map(App::as_str).collect();
            tracing::warn!(
                serving = self.only.as_ref().map_or("none", App::as_str),
                ignored = ignored.len(),
                "apps that no listener serves: {} (set EDGEPROXY_APP, or [[listener]] app)",
                names.join(", ")
            );
        }
        self.ignored = ignored;
    }
}

/// Apps with a row that is not deleted.
fn live_apps(tables: &Tables) -> Vec<App> {
    let live = |table: &AppTable| table.rows.iter().any(|row| !row.backend.deleted);
    tables.iter().filter(|(_, table)| live(table)).map(|(app, _)| app.clone()).collect()
}
