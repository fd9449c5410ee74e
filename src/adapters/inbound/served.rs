//! HTTP for the control plane: listeners whose connections are few, short and bounded in every way.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};

/// How long to leave the queue alone after an error.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long a client may take for the head of a request, and between two requests.
    pub head: Duration,
    /// How long one connection may last: a client that reads nothing does not keep its place for ever.
    pub longest: Duration,
}

/// Takes up connections for as long as it is polled, each of them served by what `serve` gives for it. `most`
/// are served at once; one more ends the oldest, so that those who only take places keep nobody out.
pub(super) async fn accept<S, F>(
    poll: impl Fn(&mut Context<'_>) -> Poll<io::Result<S>>,
    most: usize,
    serve: impl Fn(S) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut ends: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match poll_fn(&poll).await {
            Ok(connection) => {
                while connections.try_join_next().is_some() {}
                if ends.len() >= most {
                    ends.retain(|end| !end.is_finished());
                }
                if ends.len() >= most
                    && let Some(oldest) = ends.pop_front()
                {
                    oldest.abort();
                }
                ends.push_back(connections.spawn(serve(connection)));
            }
            Err(error) => {
                tracing::debug!(%error, "a listener of the control plane cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves the requests of one connection.
pub(super) async fn serve<F, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    patience: Patience,
    answer: impl Fn(Request<Incoming>) -> F,
) where
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience.head).max_buf_size(MAX_HEAD);
    // On the heap: thousands of tasks are small that way, and moved cheaply.
    let serving = Box::pin(http.serve_connection(TokioIo::new(stream), service));
    if let Ok(Err(error)) = tokio::time::timeout(patience.longest, serving).await {
        tracing::debug!(%error, "a connection to the control plane failed");
    }
}
