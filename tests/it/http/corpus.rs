//! Requests that somebody might understand in another way, and what must come of each.

/// What follows each of them on the same connection: it may reach a backend only as a request of its own,
/// and only behind one that was understood.
pub const SECOND: &str = "GET /second HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
/// How a backend sees it.
pub const SECOND_SEEN: &str = "GET /second web none";

/// What must come of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One of these answers; the connection ends, and nothing has reached a backend.
    Refused(&'static [u16]),
    /// The same, but a backend may have got its beginning.
    Stopped(&'static [u16]),
    /// The backend has seen these, and what follows.
    Passed(Vec<String>),
    /// The backend has seen this alone: the connection ends behind its answer.
    Alone(String),
    /// The backend has seen this alone: what follows is refused.
    Then(String, &'static [u16]),
    /// Its client is gone before it is whole: nobody answers, nothing whole reaches a backend.
    CutOff,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
    pub expected: Expected,
}

#[derive(Default)]
struct Corpus(Vec<Case>);

/// What is no request.
const BAD: &[u16] = &[400];
/// What is too long.
const LONG: &[u16] = &[400, 414, 431];

impl Corpus {
    fn add(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, expected: Expected) {
        let bytes = bytes.as_ref().to_vec();
        self.0.push(Case { name: name.into(), bytes, expected });
    }

    fn bad(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>) {
        self.add(name, bytes, Expected::Refused(BAD));
    }

    fn stopped(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>) {
        self.add(name, bytes, Expected::Stopped(BAD));
    }

    fn passed(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, seen: &str) {
        self.add(name, bytes, Expected::Passed(vec![seen.into()]));
    }

    fn alone(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, seen: &str) {
        self.add(name, bytes, Expected::Alone(seen.into()));
    }

    fn then_bad(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, seen: &str) {
        self.add(name, bytes, Expected::Then(seen.into(), BAD));
    }

    fn cut_off(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>) {
        self.add(name, bytes, Expected::CutOff);
    }
}

/// A request without a body, with these fields besides Host.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: web\r\n{fields}\r\n")
}

/// One with a body.
fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: web\r\n{fields}\r\n{body}")
}

/// One with a body in chunks.
fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// A head with this line in place of the first.
fn line(line: &str) -> String {
    format!("{line}\r\nHost: web\r\n\r\n")
}

/// A request with this Host.
fn host(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut corpus = Corpus::default();
    good(&mut corpus);
    lengths(&mut corpus);
    codings(&mut corpus);
    chunks(&mut corpus);
    trailers(&mut corpus);
    line_ends(&mut corpus);
    controls(&mut corpus);
    fields(&mut corpus);
    targets(&mut corpus);
    hosts(&mut corpus);
    versions(&mut corpus);
    sizes(&mut corpus);
    hops(&mut corpus);
    cut(&mut corpus);
    corpus.0
}

fn good(corpus: &mut Corpus) {
    corpus.passed("a GET", get(""), "GET / web none");
    corpus.passed("a POST", post("Content-Length: 5\r\n", "hello"), "POST / web length hello");
    corpus.passed("chunks", chunked("5\r\nhello\r\n0\r\n\r\n"), "POST / web chunked hello");
    corpus.passed("a HEAD", line("HEAD /x HTTP/1.1"), "HEAD /x web none");
    corpus.passed("a PUT of nothing", post("Content-Length: 0\r\n", ""), "POST / web length");
    corpus.passed("no chunk", chunked("0\r\n\r\n"), "POST / web chunked");
    corpus.passed(
        "a GET with a body",
        "GET / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello",
        "GET / web length hello",
    );
    corpus.passed(
        "a DELETE with chunks",
        "DELETE / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "DELETE / web chunked hello",
    );
    corpus.passed(
        "an unknown method",
        "brew-it! /pot HTTP/1.1\r\nHost: web\r\n\r\n",
        "brew-it! /pot web none",
    );
    corpus.passed(
        "a body that looks like a request",
        post("Content-Length: 35\r\n", "GET /in HTTP/1.1\r\nHost: inside\r\n\r\n\n"),
        "POST / web length GET /in HTTP/1.1\\r\\nHost: inside\\r\\n\\r\\n\\n",
    );
    corpus.passed(
        "a chunk that looks like the last",
        chunked("9\r\n\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n"),
        "POST / web chunked \\r\\n0\\r\\n\\r\\n\\r\\n",
    );
    corpus.add(
        "two in one go",
        [get(""), post("Content-Length: 2\r\n", "ab"), chunked("1\r\nc\r\n0\r\n\r\n")].concat(),
        Expected::Passed(
            ["GET / web none", "POST / web length ab", "POST / web chunked c"]
                .map(String::from)
                .into(),
        ),
    );
    corpus.alone("Connection: close", get("Connection: close\r\n"), "GET / web none");
    corpus.alone("CLOSE, x", get("Connection: x, CLOSE\r\n"), "GET / web none");
    corpus.alone(
        "keep-alive and close",
        get("Connection: keep-alive\r\nConnection: close\r\n"),
        "GET / web none",
    );
}

