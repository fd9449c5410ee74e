//! A request of HTTP/2: how it is read, and answered.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response as Head, StatusCode};
use rustix::io::Errno;

use super::{Answer, Arrived, Asker, Out, Passed, Said, end_to_end, is_field_for_trailers};
use crate::application::relay::{Failed, Tools};
use crate::infrastructure::http1::{Bad, Field, Framing, Request, Response, Target};
use crate::infrastructure::http2::Woken;

/// Our name in `Via`.
const VIA: &str = "1.1 edge-proxy";

/// A request of HTTP/2 whose answer is under way.
pub struct Stream {
    body: RecvStream,
    respond: SendResponse<Bytes>,
    answer: Option<SendStream<Bytes>>,
    /// Fields behind the body, a line each.
    trailers: Vec<u8>,
    ended: bool,
    /// Whether it is to be looked at.
    pub woken: Arc<Woken>,
    waker: Waker,
}

impl Stream {
    /// One of which nothing has been read but the head.
    #[must_use]
    pub fn new(body: RecvStream, respond: SendResponse<Bytes>) -> Self {
        let woken: Arc<Woken> = Arc::default();
        let waker = Waker::from(Arc::clone(&woken));
        Self { body, respond, answer: None, trailers: Vec::new(), ended: false, woken, waker }
    }

    /// Whether its client has taken it back.
    pub fn is_taken_back(&mut self) -> bool {
        let mut context = Context::from_waker(&self.waker);
        match &mut self.answer {
            _ if self.ended => false,
            Some(answer) => answer.poll_reset(&mut context).is_ready(),
            None => self.respond.poll_reset(&mut context).is_ready(),
        }
    }

    /// Breaks it off.
    pub fn reset(&mut self, reason: Reason) {
        match &mut self.answer {
            Some(answer) => answer.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    fn head(&mut self, status: u16, fields: HeaderMap, ends: bool) -> Result<(), Errno> {
        let mut head = Head::new(());
        *head.status_mut() = StatusCode::from_u16(status).map_err(|_| Errno::PROTO)?;
        *head.headers_mut() = fields;
        if status < 200 {
            return self.respond.send_informational(head).map_err(|_| Errno::PIPE);
        }
        self.ended = ends;
        let answer = self.respond.send_response(head, ends).map_err(|_| Errno::PIPE)?;
        self.answer = Some(answer);
        Ok(())
    }
}

impl Asker for Stream {
    fn read(&mut self, held: &mut Vec<u8>, _tools: &mut Tools) -> Result<Arrived, Failed> {
        let mut context = Context::from_waker(&self.waker);
        match self.body.poll_data(&mut context) {
            Poll::Pending => Ok(Arrived::Nothing),
            Poll::Ready(Some(Ok(data))) => {
                held.extend_from_slice(&data);
                // It has been taken: what is not passed on at once keeps us from reading more.
                let _ = self.body.flow_control().release_capacity(data.len());
                Ok(Arrived::More)
            }
            Poll::Ready(Some(Err(_))) => Err(Failed::Closed),
            Poll::Ready(None) => match self.body.poll_trailers(&mut context) {
                Poll::Pending => Ok(Arrived::Nothing),
                Poll::Ready(Err(_)) => Err(Failed::Closed),
                Poll::Ready(Ok(trailers)) => {
                    for (name, value) in trailers.iter().flatten() {
                        if is_field_for_trailers(name.as_str()) {
                            self.trailers.extend_from_slice(name.as_str().as_bytes());
                            self.trailers.extend_from_slice(b": ");
                            self.trailers.extend_from_slice(value.as_bytes());
                            self.trailers.extend_from_slice(b"\r\n");
                        }
                    }
                    Ok(Arrived::End)
                }
            },
        }
    }

    fn trailers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.trailers)
    }

