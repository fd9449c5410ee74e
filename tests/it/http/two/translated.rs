//! Requests of HTTP/2 that somebody might write in another way as HTTP/1.1: nothing of them reaches a
//! backend, or one request that can be read in one way only.

use super::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, Field, HEADERS, Outcome, PADDED, PRIORITIZED, Raw,
    asked, block, data, fields, frame, get, head,
};
use crate::http::peers::site;
use crate::http::raw::{Left, Message, Recorder, address, at_once};
use crate::support::Row;

/// What must come of a case.
#[derive(Clone, Debug)]
enum Expected {
    /// Nothing has reached a backend.
    Refused,
    /// It is answered with this status, and nothing has reached a backend.
    Told(u16),
    /// A backend may have got its beginning, and never the end.
    Stopped,
    /// The backend has seen this.
    Passed(String),
    /// One or the other.
    PassedOrStopped(String),
}
use Expected::{Passed, PassedOrStopped, Refused, Stopped, Told};

struct Case {
    name: String,
    bytes: Vec<u8>,
    expected: Expected,
}

#[derive(Default)]
struct Corpus(Vec<Case>);

impl Corpus {
    fn add(&mut self, name: impl Into<String>, bytes: Vec<u8>, expected: Expected) {
        self.0.push(Case { name: name.into(), bytes, expected });
    }

    /// A head that ends its stream.
    fn head(&mut self, name: impl Into<String>, fields: &[Field], expected: Expected) {
        self.add(name, head(1, fields, true), expected);
    }

    /// A GET with these fields besides.
    fn with(&mut self, more: &[(&str, &str)], expected: Expected) {
        self.head(format!("with {more:?}"), &asked("GET", "/", more), expected);
    }

    /// A POST with these fields besides, and what is behind its head.
    fn post(&mut self, more: &[(&str, &str)], behind: &[Vec<u8>], expected: Expected) {
        let name = format!("POST with {more:?}, then {}", behind.concat().escape_ascii());
        let bytes = [head(1, &asked("POST", "/", more), false), behind.concat()].concat();
        self.add(name, bytes, expected);
    }
}

fn seen(text: &str) -> Expected {
    Passed(text.into())
}

fn cases() -> Vec<Case> {
    let mut corpus = Corpus::default();
    good(&mut corpus);
    pseudo(&mut corpus);
    paths(&mut corpus);
    hosts(&mut corpus);
    ordinary(&mut corpus);
    lengths(&mut corpus);
    trailers(&mut corpus);
    framed(&mut corpus);
    corpus.0
}

fn good(corpus: &mut Corpus) {
    corpus.with(&[], seen("GET / web none"));
    corpus.head("HEAD", &asked("HEAD", "/x?y=z", &[]), seen("HEAD /x?y=z web none"));
    corpus.head("a method of its own", &asked("brew-it!", "/", &[]), seen("brew-it! / web none"));
    corpus.head("OPTIONS *", &asked("OPTIONS", "*", &[]), seen("OPTIONS * web none"));
    corpus.post(&[], &[data(1, "hello", true)], seen("POST / web chunked hello"));
    corpus.post(&[], &[data(1, "", true)], seen("POST / web chunked"));
    corpus.post(
        &[("content-length", "5")],
        &[data(1, "he", false), data(1, "llo", false), data(1, "", true)],
        seen("POST / web length hello"),
    );
    corpus.post(
        &[],
        &[data(1, "0\r\n\r\nGET /in HTTP/1.1\r\nHost: in\r\n\r\n", true)],
        seen("POST / web chunked 0\\r\\n\\r\\nGET /in HTTP/1.1\\r\\nHost: in\\r\\n\\r\\n"),
    );
    corpus.with(&[("te", "trailers")], seen("GET / web none"));
    corpus.with(&[("expect", "100-continue")], seen("GET / web none"));
    for padded in [" x", "x ", "\tx", "x\t", " "] {
        corpus.with(&[("x", padded)], Told(400));
    }
    corpus.with(&[("x", "\u{e9}")], seen("GET / web none"));
    corpus.with(&[("x", "")], seen("GET / web none"));
    corpus.with(&[("content_length", "7"), ("transfer_encoding", "x")], seen("GET / web none"));
}

