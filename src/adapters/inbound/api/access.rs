//! Who asks, and what they may.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, FORWARDED, HOST};
use axum::http::request::Parts;
use subtle::ConstantTimeEq;

use super::Site;
use super::failure::Failure;
use crate::infrastructure::{RateLimitConfig, RateLimiter};

/// Requests a second of one client, and at once; a whole site may be behind one address.
const USUAL: RateLimitConfig =
    RateLimitConfig { max_requests: 5_000, window: Duration::from_secs(1), burst_size: 20_000 };
/// Requests a second of one client that may not what it asks for, and at once.
const STRANGERS: RateLimitConfig =
    RateLimitConfig { max_requests: 10, window: Duration::from_secs(1), burst_size: 100 };
/// Clients whose requests are counted apart.
const CLIENTS: usize = 1 << 16;

/// The tokens in force.
#[derive(Clone, Default)]
pub struct Tokens {
    /// May do everything; `None` = nobody may over TCP.
    pub admin: Option<Arc<str>>,
    /// May register, heartbeat and deregister.
    pub register: Option<Arc<str>>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A client over TCP, and the name in its certificate, if it has shown one that was verified.
    Tcp(SocketAddr, Option<Arc<str>>),
    /// A process of this machine, by its user.
    Socket(u32),
}

/// Who asks, for the audit log.
#[derive(Clone, Debug)]
pub struct Who {
    role: &'static str,
    peer: Peer,
}

impl Who {
    /// Whether it may only register, heartbeat and deregister.
    #[must_use]
    pub fn may_only_register(&self) -> bool {
        self.role == REGISTER
    }
}

/// As whom somebody asks, once that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Said(Arc<OnceLock<&'static str>>);

impl Said {
    fn is(&self, role: &'static str) {
        // A request is judged once.
        let _ = self.0.set(role);
    }

    /// Who a peer is that has asked.
    pub fn who(&self, peer: Peer) -> Who {
        Who { role: self.0.get().copied().unwrap_or(NOBODY), peer }
    }
}

const ADMIN: &str = "admin";
const REGISTER: &str = "register";
const SOCKET: &str = "socket";
const NOBODY: &str = "nobody";

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peer {
            Peer::Socket(user) => write!(f, "{}:uid={user}", self.role),
            Peer::Tcp(addr, None) => write!(f, "{}@{addr}", self.role),
            Peer::Tcp(addr, Some(name)) => {
                write!(f, "{}@{addr}/{}", self.role, name.escape_debug())
            }
        }
    }
}

/// How often clients may ask.
pub(super) struct Limits {
    usual: RateLimiter,
    strangers: RateLimiter,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            usual: RateLimiter::with_capacity(USUAL, CLIENTS),
            strangers: RateLimiter::with_capacity(STRANGERS, CLIENTS),
        }
    }
}

impl Limits {
    /// Counts a request of somebody who may make it.
    fn admit(&self, peer: &Peer) -> Result<(), Failure> {
        match peer {
            Peer::Tcp(addr, _) if !self.usual.check(addr.ip()) => {
                Err(too_many(&self.usual, addr.ip()))
            }
            Peer::Tcp(..) | Peer::Socket(_) => Ok(()),
        }
    }

    /// Counts a request of somebody who may not make it: `failure`, or that there were too many.
    fn refuse(&self, peer: &Peer, failure: Failure) -> Failure {
        match peer {
            Peer::Tcp(addr, _) if !self.strangers.check(addr.ip()) => {
                too_many(&self.strangers, addr.ip())
            }
            Peer::Tcp(..) | Peer::Socket(_) => failure,
        }
    }
}

fn too_many(limiter: &RateLimiter, ip: IpAddr) -> Failure {
    let wait = limiter.retry_after_at(ip, crate::clock::now());
    Failure::TooMany(wait.as_secs() + 1)
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// To see.
    Read,
    /// To register, heartbeat or deregister.
    Register,
    /// To change anything.
    Write,
}

/// Somebody who may see.
pub(super) struct Reader;
/// Somebody who may register, heartbeat and deregister.
pub(super) struct Registrar(pub Who);
/// Somebody who may change anything.
pub(super) struct Admin(pub Who);

impl FromRequestParts<Arc<Site>> for Reader {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Failure> {
        allow(parts, site, Need::Read).map(|_| Self)
    }
}

impl FromRequestParts<Arc<Site>> for Registrar {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Failure> {
        allow(parts, site, Need::Register).map(Self)
    }
}

impl FromRequestParts<Arc<Site>> for Admin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Failure> {
        allow(parts, site, Need::Write).map(Self)
    }
}

fn allow(parts: &Parts, site: &Site, need: Need) -> Result<Who, Failure> {
    let peer = parts.extensions.get::<Peer>().cloned().ok_or(Failure::Internal)?;
    let said = parts.extensions.get::<Said>().cloned().unwrap_or_default();
    match role(&parts.headers, &peer, &(site.tokens)(), need) {
        Ok(role) => {
            said.is(role);
            site.limits.admit(&peer)?;
            Ok(Who { role, peer })
        }
        Err(failure) => {
            if matches!(failure, Failure::Forbidden(_)) {
                said.is(REGISTER);
            }
            Err(site.limits.refuse(&peer, failure))
        }
    }
}

