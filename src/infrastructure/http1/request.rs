//! A request's head.

use std::mem::MaybeUninit;

use super::{Bad, Field, Framing, elements, framing};

/// What is asked for (RFC 9112, 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'b> {
    /// A path, with its query.
    Origin(&'b str),
    /// The server itself, with OPTIONS.
    Asterisk,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'h, 'b> {
    /// What is to be done, as it is written.
    pub method: &'b str,
    /// With what.
    pub target: Target<'b>,
    /// Who is asked, with the port if there is one. Only HTTP/1.0 may leave it out.
    pub authority: Option<&'b str>,
    /// Of which version it is.
    pub version: Version,
    /// All fields, as they are written.
    pub fields: &'h [Field<'b>],
    /// How its body ends.
    pub framing: Framing,
    /// Whether another may follow.
    pub keeps_alive: bool,
    /// The protocol that the connection is to speak afterwards.
    pub upgrade: Option<&'b str>,
    /// Whether fields behind the answer's body are understood.
    pub takes_trailers: bool,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0, which knows neither chunks nor interim answers.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As it is called.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

impl<'h, 'b> Request<'h, 'b> {
    /// Reads a head that [`find`](super::find) has found.
    ///
    /// # Errors
    /// What is wrong with it, or could be understood in two ways.
    pub fn read(head: &'b [u8], fields: &'h mut [MaybeUninit<Field<'b>>]) -> Result<Self, Bad> {
        let mut parsed = httparse::Request::new(&mut []);
        let (method, target, minor) = match parsed.parse_with_uninit_headers(head, fields) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {
                (parsed.method, parsed.path, parsed.version)
            }
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Bad::request("too many fields"));
            }
            Err(httparse::Error::Version) if is_of_another_version(head) => {
                return Err(Bad::with(505, "no version of HTTP/1"));
            }
            _ => return Err(Bad::request("no request of HTTP/1")),
        };
        let fields: &'h [Field<'b>] = parsed.headers;
        let (Some(method), Some(written), Some(minor)) = (method, target, minor) else {
            return Err(Bad::request("no request of HTTP/1"));
        };
        let is_11 = minor == 1;
        let version = if is_11 { Version::Http11 } else { Version::Http10 };
        if method == "CONNECT" {
            // Its target is no path.
            return Err(Bad::with(405, "CONNECT is not for this server"));
        }
        let (target, named) = target_of(method, written)?;
        let host = host(fields, is_11)?;
        let framing = framing(fields, minor)?.unwrap_or(Framing::None);
        let values = |name: &'static str| {
            fields
                .iter()
                .filter(move |field| field.name.eq_ignore_ascii_case(name))
                .flat_map(|field| elements(field.value))
        };
        let says = |word: &[u8]| values("connection").any(|item| item.eq_ignore_ascii_case(word));
        // To another version of HTTP we do not change: what came then would be read by nobody here.
        let is_http = |name: &[u8]| name.len() >= 3 && name[..3].eq_ignore_ascii_case(b"h2c");
        let upgrade = values("upgrade").find(|name| !is_http(name));
        // Where a body ends and another protocol begins not everybody would say alike.
        let has_body = !matches!(framing, Framing::None | Framing::Length(0));
        let upgrade = upgrade.filter(|_| is_11 && says(b"upgrade") && !has_body);
        expects(fields)?;
        Ok(Self {
            method,
            target,
            authority: named.or(host),
            version,
            fields,
            framing,
            // RFC 9112, 9.3.
            keeps_alive: !says(b"close") && (is_11 || says(b"keep-alive")),
            upgrade: upgrade.and_then(|name| str::from_utf8(name).ok()),
            takes_trailers: is_11
                && values("te").any(|item| item.eq_ignore_ascii_case(b"trailers")),
        })
    }

    /// One of HTTP/2, whose head the library has read, and whose fields are all there are.
    ///
    /// # Errors
    /// What is wrong with it, or could be understood in two ways.
    pub fn of_http2(
        method: &'b str,
        target: Target<'b>,
        authority: Option<&'b str>,
        fields: &'h [Field<'b>],
        has_body: bool,
    ) -> Result<Self, Bad> {
        if let Some(said) = authority
            && !is_authority(said.as_bytes())
        {
            return Err(Bad::request("an :authority that is none"));
        }
        let host = host(fields, authority.is_none())?;
        if let (Some(host), Some(said)) = (host, authority)
            && !host.eq_ignore_ascii_case(said)
        {
            return Err(Bad::request("a Host that is not the :authority"));
        }
        let framing = match framing(fields, 1)? {
            Some(Framing::Length(length)) if has_body || length == 0 => Framing::Length(length),
            Some(Framing::Length(_)) => return Err(Bad::request("a body shorter than it says")),
            Some(_) => return Err(Bad::request("a Transfer-Encoding in HTTP/2")),
            None if has_body => Framing::Chunked,
            None => Framing::None,
        };
        expects(fields)?;
        let mut te = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("te"));
        Ok(Self {
            method,
            target,
            authority: authority.or(host),
            version: Version::Http2,
            fields,
            framing,
            keeps_alive: true,
            upgrade: None,
            takes_trailers: te.any(|field| field.value.eq_ignore_ascii_case(b"trailers")),
        })
    }

    /// The first field of a name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|f| f.value)
    }

    /// Whether doing it twice comes to the same (RFC 9110, 9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }
}

