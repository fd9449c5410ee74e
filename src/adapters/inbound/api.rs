//! The control API and the dashboard: over TCP by tokens, and on a unix socket by its permissions.

mod access;
mod extract;
mod failure;
mod live;
pub mod openapi;
mod pages;
mod read;
mod schema;
pub mod wire;
mod write;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post, put};
use hyper::body::Incoming;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use access::Said;
pub use access::{Peer, Tokens, Who};
pub use failure::Failure;

use super::served::{self, Patience};
use crate::application::explain::Explanation;
use crate::application::proxy::Wanted;
use crate::domain::App;
use crate::domain::cidr::Cidr;
use crate::domain::ports::Pending;
use crate::infrastructure::tls::name_of;
use wire::{
    Backend, Choice, Connections, Denied, Deny, Drain, Killed, Limits, Live, Loss, Refreshed,
    Register, Registered, Reloaded, Renewed, SetBreaker, SetState, Settings, Status,
};

/// What the API tells of and changes. What fails says why, and has changed nothing unless it says so.
pub trait Steering: Send + Sync {
    /// Why this process is not ready for connections, or for those of an app; `None` = it is.
    ///
    /// # Errors
    /// When there is no such app.
    fn not_ready(&self, app: Option<&App>) -> Done<Option<&'static str>>;
    /// How this process stands.
    fn status(&self) -> Status;
    /// How things are, from now on.
    fn watch(self: Arc<Self>) -> Box<dyn Watching>;
    /// Every backend, deleted ones too.
    fn backends(&self) -> Vec<Backend>;
    /// One of them, unless it is deleted and nothing is open at it.
    fn backend(&self, id: &str) -> Option<Backend>;
    /// Where a client would go, as if some backends or regions were gone.
    ///
    /// # Errors
    /// When it is not said which app is meant, or there is no such app, backend or region.
    fn route(&self, client: IpAddr, app: Option<&App>, without: &[String]) -> Done<Explanation>;
    /// The last choices outside the best tier, the latest first.
    fn choices(&self, client: Option<Cidr>, since_secs: Option<u64>, most: usize) -> Vec<Choice>;
    /// What would happen if single backends or regions were gone.
    ///
    /// # Errors
    /// When there is no such app.
    fn losses(&self, app: Option<&App>) -> Done<Vec<Loss>>;
    /// Open connections, the oldest first.
    fn connections(&self, wanted: Wanted, most: usize) -> Pending<'_, Connections>;
    /// The rate limit, and who was refused.
    fn limits(&self) -> Limits;
    /// The deny list.
    fn denied(&self) -> Vec<Denied>;
    /// The effective configuration.
    fn settings(&self) -> Settings;

    /// Registers a backend.
    fn register<'a>(&'a self, who: &'a Who, asked: Register) -> Pending<'a, Done<Registered>>;
    /// Renews a lease.
    fn heartbeat<'a>(&'a self, id: &'a str, generation: Option<i64>) -> Pending<'a, Done<Renewed>>;
    /// Drains a backend and forgets it.
    fn remove<'a>(&'a self, who: &'a Who, id: &'a str) -> Pending<'a, Done<Drain>>;
    /// Says whether a backend takes connections.
    fn set_state<'a>(
        &'a self,
        who: &'a Who,
        id: &'a str,
        asked: SetState,
    ) -> Pending<'a, Done<Drain>>;
    /// Holds a breaker.
    ///
    /// # Errors
    /// When there is no such backend or no breaker.
    fn set_breaker(&self, who: &Who, id: &str, asked: SetBreaker) -> Done<Backend>;
    /// Closes one connection.
    fn kill<'a>(&'a self, who: &'a Who, id: &'a str) -> Pending<'a, Done<Killed>>;
    /// Closes those that are meant.
    fn kill_all<'a>(&'a self, who: &'a Who, wanted: Wanted) -> Pending<'a, Killed>;
    /// Denies clients.
    fn deny<'a>(&'a self, who: &'a Who, asked: Deny) -> Pending<'a, Done<Denied>>;
    /// Denies them no more.
    fn undeny<'a>(&'a self, who: &'a Who, cidr: Cidr) -> Pending<'a, Done<()>>;
    /// Has what the registry says now put in force.
    fn refresh<'a>(&'a self, who: &'a Who) -> Pending<'a, Done<Refreshed>>;
    /// Reads the configuration anew, and everything else that can change.
    fn reload<'a>(&'a self, who: &'a Who) -> Pending<'a, Done<Reloaded>>;
}

/// What came of what was asked.
pub type Done<T> = Result<T, Failure>;

/// How things are, told again and again: rates are of the time since the last look.
pub trait Watching: Send {
    /// How they are now.
    fn look(&mut self) -> Live;
}

/// What is served.
struct Site {
    steering: Arc<dyn Steering>,
    tokens: Box<dyn Fn() -> Tokens + Send + Sync>,
    limits: access::Limits,
}

/// The API and its pages.
#[derive(Clone)]
pub struct Api(Router);

