//! One probe: a connection that opens, or an HTTP request with the expected status.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::HealthCheckType;
use super::deadline::{too_late, within};
use super::status_line;
use crate::infrastructure::proxy_protocol::{Header, Tlvs, Version};

/// What this process is out of when a probe could not be made: no word about the backend.
const OURS: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];

/// A timeout is no shorter than this, the grain of a timer.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

/// How a probe ended. The texts say why it did not pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The backend did what is expected of it.
    Passed,
    /// It did not.
    Failed(String),
    /// It had not when the time was up, but this process was not there to see.
    Starved(String),
    /// This process lacks what a probe takes.
    Impossible(String),
}

/// What is asked of one backend, made once and sent at each probe.
#[derive(Debug)]
pub(super) struct Probe {
    target: Target,
    ask: Ask,
    header: Option<Version>,
    tls: Option<Secured>,
    timeout: Duration,
}

struct Secured {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Secured {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(out)
    }
}

#[derive(Debug)]
enum Target {
    Socket(SocketAddr),
    /// `name:port`, looked up at each probe.
    Name(Box<str>),
}

#[derive(Debug)]
enum Ask {
    /// Only that the connection opens.
    Nothing,
    Http {
        request: Box<str>,
        expected: u16,
    },
    /// A request that must not be sent, and why.
    Refused(Box<str>),
}

/// Why an attempt failed.
struct Fault {
    reason: String,
    ours: bool,
}

impl Probe {
    pub(super) fn new(
        addr: String,
        check: HealthCheckType,
        host: Option<&str>,
        timeout: Duration,
    ) -> Self {
        let ask = match check {
            HealthCheckType::Tcp => Ask::Nothing,
            HealthCheckType::Http { path, expected_status } => {
                match request(&path, host.unwrap_or(&addr)) {
                    Ok(request) => Ask::Http { request, expected: expected_status },
                    Err(reason) => Ask::Refused(reason),
                }
            }
        };
        let target =
            addr.parse().map_or_else(|_| Target::Name(addr.into_boxed_str()), Target::Socket);
        let timeout = timeout.max(SHORTEST_TIMEOUT);
        Self { target, ask, header: None, tls: None, timeout }
    }

    /// The same, each time behind a header and TLS, as far as they are given.
    pub(super) fn behind(
        self,
        header: Option<Version>,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    ) -> Self {
        let tls = tls.map(|(config, name)| Secured { connector: config.into(), name });
        Self { header, tls, ..self }
    }

    /// Probes once. Dropping the future closes the connection.
    pub(super) async fn run(&self) -> Outcome {
        let mut connected = false;
        match within(self.timeout, self.attempt(&mut connected)).await {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(Fault { reason, ours: true })) => Outcome::Impossible(reason),
            Ok(Err(Fault { reason, ours: false })) => Outcome::Failed(reason),
            Err(expired) => {
                let missed = if connected { "no answer" } else { "no connection" };
                let reason = format!("{missed} within {:?}", self.timeout);
                if too_late(expired.starved, self.timeout) {
                    let late = expired.starved.as_millis();
                    Outcome::Starved(format!("{reason}, but this process was {late} ms late"))
                } else {
                    Outcome::Failed(reason)
                }
            }
        }
    }

    async fn attempt(&self, connected: &mut bool) -> Result<(), Fault> {
        if let Ask::Refused(reason) = &self.ask {
            return Err(Fault::theirs(&**reason));
        }
        let mut stream = match &self.target {
            Target::Socket(addr) => open(*addr).await?,
            // Boxed, so that those who need no look-up do not carry its state.
            Target::Name(name) => Box::pin(open_any(name)).await?,
        };
        *connected = true;
        if let Some(version) = self.header {
            // Should it not be taken, reading says why; a connection that opens has done so.
            let _ = stream.write_all(&own_header(&stream, version)).await;
        }
        match (&self.tls, &self.ask) {
            (None, Ask::Nothing) => Ok(()),
            // Boxed, so that those who need none of it do not carry its state.
            (None, _) => Box::pin(self.ask(stream)).await,
            (Some(secured), _) => Box::pin(self.ask_securely(secured, stream)).await,
        }
    }

    async fn ask_securely(&self, secured: &Secured, stream: TcpStream) -> Result<(), Fault> {
        match secured.connector.connect(secured.name.clone(), stream).await {
            Ok(stream) => self.ask(stream).await,
            Err(error) => Err(Fault::theirs(format!("TLS: {error}"))),
        }
    }

    /// Asks what is to be asked of whoever is at the other end.
    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Fault> {
        let Ask::Http { request, expected } = &self.ask else { return Ok(()) };
        let status = status_of(stream, request).await?;
        if status == *expected {
            return Ok(());
        }
        Err(Fault::theirs(format!("status {status}, expected {expected}")))
    }
}

