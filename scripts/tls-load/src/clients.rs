//! What the clients do, and what they report.

use std::cell::RefCell;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::origin::{FILLING, request};
use crate::records::Records;
use crate::tickets::Tickets;
use crate::tls;

/// A small answer, as in the figures without TLS.
const SMALL: usize = 100;
/// Nobody gets to the end of it.
const ENDLESS: u64 = u64::MAX;
/// What one idle connection moves before it is idle.
const PROOF: usize = 4;
const READ_BUFFER: usize = 256 * 1024;
/// Idle connections that are opened side by side.
const OPENED_TOGETHER: usize = 50;
/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Somebody who cannot connect does not try again in a busy loop.
const PAUSE: Duration = Duration::from_millis(10);

/// Where a connection failed, which is the name it is counted under.
type Failed = (&'static str, Error);

#[derive(Default)]
struct Counts {
    done: usize,
    resumed: usize,
    bytes: u64,
    errors: Vec<(&'static str, usize)>,
    first_error: Option<String>,
}

impl Counts {
    fn failed(&mut self, (what, error): Failed) {
        self.first_error.get_or_insert_with(|| format!("{what}: {error}"));
        match self.errors.iter_mut().find(|(name, _)| *name == what) {
            Some((_, count)) => *count += 1,
            None => self.errors.push((what, 1)),
        }
    }

    fn errors(&self) -> String {
        let each: Vec<_> =
            self.errors.iter().map(|(name, count)| format!(r#""{name}":{count}"#)).collect();
        format!("{{{}}}", each.join(","))
    }
}

/// Connects, gets one small answer, sees the connection ended properly, and connects again.
pub async fn handshakes(
    address: SocketAddr,
    resume: bool,
    clients: usize,
    period: Duration,
) -> Result<(), String> {
    let tickets = Arc::new(Tickets::new(resume));
    let config = tls::config(tickets.clone())?;
    let counts = Rc::new(RefCell::new(Counts::default()));
    let all = LocalSet::new();
    for _ in 0..clients {
        all.spawn_local(connect_again_and_again(address, config.clone(), counts.clone()));
    }
    let started = Instant::now();
    all.run_until(sleep(period)).await;
    let seconds = started.elapsed().as_secs_f64();
    let counts = counts.borrow();
    report_error(&counts);
    println!(
        r#"{{"count":{},"seconds":{seconds:.6},"resumed":{},"tickets":{},"bytes":{},"errors":{}}}"#,
        counts.done,
        counts.resumed,
        tickets.received(),
        counts.bytes,
        counts.errors(),
    );
    Ok(())
}

async fn connect_again_and_again(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    counts: Rc<RefCell<Counts>>,
) {
    loop {
        let ended = match timeout(PATIENCE, connect_once(address, &config)).await {
            Ok(ended) => ended,
            Err(late) => Err(("timeout", late.into())),
        };
        match ended {
            Ok((resumed, bytes)) => {
                let mut counts = counts.borrow_mut();
                counts.done += 1;
                counts.resumed += usize::from(resumed);
                counts.bytes += bytes;
            }
            Err(failed) => {
                counts.borrow_mut().failed(failed);
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether the session was resumed, and how long the answer was. An end without `close_notify` is an
/// error.
async fn connect_once(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> Result<(bool, u64), Failed> {
    let mut stream = connect(address, config).await?;
    let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    send(&mut stream, true, SMALL as u64).await?;
    let mut answer = [0; 2 * SMALL];
    let mut length = 0;
    loop {
        match stream.read(&mut answer[length..]).await {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(("truncated", error));
            }
            Err(error) => return Err(("read", error)),
        }
    }
    check(&answer[..length], SMALL).map_err(|error| ("answer", error))?;
    Ok((resumed, SMALL as u64))
}

/// Downloads through one connection. To leave the work to the proxy, records are counted by their
/// headers and not decrypted, unless that is asked for.
pub async fn bulk(address: SocketAddr, period: Duration, decrypt: bool) -> Result<(), String> {
    let config = tls::config(Arc::new(Tickets::new(false)))?;
    let mut stream = connect(address, &config).await.map_err(told)?;
    // What comes before data has been taken up with the first answer: the records that follow it
    // are whole and are data.
    prove(&mut stream).await.map_err(told)?;
    send(&mut stream, true, ENDLESS).await.map_err(told)?;
    let started = Instant::now();
    let (bytes, records) = if decrypt {
        (download(stream, started, period).await?, 0)
    } else {
        let (socket, _) = stream.into_inner();
        count_records(socket, started, period).await?
    };
    let seconds = started.elapsed().as_secs_f64();
    println!(r#"{{"bytes":{bytes},"seconds":{seconds:.6},"records":{records}}}"#);
    Ok(())
}

async fn download(
    mut stream: TlsStream<TcpStream>,
    started: Instant,
    period: Duration,
) -> Result<u64, String> {
    let mut buffer = vec![0; READ_BUFFER];
    let mut bytes = 0;
    while started.elapsed() < period {
        let length = more(stream.read(&mut buffer)).await?;
        if buffer[..length].iter().any(|byte| *byte != FILLING) {
            return Err("the answer is not the origin's".into());
        }
        bytes += length as u64;
    }
    Ok(bytes)
}

async fn count_records(
    mut socket: TcpStream,
    started: Instant,
    period: Duration,
) -> Result<(u64, u64), String> {
    let mut buffer = vec![0; READ_BUFFER];
    let mut records = Records::default();
    while started.elapsed() < period {
        let length = more(socket.read(&mut buffer)).await?;
        records.take(&buffer[..length])?;
    }
    Ok((records.bytes(), records.count()))
}

async fn more(reading: impl Future<Output = std::io::Result<usize>>) -> Result<usize, String> {
    match timeout(PATIENCE, reading).await {
        Ok(Ok(0)) => Err("the download was ended".into()),
        Ok(Ok(length)) => Ok(length),
        Ok(Err(error)) => Err(format!("the download broke off: {error}")),
        Err(_) => Err("the download stands still".into()),
    }
}

/// Opens connections, proves that each reaches the origin, and holds them until it is ended.
pub async fn idle(address: SocketAddr, count: usize) -> Result<(), String> {
    let config = tls::config(Arc::new(Tickets::new(false)))?;
    let mut opening = JoinSet::new();
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        if number >= OPENED_TOGETHER {
            held.push(opened(&mut opening).await?);
        }
        let config = config.clone();
        opening.spawn(async move {
            let mut stream = connect(address, &config).await?;
            prove(&mut stream).await.map(|()| stream)
        });
    }
    while held.len() < count {
        held.push(opened(&mut opening).await?);
    }
    println!(r#"{{"held":{}}}"#, held.len());
    std::future::pending().await
}

type Opening = JoinSet<Result<TlsStream<TcpStream>, Failed>>;

async fn opened(opening: &mut Opening) -> Result<TlsStream<TcpStream>, String> {
    let ended = timeout(PATIENCE, opening.join_next()).await;
    let ended = ended.map_err(|_| "an idle connection is not opened in time")?;
    ended.expect("one is under way").map_err(|error| error.to_string())?.map_err(told)
}

async fn connect(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Failed> {
    let socket = TcpStream::connect(address).await.map_err(|error| ("connect", error))?;
    socket.set_nodelay(true).map_err(|error| ("connect", error))?;
    let connecting = TlsConnector::from(config.clone()).connect(tls::name(), socket);
    connecting.await.map_err(|error| ("handshake", error))
}

async fn send(stream: &mut TlsStream<TcpStream>, close: bool, length: u64) -> Result<(), Failed> {
    stream.write_all(&request(close, length)).await.map_err(|error| ("write", error))?;
    stream.flush().await.map_err(|error| ("write", error))
}

/// One small answer, after which the connection stays.
async fn prove(stream: &mut TlsStream<TcpStream>) -> Result<(), Failed> {
    send(stream, false, PROOF as u64).await?;
    let mut answer = [0; PROOF];
    stream.read_exact(&mut answer).await.map_err(|error| ("read", error))?;
    check(&answer, PROOF).map_err(|error| ("answer", error))
}

fn check(answer: &[u8], length: usize) -> Result<(), Error> {
    if answer.len() == length && answer.iter().all(|byte| *byte == FILLING) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidData, "the answer is not the origin's"))
}

fn told((what, error): Failed) -> String {
    format!("{what}: {error}")
}

fn report_error(counts: &Counts) {
    if let Some(error) = &counts.first_error {
        eprintln!("tls-load: the first error was {error}");
    }
}