fn lengths(corpus: &mut Corpus) {
    let with = |fields: &str| post(fields, "hello");
    corpus.bad("two lengths", with("Content-Length: 5\r\nContent-Length: 6\r\n"));
    corpus.bad("two lengths, equal", with("Content-Length: 5\r\nContent-Length: 5\r\n"));
    corpus.bad("two lengths, apart", with("Content-Length: 0\r\nX: y\r\ncontent-length: 5\r\n"));
    for value in [
        "5, 5",
        "5,6",
        "5,",
        ",5",
        "+5",
        "-5",
        "-0",
        "0x5",
        "5h",
        "5 5",
        "5;",
        "5.0",
        "\"5\"",
        "",
        " ",
        "five",
        "1e1",
        "\u{665}",
        "5\u{a0}",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999999999",
        "00000000000000000000000000000005",
    ] {
        corpus.bad(format!("length {value:?}"), with(&format!("Content-Length: {value}\r\n")));
    }
    for value in ["5", " 5", "\t5", "5 ", "5\t", " \t 5 \t ", "05", "0000005"] {
        corpus.passed(
            format!("length {value:?}"),
            with(&format!("Content-Length:{value}\r\n")),
            "POST / web length hello",
        );
    }
    for (name, value) in [
        ("Content-Length ", "5"),
        ("Content-Length\t", "5"),
        ("Content Length", "5"),
        ("Content-Length:", "5"),
        (" Content-Length", "5"),
        ("Content-Length\0", "5"),
        ("\u{b}Content-Length", "5"),
    ] {
        corpus.bad(format!("a length in {name:?}"), with(&format!("{name}: {value}\r\n")));
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn codings(corpus: &mut Corpus) {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let with = |fields: &str| post(fields, body);
    let te = "Transfer-Encoding";
    for both in [
        "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Content-Length: 4\r\ntransfer-encoding: CHUNKED\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding:\r\n",
        "Content-Length: x\r\nTransfer-Encoding: chunked\r\n",
        "Connection: content-length\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Connection: transfer-encoding\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ] {
        corpus.bad(format!("both: {both:?}"), with(both));
    }
    for value in [
        "xchunked",
        "chunkedx",
        "chunked, chunked",
        "chunked,chunked",
        "chunked,",
        ",chunked",
        "identity",
        "chunked, identity",
        "identity, chunked",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked ;",
        "chunked\u{b}",
        "\u{b}chunked",
        "chunked\u{c}",
        "\u{c}chunked",
        "chun ked",
        "chunked chunked",
        "",
        "\u{130}chunked",
        "chunKed\u{a0}",
        "cow",
        "chunked\0",
        "chunked\u{7f}",
        "[chunked]",
        "chunked=1",
        "trailers",
    ] {
        corpus.bad(format!("coding {value:?}"), with(&format!("{te}: {value}\r\n")));
    }
    for value in [
        "chunked",
        "Chunked",
        "CHUNKED",
        "cHuNkEd",
        "  chunked",
        "\tchunked",
        "chunked ",
        "chunked\t",
    ] {
        corpus.passed(
            format!("coding {value:?}"),
            with(&format!("{te}:{value}\r\n")),
            "POST / web chunked hello",
        );
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\nX: y\r\ntransfer-encoding: chunked\r\n",
        "Transfer-Encoding: \r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding:\r\n\tchunked\r\n",
        "Transfer-Encoding: chunked\r\n , identity\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding\0: chunked\r\n",
        "Transfer\u{b}-Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "X: y\r\n\rTransfer-Encoding: chunked\r\n",
        "X: y\r\r\nTransfer-Encoding: chunked\r\n",
        "\u{feff}Transfer-Encoding: chunked\r\n",
    ] {
        corpus.bad(format!("codings {fields:?}"), with(fields));
    }
    // A name of its own, to everybody who does not take one character for another.
    for name in ["Transfer_Encoding", "Content_Length", "Content-Lengths", "X-Transfer-Encoding"] {
        corpus.passed(
            format!("not framed by {name}"),
            get(&format!("{name}: 7\r\n")),
            "GET / web none",
        );
    }
    let old = format!("POST / HTTP/1.0\r\nHost: web\r\n{te}: chunked\r\n\r\n{body}");
    corpus.bad("chunks in HTTP/1.0", old);
    let old = format!(
        "POST / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n{te}: chunked\r\n\r\n{body}"
    );
    corpus.bad("chunks in HTTP/1.0 that goes on", old);
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn chunks(corpus: &mut Corpus) {
    for length in [
        "-5",
        "+5",
        "0x5",
        "0X5",
        " 5",
        "\t5",
        "",
        " ",
        "x",
        "5x",
        "5 5",
        "5,",
        "5.0",
        "5:",
        "5=",
        "5\u{b}",
        "5\0",
        "five",
        "\u{665}",
        "10000000000000005",
        "ffffffffffffffff",
        "10000000000000000",
        "8000000000000000",
        "fffffffffffffffffffffffb",
        "5\"",
        "5\u{7f}",
        ";",
        ";x",
        "5\r",
        "5;\0",
        "5;\rx",
        "5;x\u{1}",
        "5 x",
        "5 \"",
        "5;\nx",
    ] {
        corpus.stopped(
            format!("a chunk of {length:?}"),
            chunked(&format!("{length}\r\nhello\r\n0\r\n\r\n")),
        );
    }
    for length in [
        "5",
        "05",
        "000000000000005",
        "5;",
        "5;x",
        "5;x=y",
        "5;x=\"y\"",
        "5;x=\"y;z\"",
        "5;x=\"\\\"\"",
        "5;a;b=c",
        "5 ",
        "5\t",
        "5 ;x",
        "5; x = y",
        "5;x=0",
    ] {
        corpus.passed(
            format!("a chunk of {length:?}"),
            chunked(&format!("{length}\r\nhello\r\n0\r\n\r\n")),
            "POST / web chunked hello",
        );
    }
    corpus.passed(
        "lengths in both cases",
        chunked("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        "POST / web chunked 01234567890123456789",
    );
    corpus.passed("many zeros", chunked("1\r\nx\r\n000\r\n\r\n"), "POST / web chunked x");
    corpus.passed(
        "an extension at the end",
        chunked("1\r\nx\r\n0;x=y\r\n\r\n"),
        "POST / web chunked x",
    );
    for (name, body) in [
        ("LF behind a length", "5\nhello\r\n0\r\n\r\n"),
        ("CR behind a length", "5\rhello\r\n0\r\n\r\n"),
        ("LF CR behind a length", "5\n\rhello\r\n0\r\n\r\n"),
        ("CR CR LF behind a length", "5\r\r\nhello\r\n0\r\n\r\n"),
        ("LF behind data", "5\r\nhello\n0\r\n\r\n"),
        ("CR behind data", "5\r\nhello\r0\r\n\r\n"),
        ("nothing behind data", "5\r\nhello0\r\n\r\n"),
        ("a byte too many", "5\r\nhello!\r\n0\r\n\r\n"),
        ("a byte too few", "6\r\nhello\r\n0\r\n\r\n"),
        ("an empty line more", "5\r\nhello\r\n\r\n0\r\n\r\n"),
        ("an empty line before", "\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("no length at all", "hello\r\n0\r\n\r\n"),
        ("LF behind the last", "5\r\nhello\r\n0\n\r\n"),
        ("LF LF at the end", "5\r\nhello\r\n0\n\n"),
        ("LF at the end", "5\r\nhello\r\n0\r\n\n"),
        ("CR CR at the end", "5\r\nhello\r\n0\r\n\r\r"),
        ("CR x at the end", "5\r\nhello\r\n0\r\n\rx"),
        ("a space before the end", "5\r\nhello\r\n0\r\n \r\n"),
        ("an extension that is folded", "5;x\r\n y\r\nhello\r\n0\r\n\r\n"),
        ("LF in an extension", "5;x\ny\r\nhello\r\n0\r\n\r\n"),
    ] {
        corpus.stopped(name, chunked(body));
    }
    let long = "x".repeat(300);
    corpus.stopped("a long extension", chunked(&format!("5;{long}\r\nhello\r\n0\r\n\r\n")));
    let long = "0".repeat(300);
    corpus.stopped("a long length", chunked(&format!("{long}5\r\nhello\r\n0\r\n\r\n")));
    corpus.stopped("a length that never ends", chunked(&"0".repeat(70_000)));
}

fn trailers(corpus: &mut Corpus) {
    let with = |trailers: &str| chunked(&format!("5\r\nhello\r\n0\r\n{trailers}\r\n"));
    let seen = "POST / web chunked hello";
    corpus.passed("a trailer", with("X-A: b\r\n"), &format!("{seen} +x-a: b"));
    corpus.passed(
        "two trailers",
        with("X-A: b\r\nx-c:\td \r\n"),
        &format!("{seen} +x-a: b +x-c: d"),
    );
    for name in [
        "Content-Length",
        "content-length",
        "Transfer-Encoding",
        "Host",
        "Connection",
        "Trailer",
        "TE",
        "Upgrade",
        "Keep-Alive",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Expect",
        "Range",
        "Max-Forwards",
        "Cache-Control",
        "X-Forwarded-For",
        "Forwarded",
        "X-Real-IP",
        "Proxy-Connection",
    ] {
        corpus.passed(format!("a trailer {name}"), with(&format!("{name}: 7\r\n")), seen);
    }
    for trailers in [
        "X-A\r\n",
        ": b\r\n",
        "X-A : b\r\n",
        "X A: b\r\n",
        " X-A: b\r\n",
        "X-A: b\r\n c\r\n",
        "X-A: b\nX-C: d\r\n",
        "X-A: b\rX-C: d\r\n",
        "X-A: \0\r\n",
        "X-A: \u{b}\r\n",
        "X-A: b\u{7f}\r\n",
        "X-A: b\r\r\n",
        "\u{e9}: b\r\n",
        "X\0: b\r\n",
        "GET /second HTTP/1.1\r\n",
        "\n",
        "X-A: b\n",
    ] {
        corpus.stopped(format!("trailers {trailers:?}"), with(trailers));
    }
    corpus.stopped("a long trailer", with(&format!("X-A: {}\r\n", "b".repeat(20_000))));
    corpus.stopped("trailers without end", with(&"X-A: bcdefghijkl\r\n".repeat(4_000)));
    corpus.stopped("many trailers", with(&"A:b\r\n".repeat(200)));
}

/// Every line end of a good request, with something else in its place.
fn line_ends(corpus: &mut Corpus) {
    let whole = "POST / HTTP/1.1\r\nHost: web\r\nX-A: b\r\nContent-Length: 5\r\n\r\n";
    let ends: Vec<usize> = whole.match_indices("\r\n").map(|(at, _)| at).collect();
    for at in ends {
        for other in ["\n", "\r", "\n\r", "\r\r\n", "\r\n ", "\r\n\t", " \n", "\r\0\n", "\u{b}"] {
            let text = format!("{}{other}{}", &whole[..at], &whole[at + 2..]);
            // The body begins with it then.
            if at + 2 == whole.len() && other.starts_with("\r\n") {
                continue;
            }
            corpus.bad(format!("{other:?} at {at}"), format!("{text}hello"));
        }
    }
    corpus.bad("LF alone throughout", whole.replace("\r\n", "\n"));
    corpus.bad("CR alone throughout", whole.replace("\r\n", "\r"));
    for before in ["\r\n", "\r\n\r\n"] {
        let bytes = format!("{before}{whole}hello");
        corpus.passed(format!("{before:?} before all"), bytes, "POST / web length hello");
    }
    for before in ["\r\n\r\n\r\n", "\r\n\n", "\r\n ", "\n", "\r", " ", "\t", "\0", "\u{feff}"] {
        corpus.bad(format!("{before:?} before all"), format!("{before}{whole}hello"));
    }
    let behind = format!("{whole}hello\r\n");
    corpus.passed("an empty line behind one", behind, "POST / web length hello");
    for between in ["\n", "\r", " ", "\0", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let bytes = format!("{whole}hello{between}");
        corpus.then_bad(format!("{between:?} behind one"), bytes, "POST / web length hello");
    }
}

/// A control character in each part of a head.
fn controls(corpus: &mut Corpus) {
    for byte in (0..=0x1f).chain([0x7f]).filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        for (place, before, after) in [
            ("a method", "GE", "T / HTTP/1.1\r\nHost: web\r\n\r\n"),
            ("a target", "GET /a", "b HTTP/1.1\r\nHost: web\r\n\r\n"),
            ("a version", "GET / HTTP/1.1", "\r\nHost: web\r\n\r\n"),
            ("a name", "GET / HTTP/1.1\r\nHost: web\r\nX-", "A: b\r\n\r\n"),
            ("a host", "GET / HTTP/1.1\r\nHost: w", "eb\r\n\r\n"),
        ] {
            let bytes = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            corpus.bad(format!("{byte:#04x} in {place}"), bytes);
        }
        let (before, after) = ("GET / HTTP/1.1\r\nHost: web\r\nX-A: b", "c\r\n\r\n");
        let bytes = [before.as_bytes(), &[byte], after.as_bytes()].concat();
        match byte {
            b'\t' => corpus.passed("0x09 in a value", bytes, "GET / web none"),
            _ => corpus.bad(format!("{byte:#04x} in a value"), bytes),
        }
    }
}

fn fields(corpus: &mut Corpus) {
    for field in [
        "X-A : b",
        "X-A\t: b",
        "X-A",
        ": b",
        ":",
        "X A: b",
        "X-A b",
        " X-A: b",
        "\tX-A: b",
        "X\"A: b",
        "X(A: b",
        "X/A: b",
        "X@A: b",
        "X[A]: b",
        "X{A}: b",
        "X,A: b",
        "X;A: b",
        "X=A: b",
        "X\\A: b",
        "X<A>: b",
        "X?A: b",
        "X\u{e9}: b",
        "GET /second HTTP/1.1",
        "{\"a\"}: b",
    ] {
        corpus.bad(format!("the field {field:?}"), get(&format!("{field}\r\n")));
        let text = format!("GET / HTTP/1.1\r\n{field}\r\nHost: web\r\n\r\n");
        corpus.bad(format!("the first field {field:?}"), text);
    }
    for field in [
        "X-A:b",
        "X-A:",
        "X-A: ",
        "X-A:  b  ",
        "x!#$%&'*+-.^_`|~0: b",
        "X-A: \u{e9}",
        "X-A: a:b;c,d\"e\\",
    ] {
        corpus.passed(
            format!("the field {field:?}"),
            get(&format!("{field}\r\n")),
            "GET / web none",
        );
    }
    let bytes =
        [b"GET / HTTP/1.1\r\nHost: web\r\nX-A: ".as_slice(), &[0x80, 0xfe, 0xff], b"\r\n\r\n"];
    corpus.passed("a value that is no text", bytes.concat(), "GET / web none");
    corpus.bad("a field folded with spaces", get("X-A: b\r\n c\r\n"));
    corpus.bad("a field folded with a tab", get("X-A: b\r\n\tc\r\n"));
    corpus.bad("a field folded to nothing", get("X-A:\r\n \r\n"));
    corpus.bad("a Host that is folded", "GET / HTTP/1.1\r\nHost:\r\n web\r\n\r\n");
    corpus.bad("a length that is folded", post("Content-Length:\r\n 5\r\n", "hello"));
    corpus.passed(
        "100-continue",
        post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
        "POST / web length hello",
    );
    corpus.passed(
        "100-CONTINUE",
        post("Expect: 100-CONTINUE\r\nContent-Length: 5\r\n", "hello"),
        "POST / web length hello",
    );
    for expect in
        ["100-continu", "100", "more", "100-continue, more", "more, 100-continue", "100-continue;x"]
    {
        let fields = format!("Expect: {expect}\r\nContent-Length: 5\r\n");
        corpus.add(format!("expects {expect}"), post(&fields, "hello"), Expected::Refused(&[417]));
    }
    corpus.add(
        "expects twice",
        post("Expect: 100-continue\r\nExpect: more\r\nContent-Length: 5\r\n", "hello"),
        Expected::Refused(&[417]),
    );
}

fn targets(corpus: &mut Corpus) {
    for target in [
        "/",
        "/a/b?c=d&e",
        "/a//b",
        "/%00%0d%0a",
        "/../x",
        "/a;b",
        "/a\\b",
        "/a|b",
        "/a\"b",
        "/{}",
        "//other/x",
        "/http://other/",
        "/a?b?c",
        "/%zz",
        "/*",
        "/:80",
    ] {
        corpus.passed(
            format!("target {target:?}"),
            line(&format!("GET {target} HTTP/1.1")),
            &format!("GET {target} web none"),
        );
    }
    for target in [
        "",
        "*",
        "a",
        "a/b",
        "?a",
        "web:80",
        "web",
        "/a b",
        "/a#b",
        "#",
        "/a\tb",
        "/\u{e9}",
        "http:/web/",
        "http:web",
        "http://",
        "http:///a",
        "https:///",
        "ftp://web/",
        "file:///etc",
        "javascript:1",
        "http://user@web/",
        "http://user:pw@web/",
        "http://web:x/",
        "http://we b/",
        "http://web/#a",
        "http://[::1/",
        "http://web,other/",
        "http://web?a",
        "://web/",
        "//",
        "http://web\\other/",
        "http://:80/",
        "http://web@other/",
        "\\",
        "..",
        "[::1]",
    ] {
        // Two slashes are a path like any other.
        if target == "//" {
            continue;
        }
        corpus.bad(format!("target {target:?}"), line(&format!("GET {target} HTTP/1.1")));
    }
    for (target, seen) in [
        ("http://web/", "/ web"),
        ("http://web", "/ web"),
        ("HTTP://web/a?b", "/a?b web"),
        ("https://web/", "/ web"),
        ("http://web:80/a", "/a web:80"),
        ("http://other/a", "/a other"),
        ("http://other:8/", "/ other:8"),
        ("http://[::1]:8/", "/ [::1]:8"),
        ("http://WEB/", "/ WEB"),
    ] {
        corpus.passed(
            format!("target {target:?}"),
            line(&format!("GET {target} HTTP/1.1")),
            &format!("GET {seen} none"),
        );
    }
    corpus.passed("all of a server", line("OPTIONS * HTTP/1.1"), "OPTIONS * web none");
    corpus.passed(
        "all of a named server",
        line("OPTIONS http://web HTTP/1.1"),
        "OPTIONS * web none",
    );
    for text in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.1\t",
        "GET/ HTTP/1.1",
        "GET /HTTP/1.1",
        "GET",
        "GET ",
        "GET /",
        "GET / ",
        " / HTTP/1.1",
        "G@T / HTTP/1.1",
        "GET: / HTTP/1.1",
        "\"GET\" / HTTP/1.1",
        "GET / a HTTP/1.1",
        "GET / HTTP/1.1 x",
        "",
    ] {
        corpus.bad(format!("line {text:?}"), line(text));
    }
    let not_allowed = || Expected::Refused(&[405]);
    corpus.add("CONNECT", "CONNECT web:443 HTTP/1.1\r\nHost: web:443\r\n\r\n", not_allowed());
    corpus.add("CONNECT to a path", line("CONNECT / HTTP/1.1"), not_allowed());
    corpus.add("TRACE", line("TRACE / HTTP/1.1"), not_allowed());
    corpus.add(
        "TRACE with a body",
        "TRACE / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello",
        not_allowed(),
    );
    // Methods differ by case: these are none of the two.
    corpus.passed("trace", line("trace / HTTP/1.1"), "trace / web none");
    corpus.bad("connect", line("connect web:443 HTTP/1.1"));
}

fn hosts(corpus: &mut Corpus) {
    corpus.bad("no Host", "GET / HTTP/1.1\r\n\r\n");
    corpus.bad("no Host but others", "GET / HTTP/1.1\r\nX-Host: web\r\n\r\n");
    corpus.bad("no Host beside a target", "GET http://web/ HTTP/1.1\r\n\r\n");
    corpus.bad("Host twice", get("Host: web\r\n"));
    corpus.bad("Host twice, different", get("Host: other\r\n"));
    corpus.bad("Host twice, apart", get("X: y\r\nhOST: other\r\n"));
    corpus.bad("Host with a space before the colon", "GET / HTTP/1.1\r\nHost : web\r\n\r\n");
    corpus.bad("two Hosts, one spaced", get("Host : other\r\n"));
    corpus.bad("two Hosts, one folded", get("X: y\r\n Host: other\r\n"));
    for value in [
        "",
        " ",
        "user@web",
        "user:pw@web",
        "@web",
        "web,other",
        "web, other",
        "web other",
        "web/",
        "web/a",
        "web?a",
        "web#a",
        "http://web",
        "web:x",
        "web:-1",
        "web:+80",
        "web: 80",
        "web:80:80",
        "web:100000000",
        "web:65536",
        "web:99999",
        ":80",
        "[::1",
        "::1",
        "[::g]",
        "[]",
        "[::1]x",
        "[::1%eth0]",
        "web\\other",
        "\"web\"",
        "<web>",
        "{web}",
        "web\u{e9}",
        "[web]",
        "we\u{b}b",
        "web\u{a0}",
        "web|other",
        "web^",
    ] {
        corpus.bad(format!("host {value:?}"), host(value));
    }
    for value in [
        "web",
        "WEB",
        "web:80",
        "web:8080",
        "web:65535",
        "web:",
        "a.b.c",
        "1.2.3.4",
        "1.2.3.4:5",
        "[::1]",
        "[::1]:80",
        "[2001:db8::1]",
        "web.",
        "a_b",
    ] {
        corpus.passed(format!("host {value:?}"), host(value), &format!("GET / {value} none"));
    }
    corpus.passed(
        "a Host behind others",
        "GET / HTTP/1.1\r\nX: y\r\nhost:web\r\n\r\n",
        "GET / web none",
    );
    corpus.bad("a bad Host beside a target", "GET http://web/ HTTP/1.1\r\nHost: a b\r\n\r\n");
    corpus.bad(
        "Host twice beside a target",
        "GET http://web/ HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n",
    );
}

fn versions(corpus: &mut Corpus) {
    for version in
        ["HTTP/1.2", "HTTP/1.9", "HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9", "HTTP/0.0"]
    {
        let text = line(&format!("GET / {version}"));
        corpus.add(format!("version {version}"), text, Expected::Refused(&[505]));
    }
    for version in [
        "HTTP/11",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/1,1",
        "HTTP/1.1.1",
        "http/1.1",
        "Http/1.1",
        "HTTP 1.1",
        "HTTP/ 1.1",
        "HTTP/1.1a",
        "HTTPS/1.1",
        "HTTP/x.y",
        "HTTP/1.\u{661}",
        "HTTP/-1.1",
        "HTTP/+1.1",
        "ICY/1.1",
        "1.1",
        "HTTP//1.1",
        "XHTTP/1.1",
        "HTTP/1.1\u{b}",
    ] {
        corpus.bad(format!("version {version:?}"), line(&format!("GET / {version}")));
    }
    corpus.bad("HTTP/0.9", "GET /\r\n\r\n");
    corpus.bad("HTTP/0.9 without an empty line", "GET /\r\n");
    corpus.bad("HTTP/0.9 with LF", "GET /\n");
    corpus.alone("HTTP/1.0", "GET / HTTP/1.0\r\nHost: web\r\n\r\n", "GET / web none");
    corpus.alone(
        "HTTP/1.0 with a body",
        "POST / HTTP/1.0\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello",
        "POST / web length hello",
    );
    corpus.passed(
        "HTTP/1.0 that goes on",
        "GET / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n",
        "GET / web none",
    );
    corpus.alone(
        "HTTP/1.0 with another's connection",
        "GET / HTTP/1.0\r\nHost: web\r\nProxy-Connection: keep-alive\r\n\r\n",
        "GET / web none",
    );
    // What HTTP/2 begins with, and goes on as HTTP/1.
    for text in
        ["PRI * HTTP/2.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", "PRI / HTTP/2.0\r\n\r\n"]
    {
        corpus.add(format!("{text:?}"), text, Expected::Refused(&[400, 505]));
    }
    corpus.bad("PRI of HTTP/1.1", line("PRI * HTTP/1.1"));
    corpus.add(
        "HTTP/2 behind HTTP/1",
        format!("{}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", get("")),
        Expected::Then("GET / web none".into(), &[400, 505]),
    );
    corpus.bad("something else", "SSH-2.0-OpenSSH_9.2\r\n\r\n");
    corpus.bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".as_slice());
    corpus.bad("bytes", [0xff; 64].as_slice());
}

fn sizes(corpus: &mut Corpus) {
    let too_long = || Expected::Refused(LONG);
    let many = "a".repeat(70_000);
    corpus.add("a long method", format!("{many} / HTTP/1.1\r\nHost: web\r\n\r\n"), too_long());
    corpus.add("a long target", line(&format!("GET /{many} HTTP/1.1")), too_long());
    corpus.add("a long version", line(&format!("GET / HTTP/1.1{many}")), too_long());
    corpus.add("a long name", get(&format!("{many}: b\r\n")), too_long());
    corpus.add("a long value", get(&format!("X-A: {many}\r\n")), too_long());
    corpus.add("a long host", host(&many), too_long());
    corpus.add(
        "a long length",
        post(&format!("Content-Length: {}5\r\n", "0".repeat(70_000)), "hello"),
        too_long(),
    );
    corpus.add("no line end", many.clone(), too_long());
    corpus.add("no head's end", get(&"X-A: b\r\n".repeat(9_000)), too_long());
    corpus.add("many fields", get(&"A:b\r\n".repeat(1_000)), too_long());
    corpus.add("129 fields", get(&"A:b\r\n".repeat(128)), too_long());
    corpus.passed("128 fields", get(&"A:b\r\n".repeat(127)), "GET / web none");
    // To the byte, also when all of it comes at once.
    let of = |length: usize| {
        let rest = get("X-A: \r\n").len();
        get(&format!("X-A: {}\r\n", "b".repeat(length - rest)))
    };
    corpus.passed("a head of 64 KiB", of(64 << 10), "GET / web none");
    corpus.add("a head of 64 KiB and a byte", of((64 << 10) + 1), too_long());
    corpus.passed(
        "a long name that fits",
        get(&format!("{}: b\r\n", "a".repeat(7_000))),
        "GET / web none",
    );
}

fn hops(corpus: &mut Corpus) {
    for named in [
        "Host",
        "host, x",
        "Authorization",
        "X-Forwarded-For",
        "Via",
        "Cookie",
        "x, y, close2",
        "",
        ",",
        "\"host\"",
    ] {
        let fields = format!("Connection: {named}\r\nAuthorization: secret\r\nCookie: a\r\n");
        corpus.passed(format!("Connection: {named:?}"), get(&fields), "GET / web none");
    }
    corpus.passed(
        "Connection: content-length",
        post("Connection: content-length\r\nContent-Length: 5\r\n", "hello"),
        "POST / web length hello",
    );
    corpus.passed(
        "Connection: transfer-encoding",
        post(
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        "POST / web chunked hello",
    );
    corpus.passed(
        "Keep-Alive",
        get("Keep-Alive: timeout=5\r\nConnection: Keep-Alive\r\n"),
        "GET / web none",
    );
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    corpus.passed("Upgrade: h2c", get(h2c), "GET / web none");
    corpus.passed(
        "Upgrade: h2c with a body",
        post(&format!("{h2c}Content-Length: 5\r\n"), "hello"),
        "POST / web length hello",
    );
    corpus.passed(
        "Upgrade: H2C alone",
        get("Connection: upgrade\r\nUpgrade: H2C\r\n"),
        "GET / web none",
    );
    corpus.passed("Upgrade that nobody names", get("Upgrade: websocket\r\n"), "GET / web none");
    corpus.passed(
        "Upgrade that is not granted",
        get("Connection: upgrade\r\nUpgrade: websocket\r\n"),
        "GET / web none",
    );
    corpus.passed(
        "Upgrade with a body",
        post("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", "hello"),
        "POST / web length hello",
    );
    corpus.alone(
        "Upgrade in HTTP/1.0",
        "GET / HTTP/1.0\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / web none",
    );
    corpus.passed("TE: trailers", get("TE: trailers\r\nConnection: TE\r\n"), "GET / web none");
    corpus.passed("TE: chunked", get("TE: chunked, gzip\r\nConnection: TE\r\n"), "GET / web none");
    corpus.passed("Trailer", get("Trailer: Content-Length\r\n"), "GET / web none");
}

fn cut(corpus: &mut Corpus) {
    corpus.cut_off("cut off in its line", "GET / HT");
    corpus.cut_off("cut off in a field", "GET / HTTP/1.1\r\nHost: w");
    corpus.cut_off("cut off before the empty line", "GET / HTTP/1.1\r\nHost: web\r\n");
    corpus.cut_off("cut off in CR LF", "GET / HTTP/1.1\r\nHost: web\r\n\r");
    corpus.cut_off("no body", post("Content-Length: 5\r\n", ""));
    corpus.cut_off("half a body", post("Content-Length: 5\r\n", "hell"));
    corpus.cut_off("no chunk at all", chunked(""));
    corpus.cut_off("half a chunk", chunked("5\r\nhel"));
    corpus.cut_off("half a length", chunked("5\r\nhello\r\n0"));
    corpus.cut_off("no last chunk", chunked("5\r\nhello\r\n"));
    corpus.cut_off("half a last chunk", chunked("5\r\nhello\r\n0\r\n"));
    corpus.cut_off("half an end", chunked("5\r\nhello\r\n0\r\n\r"));
    corpus.cut_off("half a trailer", chunked("5\r\nhello\r\n0\r\nX-A: b\r\n"));
    corpus.cut_off("the longest length", post("Content-Length: 9223372036854775807\r\n", "hello"));
    corpus.cut_off("a long chunk", chunked("fffffffffffffff\r\nhello\r\n0\r\n\r\n"));
    corpus.cut_off("a body that takes the next", post("Content-Length: 500\r\n", SECOND));
}