    fn send(
        &mut self,
        out: &mut Out,
        (ends, _): (bool, bool),
        _tools: &mut Tools,
    ) -> Result<bool, Errno> {
        let Some(answer) = &mut self.answer else { return Ok(out.is_empty()) };
        while !out.is_empty() {
            let wanted = out.left().len();
            answer.reserve_capacity(wanted);
            let room = answer.capacity();
            if room == 0 {
                let mut context = Context::from_waker(&self.waker);
                match answer.poll_capacity(&mut context) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(None | Some(Err(_))) => return Err(Errno::PIPE),
                }
            }
            let data = out.take(room);
            self.ended = ends && out.is_empty();
            answer.send_data(data, self.ended).map_err(|_| Errno::PIPE)?;
        }
        Ok(true)
    }

    fn begin(
        &mut self,
        response: &Response<'_, '_>,
        passed: Passed,
        _out: &mut Out,
    ) -> Result<(), Errno> {
        let mut fields = HeaderMap::with_capacity(response.fields.len() + 2);
        let mut add = |name: &str, value: &[u8]| {
            // What HTTP/1 allows in a field, this does, but for nothing.
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                fields.append(name, value);
            }
        };
        for sent in end_to_end(response.fields) {
            add(sent.name, sent.value);
        }
        match passed.framing {
            Framing::Length(length) => add("content-length", length.to_string().as_bytes()),
            Framing::None if response.status >= 200 && response.status != 204 => {
                if let Some(length) = response.field("content-length") {
                    add("content-length", length);
                }
            }
            _ => {}
        }
        add("via", VIA.as_bytes());
        let ends = matches!(passed.framing, Framing::None | Framing::Length(0));
        self.head(response.status, fields, ends)
    }

    fn end(&mut self, trailers: &[u8]) -> Result<(), Errno> {
        let Some(answer) = self.answer.as_mut().filter(|_| !self.ended) else { return Ok(()) };
        self.ended = true;
        let ended = if trailers.is_empty() {
            answer.send_data(Bytes::new(), true)
        } else {
            answer.send_trailers(fields_of(trailers))
        };
        ended.map_err(|_| Errno::PIPE)
    }

    fn answer(&mut self, answer: &Answer, said: &Said, out: &mut Out) -> Result<(), Errno> {
        let body = answer.body(said);
        let mut fields = HeaderMap::new();
        for (name, value) in answer.fields(said, &body) {
            if let Ok(value) = HeaderValue::try_from(value) {
                fields.append(name, value);
            }
        }
        if !said.to_head {
            out.bytes.extend_from_slice(body.as_bytes());
        }
        self.head(answer.status, fields, said.to_head)
    }

    fn framing(&self, framing: Framing) -> Framing {
        match framing {
            // The frames say where it ends.
            Framing::Chunked => Framing::UntilClose,
            framing => framing,
        }
    }
}

fn fields_of(trailers: &[u8]) -> HeaderMap {
    let lines = trailers.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r")?;
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        Some((name, value))
    });
    let mut fields = HeaderMap::new();
    for (name, value) in lines {
        fields.append(name, value);
    }
    fields
}

/// The cookies of a request as one field, when there are several (RFC 9113, 8.2.3).
#[must_use]
pub fn cookies(parts: &Parts) -> Option<Vec<u8>> {
    let mut crumbs = parts.headers.get_all("cookie").iter().map(HeaderValue::as_bytes);
    let (first, second) = (crumbs.next()?, crumbs.next()?);
    let mut all = [first, second].join(&b"; "[..]);
    for crumb in crumbs {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(crumb);
    }
    Some(all)
}

/// Reads a request of HTTP/2 as one of HTTP/1.1, which it becomes. `has_body` when more of it may come;
/// `cookies` are [`cookies`].
///
/// # Errors
/// What is wrong with it, or could be understood in two ways.
pub fn request_of<'h, 'b>(
    parts: &'b Parts,
    cookies: Option<&'b [u8]>,
    has_body: bool,
    fields: &'h mut [Field<'b>],
) -> Result<Request<'h, 'b>, Bad> {
    let method = parts.method.as_str();
    if method == "CONNECT" {
        return Err(Bad { status: 405, why: "CONNECT is not for this server" });
    }
    let mut count = 0;
    let mut add = |name: &'b str, value: &'b [u8]| {
        let field = fields.get_mut(count).ok_or(Bad::request("too many fields"))?;
        *field = Field { name, value };
        count += 1;
        Ok::<_, Bad>(())
    };
    if let Some(cookies) = cookies {
        add("cookie", cookies)?;
    }
    for (name, value) in &parts.headers {
        // RFC 9113, 8.2.1.
        if value.as_bytes().trim_ascii().len() != value.len() {
            return Err(Bad::request("a field with a space at an end"));
        }
        if name != "cookie" || cookies.is_none() {
            add(name.as_str(), value.as_bytes())?;
        }
    }
    let said = parts.uri.authority().map(http::uri::Authority::as_str);
    let target = match parts.uri.path_and_query().map_or("/", |path| path.as_str()) {
        "*" if method == "OPTIONS" => Target::Asterisk,
        path if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Target::Origin(path)
        }
        _ => return Err(Bad::request("a path that is none")),
    };
    Request::of_http2(method, target, said, &fields[..count], has_body)
}
