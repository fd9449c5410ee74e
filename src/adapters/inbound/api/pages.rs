//! The dashboard, its assets, and the page that shows what the API can do. They hold no data.

use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::response::{IntoResponse, Response};

/// Nothing from elsewhere, nothing inline, no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

macro_rules! page {
    ($name:ident, $file:literal, $kind:literal) => {
        pub(super) async fn $name() -> Response {
            let content = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/dist/", $file));
            answer(content, $kind)
        }
    };
}

page!(dashboard, "index.html", "text/html; charset=utf-8");
page!(docs, "docs.html", "text/html; charset=utf-8");
page!(app_js, "assets/app.js", "text/javascript; charset=utf-8");
page!(app_css, "assets/app.css", "text/css; charset=utf-8");
page!(docs_js, "assets/docs.js", "text/javascript; charset=utf-8");

fn answer(content: &'static [u8], kind: &'static str) -> Response {
    let mut answer = content.into_response();
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
