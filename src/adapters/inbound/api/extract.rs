//! What a request holds: its body as JSON, its parameters. What cannot be read is answered in one form.

use std::str::FromStr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::failure::{Failure, MAX_BODY};
use super::wire::Field;

/// How long a client may take for it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body of JSON.
pub(super) struct Body<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let is_json = is_json(request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes));
        let bytes = bytes(request).await?;
        if !is_json {
            return Err(Failure::Media);
        }
        parse(&bytes).map(Self)
    }
}

/// A body of JSON, or none at all.
pub(super) struct MaybeBody<T>(pub T);

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for MaybeBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let said = request.headers().get(CONTENT_TYPE).map(|v| v.as_bytes().to_vec());
        let bytes = bytes(request).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json(said.as_deref()) {
            return Err(Failure::Media);
        }
        parse(&bytes).map(Self)
    }
}

/// Whether a content type is JSON.
fn is_json(said: Option<&[u8]>) -> bool {
    let kind = said.unwrap_or_default().split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

async fn bytes(request: Request) -> Result<Bytes, Failure> {
    let body = Limited::new(request.into_body(), MAX_BODY);
    match tokio::time::timeout(BODY_TIMEOUT, body.collect()).await {
        Err(_) => Err(Failure::Timeout),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::TooLarge),
        Ok(Err(error)) => Err(Failure::Malformed(format!("the body broke off: {error}"))),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    use serde_json::error::Category;
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => {
            Failure::Malformed(format!("the body is not JSON: {error}"))
        }
        Category::Data => Failure::field(&field_of(&error.to_string()), error.to_string()),
    })
}

/// The field that serde names, if it names one.
fn field_of(error: &str) -> String {
    let named = error.split('`').nth(1).filter(|_| error.contains("field `"));
    named.unwrap_or("body").into()
}

/// A part of the path.
pub(super) struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let path = path.map_err(|error| Failure::Malformed(error.body_text()))?;
        Ok(Self(path.0))
    }
}

/// The query, of which each parameter is taken by its name.
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    wrong: Vec<Field>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let pairs = query.map_err(|error| Failure::Malformed(error.body_text()))?.0;
        Ok(Self { pairs, wrong: Vec::new() })
    }
}

impl Params {
    /// Every value of a parameter.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        let (own, others) =
            std::mem::take(&mut self.pairs).into_iter().partition(|(known, _)| known == name);
        self.pairs = others;
        let own: Vec<(String, String)> = own;
        own.into_iter().map(|(_, value)| value).collect()
    }

    /// The value of a parameter, which is `accepted`.
    pub fn one<T: FromStr>(&mut self, name: &str, accepted: &str) -> Option<T> {
        let mut given = self.all(name).into_iter();
        let (value, second) = (given.next()?, given.next());
        if second.is_some() {
            self.refuse(name, "is given more than once");
            return None;
        }
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.refuse(name, &format!("{value:?}: must be {accepted}"));
        }
        parsed
    }

    /// A parameter that must be given.
    pub fn needed<T: FromStr>(&mut self, name: &str, accepted: &str) -> Option<T> {
        let wrong = self.wrong.len();
        let value = self.one(name, accepted);
        if value.is_none() && self.wrong.len() == wrong {
            self.refuse(name, &format!("is missing: must be {accepted}"));
        }
        value
    }

    /// Says that a parameter cannot be as it is.
    pub fn refuse(&mut self, name: &str, reason: &str) {
        self.wrong.push(Field { field: name.into(), reason: reason.into() });
    }

    /// All have been taken.
    pub fn end(mut self) -> Result<(), Failure> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            self.refuse(&name, "no such parameter here");
        }
        if self.wrong.is_empty() { Ok(()) } else { Err(Failure::Invalid(self.wrong)) }
    }
}
