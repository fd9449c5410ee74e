//! The TLS clients that `scripts/bench` measures with, and the plain origin behind the proxies.
//!
//!     tls-load origin --listen ADDRESS
//!     tls-load handshakes --connect ADDRESS [--resume] [--seconds N] [--clients N]
//!     tls-load bulk --connect ADDRESS [--seconds N] [--decrypt]
//!     tls-load idle --connect ADDRESS --count N
//!
//! Each runs on one thread and prints one line of JSON. A request is one byte, whether to close after
//! the answer, and the answer's length in 8 bytes, big-endian; the answer is that many times `.`.
//!
//! The client offers TLS 1.3 with AES-128-GCM and X25519 and nothing else, so that every proxy does
//! the same work. It does not check certificates: that would be the load's work, not the proxy's.

mod clients;
mod origin;
mod records;
mod tickets;
mod tls;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: tls-load origin --listen ADDRESS
       tls-load handshakes --connect ADDRESS [--resume] [--seconds N] [--clients N]
       tls-load bulk --connect ADDRESS [--seconds N] [--decrypt]
       tls-load idle --connect ADDRESS --count N";

/// Connections that are under way at any time, as many as wrk holds in the other figures.
const CLIENTS: usize = 50;
const SECONDS: u64 = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = Options::parse(&arguments).and_then(|options| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(run(&options))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("tls-load: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), String> {
    match options.command.as_str() {
        "origin" => origin::serve(options.listen.ok_or(USAGE)?).await,
        "handshakes" => {
            let connect = options.connect.ok_or(USAGE)?;
            clients::handshakes(connect, options.resume, options.clients, options.period).await
        }
        "bulk" => {
            let connect = options.connect.ok_or(USAGE)?;
            clients::bulk(connect, options.period, options.decrypt).await
        }
        "idle" => clients::idle(options.connect.ok_or(USAGE)?, options.count).await,
        _ => Err(USAGE.into()),
    }
}

struct Options {
    command: String,
    listen: Option<SocketAddr>,
    connect: Option<SocketAddr>,
    resume: bool,
    decrypt: bool,
    period: Duration,
    clients: usize,
    count: usize,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut words = arguments.iter();
        let mut options = Self {
            command: words.next().ok_or(USAGE)?.clone(),
            listen: None,
            connect: None,
            resume: false,
            decrypt: false,
            period: Duration::from_secs(SECONDS),
            clients: CLIENTS,
            count: 0,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--resume" => options.resume = true,
                "--decrypt" => options.decrypt = true,
                "--listen" => options.listen = Some(value(word, words.next())?),
                "--connect" => options.connect = Some(value(word, words.next())?),
                "--seconds" => options.period = Duration::from_secs(value(word, words.next())?),
                "--clients" => options.clients = value(word, words.next())?,
                "--count" => options.count = value(word, words.next())?,
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }
}

fn value<T: std::str::FromStr>(name: &str, given: Option<&String>) -> Result<T, String> {
    let given = given.ok_or_else(|| format!("{name} needs a value"))?;
    given.parse().map_err(|_| format!("{name}: cannot use {given}"))
}