/// Whether a head says that it is of a version of HTTP which is not read here.
fn is_of_another_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let version = words.nth(2).and_then(|word| word.strip_prefix(b"HTTP/"));
    let is_version = version
        .is_some_and(|v| matches!(v, [a, b'.', b] if a.is_ascii_digit() && b.is_ascii_digit()));
    is_version && words.next().is_none()
}

/// What is asked for, and of whom when it says so itself.
fn target_of<'b>(method: &str, written: &'b str) -> Result<(Target<'b>, Option<&'b str>), Bad> {
    if written == "*" {
        return match method {
            "OPTIONS" => Ok((Target::Asterisk, None)),
            _ => Err(Bad::request("a target that is only for OPTIONS")),
        };
    }
    if written.contains('#') || !written.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Bad::request("a target with what must be written as %XX"));
    }
    if written.starts_with('/') {
        return Ok((Target::Origin(written), None));
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let (head, rest) = written.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let Some(rest) = rest else { return Err(Bad::request("a target that is no path")) };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_authority(authority.as_bytes()) {
        return Err(Bad::request("a target without a host"));
    }
    match path {
        "" if method == "OPTIONS" => Ok((Target::Asterisk, Some(authority))),
        "" => Ok((Target::Origin("/"), Some(authority))),
        path if path.starts_with('/') => Ok((Target::Origin(path), Some(authority))),
        // It would need a slash put before it.
        _ => Err(Bad::request("a target with a query and no path")),
    }
}

/// Who is asked: said exactly once in HTTP/1.1 (RFC 9112, 3.2).
fn host<'b>(fields: &[Field<'b>], is_11: bool) -> Result<Option<&'b str>, Bad> {
    let mut hosts = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Bad::request("Host more than once")),
        (None, _) if is_11 => return Err(Bad::request("no Host")),
        (None, _) => return Ok(None),
        (Some(host), None) => host.value,
    };
    if !is_authority(host) {
        return Err(Bad::request("a Host that is none"));
    }
    Ok(str::from_utf8(host).ok())
}

/// What is expected must be something that we know (RFC 9110, 10.1.1).
fn expects(fields: &[Field<'_>]) -> Result<(), Bad> {
    let mut expectations = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("expect"))
        .flat_map(|field| elements(field.value));
    if expectations.any(|what| !what.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Bad::with(417, "an expectation other than 100-continue"));
    }
    Ok(())
}

/// Whether it is a host, or an address, with or without a port. There is no user (RFC 9110, 4.2.4).
#[must_use]
pub fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.iter().rposition(|byte| *byte == b':') {
        Some(at) if !text[at..].contains(&b']') => (&text[..at], &text[at + 1..]),
        _ => (text, &b""[..]),
    };
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
    let is_host = match host {
        [b'[', inner @ .., b']'] => {
            str::from_utf8(inner).is_ok_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
        }
        host => !host.is_empty() && host.iter().all(is_inner),
    };
    let is_number =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_port = port.is_empty() || str::from_utf8(port).is_ok_and(is_number);
    is_host && is_port
}
