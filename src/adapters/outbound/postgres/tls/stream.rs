//! What the client library needs to speak TLS through rustls.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};

/// Makes connections encrypted, when it can.
#[derive(Clone)]
pub(in super::super) struct Connector {
    config: Result<Arc<ClientConfig>, TlsFailed>,
    host: String,
}

/// Why a connection could not be encrypted.
#[derive(Clone, Debug)]
pub(in super::super) struct TlsFailed(String);

impl fmt::Display for TlsFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsFailed {}

impl Connector {
    /// With what was prepared; the reason when it could not be.
    pub(in super::super) fn new(prepared: Result<ClientConfig, String>) -> Self {
        let config = prepared.map(Arc::new).map_err(TlsFailed);
        Self { config, host: String::new() }
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = TlsStream;
    type TlsConnect = Self;
    type Error = TlsFailed;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self, TlsFailed> {
        Ok(Self { config: self.config.clone(), host: host.into() })
    }
}

impl TlsConnect<Socket> for Connector {
    type Stream = TlsStream;
    type Error = TlsFailed;
    type Future = Pin<Box<dyn Future<Output = Result<TlsStream, TlsFailed>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let Self { config, host } = self;
            let name = ServerName::try_from(host)
                .map_err(|_| TlsFailed("the host's name is no DNS name".into()))?;
            let connector = tokio_rustls::TlsConnector::from(config?);
            let connected = connector.connect(name, stream).await;
            connected.map(TlsStream).map_err(|error| TlsFailed(error.to_string()))
        })
    }
}

/// An encrypted connection.
pub(in super::super) struct TlsStream(tokio_rustls::client::TlsStream<Socket>);

impl tokio_postgres::tls::TlsStream for TlsStream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
