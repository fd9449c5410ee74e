//! What is left of a connection: why it ended, and one line about it.

mod ended;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::upstreams::Upstream;
use crate::domain::balance::Tier;
use crate::domain::time::civil_date;
use crate::domain::{App, Country, Region};
use crate::infrastructure::text::{push_hex, push_ip, push_number, push_padded};
pub use ended::{Ended, Refused};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a connection ended: a closed list, the same in the log and in metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name of it in log and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// The client was the first to send its last byte.
    ClientClosed = "client_closed",
    /// The backend was the first to send its last byte.
    BackendClosed = "backend_closed",
    /// The client reset the connection, or could no longer be reached.
    ClientReset = "client_reset",
    /// The backend reset the connection, or could no longer be reached.
    BackendReset = "backend_reset",
    /// Neither side sent anything for the idle timeout.
    Idle = "idle",
    /// The client is on the deny list.
    Denied = "denied",
    /// The client asked too often.
    RateLimited = "rate_limited",
    /// The client had too many connections.
    ClientCap = "client_cap",
    /// There were too many connections.
    GlobalCap = "global_cap",
    /// No backend takes connections of such a client.
    NoBackend = "no_backend",
    /// Every backend that does is at its hard limit.
    AtHardLimit = "at_hard_limit",
    /// No backend that was tried answered.
    ConnectFailed = "connect_failed",
    /// The TLS handshake failed.
    TlsFailed = "tls_failed",
    /// The PROXY protocol header was missing, malformed or not from a trusted peer.
    ProxyHeader = "proxy_header",
    /// The drain ran out of time.
    Drained = "drained",
    /// An operator closed it, or has those of unhealthy backends closed.
    Killed = "killed",
    /// The backend has answered the request.
    Served = "served",
    /// The request was malformed, ambiguous or of a kind that is not served.
    BadRequest = "bad_request",
    /// No app has the host that was asked for.
    UnknownHost = "unknown_host",
    /// The client took too long to make its request.
    RequestTimeout = "request_timeout",
    /// The backend took too long to answer.
    ResponseTimeout = "response_timeout",
    /// This process could not go on with it (descriptors, memory).
    Internal = "internal",
}

impl Reason {
    /// Turned away without having been carried anywhere, for a reason of the proxy's own.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        self.is_admission()
            || matches!(
                self,
                Self::NoBackend | Self::AtHardLimit | Self::TlsFailed | Self::ProxyHeader
            )
    }

    /// Why a request may not have been answered by a backend.
    #[must_use]
    pub const fn is_of_requests(self) -> bool {
        matches!(
            self,
            Self::ClientReset
                | Self::BackendReset
                | Self::Idle
                | Self::Denied
                | Self::RateLimited
                | Self::NoBackend
                | Self::AtHardLimit
                | Self::ConnectFailed
                | Self::Drained
                | Self::Killed
                | Self::BadRequest
                | Self::UnknownHost
                | Self::RequestTimeout
                | Self::ResponseTimeout
                | Self::Internal
        )
    }

    /// Refused before anything was known but the address: counted and summed up, not logged one
    /// by one, so that a flood does not become a flood of lines.
    #[must_use]
    pub const fn is_admission(self) -> bool {
        matches!(self, Self::Denied | Self::RateLimited | Self::ClientCap | Self::GlobalCap)
    }
}

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `time access key=value ...`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is left of a connection.
#[derive(Debug)]
pub struct Record<'r> {
    /// The client.
    pub client: SocketAddr,
    /// The country that it is in.
    pub country: Option<Country>,
    /// The server's name of TLS that it asked for.
    pub server_name: Option<Box<str>>,
    /// The version of TLS that ended here, once its handshake was over.
    pub tls: Option<&'static str>,
    /// Who the client has shown to be by a certificate that was verified.
    pub client_name: Option<String>,
    /// Where it was carried, or tried last.
    pub backend: Option<Arc<Upstream>>,
    /// How near that is.
    pub tier: Option<Tier>,
    /// Dials that were begun.
    pub tries: u32,
    /// Bytes towards the backend.
    pub sent: u64,
    /// Bytes from the backend.
    pub received: u64,
    /// From accepting the client to the backend's answer.
    pub setup: Option<Duration>,
    /// From accepting the client to the end.
    pub total: Duration,
    /// Why it ended.
    pub reason: Reason,
    /// The request, where this is about one.
    pub request: Option<Requested<'r>>,
}

/// A request and how it was answered.
#[derive(Clone, Copy, Debug)]
pub struct Requested<'r> {
    /// As it is written.
    pub method: &'r str,
    /// The path and the query.
    pub path: &'r str,
    /// Who was asked.
    pub host: Option<&'r str>,
    /// `HTTP/1.0` to `HTTP/2`.
    pub version: &'static str,
    /// Of the answer; `None` = there was none.
    pub status: Option<u16>,
    /// By which the request is known: the trace of W3C Trace Context.
    pub id: [u8; 16],
}

