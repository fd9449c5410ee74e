//! A request of HTTP/1, whatever it is: no panic, the same answer however it arrives, and what is passed on
//! of it is one request again, with the same end, which says nothing more.

#![no_main]

use edgeproxy::application::http::{About, Flow, Hops, request_head, request_line};
use edgeproxy::domain::cidr::CidrMap;
use edgeproxy::infrastructure::http1::{Field, Found, Framing, Request, find, room};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = find(data, 0);
    let mut looked = 0;
    for length in 0..=data.len().min(2_000) {
        match find(&data[..length], looked) {
            Found::More(at) => looked = at,
            other => {
                assert!(other == whole || matches!(other, Found::Bad(_)), "{other:?} {whole:?}");
                break;
            }
        }
    }
    let Found::Whole(length) = whole else { return };
    let (head, behind) = data.split_at(length);
    let mut fields = room();
    let Ok(request) = Request::read(head, &mut fields) else { return };
    passes_on(&request, None);
    passes_on(&request, Some(&Hops::told(request.fields, &trusted())));
    if request.framing != Framing::None {
        let at_once = body(request.framing, behind, behind.len());
        assert_eq!(at_once, body(request.framing, behind, 1), "byte by byte");
    }
});

/// Some of all addresses.
fn trusted() -> CidrMap<()> {
    [("0.0.0.0/1".parse().unwrap(), ()), ("fd00::/8".parse().unwrap(), ())].into_iter().collect()
}

/// What a backend gets is read as what was asked, and both families of fields say the same of who asks.
fn passes_on(request: &Request<'_, '_>, hops: Option<&Hops<'_>>) {
    let about = About {
        named: None,
        peer: [192, 0, 2, 1].into(),
        secured: false,
        hops,
        trace: ([1; 16], false),
        parent: 1,
        version: request.version,
    };
    let mut head = Vec::new();
    let (path, _) = request_line(request, &mut head);
    request_head(request, &about, &mut head);
    assert_eq!(find(&head, 0), Found::Whole(head.len()));
    let mut fields = room();
    let Ok(again) = Request::read(&head, &mut fields) else {
        // Ours are more than it had.
        assert!(request.fields.len() + 10 > 128 || request.authority.is_none());
        return;
    };
    assert_eq!((again.method, again.framing), (request.method, request.framing));
    assert_eq!(again.target, request.target, "{path:?}");
    assert_eq!(again.authority, request.authority);
    let told_by = |family: &str| {
        let is_its = |field: &&Field<'_>| field.name.eq_ignore_ascii_case(family);
        let fields: Vec<Field<'_>> = again.fields.iter().filter(is_its).copied().collect();
        assert_eq!(fields.len(), 1, "{family}");
        Hops::told(&fields, &trusted()).client()
    };
    assert_eq!(told_by("forwarded"), told_by("x-forwarded-for"));
}

/// What is passed on of a body that arrives in such pieces, and how much of it is left.
fn body(framing: Framing, bytes: &[u8], piece: usize) -> Option<(Vec<u8>, bool)> {
    let mut flow = Flow::new(framing, framing);
    let (mut held, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        held.extend_from_slice(piece);
        loop {
            match flow.pass(&held, &mut out) {
                Ok(0) => break,
                Ok(taken) => drop(held.drain(..taken)),
                Err(_) => return None,
            }
        }
    }
    // Chunks are cut as they arrive: it is their content that counts.
    let content = if framing == Framing::Chunked { content(&out) } else { out };
    Some((content, flow.is_over()))
}

fn content(mut chunks: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = chunks.iter().position(|byte| *byte == b'\n') {
        let length = std::str::from_utf8(&chunks[..end - 1]).expect("digits");
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            break;
        }
        content.extend_from_slice(&chunks[end + 1..end + 1 + length]);
        chunks = &chunks[end + 3 + length..];
    }
    content
}
