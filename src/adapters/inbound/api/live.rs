//! How things are, told again and again.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Watching;
use super::wire::Live;

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// Lines for as long as somebody reads them: one that reads slowly misses some, and no line waits for it.
struct Lines {
    watching: Box<dyn Watching>,
    ticks: Interval,
}

/// How things are after the time that rates are of.
pub(super) async fn once(mut watching: Box<dyn Watching>) -> Live {
    tokio::time::sleep(EVERY).await;
    watching.look()
}

/// The answer with these lines.
pub(super) fn lines(watching: Box<dyn Watching>) -> Response {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut answer = Response::new(Body::new(Lines { watching, ticks }));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy in front must not wait for its end.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ticks.poll_tick(context).is_pending() {
            return Poll::Pending;
        }
        let mut line = serde_json::to_vec(&self.watching.look()).unwrap_or_default();
        line.push(b'\n');
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }
}