/// The request, with a `/` put before a path that has none.
///
/// # Errors
/// A path or host with anything but visible ASCII in it, which could end the line and begin a
/// header, or another request.
fn request(path: &str, host: &str) -> Result<Box<str>, Box<str>> {
    for (what, text) in [("path", path), ("host", host)] {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = format!(
                "the {what} {text:?} cannot be sent: only visible ASCII can, without spaces \
                 (percent-encode the rest)"
            );
            return Err(reason.into());
        }
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        "GET {slash}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: edge-proxy-health/{version}\r\n\
         Connection: close\r\n\r\n"
    )
    .into())
}

/// The header of a connection that is nobody else's. Version 1 knows none, so it says who asks.
pub fn own_header(stream: &TcpStream, version: Version) -> Box<[u8]> {
    let header = match (version, stream.local_addr(), stream.peer_addr()) {
        (Version::V1, Ok(source), Ok(destination)) => Header::Proxied { source, destination },
        _ => Header::Local,
    };
    header.written(version, &Tlvs::default())
}

/// Opens a connection to the first of the name's addresses that takes one.
async fn open_any(name: &str) -> Result<TcpStream, Fault> {
    let unknown = |error: &dyn std::fmt::Display| format!("{name} is not to be found: {error}");
    let found = tokio::net::lookup_host(name).await;
    let addrs = found.map_err(|error| Fault::theirs(unknown(&error)))?;
    let mut last = Fault::theirs(unknown(&"it has no address"));
    for addr in addrs {
        match open(addr).await {
            Ok(stream) => return Ok(stream),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

async fn open(addr: SocketAddr) -> Result<TcpStream, Fault> {
    not_to_itself(TcpStream::connect(addr).await?, addr)
}

/// A dial of a port of this machine that nobody listens on can be given that very port as its own,
/// and then TCP's simultaneous open (RFC 9293, 3.5) connects it to itself.
fn not_to_itself(stream: TcpStream, dialled: SocketAddr) -> Result<TcpStream, Fault> {
    // Whoever opens and resets has no peer any more, but it did open.
    let peer = stream.peer_addr().unwrap_or(dialled);
    if !stream.local_addr().is_ok_and(|local| local == peer) {
        return Ok(stream);
    }
    // Reset: the port must be free for its backend at once, without TIME-WAIT.
    stream.set_zero_linger()?;
    Err(io::Error::from(ErrorKind::ConnectionRefused).into())
}

async fn status_of(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> Result<u16, Fault> {
    // Whoever answers without reading makes this fail, but the answer is there all the same; and
    // where there is none, reading says why.
    let _ = stream.write_all(request.as_bytes()).await;
    let _ = stream.flush().await;
    let mut answer = vec![0; status_line::LIMIT];
    let mut read = 0;
    loop {
        let more = stream.read(&mut answer[read..]).await?;
        if more == 0 {
            let when = if read == 0 { "without an answer" } else { "within the status line" };
            return Err(Fault::theirs(format!("connection closed {when}")));
        }
        read += more;
        if let Some(status) = status_line::parse(&answer[..read]).map_err(Fault::theirs)? {
            return Ok(status);
        }
    }
}

impl Fault {
    fn theirs(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ours: false }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let ours = OURS.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
        let reason = match error.kind() {
            // The words without the number, for those everybody meets.
            kind @ (ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::TimedOut) => kind.to_string(),
            _ => error.to_string(),
        };
        Self { reason, ours }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_or_host_that_could_smuggle_a_request_is_refused() {
        for (path, host) in [
            ("/a b", "h"),
            ("/\r\nX: y", "h"),
            ("/\u{7f}", "h"),
            ("/ü", "h"),
            ("/", "h\r\nX: y"),
            ("/", "h i"),
        ] {
            let reason = request(path, host).unwrap_err();
            assert!(reason.contains("cannot be sent"), "{reason}");
        }
    }

    #[test]
    fn a_path_without_a_slash_is_given_one() {
        for (path, line) in [("up", "GET /up "), ("", "GET / "), ("/up?x=1", "GET /up?x=1 ")] {
            assert!(request(path, "h").unwrap().starts_with(line));
        }
    }

    #[test]
    fn running_out_of_descriptors_is_not_held_against_the_backend() {
        let out_of = |errno: Errno| Fault::from(io::Error::from(errno)).ours;
        assert!(out_of(Errno::MFILE));
        assert!(!out_of(Errno::CONNREFUSED));
        assert!(!out_of(Errno::HOSTUNREACH));
    }

    #[tokio::test]
    async fn a_connection_of_a_port_to_itself_is_a_refusal() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let itself = socket.local_addr().unwrap();
        let stream = socket.connect(itself).await.expect("simultaneous open");
        let fault = not_to_itself(stream, itself).unwrap_err();
        assert_eq!((fault.reason.as_str(), fault.ours), ("connection refused", false));
    }
}
