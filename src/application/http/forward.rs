//! Heads, rewritten for the other side: without what is for one hop only (RFC 9110, 7.6.1), with what
//! the next must know.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::hops::{Hops, write_asked, write_node};
use crate::infrastructure::http1::{Field, Framing, Request, Response, Target, Version, elements};
use crate::infrastructure::text::{push_hex, push_ip, push_number};

/// Our name in `Via`.
const PSEUDONYM: &str = "edge-proxy";

/// Fields that are for one hop, besides those that `Connection` names. `Upgrade` is put back where it
/// is granted.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
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

/// What is said of who asked, and how, which is written anew.
const WRITTEN: [&str; 4] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

/// What all that is said of clients begins with that is not among the next.
const ABOUT_CLIENTS: &str = "x-forwarded";

/// By what other names hops say who asks. Only trusted ones may.
const NAMES_OF_CLIENTS: [&str; 11] = [
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "fly-client-ip",
    "x-original-forwarded-for",
    "x-envoy-external-address",
    "x-azure-clientip",
];

/// What a backend is told of a request besides what the client says.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Who speaks to us.
    pub peer: IpAddr,
    /// Whether it came by TLS.
    pub secured: bool,
    /// What it says of who asked before it, if it is believed.
    pub hops: Option<&'a Hops<'a>>,
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
pub fn request_head(request: &Request<'_, '_>, about: &About<'_>, out: &mut Vec<u8>) {
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
        let is_said = is(&"host")
            || is_of(&WRITTEN, sent.name)
            || (about.hops.is_none() && is_about_clients(sent.name));
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

/// Who asks, and how: after what trusted hops say of who asked them, in place of what others do. Both
/// families say the same.
fn about_client(request: &Request<'_, '_>, about: &About<'_>, out: &mut Vec<u8>) {
    let peer = about.peer.to_canonical();
    let itself = (Some(if about.secured { "https" } else { "http" }), request.authority);
    let proto = about.hops.and_then(|hops| hops.proto).or(itself.0);
    let host = about.hops.and_then(|hops| hops.host).or(itself.1);
    out.extend_from_slice(b"x-forwarded-for: ");
    if let Some(hops) = about.hops {
        hops.write_addresses(out);
    }
    push_ip(out, peer);
    out.extend_from_slice(b"\r\n");
    for (name, value) in [("x-forwarded-proto", proto), ("x-forwarded-host", host)] {
        if let Some(value) = value {
            field(out, name, &[value.as_bytes()]);
        }
    }
    out.extend_from_slice(b"forwarded: ");
    let has_client = about.hops.is_some_and(|hops| hops.write_elements(out));
    write_node(Some(peer), out);
    // How the client has asked stands with the client.
    let (proto, host) = if has_client { itself } else { (proto, host) };
    write_asked(proto, host, out);
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
    known.iter().any(|known| known.len() == name.len() && begins_with(name, known))
}

/// Whether a name begins with `known`, in the same sense.
fn begins_with(name: &str, known: &str) -> bool {
    let is_same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
    known.len() <= name.len() && name.bytes().zip(known.bytes()).all(is_same)
}

/// Whether a field says who asks, or how.
fn is_about_clients(name: &str) -> bool {
    begins_with(name, ABOUT_CLIENTS) || is_of(&NAMES_OF_CLIENTS, name)
}

/// Whether a field may stand behind a body.
#[must_use]
pub fn is_field_for_trailers(name: &str) -> bool {
    !is_about_clients(name)
        && ![&HOP_BY_HOP[..], &WRITTEN, &NOT_BEHIND].iter().any(|known| is_of(known, name))
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