/// What must never stand in a field.
const BROKEN: [&str; 6] =
    ["\r\n", "\n", "\r", "\0", "\r\nx: y", "\r\n\r\nGET /in HTTP/1.1\r\n\r\n"];

fn pseudo(corpus: &mut Corpus) {
    let right = asked("GET", "/", &[]);
    for (number, (name, value)) in right.iter().enumerate() {
        let text = String::from_utf8_lossy(name).into_owned();
        let mut change = |what: &str, new: Vec<Field>, expected| {
            corpus.head(format!("{text} {what}"), &new, expected);
        };
        let put = |value: &[u8]| {
            let mut new = right.clone();
            new[number].1 = value.into();
            new
        };
        for broken in BROKEN.iter().chain(&[" ", "\t", "\u{7f}", "\u{b}", " HTTP/1.1\r\nx: "]) {
            let (broken, behind) = (broken.as_bytes(), b"b");
            for new in [[value, broken, behind].concat(), [broken, value].concat()] {
                change(&format!("is {:?}", new.escape_ascii().to_string()), put(&new), Refused);
            }
            change(&format!("ends in {broken:?}"), put(&[value, broken].concat()), Refused);
        }
        let without: Vec<Field> =
            right.iter().filter(|(known, _)| known != name).cloned().collect();
        change("is not there", without.clone(), Refused);
        // Which it is nobody is told.
        let is_scheme = text == ":scheme";
        let empty = if is_scheme { seen("GET / web none") } else { Refused };
        change("is empty", put(b""), empty);
        change("is there twice", [&right[..], &[right[number].clone()]].concat(), Refused);
        let late = [&without[..], &fields(&[("x", "y")]), &[right[number].clone()]].concat();
        change("comes late", late, Refused);
    }
    for (name, value) in [(":x", "y"), (":status", "200"), (":", "x"), (":protocol", "websocket")] {
        let all = [fields(&[(name, value)]), right.clone()].concat();
        corpus.head(format!("{name} besides"), &all, Refused);
    }
    for name in [":Method", ":PATH"] {
        let all = [fields(&[(name, "/x")]), right.clone()].concat();
        corpus.head(format!("{name} besides"), &all, Refused);
    }
    for scheme in ["https", "HTTP", "ftp", "x-y+z"] {
        let mut all = right.clone();
        all[1].1 = scheme.into();
        corpus.head(format!("scheme {scheme}"), &all, seen("GET / web none"));
    }
    let connect = fields(&[(":method", "CONNECT"), (":authority", "web:80")]);
    corpus.head("CONNECT", &connect, Told(405));
    corpus.add("CONNECT that goes on", head(1, &connect, false), Told(405));
    corpus.head("CONNECT with a path", &asked("CONNECT", "/", &[]), Refused);
    let extended = [fields(&[(":protocol", "websocket")]), asked("CONNECT", "/", &[])].concat();
    corpus.add("extended CONNECT", head(1, &extended, false), Refused);
    corpus.head("TRACE", &asked("TRACE", "/", &[]), Told(405));
    corpus.head("no field at all", &[], Refused);
    corpus.head("no pseudo-field", &fields(&[("host", "web")]), Refused);
    corpus.head("an answer", &fields(&[(":status", "200")]), Refused);
}

fn paths(corpus: &mut Corpus) {
    for path in ["*", "x", "?x", "http://web/x", "http://evil/x", "web/x", "\\x", "/a b"] {
        corpus.head(format!("path {path:?}"), &asked("GET", path, &[]), Refused);
    }
    for path in ["/\u{e9}", "/?\u{e9}", "/\u{7f}", "/a\tb", "/a`"] {
        corpus.head(format!("path {path:?}"), &asked("GET", path, &[]), Refused);
    }
    for path in ["//evil/x", "/a/../b", "/%0d%0a", "/?x?y", "/\"{}|^", "/?{}|^`", "/*", "/;a=b"] {
        let expected = format!("GET {path} web none");
        corpus.head(format!("path {path:?}"), &asked("GET", path, &[]), Passed(expected));
    }
    // What is behind it is for clients only, and cut off before anybody looks at it.
    for (path, left) in [("/a#b", "/a"), ("/?a#b", "/?a"), ("/#/../x", "/"), ("#x", "/")] {
        let expected = format!("GET {left} web none");
        corpus.head(format!("path {path:?}"), &asked("GET", path, &[]), Passed(expected));
    }
    corpus.head("OPTIONS **", &asked("OPTIONS", "**", &[]), Refused);
    corpus.head("POST *", &asked("POST", "*", &[]), Refused);
    let mut bytes = asked("GET", "/", &[]);
    bytes[3].1 = b"/\xff".into();
    corpus.head("a path that is no text", &bytes, Refused);
}

