//! Who has asked before whoever speaks to us, as trusted hops write it: `X-Forwarded-For` and its
//! like, or `Forwarded` (RFC 7239).

use std::net::{IpAddr, SocketAddr};

use crate::domain::cidr::CidrMap;
use crate::infrastructure::http1::{Field, elements, is_authority};
use crate::infrastructure::text::push_ip;

/// The most hops that are read; what is said before them is not passed on.
const MAX_HOPS: usize = 32;
/// The longest name of a scheme.
const MAX_SCHEME: usize = 16;

/// The hops of a request before the one that speaks to us, the last of them first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hops<'b> {
    /// `None` = it does not say who it is.
    nodes: [Option<IpAddr>; MAX_HOPS],
    count: usize,
    /// Which of them is the client, if one of them is.
    client: Option<usize>,
    /// How the client has asked: the name of a scheme.
    pub proto: Option<&'b str>,
    /// Whom it has asked.
    pub host: Option<&'b str>,
}

/// What one element of a `Forwarded` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Element<'b> {
    node: Option<IpAddr>,
    proto: Option<&'b str>,
    host: Option<&'b str>,
}

/// What is no element, nor an address.
struct Malformed;

impl<'b> Hops<'b> {
    /// What a trusted peer's request says of those before it. Where both families are there, the older is
    /// believed: most hops write that one only, and pass on what their clients say in the other. Read from
    /// the end, for what is before the word of the last trusted hop may be anybody's.
    #[must_use]
    pub fn told(fields: &[Field<'b>], trusted: &CidrMap<()>) -> Self {
        let mut hops =
            Self { nodes: [None; MAX_HOPS], count: 0, client: None, proto: None, host: None };
        let last =
            |name: &'static str| named(fields, name).rev().find_map(|value| elements(value).last());
        hops.proto = last("x-forwarded-proto").and_then(scheme);
        hops.host = last("x-forwarded-host").and_then(authority);
        let is_older = last("x-forwarded-for").is_some();
        let mut said = [Element::default(); MAX_HOPS];
        if is_older {
            hops.read_addresses(fields);
        } else {
            hops.read_elements(fields, &mut said);
        }
        for (at, node) in hops.nodes[..hops.count].iter().enumerate() {
            let Some(ip) = node else { break };
            hops.client = Some(at);
            if trusted.get(*ip).is_none() {
                break;
            }
        }
        let said = said[hops.client.unwrap_or(0)];
        hops.proto = said.proto.or(hops.proto);
        hops.host = said.host.or(hops.host);
        hops
    }

    /// Who asks: the last that is not trusted, else the first that is known.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.nodes[self.client?]
    }

    fn read_addresses(&mut self, fields: &[Field<'b>]) {
        let items = named(fields, "x-forwarded-for").rev();
        let items = items.flat_map(|value| value.rsplit(|byte| *byte == b','));
        for item in items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty()) {
            let Ok(node) = node(item) else { return };
            if !self.push(node) {
                return;
            }
        }
    }

    fn read_elements(&mut self, fields: &[Field<'b>], said: &mut [Element<'b>; MAX_HOPS]) {
        for value in named(fields, "forwarded").rev() {
            let mut rest = Some(value);
            while let Some(left) = rest {
                let (before, text) = split_last(left);
                rest = before;
                if text.trim_ascii().is_empty() {
                    continue;
                }
                let Ok(element) = element(text) else { return };
                let at = self.count;
                if !self.push(element.node) {
                    return;
                }
                said[at] = element;
            }
        }
    }

    /// Whether there was room for it.
    fn push(&mut self, node: Option<IpAddr>) -> bool {
        let Some(place) = self.nodes.get_mut(self.count) else { return false };
        *place = node;
        self.count += 1;
        true
    }

    /// Writes them as an `X-Forwarded-For` has them, each with a comma behind it.
    pub fn write_addresses(&self, out: &mut Vec<u8>) {
        for node in self.nodes[..self.count].iter().rev() {
            match node {
                Some(ip) => push_ip(out, *ip),
                None => out.extend_from_slice(b"unknown"),
            }
            out.extend_from_slice(b", ");
        }
    }

    /// Writes them as a `Forwarded` has them, each with a comma behind it. Whether one of them is the client,
    /// and says how it has asked.
    pub fn write_elements(&self, out: &mut Vec<u8>) -> bool {
        for (at, node) in self.nodes[..self.count].iter().enumerate().rev() {
            write_node(*node, out);
            if self.client == Some(at) {
                write_asked(self.proto, self.host, out);
            }
            out.extend_from_slice(b", ");
        }
        self.client.is_some()
    }
}

/// Writes who one is, as an element of a `Forwarded` begins.
pub fn write_node(node: Option<IpAddr>, out: &mut Vec<u8>) {
    let (before, behind): (&[u8], &[u8]) = match node.map(|ip| ip.to_canonical()) {
        None => (b"for=unknown", b""),
        Some(IpAddr::V4(_)) => (b"for=", b""),
        Some(IpAddr::V6(_)) => (b"for=\"[", b"]\""),
    };
    out.extend_from_slice(before);
    if let Some(ip) = node {
        push_ip(out, ip);
    }
    out.extend_from_slice(behind);
}