impl Record<'_> {
    /// A connection that got nowhere.
    #[must_use]
    pub const fn new(client: SocketAddr, reason: Reason) -> Self {
        Self {
            client,
            country: None,
            server_name: None,
            tls: None,
            client_name: None,
            backend: None,
            tier: None,
            tries: 0,
            sent: 0,
            received: 0,
            setup: None,
            total: Duration::ZERO,
            reason,
            request: None,
        }
    }
}

/// What a client asked for and where it is, by the table in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// The app.
    pub app: Option<&'a App>,
    /// The client's region.
    pub region: Option<&'a Region>,
}

/// Appends a line about a connection that ended at `wall` (time since the Unix epoch).
pub fn write_line(
    out: &mut Vec<u8>,
    format: Format,
    wall: Duration,
    asked: Asked<'_>,
    record: &Record<'_>,
) {
    let mut line = Line { out, json: format == Format::Json };
    let backend = record.backend.as_deref();
    line.begin(wall);
    line.peer("client", record.client);
    line.text("country", record.country.as_ref().map(Country::as_str));
    line.text("region", asked.region.map(Region::as_str));
    line.text("app", asked.app.map(App::as_str));
    line.text("server_name", record.server_name.as_deref());
    line.text("tls", record.tls);
    line.foreign("client_name", record.client_name.as_deref());
    line.text("backend", backend.map(|b| b.id.as_str()));
    line.text("backend_region", backend.map(|b| b.region.as_str()));
    line.number("tier", record.tier.map(|tier| u64::from(tier.number())));
    line.number("tries", Some(u64::from(record.tries)));
    line.number("sent", Some(record.sent));
    line.number("received", Some(record.received));
    line.millis("setup_ms", record.setup);
    line.millis("duration_ms", Some(record.total));
    line.text("reason", Some(record.reason.as_str()));
    if let Some(Requested { method, path, host, version, status, id }) = record.request {
        line.text("method", Some(method));
        line.text("host", host);
        line.visible("path", Some(path));
        line.text("version", Some(version));
        line.number("status", status.map(u64::from));
        line.hex("request_id", id);
    }
    line.end();
}

/// A line being written, without `format!` or an allocation of its own.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    json: bool,
}

impl Line<'_> {
    fn begin(&mut self, wall: Duration) {
        if self.json {
            self.out.extend_from_slice(b"{\"time\":\"");
            push_time(self.out, wall);
            self.out.extend_from_slice(b"\",\"target\":\"access\"");
        } else {
            push_time(self.out, wall);
            self.out.extend_from_slice(b" access");
        }
    }

    fn key(&mut self, key: &str) {
        if self.json {
            self.out.extend_from_slice(b",\"");
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(b"\":");
        } else {
            self.out.push(b' ');
            self.out.extend_from_slice(key.as_bytes());
            self.out.push(b'=');
        }
    }

    fn absent(&mut self) {
        self.out.extend_from_slice(if self.json { b"null" } else { b"-" });
    }

    fn text(&mut self, key: &str, value: Option<&str>) {
        self.key(key);
        match value {
            None => self.absent(),
            Some(text) if self.json => push_json(self.out, text),
            Some(text) => self.out.extend_from_slice(text.as_bytes()),
        }
    }

    /// A text of visible ASCII characters, whatever they are.
    fn visible(&mut self, key: &str, value: Option<&str>) {
        if self.json { self.foreign(key, value) } else { self.text(key, value) }
    }

    /// A text in which anything may be: what could end a field or a line is percent-encoded.
    fn foreign(&mut self, key: &str, value: Option<&str>) {
        self.key(key);
        match value {
            None => self.absent(),
            // It cannot fail: it is text, and there is memory.
            Some(text) if self.json => drop(serde_json::to_writer(&mut *self.out, text)),
            Some(text) => {
                let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'%';
                if text.bytes().all(|byte| is_plain(&byte)) {
                    return self.out.extend_from_slice(text.as_bytes());
                }
                for byte in text.bytes() {
                    if is_plain(&byte) {
                        self.out.push(byte);
                    } else {
                        let _ = write!(self.out, "%{byte:02X}");
                    }
                }
            }
        }
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        self.key(key);
        match value {
            None => self.absent(),
            Some(number) => push_number(self.out, number),
        }
    }

    fn hex(&mut self, key: &str, id: [u8; 16]) {
        self.key(key);
        let quote: &[u8] = if self.json { b"\"" } else { b"" };
        self.out.extend_from_slice(quote);
        push_hex(self.out, &id);
        self.out.extend_from_slice(quote);
    }

    fn millis(&mut self, key: &str, value: Option<Duration>) {
        self.key(key);
        let Some(span) = value else { return self.absent() };
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        push_number(self.out, micros / 1_000);
        self.out.push(b'.');
        push_padded::<3>(self.out, micros % 1_000);
    }

    fn peer(&mut self, key: &str, peer: SocketAddr) {
        self.key(key);
        if self.json {
            self.out.push(b'"');
        }
        let ip = peer.ip().to_canonical();
        let (before, behind): (&[u8], &[u8]) = if ip.is_ipv6() { (b"[", b"]") } else { (b"", b"") };
        self.out.extend_from_slice(before);
        push_ip(self.out, ip);
        self.out.extend_from_slice(behind);
        self.out.push(b':');
        push_number(self.out, u64::from(peer.port()));
        if self.json {
            self.out.push(b'"');
        }
    }

    fn end(&mut self) {
        self.out.extend_from_slice(if self.json { b"}\n" } else { b"\n" });
    }
}

