//! Heads, rewritten for the other side: without what is for one hop only (RFC 9110, 7.6.1), with what
//! the next must know.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::infrastructure::http1::{Field, Framing, Request, Response, Target, Version, elements};
use crate::infrastructure::text::{push_hex, push_ip, push_number};

/// Our name in `Via`.
const PSEUDONYM: &str = "edge-proxy";

/// Fields that are for one hop, besides those that `Connection` names. `Upgrade` is put back where it
/// is granted.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
];

/// Fields that mean something for framing, routing or access, and never stand behind a body (RFC 9110,
/// 6.5.1).
const NOT_BEHIND: [&str; 14] = [
    "host",
    "authorization",
    "proxy-authorization",
    "proxy-authenticate",
    "www-authenticate",
    "cookie",
    "set-cookie",
    "content-encoding",
    "content-type",
    "content-range",
    "expect",
    "max-forwards",
    "range",
    "cache-control",
];

/// What a client says of itself and of who asked before it, which is believed of nobody.
const ABOUT_CLIENTS: [&str; 8] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
];

/// What a backend is told of a request besides what the client says.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Who speaks to us.
    pub peer: IpAddr,
    /// Whether it came by TLS.
    pub secured: bool,
    /// Whether it is believed what it says of who asked before it.
    pub trusted: bool,
    /// Who is asked where the client does not say it: where it went.
    pub named: Option<SocketAddr>,
    /// By which the request is known (W3C Trace Context: 16 bytes, not all zero), and whether it says so
    /// itself.
    pub trace: ([u8; 16], bool),
    /// What the trace is begun with where there is none.
    pub parent: u64,
    /// Of which version the request is.
    pub version: Version,
}

/// What is passed on of a response.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// How its body is framed for the client.
    pub framing: Framing,
    /// Whether the client's connection goes on afterwards.
    pub keeps: bool,
    /// Whether the client is of HTTP/1.1.
    pub is_11: bool,
    /// Whether the connection changes its protocol.
    pub upgrades: bool,
}

/// Writes the beginning of the head that a backend gets, and says where in it the path is, and the host
/// if there is one. The method is before the path.
pub fn request_line(request: &Request<'_, '_>, out: &mut Vec<u8>) -> (Range<usize>, Range<usize>) {
    let path = match request.target {
        Target::Origin(path) => path,
        Target::Asterisk => "*",
    };
    out.extend_from_slice(request.method.as_bytes());
    out.push(b' ');
    let before = out.len();
    out.extend_from_slice(path.as_bytes());
    let path = before..out.len();
    line(out, &[b" HTTP/1.1"]);
    let Some(host) = request.authority else { return (path, 0..0) };
    out.extend_from_slice(b"host: ");
    let before = out.len();
    line(out, &[host.as_bytes()]);
    (path, before..before + host.len())
}