/// As whom somebody asks who may what is asked for.
fn role(
    headers: &HeaderMap,
    peer: &Peer,
    tokens: &Tokens,
    need: Need,
) -> Result<&'static str, Failure> {
    let Peer::Tcp(addr, _) = peer else { return Ok(SOCKET) };
    if let Some(given) = headers.get(AUTHORIZATION) {
        let token = bearer(given.as_bytes())
            .ok_or_else(|| Failure::Unauthorized("must be Authorization: Bearer TOKEN".into()))?;
        let is = |known: &Option<Arc<str>>| {
            known.as_ref().is_some_and(|known| bool::from(known.as_bytes().ct_eq(token)))
        };
        // Both are compared, whichever it is.
        return match (is(&tokens.admin), is(&tokens.register), need) {
            (true, _, _) => Ok(ADMIN),
            (false, true, Need::Register) => Ok(REGISTER),
            (false, true, Need::Read | Need::Write) => Err(Failure::Forbidden(
                "this token may only register, heartbeat and deregister".into(),
            )),
            (false, false, _) => Err(Failure::Unauthorized("no such token".into())),
        };
    }
    match need {
        Need::Read if is_local(headers, addr.ip()) => Ok(NOBODY),
        Need::Read => Err(Failure::Unauthorized(
            "needs a token (Authorization: Bearer TOKEN); without one only programs of this machine \
             may read, which ask by an address or `localhost`"
                .into(),
        )),
        Need::Register | Need::Write => {
            Err(Failure::Unauthorized("needs a token (Authorization: Bearer TOKEN)".into()))
        }
    }
}

/// The token in `Bearer TOKEN` (RFC 6750, 2.1).
fn bearer(given: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = given.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether a request comes from a program of this machine, and for nobody else: not through a proxy
/// that runs here, and not by a page whose name was made to lead here (DNS rebinding).
fn is_local(headers: &HeaderMap, ip: IpAddr) -> bool {
    let is_forwarded = headers.contains_key(FORWARDED)
        || headers.contains_key("x-forwarded-for")
        || headers.contains_key("x-real-ip")
        || headers.contains_key("via");
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_ip = host.parse::<SocketAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_own = is_ip || name.eq_ignore_ascii_case("localhost");
    ip.to_canonical().is_loopback() && !is_forwarded && is_own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(ip: &str, headers: &[(&'static str, &str)], need: Need) -> Result<&'static str, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let peer = Peer::Tcp(format!("{ip}:1").parse().unwrap(), None);
        let tokens = Tokens { admin: Some("root".into()), register: Some("apps".into()) };
        role(&map, &peer, &tokens, need).map_err(|failure| failure.status().as_u16())
    }

    #[test]
    fn each_token_may_what_it_is_for() {
        let with = |token: &str, need| {
            let header = format!("Bearer {token}");
            asked("192.0.2.1", &[("authorization", &header)], need)
        };
        for need in [Need::Read, Need::Register, Need::Write] {
            assert_eq!(with("root", need), Ok("admin"));
            for wrong in ["", "roo", "root2", "Root", "apps2"] {
                assert_eq!(with(wrong, need), Err(401), "{wrong}");
            }
            assert_eq!(asked("192.0.2.1", &[("authorization", "Basic root")], need), Err(401));
        }
        assert_eq!(with("apps", Need::Register), Ok("register"));
        assert_eq!(with("apps", Need::Read), Err(403));
        assert_eq!(with("apps", Need::Write), Err(403));
        assert_eq!(
            asked("127.0.0.1", &[("authorization", "bearer root")], Need::Write),
            Ok("admin")
        );
    }

    #[test]
    fn without_a_token_only_programs_of_this_machine_see_anything() {
        let here = ("host", "127.0.0.1:8081");
        assert_eq!(asked("127.0.0.1", &[here], Need::Read), Ok("nobody"));
        assert_eq!(asked("[::1]", &[("host", "localhost")], Need::Read), Ok("nobody"));
        assert_eq!(asked("[::1]", &[("host", "[::1]:8081")], Need::Read), Ok("nobody"));
        assert_eq!(asked("192.0.2.1", &[here], Need::Read), Err(401));
        assert_eq!(asked("127.0.0.1", &[("host", "evil.test:8081")], Need::Read), Err(401));
        assert_eq!(asked("127.0.0.1", &[], Need::Read), Err(401));
        let behind = [here, ("x-forwarded-for", "203.0.113.1")];
        assert_eq!(asked("127.0.0.1", &behind, Need::Read), Err(401));
        for need in [Need::Register, Need::Write] {
            assert_eq!(asked("127.0.0.1", &[here], need), Err(401));
        }
    }
}