/// Writes how one has asked, as an element goes on. Neither has a `"` in it.
pub fn write_asked(proto: Option<&str>, host: Option<&str>, out: &mut Vec<u8>) {
    if let Some(proto) = proto {
        out.extend_from_slice(b";proto=");
        out.extend_from_slice(proto.as_bytes());
    }
    if let Some(host) = host {
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host.as_bytes());
        out.push(b'"');
    }
}

/// The values of a name's fields.
fn named<'h, 'b>(
    fields: &'h [Field<'b>],
    name: &'static str,
) -> impl DoubleEndedIterator<Item = &'b [u8]> + use<'h, 'b> {
    let fields = fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    fields.map(|field| field.value)
}

/// The last element of a list, and what is before it. A comma in quotes is none between two.
fn split_last(value: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let mut quoted = false;
    for (at, byte) in value.iter().enumerate().rev() {
        match byte {
            b'"' if !quoted => quoted = true,
            b'"' => {
                let escapes = value[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
                quoted = escapes % 2 == 1;
            }
            b',' if !quoted => return (Some(&value[..at]), &value[at + 1..]),
            _ => {}
        }
    }
    (None, value)
}

/// One hop's word (RFC 7239, 4). What is not known is left aside, what is there twice is an error.
fn element(text: &[u8]) -> Result<Element<'_>, Malformed> {
    let mut element = Element::default();
    let mut has_node = false;
    let mut rest = text.trim_ascii();
    loop {
        let equals = rest.iter().position(|byte| *byte == b'=').ok_or(Malformed)?;
        let name = rest[..equals].trim_ascii();
        let is_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name.is_empty() || !name.iter().all(is_token) {
            return Err(Malformed);
        }
        let (value, behind) = value(&rest[equals + 1..])?;
        if name.eq_ignore_ascii_case(b"for") {
            if std::mem::replace(&mut has_node, true) {
                return Err(Malformed);
            }
            element.node = node(value)?;
        } else if name.eq_ignore_ascii_case(b"proto") {
            element.proto = scheme(value);
        } else if name.eq_ignore_ascii_case(b"host") {
            element.host = authority(value);
        }
        let behind = behind.trim_ascii_start();
        if !matches!(behind, [] | [b';', ..]) {
            return Err(Malformed);
        }
        let is_between = |byte: &u8| matches!(byte, b';' | b' ' | b'\t');
        let between = behind.iter().take_while(|byte| is_between(byte)).count();
        rest = &behind[between..];
        if rest.is_empty() {
            return Ok(element);
        }
    }
}

