//! What a request says, as far as it is told of or believed.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

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
        let is_json = |word: &[u8]| word.eq_ignore_ascii_case(b"json");
        let said = Said {
            trace,
            json: accepts.any(|field| field.value.windows(4).any(is_json)),
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

/// The trace of a `traceparent` that is well-formed (W3C Trace Context, 3.2): a version, 32 digits, 16
/// digits and 2 digits, with `-` between them.
pub(super) fn parent_of(value: &[u8]) -> Option<u128> {
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
