//! What a request says, as far as it is told of or believed.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use http::request::Parts;

use crate::application::account::Reason;
use crate::application::http::{Said, request_line};
use crate::application::locate::Location;
use crate::application::upstreams::{AppTable, Upstream};
use crate::domain::affinity::Key as AffinityKey;
use crate::domain::time::Time;
use crate::infrastructure::http1::{Framing, Request, Version};

/// What there is to tell of a request.
pub(super) struct Made {
    /// What a backend gets of it before its body, once that is known; the method, the path and the host
    /// in it are.
    pub head: Vec<u8>,
    pub path: Range<usize>,
    pub host: Range<usize>,
    pub version: Version,
    pub client: SocketAddr,
    pub location: Location,
    pub table: Option<Arc<AppTable>>,
    pub said: Said,
    pub began: Time,
    pub reason: Reason,
    /// Whether its client may ask again behind it: it has not said that it is the last.
    pub asks_on: bool,
    pub key: AffinityKey,
    /// Whether it has been made once more already.
    pub again: bool,
    /// Dials that were begun for it, the backend that was tried last, and bytes to and from backends.
    pub tries: usize,
    pub tried: Option<Arc<Upstream>>,
    pub moved: (u64, u64),
}

impl Made {
    pub fn of(
        request: &Request<'_, '_>,
        client: SocketAddr,
        trace: [u8; 16],
        mut head: Vec<u8>,
        now: Time,
    ) -> Self {
        let (path, host) = request_line(request, &mut head);
        let mut accepts =
            request.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("accept"));
        let said = Said {
            trace,
            json: accepts.any(|field| names_json(field.value)),
            to_head: request.method == "HEAD",
            keeps: request.keeps_alive && request.framing == Framing::None,
        };
        Self {
            head,
            path,
            host,
            version: request.version,
            asks_on: request.keeps_alive,
            said,
            ..Self::unknown(client, trace, now)
        }
    }

    /// A part of the head.
    pub fn text(&self, part: Range<usize>) -> Option<&str> {
        let part = self.head.get(part).filter(|part| !part.is_empty())?;
        str::from_utf8(part).ok()
    }

    /// What there is to tell of one that could not be understood.
    pub fn unknown(client: SocketAddr, trace: [u8; 16], now: Time) -> Self {
        Self {
            head: Vec::new(),
            path: 0..0,
            host: 0..0,
            version: Version::Http11,
            client,
            location: Location::default(),
            table: None,
            said: Said { trace, json: false, to_head: false, keeps: false },
            began: now,
            reason: Reason::BadRequest,
            asks_on: true,
            key: (client.ip().into(), 0),
            again: false,
            tries: 0,
            tried: None,
            moved: (0, 0),
        }
    }
}

/// How one is told that it is refused: as JSON or not, and without a body or with one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Takes {
    pub json: bool,
    pub to_head: bool,
}

impl Takes {
    /// As far as a head says that could not be read, or of which not all has come.
    pub fn of_unread(head: &[u8]) -> Self {
        const ACCEPT: &[u8] = b"accept:";
        let lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let json = lines.take_while(|line| !line.is_empty()).any(|line| {
            let name = line.get(..ACCEPT.len());
            name.is_some_and(|name| name.eq_ignore_ascii_case(ACCEPT)) && names_json(line)
        });
        Self { json, to_head: false }
    }

    /// As a request of HTTP/2 says.
    pub fn of_http2(parts: &Parts) -> Self {
        let json = parts.headers.get_all("accept").iter().any(|value| names_json(value.as_bytes()));
        Self { json, to_head: parts.method == "HEAD" }
    }
}

/// Whether kinds of content are named of which one is JSON.
fn names_json(accepted: &[u8]) -> bool {
    accepted.windows(4).any(|word| word.eq_ignore_ascii_case(b"json"))
}

/// The trace that a request goes on with: it says so once, for nobody knows which of two it is.
pub(super) fn trace_of(request: &Request<'_, '_>) -> Option<u128> {
    let fields = request.fields.iter();
    let mut given = fields.filter(|field| field.name.eq_ignore_ascii_case("traceparent"));
    match (given.next(), given.next()) {
        (Some(only), None) => parent_of(only.value),
        _ => None,
    }
}

/// The trace of a `traceparent` that is well-formed (W3C Trace Context, 3.2): a version, 32 digits, 16
/// digits and 2 digits, with `-` between them.
fn parent_of(value: &[u8]) -> Option<u128> {
    let is_hex = |bytes: &[u8]| {
        bytes.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
    };
    let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let digits = [0..2, 3..35, 36..52, 53..55];
    if !dashes || !digits.into_iter().all(|range| value.get(range).is_some_and(is_hex)) {
        return None;
    }
    // What later versions have is behind what is known; there is no version ff.
    let is_whole = match &value[..2] {
        b"00" => value.len() == 55,
        b"ff" => false,
        _ => value.get(55).is_none_or(|byte| *byte == b'-'),
    };
    if !is_whole {
        return None;
    }
    let trace = u128::from_str_radix(str::from_utf8(&value[3..35]).ok()?, 16).ok()?;
    (trace != 0 && value[36..52].iter().any(|digit| *digit != b'0')).then_some(trace)
}
