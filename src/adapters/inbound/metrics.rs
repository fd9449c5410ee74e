//! The metrics listener: numbers for Prometheus, and whether this process lives and is ready.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Connections served at once; one more ends the oldest, so that those who only take places keep
/// nobody out.
const CONNECTIONS: usize = 64;
/// How long a client may take for the head of a request, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one connection may last: a client that reads nothing does not keep its place for ever.
const LONGEST: Duration = Duration::from_secs(300);
/// How long to leave the queue alone after an error.
const PAUSE: Duration = Duration::from_millis(100);
/// What Prometheus is told of the format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is asked for.
pub trait Source: Send + Sync {
    /// All metrics in the Prometheus text format.
    fn metrics(&self) -> String;
    /// Why this process is not ready for connections; `None` = it is.
    fn not_ready(&self) -> Option<&'static str>;
}

/// Serves `path`, `/healthz` and `/readyz` on a listening socket until dropped.
///
/// # Errors
/// When the runtime cannot watch the socket.
pub fn serve(
    socket: OwnedFd,
    path: String,
    source: Arc<dyn Source>,
) -> std::io::Result<impl Future<Output = ()>> {
    let listener = TcpListener::from_std(std::net::TcpListener::from(socket))?;
    let site = Arc::new(Site { path, source });
    Ok(async move {
        let mut connections = JoinSet::new();
        let mut ends: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    while connections.try_join_next().is_some() {}
                    ends.retain(|end| !end.is_finished());
                    if ends.len() >= CONNECTIONS
                        && let Some(oldest) = ends.pop_front()
                    {
                        oldest.abort();
                    }
                    ends.push_back(connections.spawn(connection(stream, peer, Arc::clone(&site))));
                }
                Err(error) => {
                    tracing::debug!(%error, "the metrics listener cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}

struct Site {
    path: String,
    source: Arc<dyn Source>,
}

async fn connection(stream: TcpStream, peer: SocketAddr, site: Arc<Site>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = site.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(16 << 10);
    let serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    if let Ok(Err(error)) = tokio::time::timeout(LONGEST, serving).await {
        tracing::debug!(%peer, %error, "a connection to the metrics listener failed");
    }
}

impl Site {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            path if path == self.path => {
                let mut answer = text(StatusCode::OK, self.source.metrics());
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
                answer
            }
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.source.not_ready() {
                None => text(StatusCode::OK, "ready\n"),
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            _ => {
                let here = format!("not here; there are {}, /healthz and /readyz\n", self.path);
                text(StatusCode::NOT_FOUND, here)
            }
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
