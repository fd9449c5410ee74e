//! Connections to backends that are secured: the edge is a client of TLS.

mod failing;
mod headers;
pub mod peers;
mod probed;
mod relayed;
mod reloaded;
mod resumed;
mod trust;
mod warm;

use std::net::SocketAddr;

use peers::Pki;

use crate::support::{Edge, Refusing, Row, Site};

/// What the configuration says of app `web`, whose backends this authority vouches for.
fn trusting(pki: &Pki) -> String {
    format!("[app.web.tls]\nca = \"{}\"\n", pki.root())
}

/// An edge before one backend that this authority vouches for.
fn before(pki: &Pki, backend: SocketAddr) -> Edge {
    let site = Site::new().with_metrics().without_affinity().env("EDGEPROXY_SLOW_START_SECS", "0");
    site.toml(&trusting(pki)).backend(Row::new("a", backend)).start()
}

/// A listener with TLS of its own beside the plain one, for a client who trusts `pki`.
struct Front {
    edge: Edge,
    addr: SocketAddr,
    _port: Refusing,
}

/// `tables` come before it in the configuration, `more` is what else is said of the listener.
fn front(pki: &Pki, site: Site, tables: &str, more: &str) -> Front {
    let port = Refusing::new();
    let addr = port.addr();
    let own = pki.issue(&["localhost"]);
    let site = site
        .env("EDGEPROXY_TLS_CERT", &pki.file("front.pem", &own.chain))
        .env("EDGEPROXY_TLS_KEY", &pki.file("front.key", &own.key));
    let listener = format!("[[listener]]\naddr = \"{addr}\"\ntls = true\n{more}");
    let edge = site.toml(&format!("{tables}\n{listener}")).start();
    Front { edge, addr, _port: port }
}
