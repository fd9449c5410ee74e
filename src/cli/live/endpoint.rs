//! Where a control API is listened for.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, anyhow, ensure};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::is_absent;
use crate::infrastructure::tls::{OriginSpec, Originator};

/// A place to send requests to.
#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    /// A unix socket.
    Socket(PathBuf),
    /// A TCP address.
    Tcp { host: String, port: u16, tls: bool },
}

/// Nobody listens there.
#[derive(Debug, thiserror::Error)]
#[error("no process listens on {endpoint} ({error})")]
pub(super) struct Unreachable {
    endpoint: String,
    error: io::Error,
}

/// An answer, and the connection that brings it.
pub(in crate::cli) struct Answer {
    pub response: Response<Incoming>,
    _carried: JoinSet<()>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(file) => write!(f, "{}", file.display()),
            Self::Tcp { host, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme}://{host}:{port}")
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> anyhow::Result<Self> {
        let refused = || anyhow!("--api {url:?}: must be http://HOST:PORT or https://HOST:PORT");
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| refused())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refused()),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        ensure!(matches!(path, "" | "/"), refused());
        let authority = uri.authority().ok_or_else(refused)?;
        // A password there would be a token in an argument, which every user of this machine can see.
        ensure!(!authority.as_str().contains('@'), refused());
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => Some(if tls { 443 } else { 80 }),
            _ => authority.port_u16(),
        };
        let port = port.ok_or_else(refused)?;
        Ok(Self::Tcp { host: authority.host().into(), port, tls })
    }
}

impl Endpoint {
    /// Whether it is on this machine.
    pub fn is_here(&self) -> bool {
        let Self::Tcp { host, .. } = self else { return true };
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        ip.map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
    }

    /// Whether strangers could read what is sent there.
    pub fn is_in_the_clear(&self) -> bool {
        !self.is_here() && matches!(self, Self::Tcp { tls: false, .. })
    }

    /// Sends a request over a connection of its own; the answer, once its head is there.
    pub async fn send(
        &self,
        request: anyhow::Result<Request<Full<Bytes>>>,
    ) -> anyhow::Result<Answer> {
        let mut request = request?;
        match self {
            Self::Socket(file) => {
                let stream = UnixStream::connect(file).await.map_err(|error| self.failed(error))?;
                exchange(stream, request).await
            }
            Self::Tcp { host, port, tls } => {
                let authority = HeaderValue::from_str(&format!("{host}:{port}"))?;
                request.headers_mut().insert(HOST, authority);
                let bare = host.trim_matches(['[', ']']);
                let stream = TcpStream::connect((bare, *port)).await;
                let stream = stream.map_err(|error| self.failed(error))?;
                if !tls {
                    return exchange(stream, request).await;
                }
                let name = ServerName::try_from(bare.to_owned())?;
                let spec =
                    OriginSpec { verify: true, ca: None, name: Some(name.clone()), identity: None };
                let config = Originator::read(&spec, false)?.for_one();
                let stream = TlsConnector::from(config).connect(name, stream).await;
                exchange(stream.with_context(|| self.to_string())?, request).await
            }
        }
    }

    fn failed(&self, error: io::Error) -> anyhow::Error {
        let endpoint = self.to_string();
        if is_absent(&error) {
            Unreachable { endpoint, error }.into()
        } else {
            anyhow!("{endpoint}: {error}")
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut carried = JoinSet::new();
    carried.spawn(async move { drop(connection.await) });
    let response = sender.send_request(request).await.context("no answer")?;
    Ok(Answer { response, _carried: carried })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_in_every_form_that_names_one() {
        for (given, shown) in [
            ("http://10.0.0.1:8081", "http://10.0.0.1:8081"),
            ("10.0.0.1:8081", "http://10.0.0.1:8081"),
            ("https://pop.example", "https://pop.example:443"),
            ("http://[::1]:8081/", "http://[::1]:8081"),
        ] {
            assert_eq!(given.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "ftp://x",
            "http://",
            "http://x/api",
            "http://token@x:1",
            "http://x:99999",
            "x:",
            "[::1]:x",
        ] {
            let error = wrong.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains("http://HOST:PORT"), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_stays_on_this_machine_is_not_in_the_clear() {
        let is = |url: &str| url.parse::<Endpoint>().unwrap().is_in_the_clear();
        assert!(is("http://10.0.0.1:1") && is("http://pop.example:1"));
        assert!(!is("http://127.0.0.1:1") && !is("http://[::1]:1") && !is("http://localhost:1"));
        assert!(!is("https://pop.example"));
    }
}
