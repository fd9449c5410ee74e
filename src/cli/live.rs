//! Speaks to a running process: on the socket in its state folder, or over `--api URL`.

mod endpoint;

use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::adapters::inbound::api::wire::{Problem, Status};
use crate::app;
use crate::config::Config;
use crate::domain::ports::RepositoryError;
pub(super) use endpoint::Answer;
use endpoint::{Endpoint, Unreachable};

/// Longest wait for an answer. What changes something takes 5 s at most.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest answer, in bytes: some 100,000 backends.
const MAX_ANSWER: usize = 64 << 20;

/// Which process is spoken to.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Reach {
    /// A process by the address of its control API, in place of the one whose state folder is here; with
    /// the token of `EDGEPROXY_API_TOKEN`
    #[arg(long, value_name = "URL")]
    api: Option<Endpoint>,
}

impl Reach {
    /// Whether a process is named.
    pub(super) const fn is_given(&self) -> bool {
        self.api.is_some()
    }
}

/// A process that answers.
pub(super) struct Live {
    endpoint: Endpoint,
    token: Option<String>,
    /// How it stood when it was found.
    pub status: Status,
}

/// Why no process is spoken to.
pub(super) struct Offline(pub String);

impl Live {
    /// Finds the process, and says so on standard error; else why there is none.
    ///
    /// # Errors
    /// When one is named that does not answer, or that answers with a refusal.
    pub async fn find(config: &Config, reach: &Reach) -> anyhow::Result<Result<Self, Offline>> {
        let folder = config.settings.state_folder();
        let endpoint = match &reach.api {
            Some(endpoint) => endpoint.clone(),
            None => Endpoint::Socket(folder.join(app::SOCKET)),
        };
        let token = reach.api.as_ref().and_then(|_| {
            let given = config.settings.api_token.as_ref();
            // One that was made here is worth nothing elsewhere, but for whoever hears it.
            let kept = || endpoint.is_here().then(|| app::kept_token(&folder)).flatten();
            given.map(|token| token.expose().to_owned()).or_else(kept)
        });
        if token.is_some() && endpoint.is_in_the_clear() {
            eprintln!("edge-proxy: the token goes to {endpoint} unencrypted");
        }
        let status = match asked::<Status>(&endpoint, token.as_deref(), "/api/v1/status").await {
            Err(error) if !reach.is_given() => match error.downcast::<Unreachable>() {
                Ok(unreachable) => return Ok(Err(Offline(unreachable.to_string()))),
                Err(error) => return Err(error),
            },
            status => status?,
        };
        eprintln!("live, pid {} (POP {}, {endpoint})", status.pid, status.pop);
        Ok(Ok(Self { endpoint, token, status }))
    }

    /// The process, for what only a running one can tell.
    ///
    /// # Errors
    /// When there is none.
    pub async fn needed(config: &Config, reach: &Reach) -> anyhow::Result<Self> {
        match Self::find(config, reach).await? {
            Ok(live) => Ok(live),
            Err(Offline(reason)) => bail!(
                "offline: {reason}; only a running process can tell (EDGEPROXY_STATE_DIR or \
                 EDGEPROXY_DB_PATH says which, as for the process itself; --api URL asks another)"
            ),
        }
    }

    /// What it says at `path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        asked(&self.endpoint, self.token.as_deref(), path).await
    }

    /// Asks it for something, with a body if that needs one.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let body = body.map(serde_json::to_vec).transpose()?;
        let request = request(method, path, self.token.as_deref(), body);
        whole(&self.endpoint, request).await
    }

    /// What it says at `path` for as long as it goes on.
    pub async fn stream(&self, path: &str) -> anyhow::Result<Answer> {
        let mut request = request(Method::GET, path, self.token.as_deref(), None)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/x-ndjson"));
        let answer = in_time(self.endpoint.send(Ok(request))).await?;
        if answer.response.status().is_success() {
            return Ok(answer);
        }
        Err(refusal(&self.endpoint, answer).await)
    }
}

/// A part of a path or a query, with everything escaped that means something there (RFC 3986, 2.1).
pub(super) fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(byte.into());
            }
            _ => {
                let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or_default();
                escaped.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
        escaped
    })
}

/// A path with those parameters that are given.
pub(super) fn query(path: &str, given: &[(&str, Option<String>)]) -> String {
    let given = given.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    given.fold(path.to_owned(), |path, (name, value)| {
        let joint = if path.contains('?') { '&' } else { '?' };
        format!("{path}{joint}{name}={}", escaped(value))
    })
}

async fn asked<T: DeserializeOwned>(
    endpoint: &Endpoint,
    token: Option<&str>,
    path: &str,
) -> anyhow::Result<T> {
    whole(endpoint, request(Method::GET, path, token, None)).await
}

fn request(
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Option<Vec<u8>>,
) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    // The endpoint says what it is.
    let request = request.header(HOST, "localhost");
    Ok(request.body(Full::from(body.unwrap_or_default()))?)
}

async fn whole<T: DeserializeOwned>(
    endpoint: &Endpoint,
    request: anyhow::Result<Request<Full<Bytes>>>,
) -> anyhow::Result<T> {
    let answer = in_time(endpoint.send(request)).await?;
    if !answer.response.status().is_success() {
        return Err(refusal(endpoint, answer).await);
    }
    let bytes = in_time(bytes(answer)).await?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{endpoint} answers with what is none of edge-proxy's"))
}

async fn bytes(answer: Answer) -> anyhow::Result<Bytes> {
    let body = http_body_util::Limited::new(answer.response.into_body(), MAX_ANSWER);
    let body = body.collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(body.to_bytes())
}

async fn in_time<T>(done: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(PATIENCE, done).await {
        Ok(done) => done,
        Err(_) => bail!("no answer within {PATIENCE:?}"),
    }
}

/// What was refused, and why.
async fn refusal(endpoint: &Endpoint, answer: Answer) -> anyhow::Error {
    let status = answer.response.status();
    let body = in_time(bytes(answer)).await.unwrap_or_default();
    let Ok(problem) = serde_json::from_slice::<Problem>(&body) else {
        return anyhow::anyhow!("{endpoint}: {status}");
    };
    match status.as_u16() {
        401 => anyhow::anyhow!("{endpoint}: {} (EDGEPROXY_API_TOKEN gives one)", problem.reason),
        503 => RepositoryError { store: endpoint.to_string(), reason: problem.reason }.into(),
        _ => anyhow::anyhow!("{}", problem.reason),
    }
}

/// Whether nobody is there, rather than somebody who does not want.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, InvalidInput, NotFound, PermissionDenied};
    matches!(error.kind(), ConnectionRefused | InvalidInput | NotFound | PermissionDenied)
}
