//! A sample backend: a web server that says who it is.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, anyhow};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::domain::Backend;
use crate::domain::backend::{Number, RawRow};

/// Most of a request's head that is read, in lines.
const MAX_LINES: usize = 100;

/// One sample backend.
pub(super) struct Sample {
    id: &'static str,
    region: &'static str,
    country: &'static str,
    addr: SocketAddr,
    /// Its accept loop, which owns its connections; gone while it is stopped.
    running: Option<JoinSet<()>>,
}

impl Sample {
    /// Starts one on a free port.
    pub async fn start(
        id: &'static str,
        region: &'static str,
        country: &'static str,
    ) -> anyhow::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await?;
        let addr = listener.local_addr()?;
        let mut sample = Self { id, region, country, addr, running: None };
        sample.serve(listener);
        Ok(sample)
    }

    pub const fn id(&self) -> &'static str {
        self.id
    }

    /// The row that it has in the registry.
    pub fn row(&self) -> anyhow::Result<Backend> {
        let row = RawRow {
            id: Some(self.id.into()),
            app: Some("demo".into()),
            region: Some(self.region.into()),
            country: Some(self.country.into()),
            wg_ip: Some(self.addr.ip().to_string()),
            port: Some(Number::Whole(self.addr.port().into())),
            ..RawRow::default()
        };
        Backend::try_from(row).map_err(|reason| anyhow!(reason))
    }

    /// Closes its listener and its connections.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Listens again where it did.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if self.running.is_none() {
            let listener = TcpListener::bind(self.addr).await;
            self.serve(listener.with_context(|| format!("{} cannot listen again", self.id))?);
        }
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let says = format!("{} ({}, {}) answered\n", self.id, self.region, self.country);
        let mut running = JoinSet::new();
        running.spawn(accept(listener, says));
        self.running = Some(running);
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, region, country, addr, running } = self;
        let state = if running.is_some() { "serving" } else { "stopped" };
        write!(f, "{id}  {region}  {country}  {addr}  {state}")
    }
}

async fn accept(listener: TcpListener, says: String) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(answer(stream, says.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, says: String) {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    for _ in 0..MAX_LINES {
        match lines.next_line().await {
            Ok(Some(line)) if line.is_empty() => break,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
    let length = says.len();
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{says}"
    );
    // A client that went away needs no answer.
    let _ = write.write_all(response.as_bytes()).await;
}
