//! Which app each listener serves.

use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::StartError;
use super::certificates::{Certificates, Standing};
use crate::adapters::inbound::listener::{self, Listener};
use crate::application::proxy::ListenerRules;
use crate::application::upstreams::{AppTable, Tables};
use crate::config::{Config, ListenerTls, Mode, Protocols, Settings};
use crate::domain::App;
use crate::infrastructure::tls::Terminator;

/// Listeners that cannot be as they are configured.
#[derive(Debug)]
pub enum AppError {
    /// Without an app, and several to choose from.
    Undecided {
        /// Where they listen.
        addrs: Vec<SocketAddr>,
        /// What the registry holds.
        apps: Vec<App>,
    },
    /// One address given twice.
    Twice(SocketAddr),
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (addrs, apps) = match self {
            Self::Undecided { addrs, apps } => (addrs, apps),
            Self::Twice(addr) => return write!(f, "the listening address {addr} is given twice"),
        };
        let list = |items: Vec<String>| items.join(", ");
        write!(
            f,
            "the registry holds several apps ({}), and nothing says which of them {} serves: \
             set EDGEPROXY_APP to one of them, or `app` in a [[listener]]",
            list(apps.iter().map(ToString::to_string).collect()),
            list(addrs.iter().map(ToString::to_string).collect()),
        )
    }
}

impl std::error::Error for AppError {}

/// All listening sockets.
pub(super) struct Bound {
    /// By worker.
    pub listeners: Vec<Vec<Listener>>,
    pub addrs: Vec<SocketAddr>,
    pub metrics: Vec<OwnedFd>,
    pub metrics_addrs: Vec<SocketAddr>,
    pub api: Vec<OwnedFd>,
    pub api_addrs: Vec<SocketAddr>,
}

/// One listener as it is configured.
struct Group {
    addrs: Vec<SocketAddr>,
    app: Option<App>,
    expects_header: bool,
    tls: ListenerTls,
    http: bool,
    /// Whether what requests ask for says which app they are for.
    by_host: bool,
    /// The protocols that it offers; `None` = as the settings say.
    alpn: Option<Protocols>,
}

impl Group {
    fn passes_through(&self) -> bool {
        self.tls == ListenerTls::Passthrough
    }

    /// Whether nothing says what it serves.
    fn is_undecided(&self) -> bool {
        self.app.is_none() && !self.passes_through() && !self.by_host
    }
}

/// The configured listeners, by number.
pub(super) struct Listening {
    groups: Vec<Group>,
    /// What a listener without an app serves: the registry's only app, or the one that was its only
    /// app when the listener began.
    only: Option<App>,
    ignored: Vec<App>,
    /// What each one shows its clients, if it ends TLS.
    shown: Vec<Option<Arc<Terminator>>>,
}

impl Listening {
    pub fn new(config: &Config, certificates: Option<&Standing>) -> Self {
        let settings = &config.settings;
        let has_hosts = config.apps.values().any(|rules| !rules.hosts.is_empty());
        let main = |addrs: &[SocketAddr], tls| Group {
            addrs: addrs.to_vec(),
            app: settings.app.clone(),
            expects_header: settings.proxy_protocol,
            tls,
            http: settings.mode == Mode::Http,
            by_host: settings.mode == Mode::Http && has_hosts,
            alpn: None,
        };
        let mut groups = Vec::new();
        if !settings.listen_addr.get().is_empty() {
            groups.push(main(settings.listen_addr.get(), ListenerTls::Off));
        }
        if settings.tls_enabled {
            groups.push(main(settings.tls_listen_addr.get(), ListenerTls::Terminate));
        }
        let others = config.listeners.iter().map(|listener| {
            let usual = settings.app.as_ref().filter(|_| listener.tls != ListenerTls::Passthrough);
            let http = listener.mode.unwrap_or(settings.mode) == Mode::Http
                && listener.tls != ListenerTls::Passthrough;
            Group {
                addrs: listener.addr.clone(),
                app: listener.app.as_ref().or(usual).cloned(),
                expects_header: listener.proxy_protocol,
                tls: listener.tls,
                http,
                by_host: http && has_hosts,
                alpn: listener.alpn.clone(),
            }
        });
        groups.extend(others);
        let mut listening = Self { groups, only: None, ignored: Vec::new(), shown: Vec::new() };
        if let Some(certificates) = certificates {
            listening.show(&certificates.in_force(), settings);
        }
        listening
    }

