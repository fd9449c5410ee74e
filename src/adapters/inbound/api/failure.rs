//! Why a request is not done, as its client hears of it.

use axum::Json;
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::wire::{Field, Problem};

/// Longest body, in bytes.
pub(super) const MAX_BODY: usize = 64 << 10;

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be read.
    Malformed(String),
    /// It can, and something in it cannot be.
    Invalid(Vec<Field>),
    /// Nobody knows who asks.
    Unauthorized(String),
    /// Who asks may not.
    Forbidden(String),
    /// There is no such thing.
    NotFound(String),
    /// There is no such method here; those that there are.
    Method,
    /// How things stand it cannot be.
    Conflict(String),
    /// It could have been before.
    Gone(String),
    /// The body is too large.
    TooLarge,
    /// The body is not JSON by what is said of it.
    Media,
    /// It was asked too often; again after so many seconds.
    TooMany(u64),
    /// The request did not come in time.
    Timeout,
    /// The registry cannot be asked.
    Unavailable(String),
    /// A bug.
    Internal,
}

impl Failure {
    /// One field that cannot be as it is.
    pub fn field(field: &str, reason: impl Into<String>) -> Self {
        Self::Invalid(vec![Field { field: field.into(), reason: reason.into() }])
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Gone(_) => StatusCode::GONE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Media => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Why, for people.
    #[must_use]
    pub fn reason(self) -> String {
        self.problem().reason
    }

    fn problem(self) -> Problem {
        let (error, reason, fields) = match self {
            Self::Malformed(reason) => ("malformed", reason, Vec::new()),
            Self::Invalid(fields) => {
                let said: Vec<String> =
                    fields.iter().map(|f| format!("{}: {}", f.field, f.reason)).collect();
                ("invalid", said.join("; "), fields)
            }
            Self::Unauthorized(reason) => ("unauthorized", reason, Vec::new()),
            Self::Forbidden(reason) => ("forbidden", reason, Vec::new()),
            Self::NotFound(reason) => ("not_found", reason, Vec::new()),
            Self::Method => {
                let reason = "no such method here; the Allow header names those that there are";
                ("method_not_allowed", reason.into(), Vec::new())
            }
            Self::Conflict(reason) => ("conflict", reason, Vec::new()),
            Self::Gone(reason) => ("gone", reason, Vec::new()),
            Self::TooLarge => {
                let most = MAX_BODY >> 10;
                ("too_large", format!("the body is longer than {most} KiB"), Vec::new())
            }
            Self::Media => {
                let reason = "the body must be JSON (Content-Type: application/json)";
                ("unsupported_media_type", reason.into(), Vec::new())
            }
            Self::TooMany(_) => {
                ("too_many_requests", "asked too often; see Retry-After".into(), Vec::new())
            }
            Self::Timeout => ("timeout", "the request did not come in time".into(), Vec::new()),
            Self::Unavailable(reason) => ("unavailable", reason, Vec::new()),
            Self::Internal => {
                ("internal", "a bug in edge-proxy; please report it".into(), Vec::new())
            }
        };
        Problem { error: error.into(), reason, fields }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status();
        let again = if let Self::TooMany(secs) = self { Some(secs) } else { None };
        let mut answer = (status, Json(self.clone().problem())).into_response();
        answer.extensions_mut().insert(self);
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(secs) = again {
            headers.insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        answer
    }
}
