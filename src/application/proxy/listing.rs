//! A worker's open connections, as an operator sees them, and their end when one asks for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::serving::Phase;
use super::{Connection, Proxy, Stage, TICKS_PER_SEC, ticks};
use crate::application::account::Reason;
use crate::application::upstreams::Upstream;
use crate::domain::cidr::Cidr;
use crate::domain::time::Time;
use crate::domain::{App, BackendId, Country};
use crate::infrastructure::reactor::Token;
use crate::infrastructure::slab::{Age, Key};

/// Places looked at before others have their turn.
const TURN: usize = 2_048;

/// Which connections are meant: those of whom all that is given is true.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The one with this number.
    pub number: Option<u64>,
    /// Those of such clients.
    pub client: Option<Cidr>,
    /// Those that a backend has.
    pub backend: Option<BackendId>,
    /// Those that ask for an app.
    pub app: Option<App>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Listed {
    /// By which it is known in its worker, and never another.
    pub number: u64,
    /// The client.
    pub client: SocketAddr,
    /// Its country, if it is known.
    pub country: Option<Country>,
    /// What it asks for, once that is known.
    pub app: Option<App>,
    /// The backend that has it, if one has.
    pub backend: Option<BackendId>,
    /// How far it has come.
    pub state: &'static str,
    /// How long it has been open, and how long nothing has happened.
    pub age: Duration,
    /// How long nothing has happened.
    pub idle: Duration,
    /// Bytes to and from the backend, where they are counted for all of the connection.
    pub moved: Option<(u64, u64)>,
    /// The server's name of TLS that was asked for.
    pub server_name: Option<Box<str>>,
}

impl Proxy {
    /// Looks over some of the connections, from the place `from` on; where to go on, if there are more.
    pub fn list(
        &self,
        wanted: &Wanted,
        from: usize,
        now: Time,
        mut found: impl FnMut(Listed),
    ) -> Option<usize> {
        let (some, next) = self.connections.some(from, TURN);
        for (key, age, connection) in some {
            if wanted.is(key, connection) {
                found(listed(key, age, connection, now));
            }
        }
        next
    }

    /// Ends those of some of the connections that are meant: how many, and where to go on, if there are
    /// more.
    pub fn kill(&mut self, wanted: &Wanted, from: usize, now: Time) -> (usize, Option<usize>) {
        let (some, next) = self.connections.some(from, TURN);
        let meant = some.filter(|(key, _, connection)| wanted.is(*key, connection));
        let meant: Vec<Key> = meant.map(|(key, ..)| key).collect();
        for key in &meant {
            if let Some(connection) = self.connections.take(*key) {
                self.end(*key, connection, Reason::Killed, now);
            }
        }
        (meant.len(), next)
    }
}

impl Wanted {
    fn is(&self, key: Key, connection: &Connection) -> bool {
        let ip = connection.client.ip();
        self.number.is_none_or(|number| number == key.token(0).0)
            && self.client.is_none_or(|cidr| cidr.contains(ip))
            && self
                .backend
                .as_ref()
                .is_none_or(|id| connection.backend().is_some_and(|upstream| upstream.id == *id))
            && self.app.as_ref().is_none_or(|app| connection.app() == Some(app))
    }

    /// The one with a number.
    #[must_use]
    pub fn one(number: u64) -> Self {
        Self { number: Some(Key::of(Token(number)).0.token(0).0), ..Self::default() }
    }
}

impl Connection {
    fn backend(&self) -> Option<&Arc<Upstream>> {
        match &self.stage {
            Stage::Dialing { dial, .. } => dial.last(),
            Stage::Relaying(relaying) => Some(relaying.slot.upstream()),
            Stage::Serving(serving) => match &serving.phase {
                Phase::Calls(call) => call.upstream(),
                Phase::Streams(streams) => streams.upstream(),
                Phase::Awaits | Phase::Lingers => None,
            },
            Stage::Between => None,
        }
    }

    fn app(&self) -> Option<&App> {
        match &self.stage {
            Stage::Dialing { dial, .. } => Some(dial.app()),
            Stage::Relaying(_) | Stage::Serving(_) => self.backend().map(|upstream| &upstream.app),
            Stage::Between => None,
        }
    }
}

fn listed(key: Key, age: Age, connection: &Connection, now: Time) -> Listed {
    let idle = ticks(now).wrapping_sub(age.touched) / TICKS_PER_SEC;
    let (state, moved) = match &connection.stage {
        Stage::Dialing { .. } => ("dialing", Some((0, 0))),
        Stage::Relaying(relaying) => {
            ("relaying", Some((relaying.relay.sent(), relaying.relay.received())))
        }
        Stage::Serving(_) | Stage::Between => ("serving", None),
    };
    Listed {
        number: key.token(0).0,
        client: connection.client,
        country: connection.location.country,
        app: connection.app().cloned(),
        backend: connection.backend().map(|upstream| upstream.id.clone()),
        state,
        age: now.since(connection.accepted),
        idle: Duration::from_secs(idle.into()),
        moved,
        server_name: connection.name.clone(),
    }
}