impl Api {
    /// What steers is asked, and the tokens in force are told by `tokens`.
    #[must_use]
    pub fn new(
        steering: Arc<dyn Steering>,
        tokens: impl Fn() -> Tokens + Send + Sync + 'static,
    ) -> Self {
        let limits = access::Limits::default();
        let site = Arc::new(Site { steering, tokens: Box::new(tokens), limits });
        let router = Router::new()
            .route("/", get(pages::dashboard))
            .route("/docs", get(pages::docs))
            .route("/assets/app.js", get(pages::app_js))
            .route("/assets/app.css", get(pages::app_css))
            .route("/assets/docs.js", get(pages::docs_js))
            .route("/openapi.json", get(openapi::serve))
            .route("/health", get(read::health))
            .route("/readyz", get(read::readyz))
            .route("/api/v1/status", get(read::status))
            .route("/api/v1/live", get(read::live))
            .route("/api/v1/backends", get(read::backends))
            .route("/api/v1/backends/{id}", get(read::backend).delete(write::remove))
            .route("/api/v1/backends/{id}/state", put(write::set_state))
            .route("/api/v1/backends/{id}/breaker", put(write::set_breaker))
            .route("/api/v1/register", post(write::register))
            .route("/api/v1/heartbeat/{id}", post(write::heartbeat))
            .route("/api/v1/route", get(read::route))
            .route("/api/v1/choices", get(read::choices))
            .route("/api/v1/capacity", get(read::capacity))
            .route("/api/v1/connections", get(read::connections).delete(write::kill_all))
            .route("/api/v1/connections/{id}", delete(write::kill))
            .route("/api/v1/limits", get(read::limits))
            .route("/api/v1/deny", get(read::deny_list).post(write::deny).delete(write::undeny))
            .route("/api/v1/config", get(read::config))
            .route("/api/v1/config/reload", post(write::reload))
            .route("/api/v1/registry/refresh", post(write::refresh))
            .fallback(async |request: Request| {
                Failure::NotFound(format!("nothing at {}", request.uri().path())).into_response()
            })
            .method_not_allowed_fallback(async || Failure::Method.into_response())
            .with_state(site);
        Self(router)
    }

    /// Answers a request of `peer`.
    pub async fn answer(
        &self,
        peer: Peer,
        request: hyper::Request<Incoming>,
    ) -> axum::response::Response {
        let mut request = request;
        let said = Said::default();
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(said.clone());
        let asked = (!request.method().is_safe())
            .then(|| (request.method().clone(), request.uri().path().to_owned()));
        let Ok(answer) = self.0.clone().call(request).await;
        // What is done is told where it is done.
        let refused = answer.extensions().get::<Failure>();
        if let (Some((method, path)), Some(failure)) = (asked, refused)
            && is_told(&path, failure)
        {
            let (who, status) = (said.who(peer), answer.status().as_u16());
            let reason = failure.clone().reason();
            tracing::warn!(target: "audit", %who, status, ?reason, "refused: {method} {path}");
        }
        answer
    }
}

/// Whether a refused write is told of in the audit log. A flood of them is not, nor a heartbeat that comes too
/// late, after which its backend registers again.
fn is_told(path: &str, failure: &Failure) -> bool {
    match failure {
        Failure::TooMany(_) => false,
        Failure::Unauthorized(_) | Failure::Forbidden(_) => true,
        _ => !path.starts_with("/api/v1/heartbeat/"),
    }
}

/// A backend's connection outlasts the pause between two heartbeats.
const PATIENCE: Patience =
    Patience { head: Duration::from_secs(75), longest: Duration::from_secs(24 * 3_600) };
/// Connections of processes of this machine on the socket.
const SOCKET_CONNECTIONS: usize = 64;
/// How long a client may take for the handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where TLS ends in front of the API: how it is done now.
pub type Terminates = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

impl Api {
    /// Serves on a listening socket until dropped, at most `most` connections at once; over TLS if that is
    /// told how.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub fn serve(
        &self,
        socket: OwnedFd,
        most: usize,
        tls: Option<Terminates>,
    ) -> io::Result<impl Future<Output = ()> + use<>> {
        let listener = TcpListener::from_std(std::net::TcpListener::from(socket))?;
        let api = self.clone();
        Ok(async move {
            served::accept(
                |context| listener.poll_accept(context),
                most,
                |(stream, peer)| {
                    let (api, tls) = (api.clone(), tls.clone());
                    async move {
                        match tls {
                            None => api.converse(stream, Peer::Tcp(peer, None)).await,
                            Some(tls) => api.converse_secured(stream, peer, tls()).await,
                        }
                    }
                },
            )
            .await;
        })
    }

    /// Serves on the unix socket until dropped.
    pub async fn serve_socket(self, listener: UnixListener) {
        served::accept(
            |context| listener.poll_accept(context),
            SOCKET_CONNECTIONS,
            |(stream, _)| {
                let api = self.clone();
                async move {
                    let user = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
                    api.converse(stream, Peer::Socket(user)).await;
                }
            },
        )
        .await;
    }

    async fn converse_secured(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        config: Arc<ServerConfig>,
    ) {
        let handshake = TlsAcceptor::from(config).accept(stream);
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates();
                let name = shown.and_then(|chain| name_of(chain.first()?)).map(Arc::from);
                self.converse(stream, Peer::Tcp(peer, name)).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS with a client of the API"),
            Err(_) => tracing::debug!(%peer, "no TLS in time with a client of the API"),
        }
    }

    async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer) {
        served::serve(stream, PATIENCE, |request| self.answer(peer.clone(), request)).await;
    }
}
