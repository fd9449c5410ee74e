//! Opening one connection, in the order of attempts that libpq's `sslmode` asks for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Connection, Error, Socket};

use super::address::Address;
use super::tls::{Connector, Mode, TlsFailed, TlsStream};

/// Opens connections to one database.
pub(super) struct Dialer {
    pub address: Address,
    /// Whether it has been said that nobody checks who answers.
    warned: AtomicBool,
}

/// Opens connections for the pool, and drives them.
pub(super) struct PoolDialer(pub Arc<Dialer>);

impl Dialer {
    pub(super) fn new(address: Address) -> Self {
        Self { address, warned: AtomicBool::new(false) }
    }

    /// A connection, which whoever called must drive.
    pub(super) async fn dial(&self) -> Result<(Client, Connection<Socket, TlsStream>), Error> {
        let Address { config, security, shown } = &self.address;
        // As libpq: no TLS on Unix sockets, whatever is asked for.
        let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let mode = if local { Mode::Disable } else { security.mode };
        let connector = self.connector(mode).await;
        let attempt = async |mode| {
            let mut config = config.clone();
            config.ssl_mode(mode).connect(connector.clone()).await
        };
        if mode >= Mode::Require {
            if security.is_unverified() && !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "{shown}: sslmode=require encrypts and does not check who answers; \
                     sslmode=verify-full with sslrootcert does"
                );
            }
            return attempt(SslMode::Require).await;
        }
        match mode {
            Mode::Prefer => match attempt(SslMode::Prefer).await {
                Err(error) if is_tls(&error) || is_turned_away(&error) => {
                    attempt(SslMode::Disable).await.map_err(|_| error)
                }
                connected => connected,
            },
            Mode::Allow => match attempt(SslMode::Disable).await {
                Err(error) if is_turned_away(&error) => attempt(SslMode::Require).await,
                connected => connected,
            },
            _ => attempt(SslMode::Disable).await,
        }
    }

    /// Reads certificates again at each connection: they are renewed while this runs.
    async fn connector(&self, mode: Mode) -> Connector {
        if mode == Mode::Disable {
            return Connector::new(Err("sslmode=disable".into()));
        }
        let security = self.address.security.clone();
        let prepared = tokio::task::spawn_blocking(move || security.prepare()).await;
        Connector::new(prepared.unwrap_or_else(|error| Err(error.to_string())))
    }
}

impl deadpool_postgres::Connect for PoolDialer {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(async {
            let (client, connection) = self.0.dial().await?;
            let drive = async {
                // What goes wrong with it is told to whoever waits for an answer.
                let _ = connection.await;
            };
            #[expect(
                clippy::disallowed_methods,
                reason = "the pool asks for the task, and ends it with its connection"
            )]
            Ok((client, tokio::spawn(drive)))
        })
    }
}

fn is_tls(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<TlsFailed>)
}

/// Whether the server's rules (`pg_hba.conf`) turn away this kind of connection.
fn is_turned_away(error: &Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}