fn push_json(out: &mut Vec<u8>, text: &str) {
    // Names hold no quotes and no control characters; a backslash is all that could hurt.
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'\\' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// RFC 3339 in UTC with milliseconds.
fn push_time(out: &mut Vec<u8>, wall: Duration) {
    let secs = wall.as_secs();
    let (year, month, day) = civil_date(secs);
    push_padded::<4>(out, year);
    for (mark, value) in [(b'-', month), (b'-', day), (b'T', secs / 3_600 % 24)] {
        out.push(mark);
        push_padded::<2>(out, value);
    }
    for value in [secs / 60 % 60, secs % 60] {
        out.push(b':');
        push_padded::<2>(out, value);
    }
    out.push(b'.');
    push_padded::<3>(out, u64::from(wall.subsec_millis()));
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format, client: &str) -> String {
        let app: App = "web".parse().unwrap();
        let record = Record {
            country: "BR".parse().ok(),
            tier: Some(Tier::Far),
            server_name: Some("a.test".into()),
            tls: Some("TLSv1.3"),
            client_name: Some("Jürgen %\n".into()),
            tries: 2,
            received: u64::MAX,
            total: Duration::from_micros(12_034),
            ..Record::new(client.parse().unwrap(), Reason::ConnectFailed)
        };
        let asked = Asked { app: Some(&app), region: None };
        let mut out = Vec::new();
        write_line(&mut out, format, Duration::from_millis(1_798_761_600_007), asked, &record);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_text_line_is_keys_and_values() {
        assert_eq!(
            line(Format::Text, "[::ffff:192.0.2.1]:99"),
            "2027-01-01T00:00:00.007Z access client=192.0.2.1:99 country=BR region=- app=web \
             server_name=a.test tls=TLSv1.3 client_name=J%C3%BCrgen%20%25%0A backend=- backend_region=- tier=3 tries=2 sent=0 received=18446744073709551615 \
             setup_ms=- duration_ms=12.034 reason=connect_failed\n"
        );
    }

    #[test]
    fn a_json_line_parses() {
        let value: serde_json::Value =
            serde_json::from_str(&line(Format::Json, "[2001:db8::1]:99")).unwrap();
        assert_eq!(value["client"], "[2001:db8::1]:99");
        assert_eq!(value["region"], serde_json::Value::Null);
        assert_eq!(value["client_name"], "Jürgen %\n");
        assert_eq!(value["duration_ms"], 12.034);
        assert_eq!(value["reason"], "connect_failed");
    }

    #[test]
    fn a_line_about_a_request_says_what_was_asked_as_it_was_written() {
        let request = Requested {
            method: "GET",
            path: "/a%20b?c=\"d\"\\",
            host: Some("a.test:80"),
            version: "HTTP/2",
            status: Some(404),
            id: [0x1f; 16],
        };
        let client = "192.0.2.1:9".parse().unwrap();
        let record = Record { request: Some(request), ..Record::new(client, Reason::Served) };
        let written = |format| {
            let mut out = Vec::new();
            write_line(&mut out, format, Duration::ZERO, Asked::default(), &record);
            String::from_utf8(out).unwrap()
        };
        assert!(written(Format::Text).ends_with(
            " reason=served method=GET host=a.test:80 path=/a%20b?c=\"d\"\\ version=HTTP/2 \
             status=404 request_id=1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f\n"
        ));
        let value: serde_json::Value = serde_json::from_str(&written(Format::Json)).unwrap();
        assert_eq!(value["path"], "/a%20b?c=\"d\"\\");
        assert_eq!(value["request_id"], "1f".repeat(16));
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        for (secs, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut out = Vec::new();
            push_time(&mut out, Duration::from_secs(secs));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
