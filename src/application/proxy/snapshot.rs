//! What all workers go by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::application::admission;
use crate::application::connect;
use crate::application::locate::Geo;
use crate::application::upstreams::{AppTable, Keeper, Tables, WarmRules};
use crate::domain::App;
use crate::domain::cidr::CidrMap;
use crate::domain::host::HostMap;
use crate::infrastructure::tls::Terminator;

/// What all workers read. Swapped whole by the control plane.
#[derive(Clone)]
pub struct Snapshot {
    /// What each listener does, by its number.
    pub listeners: Vec<ListenerRules>,
    /// All apps.
    pub tables: Tables,
    /// The apps that names of servers lead to.
    pub names: Arc<HostMap<App>>,
    /// The apps that hosts of requests lead to.
    pub hosts: Arc<HostMap<App>>,
    /// The apps that have hosts.
    pub with_hosts: Arc<BTreeSet<App>>,
    /// Peers whose PROXY protocol headers are believed.
    pub trusted: Arc<CidrMap<()>>,
    /// Who may come in.
    pub admission: Arc<admission::Rules>,
    /// Where clients are.
    pub geo: Arc<Geo>,
    /// How long requests may take, in http mode.
    pub http: HttpRules,
    /// How backends are dialled.
    pub dial: connect::Rules,
    /// How many warm connections are kept; `None` = none.
    pub warm: Option<WarmRules>,
    /// How long bytes may stay unacknowledged on a long-lived connection; zero = the system's limit.
    pub user_timeout: Duration,
}

/// How long requests may take, and whose word is taken for whom they come from.
#[derive(Clone, Debug)]
pub struct HttpRules {
    /// How long requests may take.
    pub times: HttpTimes,
    /// Peers whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted: Arc<CidrMap<()>>,
}

/// How long requests may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpTimes {
    /// Longest wait for a whole head, from its first byte or from the connection's beginning.
    pub header_timeout: Duration,
    /// Longest pause in a body, either way.
    pub body_timeout: Duration,
    /// Longest for all of a request and its answer; zero = no limit.
    pub request_timeout: Duration,
    /// Longest wait for the next request.
    pub keep_alive_timeout: Duration,
    /// Longest wait for the head of the answer of a backend that has all of a request.
    pub response_timeout: Duration,
}

/// There is no app that has a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnknownHost;

/// What a listener does with who comes.
#[derive(Clone, Debug, Default)]
pub struct ListenerRules {
    /// The app that it serves; `None` = there is none.
    pub table: Option<Arc<AppTable>>,
    /// Whether each connection begins with a PROXY protocol header.
    pub expects_header: bool,
    /// Whether the server's name of TLS says which app is asked for; `table` is for other names.
    pub passthrough: bool,
    /// Whether clients make requests, rather than speak anything at all.
    pub http: bool,
    /// Ends TLS, where that is done here.
    pub tls: Option<Arc<Terminator>>,
}

impl Snapshot {
    /// A worker as a keeper of warm connections, if there are to be any.
    pub(super) fn keeper(&self, worker: usize) -> Option<Keeper<'_>> {
        self.warm.as_ref().map(|rules| Keeper { worker, rules })
    }

    /// The table of the app that a server's name leads to; else of the app for other names.
    pub(super) fn table_of(&self, name: Option<&str>, listener: u16) -> Option<&Arc<AppTable>> {
        match name.and_then(|name| self.names.get(name)) {
            // One without a backend is still not another.
            Some(app) => self.tables.get(app),
            None => self.listener(listener)?.table.as_ref(),
        }
    }

    /// The table of the app that a host leads to; an error when it leads nowhere. Where the listener's app
    /// has no hosts of its own, it has all others'.
    pub(super) fn app_of(
        &self,
        host: Option<&str>,
        listener: u16,
    ) -> Result<Option<&Arc<AppTable>>, UnknownHost> {
        if let Some(app) = host.and_then(|host| self.hosts.get(host)) {
            return Ok(self.tables.get(app));
        }
        let table = self.listener(listener).and_then(|rules| rules.table.as_ref());
        let has_hosts = match table {
            Some(table) => self.with_hosts.contains(&table.name),
            None => !self.with_hosts.is_empty(),
        };
        if has_hosts { Err(UnknownHost) } else { Ok(table) }
    }

    pub(super) fn listener(&self, listener: u16) -> Option<&ListenerRules> {
        self.listeners.get(usize::from(listener))
    }
}
