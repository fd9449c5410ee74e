use super::*;

fn request(text: &str) -> Result<(String, Framing, bool), (u16, &'static str)> {
    let head = match find(text.as_bytes(), 0) {
        Found::Whole(length) => &text.as_bytes()[..length],
        Found::Bad(Bad { status, why }) => return Err((status, why)),
        Found::More(_) => return Err((0, "more")),
    };
    let mut fields = room();
    let read = Request::read(head, &mut fields).map_err(|bad| (bad.status, bad.why))?;
    Ok((read.authority.unwrap_or("-").to_owned(), read.framing, read.keeps_alive))
}

#[test]
fn what_everybody_sends_is_read() {
    for (text, expected) in [
        ("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", ("a.test", Framing::None, true)),
        (
            "GET /x?y HTTP/1.1\r\nhost: A.test:80 \r\nConnection: Close\r\n\r\n",
            ("A.test:80", Framing::None, false),
        ),
        (
            "GET http://b.test:8/x HTTP/1.1\r\nHost: a.test\r\n\r\n",
            ("b.test:8", Framing::None, true),
        ),
        ("GET / HTTP/1.0\r\n\r\n", ("-", Framing::None, false)),
        ("GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n", ("-", Framing::None, true)),
        (
            "POST / HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 12\r\n\r\n",
            ("[::1]:80", Framing::Length(12), true),
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
            ("a", Framing::Chunked, true),
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ("a", Framing::None, true)),
    ] {
        let (authority, framing, keeps) = expected;
        assert_eq!(request(text), Ok((authority.to_owned(), framing, keeps)), "{text}");
    }
}

#[test]
fn what_could_be_understood_in_two_ways_is_refused() {
    for (status, text) in [
        (400, "GET / HTTP/1.1\nHost: a\n\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        (400, "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: \r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
        (400, "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (405, "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n"),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
        (400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (417, "GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n"),
        (417, "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, more\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n"),
    ] {
        assert_eq!(request(text).map_err(|(status, _)| status), Err(status), "{text:?}");
    }
}

#[test]
fn a_head_is_found_however_it_comes() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\nrest";
    for end in 0..text.len() {
        let mut from = 0;
        for length in 0..=end {
            match find(&text[..length], from) {
                Found::More(next) => {
                    assert!(length < 33 && next <= length, "{length}");
                    from = next;
                }
                found => assert!(length >= 33 && found == Found::Whole(33), "{length} {found:?}"),
            }
        }
    }
}

/// What a body comes to that arrives in pieces of so many bytes: its bytes, its trailers, what is left.
fn decoded(text: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>, usize), &'static str> {
    let (mut chunks, mut body, mut held) = (Chunks::default(), Vec::new(), Vec::new());
    for part in text.chunks(step) {
        held.extend_from_slice(part);
        loop {
            let (piece, taken) = chunks.next(&held).map_err(|bad| bad.why)?;
            match piece {
                Piece::More => {
                    held.drain(..taken);
                    break;
                }
                Piece::Data(data) => body.extend_from_slice(data),
                Piece::End(trailers) => {
                    let trailers = trailers.to_vec();
                    held.drain(..taken);
                    return Ok((body, trailers, held.len()));
                }
            }
            held.drain(..taken);
        }
    }
    Err("more")
}

#[test]
fn chunks_come_to_the_same_however_they_come() {
    let text = b"5\r\nhello\r\n00A;x=\"y\" \r\n world 123\r\n0\r\nA: b\r\nC: d\r\n\r\n";
    for step in 1..text.len() {
        let (body, trailers, _) = decoded(text, step).unwrap();
        assert_eq!(
            (&body[..], &trailers[..]),
            (&b"hello world 123"[..], &b"A: b\r\nC: d\r\n\r\n"[..])
        );
    }
    let (body, trailers, left) = decoded(b"0\r\n\r\nGET", 100).unwrap();
    assert_eq!((&body[..], &trailers[..], left), (&b""[..], &b"\r\n"[..], 3));
}

#[test]
fn chunks_that_are_none_are_refused() {
    for text in [
        "5\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\n A: b\r\n\r\n",
    ] {
        for step in [1, 2, 100] {
            let refused = decoded(text.as_bytes(), step).unwrap_err();
            assert_ne!(refused, "more", "{text:?} by {step}");
        }
    }
    assert!(decoded(&[b"5;".as_slice(), &[b'x'; 300]].concat(), 7).is_err());
}