/// A value, in quotes or not, and what is behind it. What is escaped in quotes stays so: nothing that is
/// read has to be.
fn value(text: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t'));
        let (value, behind) = text.split_at(end.unwrap_or(text.len()));
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\",\\".contains(byte);
        let is_fine = !value.is_empty() && value.iter().all(is_plain);
        return if is_fine { Ok((value, behind)) } else { Err(Malformed) };
    };
    let mut at = 0;
    loop {
        match quoted.get(at) {
            None => return Err(Malformed),
            Some(b'"') => return Ok((&quoted[..at], &quoted[at + 1..])),
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// An address, with or without a port; `None` = it does not say which (RFC 7239, 6).
fn node(text: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    let text = str::from_utf8(text).map_err(|_| Malformed)?;
    if let Ok(ip) = text.parse() {
        return Ok(Some(ip));
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok(Some(addr.ip()));
    }
    let is_hidden = |text: &str| {
        let inner = text.strip_prefix('_').unwrap_or_default();
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !inner.is_empty() && inner.bytes().all(is_inner)
    };
    let is_number = |text: &str| {
        (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| !is_number(port) && !is_hidden(port)) {
        return Err(Malformed);
    }
    if name.eq_ignore_ascii_case("unknown") || is_hidden(name) {
        return Ok(None);
    }
    if let Some(inner) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return inner.parse().map(|ip| Some(IpAddr::V6(ip))).map_err(|_| Malformed);
    }
    name.parse().map(|ip| Some(IpAddr::V4(ip))).map_err(|_| Malformed)
}

fn scheme(text: &[u8]) -> Option<&str> {
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let is_one = text.len() <= MAX_SCHEME
        && text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.iter().all(is_inner);
    str::from_utf8(text).ok().filter(|_| is_one)
}

fn authority(text: &[u8]) -> Option<&str> {
    str::from_utf8(text).ok().filter(|text| is_authority(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client, how and whom it has asked, and what both families say then.
    fn told(fields: &[(&str, &str)]) -> (String, String, String) {
        let fields: Vec<Field<'_>> =
            fields.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|range| (range.parse().unwrap(), ()));
        let hops = Hops::told(&fields, &trusted.into_iter().collect());
        let (mut addresses, mut all) = (Vec::new(), Vec::new());
        hops.write_addresses(&mut addresses);
        let has_client = hops.write_elements(&mut all);
        assert_eq!(has_client, hops.client().is_some());
        let text =
            |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end_matches(", ").to_owned();
        let client = hops.client().map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        (client, text(addresses), text(all))
    }

    fn forwarded(value: &str) -> (String, String, String) {
        told(&[("Forwarded", value)])
    }

    #[test]
    fn an_element_says_who_how_and_whom() {
        for (value, client, all) in [
            ("for=192.0.2.1", "192.0.2.1", "for=192.0.2.1"),
            ("For=\"192.0.2.1:80\"", "192.0.2.1", "for=192.0.2.1"),
            ("for=192.0.2.1:80; ;", "192.0.2.1", "for=192.0.2.1"),
            ("for=\"[2001:db8::1]:4711\"", "2001:db8::1", "for=\"[2001:db8::1]\""),
            ("for=\"[2001:db8::1]:_x\"", "2001:db8::1", "for=\"[2001:db8::1]\""),
            ("for=\"[2001:db8::1]\"", "2001:db8::1", "for=\"[2001:db8::1]\""),
            (
                "proto=https;by=_a; for=192.0.2.1 ;Host=\"a.test:8\";x=\"a, b;c\\\"\"",
                "192.0.2.1",
                "for=192.0.2.1;proto=https;host=\"a.test:8\"",
            ),
            // Of another kind than it should be: only that is left out.
            ("for=192.0.2.1;host=\"a\\\"b\";proto=\"h t\"", "192.0.2.1", "for=192.0.2.1"),
        ] {
            let (told, _, written) = forwarded(value);
            assert_eq!((&*told, &*written), (client, all), "{value}");
        }
    }

    #[test]
    fn the_client_is_the_last_who_is_not_trusted_and_known() {
        for (value, client, addresses) in [
            ("for=6.6.6.6, for=192.0.2.1", "192.0.2.1", "6.6.6.6, 192.0.2.1"),
            ("for=192.0.2.1,, for=10.1.1.1,", "192.0.2.1", "192.0.2.1, 10.1.1.1"),
            ("for=10.1.1.1, for=\"[fd00::1]\"", "10.1.1.1", "10.1.1.1, fd00::1"),
            (
                "for=192.0.2.1, for=unknown, for=10.1.1.1",
                "10.1.1.1",
                "192.0.2.1, unknown, 10.1.1.1",
            ),
            ("for=192.0.2.1, for=_gate;proto=https", "-", "192.0.2.1, unknown"),
            ("for=192.0.2.1, proto=https", "-", "192.0.2.1, unknown"),
            // What is none, and what is before it, may be anybody's.
            ("for=6.6.6.6, nonsense, for=192.0.2.1", "192.0.2.1", "192.0.2.1"),
            ("for=\"6.6.6.6, for=192.0.2.1", "192.0.2.1", "192.0.2.1"),
            ("for=6.6.6.6;for=7.7.7.7, for=192.0.2.1", "192.0.2.1", "192.0.2.1"),
            ("x=\"\\\", for=192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ] {
            let (told, written, _) = forwarded(value);
            assert_eq!((&*told, &*written), (client, addresses), "{value}");
        }
    }

    #[test]
    fn garbage_says_nothing() {
        let long = "a".repeat(60_000);
        let nothing = ("-".to_owned(), String::new(), String::new());
        for value in [
            "",
            ",",
            ";",
            "=",
            "for",
            "for=",
            "for=;",
            "=1.1.1.1",
            "for=\"",
            "for=\"1.1.1.1",
            "\"",
            "for=1.1.1.1 x",
            "for=\"1.1.1.1\"x",
            "f or=1.1.1.1",
            "for=1.1.1.256",
            "for=[::1",
            "for=\"[::g]\"",
            "for=1.1.1.1:x",
            "for=1.1.1.1:123456",
            "for=_",
            "for==1",
            "for=\"\\",
            "\\",
            "for=\"1.1.1.1\\\"",
            "for=\"\u{e9}\"",
            &long,
        ] {
            assert_eq!(forwarded(value), nothing, "{value:.40}");
            let older = told(&[("X-Forwarded-For", value), ("Forwarded", value)]);
            assert_eq!(older, nothing, "{value:.40}");
        }
    }

    #[test]
    fn several_fields_are_one_and_the_older_family_goes_before_the_other() {
        let two =
            told(&[("Forwarded", "for=192.0.2.1"), ("x", "y"), ("forwarded", "for=10.1.1.1")]);
        assert_eq!(two.1, "192.0.2.1, 10.1.1.1");
        let both = told(&[
            ("Forwarded", "for=6.6.6.6;proto=http"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Proto", "http, https"),
            ("X-Forwarded-Host", "a.test, b.test"),
        ]);
        assert_eq!(both.0, "192.0.2.1");
        assert_eq!(both.2, "for=192.0.2.1;proto=https;host=\"b.test\"");
    }

    #[test]
    fn so_many_hops_are_read_and_no_more() {
        let many = "6.6.6.6, ".repeat(5_000) + &"10.1.1.1, ".repeat(MAX_HOPS - 1) + "10.2.2.2";
        let (client, addresses, _) = told(&[("X-Forwarded-For", &many)]);
        assert_eq!((&*client, addresses.split(", ").count()), ("10.1.1.1", MAX_HOPS));
    }
}