    /// Says what those that end TLS show their clients from now on.
    pub fn show(&mut self, certificates: &Certificates, settings: &Settings) {
        let usual = ["h2", "http/1.1"].map(str::to_owned);
        let shown = |group: &Group| {
            let given = group.alpn.as_ref().unwrap_or(&settings.tls_alpn).get();
            let protocols = if group.http && given.is_empty() { &usual[..] } else { given };
            let ends = group.tls == ListenerTls::Terminate;
            ends.then(|| certificates.terminator(protocols, settings.tls_strict_sni))
        };
        self.shown = self.groups.iter().map(shown).collect();
    }

    /// What each shows its clients, by number.
    pub fn shown(&self) -> &[Option<Arc<Terminator>>] {
        &self.shown
    }

    /// Every address, with the number of its listener.
    fn addrs(&self) -> impl Iterator<Item = (u16, SocketAddr)> {
        let numbered = (0..).zip(&self.groups);
        numbered.flat_map(|(number, group)| group.addrs.iter().map(move |addr| (number, *addr)))
    }

    /// Binds everything: each worker gets a socket of its own for each address.
    pub fn bind(&self, settings: &Settings, workers: usize) -> Result<Bound, StartError> {
        self.check_addrs()?;
        let mut bound = Bound {
            listeners: (0..workers).map(|_| Vec::new()).collect(),
            addrs: Vec::new(),
            metrics: Vec::new(),
            metrics_addrs: Vec::new(),
            api: Vec::new(),
            api_addrs: Vec::new(),
        };
        for (number, addr) in self.addrs() {
            let sockets = listener::bind(addr, self.has_v4_wildcard(addr.port()), workers)?;
            bound.addrs.extend(sockets.first().and_then(listener::local_addr));
            for (worker, socket) in bound.listeners.iter_mut().zip(sockets) {
                worker.push(Listener::new(socket, number));
            }
        }
        let metrics = settings.metrics_enabled.then_some(settings.metrics_listen_addr.get());
        for addr in metrics.unwrap_or_default() {
            bound.metrics.append(&mut listener::bind(*addr, false, 1)?);
        }
        let api = settings.api_enabled.then_some(settings.api_listen_addr.get());
        for addr in api.unwrap_or_default() {
            bound.api.append(&mut listener::bind(*addr, false, 1)?);
        }
        bound.api_addrs = bound.api.iter().filter_map(listener::local_addr).collect();
        bound.metrics_addrs = bound.metrics.iter().filter_map(listener::local_addr).collect();
        Ok(bound)
    }

    /// Whether every address is given once; port 0 is another one each time.
    fn check_addrs(&self) -> Result<(), AppError> {
        let mut seen = HashSet::new();
        match self.addrs().find(|(_, addr)| addr.port() != 0 && !seen.insert(*addr)) {
            Some((_, addr)) => Err(AppError::Twice(addr)),
            None => Ok(()),
        }
    }

    /// Whether all of IPv4 is listened on at this port by itself.
    fn has_v4_wildcard(&self, port: u16) -> bool {
        let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        port != 0 && self.addrs().any(|(_, addr)| addr == wildcard)
    }

    /// The app of each listener by the first reading of the registry.
    pub fn at_start(&mut self, tables: &Tables) -> Result<Vec<ListenerRules>, AppError> {
        let apps = live_apps(tables);
        let undecided: Vec<SocketAddr> = self
            .groups
            .iter()
            .filter(|group| group.is_undecided())
            .flat_map(|group| group.addrs.clone())
            .collect();
        if apps.len() > 1 && !undecided.is_empty() {
            return Err(AppError::Undecided { addrs: undecided, apps });
        }
        Ok(self.resolve(tables))
    }

    /// The app of each listener by a later reading, which may warn but not fail.
    pub fn resolve(&mut self, tables: &Tables) -> Vec<ListenerRules> {
        let apps = live_apps(tables);
        // The app that it had, while that has rows; else the one that is left.
        if let [only] = apps.as_slice()
            && self.only.as_ref().is_none_or(|had| !apps.contains(had))
        {
            self.only = Some(only.clone());
        }
        self.warn_of_ignored(apps);
        let only = self.only.as_ref();
        self.groups
            .iter()
            .enumerate()
            .map(|(number, group)| {
                let app = group.app.as_ref().or(only.filter(|_| !group.passes_through()));
                ListenerRules {
                    table: app.and_then(|app| tables.get(app)).cloned(),
                    expects_header: group.expects_header,
                    passthrough: group.passes_through(),
                    http: group.http,
                    tls: self.shown.get(number).cloned().flatten(),
                }
            })
            .collect()
    }

    fn warn_of_ignored(&mut self, apps: Vec<App>) {
        let served = |app: &App| {
            self.only.as_ref() == Some(app)
                || self.groups.iter().any(|group| group.app.as_ref() == Some(app))
        };
        let undecided = self.groups.iter().any(Group::is_undecided);
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