fn hosts(corpus: &mut Corpus) {
    let of = |authority: Option<&str>, hosts: &[&str]| {
        let mut all = fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/")]);
        all.extend(authority.map(|said| (b":authority".to_vec(), said.into())));
        all.extend(hosts.iter().map(|host| (b"host".to_vec(), host.as_bytes().into())));
        all
    };
    for (authority, hosts, host) in [
        (Some("web"), &["web"][..], "web"),
        (Some("web"), &["WEB"], "web"),
        (None, &["web"], "web"),
        (Some("web:8080"), &["web:8080"], "web:8080"),
        (Some("[::1]:80"), &[], "[::1]:80"),
    ] {
        let name = format!("{authority:?} and {hosts:?}");
        corpus.head(name, &of(authority, hosts), Passed(format!("GET / {host} none")));
    }
    for (authority, hosts) in [
        (Some("web"), &["evil"][..]),
        (Some("web"), &["web:80"]),
        (Some("web:80"), &["web"]),
        (Some("web"), &[""]),
        (Some("web"), &["web", "web"]),
        (Some("web"), &["web", "evil"]),
        (Some("web"), &[" web"]),
        (None, &["web", "web"]),
        (None, &["web, web"]),
        (None, &[""]),
        (None, &["web/x"]),
        (None, &["user@web"]),
        (None, &[]),
        (Some(""), &["web"]),
        (Some("user@web"), &[]),
        (Some("user:pass@web"), &["web"]),
        (Some("web/x"), &[]),
        (Some("web?x"), &[]),
        (Some("web#x"), &[]),
        (Some("web:99999"), &[]),
        (Some("web:x"), &[]),
        (Some("web:80:80"), &[]),
        (Some("[::1"), &[]),
        (Some("::1"), &[]),
        (Some("web,evil"), &["web"]),
        (Some("\u{e9}"), &[]),
    ] {
        corpus.head(format!("{authority:?} and {hosts:?}"), &of(authority, hosts), Refused);
    }
}