/// Writes the rest of it.
pub fn request_head(request: &Request<'_, '_>, about: &About, out: &mut Vec<u8>) {
    match (request.authority, about.named) {
        (Some(_), _) => {}
        // HTTP/1.1 cannot do without.
        (None, Some(named)) => {
            // Writing to memory cannot fail.
            let _ = write!(out, "host: {named}\r\n");
        }
        (None, None) => field(out, "host", &[]),
    }
    for sent in end_to_end(request.fields) {
        let is = |name: &&str| sent.name.eq_ignore_ascii_case(name);
        let is_said = is(&"host") || is_of(&ABOUT_CLIENTS, sent.name);
        // A trace that is none, and what belongs to it.
        let is_lost = !about.trace.1 && (is(&"traceparent") || is(&"tracestate"));
        if !is_said && !is_lost {
            field(out, sent.name, &[sent.value]);
        }
    }
    framed(request.framing, out);
    if let Some(protocol) = request.upgrade {
        field(out, "connection", &[b"upgrade"]);
        field(out, "upgrade", &[protocol.as_bytes()]);
    } else if request.takes_trailers {
        field(out, "connection", &[b"te"]);
        field(out, "te", &[b"trailers"]);
    }
    let version: &[u8] = match about.version {
        Version::Http10 => b"1.0 ",
        Version::Http11 => b"1.1 ",
        Version::Http2 => b"2 ",
    };
    field(out, "via", &[version, PSEUDONYM.as_bytes()]);
    about_client(request, about, out);
    if !about.trace.1 {
        out.extend_from_slice(b"traceparent: 00-");
        push_hex(out, &about.trace.0);
        out.push(b'-');
        push_hex(out, &about.parent.to_be_bytes());
        line(out, &[b"-00"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Who asks, and how: after what trusted hops say of who asked them, in place of what others do.
fn about_client(request: &Request<'_, '_>, about: &About, out: &mut Vec<u8>) {
    let said = |name: &'static str| {
        let fields = request.fields.iter().filter(|_| about.trusted);
        fields.filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    };
    let open = |out: &mut Vec<u8>, name: &'static str| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        for value in said(name) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    };
    let peer = about.peer.to_canonical();
    let proto: &str = if about.secured { "https" } else { "http" };
    open(out, "x-forwarded-for");
    push_ip(out, peer);
    out.extend_from_slice(b"\r\n");
    for name in ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"] {
        match (said(name).next(), name, request.authority) {
            (Some(value), _, _) => field(out, name, &[value]),
            (None, "x-forwarded-proto", _) => field(out, name, &[proto.as_bytes()]),
            (None, "x-forwarded-host", Some(host)) => field(out, name, &[host.as_bytes()]),
            _ => {}
        }
    }
    open(out, "forwarded");
    let (before, behind): (&[u8], &[u8]) =
        if peer.is_ipv6() { (b"for=\"[", b"]\"") } else { (b"for=", b"") };
    out.extend_from_slice(before);
    push_ip(out, peer);
    out.extend_from_slice(behind);
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(proto.as_bytes());
    if let Some(host) = request.authority {
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head that a client gets.
pub fn answer_head(response: &Response<'_, '_>, passed: Passed, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, response.status.into());
    out.push(b' ');
    line(out, &[response.reason.as_bytes()]);
    for sent in end_to_end(response.fields) {
        field(out, sent.name, &[sent.value]);
    }
    if passed.upgrades {
        field(out, "connection", &[b"upgrade"]);
        for sent in response.fields.iter().filter(|sent| sent.name.eq_ignore_ascii_case("upgrade"))
        {
            field(out, "upgrade", &[sent.value]);
        }
    } else if response.status >= 200 {
        match passed.framing {
            Framing::None if response.status == 204 => {}
            // How long it would be, to a HEAD or where nothing has changed.
            Framing::None => {
                for sent in response
                    .fields
                    .iter()
                    .filter(|sent| sent.name.eq_ignore_ascii_case("content-length"))
                {
                    field(out, "content-length", &[sent.value]);
                }
            }
            framing => framed(framing, out),
        }
        match (passed.keeps, passed.is_11) {
            (false, _) => field(out, "connection", &[b"close"]),
            (true, false) => field(out, "connection", &[b"keep-alive"]),
            (true, true) => {}
        }
    }
    field(out, "via", &[b"1.1 ", PSEUDONYM.as_bytes()]);
    out.extend_from_slice(b"\r\n");
}

fn framed(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            push_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => field(out, "transfer-encoding", &[b"chunked"]),
    }
}

/// The fields that are not for this hop alone.
pub fn end_to_end<'h, 'b>(fields: &'h [Field<'b>]) -> impl Iterator<Item = &'h Field<'b>> {
    let named = move |name: &str| {
        fields
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case("connection"))
            .flat_map(|field| elements(field.value))
            .any(|item| item.eq_ignore_ascii_case(name.as_bytes()))
    };
    let has_options = fields.iter().any(|field| field.name.eq_ignore_ascii_case("connection"));
    fields.iter().filter(move |field| {
        let is_hop = is_of(&HOP_BY_HOP, field.name);
        // What a message cannot do without is nobody's to take out.
        let is_needed = field.name.eq_ignore_ascii_case("host");
        !is_hop && (is_needed || !has_options || !named(field.name))
    })
}

/// Whether a name is one of `known`, with `_` for `-` as well: to many a backend both are the same (RFC
/// 3875, 4.1.18).
fn is_of(known: &[&str], name: &str) -> bool {
    let is_same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
    let is =
        |known: &&str| known.len() == name.len() && name.bytes().zip(known.bytes()).all(is_same);
    known.iter().any(is)
}

/// Whether a field may stand behind a body.
#[must_use]
pub fn is_field_for_trailers(name: &str) -> bool {
    ![&HOP_BY_HOP[..], &ABOUT_CLIENTS, &NOT_BEHIND].iter().any(|known| is_of(known, name))
}

fn line(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &str, value: &[&[u8]]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    line(out, value);
}
