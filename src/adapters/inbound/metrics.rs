//! The metrics listener: numbers for Prometheus, and whether this process lives and is ready.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::http::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;

use super::served::{self, Patience};

/// Connections at once.
const CONNECTIONS: usize = 64;
const PATIENCE: Patience =
    Patience { head: Duration::from_secs(10), longest: Duration::from_secs(300) };
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
        served::accept(
            |context| listener.poll_accept(context),
            CONNECTIONS,
            |(stream, _)| {
                let site = Arc::clone(&site);
                async move {
                    served::serve(stream, PATIENCE, |request| {
                        let answer = site.answer(&request);
                        async { answer }
                    })
                    .await;
                }
            },
        )
        .await;
    })
}

struct Site {
    path: String,
    source: Arc<dyn Source>,
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