fn ordinary(corpus: &mut Corpus) {
    for broken in BROKEN {
        for value in [format!("a{broken}b"), broken.to_owned(), format!("a{broken}")] {
            corpus.with(&[("x", &value)], Refused);
            corpus.with(&[("cookie", &value)], Refused);
        }
        corpus.with(&[(&format!("x{broken}y"), "z")], Refused);
    }
    for name in
        ["X", "xY", "x y", " x", "x ", "x:", "x:y", "", "x\u{7f}", "\u{e9}", "x\ty", "(x)", "x,y"]
    {
        corpus.with(&[(name, "z")], Refused);
    }
    for (name, value) in [
        ("connection", "close"),
        ("connection", "keep-alive"),
        ("connection", "x"),
        ("connection", ""),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("transfer-encoding", ""),
        ("Transfer-Encoding", "chunked"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("te", "chunked"),
        ("te", ""),
        ("te", "trailers\r\nx: y"),
    ] {
        corpus.with(&[(name, value)], Refused);
        let behind = [data(1, "5\r\nhello\r\n0\r\n\r\n", true)];
        corpus.post(&[(name, value)], &behind, Refused);
    }
    corpus.with(&[("expect", "200-ok")], Told(417));
    let many: Vec<(String, String)> =
        (0..200).map(|number| (format!("x-{number}"), "y".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
    corpus.with(&many, Told(400));
    corpus.with(&[("x", &"y".repeat(70 << 10))], Told(431));
    corpus.head(
        "a long path",
        &asked("GET", &format!("/{}", "x".repeat(70 << 10)), &[]),
        Told(431),
    );
    let crumbs = vec![("cookie", "a=b"); 4];
    corpus.with(&crumbs, seen("GET / web none"));
}

fn lengths(corpus: &mut Corpus) {
    corpus.with(&[("content-length", "0")], seen("GET / web length"));
    corpus.with(&[("content-length", "5")], Refused);
    let hello = || [data(1, "hello", true)];
    for value in
        ["+5", "-5", "5,5", "5, 5", "5x", "0x5", "", " ", " 5", "5 ", "18446744073709551621", "5.0"]
    {
        corpus.post(&[("content-length", value)], &hello(), Refused);
    }
    for second in ["5", "6", "0", "x"] {
        let both = [("content-length", "5"), ("content-length", second)];
        corpus.post(&both, &hello(), Refused);
        let both = [("content-length", second), ("content-length", "5")];
        corpus.post(&both, &hello(), Refused);
    }
    let length = [("content-length", "5")];
    corpus.post(&length, &[data(1, "hel", true)], Stopped);
    corpus.post(&length, &[data(1, "hello!", true)], Stopped);
    corpus.post(&length, &[data(1, "", true)], Stopped);
    corpus.post(&length, &[data(1, "hel", false), data(1, "lo!", true)], Stopped);
    let passed = || PassedOrStopped("POST / web length hello".into());
    corpus.post(&length, &[data(1, "hello", false), data(1, "GET ", true)], passed());
    corpus.post(&[("content-length", "0")], &[data(1, "hello", true)], {
        PassedOrStopped("POST / web length".into())
    });
    let behind = [data(1, "hel", false), head(1, &fields(&[("x", "y")]), true)];
    corpus.post(&length, &behind, Stopped);
}

fn trailers(corpus: &mut Corpus) {
    let mut with = |more: &[(&str, &str)], expected| {
        let behind = [data(1, "hello", false), head(1, &fields(more), true)];
        corpus.post(&[], &behind, expected);
    };
    with(&[("x-sum", "7")], seen("POST / web chunked hello +x-sum: 7"));
    with(&[("x-sum", "7"), ("host", "evil")], seen("POST / web chunked hello +x-sum: 7"));
    for name in ["host", "content-length", "authorization", "cookie", "x-forwarded-for", "trailer"]
    {
        with(&[(name, "5")], seen("POST / web chunked hello"));
    }
    // What is before a head's fields is not passed on behind a body.
    with(&[(":path", "/x")], PassedOrStopped("POST / web chunked hello".into()));
    for name in [":method", ":status", ":x", "connection", "transfer-encoding", "upgrade"] {
        with(&[(name, "/x")], Stopped);
    }
    for name in ["X", "x y", "x\r\ny", ""] {
        with(&[(name, "z")], Stopped);
    }
    for broken in BROKEN {
        with(&[("x", &format!("a{broken}b"))], Stopped);
    }
    with(&[("te", "gzip")], Stopped);
    let open = [data(1, "hello", false), head(1, &fields(&[("x", "y")]), false)];
    corpus.post(&[], &open, Stopped);
    let twice = [data(1, "hello", false), get(1, "/in")];
    corpus.post(&[], &twice, PassedOrStopped("POST / web chunked hello".into()));
    let behind = [data(1, "hello", true), head(1, &fields(&[("x", "y")]), true)];
    corpus.post(&[], &behind, PassedOrStopped("POST / web chunked hello".into()));
    let behind = [data(1, "hello", true), data(1, "more", true)];
    corpus.post(&[], &behind, PassedOrStopped("POST / web chunked hello".into()));
}

fn framed(corpus: &mut Corpus) {
    let whole = block(&asked("GET", "/", &[]));
    let ends = END_STREAM | END_HEADERS;
    let in_parts = |part: usize| {
        let mut bytes = frame(HEADERS, END_STREAM, 1, &whole[..part]);
        for byte in whole[part..].chunks(20) {
            bytes.extend(frame(CONTINUATION, 0, 1, byte));
        }
        [bytes, frame(CONTINUATION, END_HEADERS, 1, b"")].concat()
    };
    for part in [0, 1, 30] {
        corpus.add(format!("in parts, {part} first"), in_parts(part), seen("GET / web none"));
    }
    let padded = [&[3][..], &whole, b"abc"].concat();
    corpus.add("padded", frame(HEADERS, ends | PADDED, 1, &padded), seen("GET / web none"));
    let weighed = [&[0, 0, 0, 0, 7][..], &whole].concat();
    let bytes = frame(HEADERS, ends | PRIORITIZED, 1, &weighed);
    corpus.add("with a priority", bytes, seen("GET / web none"));
    let own = [&[0, 0, 0, 1, 7][..], &whole].concat();
    corpus.add("behind itself", frame(HEADERS, ends | PRIORITIZED, 1, &own), Refused);
    let over = [&[255][..], &whole[..]].concat();
    corpus.add("padded by more than it has", frame(HEADERS, ends | PADDED, 1, &over), Refused);
    corpus.add("cut off", frame(HEADERS, ends, 1, &whole[..whole.len() - 1]), Refused);
    corpus.add(
        "of no table",
        frame(HEADERS, ends, 1, &[&whole[..], b"\xff\x80\x7f"].concat()),
        Refused,
    );
    corpus.add("of an even number", get(2, "/"), Refused);
    corpus.add("of no stream", get(0, "/"), Refused);
    corpus.add("a body without a head", data(1, "hello", true), Refused);
    let between = [
        frame(HEADERS, END_STREAM, 1, &whole[..5]),
        data(1, "x", false),
        frame(CONTINUATION, END_HEADERS, 1, &whole[5..]),
    ];
    corpus.add("something between", between.concat(), Refused);
    let other = [
        frame(HEADERS, END_STREAM, 1, &whole[..5]),
        frame(CONTINUATION, END_HEADERS, 3, &whole[5..]),
    ];
    corpus.add("that goes on as another", other.concat(), Refused);
}

/// What an edge's backend has got of a client.
fn of<'a>(
    number: usize,
    all: &'a [Message],
    left: &'a [Left],
) -> (Vec<&'a Message>, Vec<&'a Left>) {
    let from = address(number).to_string();
    let whole = all.iter().filter(|message| message.one("x-forwarded-for") == Some(&from));
    let said = format!("\r\nx-forwarded-for: {from}\r\n");
    let is_its = |left: &&Left| String::from_utf8_lossy(&left.bytes).contains(&said);
    (whole.collect(), left.iter().filter(is_its).collect())
}

#[test]
fn what_reaches_a_backend_can_be_read_in_one_way_only() {
    let recorder = Recorder::new();
    let edge = site().backend(Row::new("a", recorder.addr())).start();
    let cases = cases();
    let outcomes = at_once(cases.len(), |number| {
        let mut client = Raw::from(&address(number).to_string(), edge.addr);
        client.say(&cases[number].bytes);
        let stream = if cases[number].name == "of an even number" { 2 } else { 1 };
        let outcome = client.outcome(stream);
        // What is wrong with one request is nothing to the next.
        let after = match outcome {
            Outcome::Gone(_) => None,
            _ => client.tries(get(3, "/after")).then(|| client.outcome(3)),
        };
        (outcome, after)
    });
    let mut edge = edge;
    assert!(edge.lives());
    edge.stop();
    let (all, left) = recorder.to_the_end();
    let mut wrong = Vec::new();
    for (number, (case, (outcome, after))) in cases.iter().zip(&outcomes).enumerate() {
        let (whole, left) = of(number, &all, &left);
        let whole: Vec<String> = whole
            .into_iter()
            .filter(|message| message.word(1) != "/after")
            .map(Message::summary)
            .collect();
        let odd = left.iter().any(|left| left.why.is_some());
        let is_200 = |outcome: &Outcome| matches!(outcome, Outcome::Answered(200, _));
        let refused = !is_200(outcome) && whole.is_empty() && left.is_empty();
        let is_right = match &case.expected {
            Refused => refused,
            Told(status) => {
                refused && matches!(outcome, Outcome::Answered(told, _) if told == status)
            }
            Stopped => !is_200(outcome) && whole.is_empty(),
            Passed(text) => is_200(outcome) && whole == [text.clone()] && left.is_empty(),
            PassedOrStopped(text) => whole.is_empty() || whole == [text.clone()],
        };
        let goes_on = after.as_ref().is_none_or(|after| {
            is_200(after) || matches!(after, Outcome::Gone(_)) && !is_200(outcome)
        });
        if !is_right || odd || !goes_on {
            wrong.push(format!(
                "{}: {:?} expected, {outcome:?}, then {after:?}; {whole:?}, {left:?}",
                case.name, case.expected
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let cookies: Vec<&str> = all.iter().filter_map(|message| message.one("cookie")).collect();
    assert_eq!(cookies, ["a=b; a=b; a=b; a=b"], "one field");
}
