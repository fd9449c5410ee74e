//! A proxy's first bytes, whatever they are: no panic, the same answer however they arrive, and what
//! is read and written again is read the same.

#![no_main]

use edgeproxy::infrastructure::proxy_protocol::{self, Header, MAX_LENGTH, Outcome, Tlvs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = proxy_protocol::read(data);
    let mut length = 0;
    let waited = loop {
        match proxy_protocol::read(&data[..length]) {
            Outcome::More { need } => {
                assert!(need > length && need <= MAX_LENGTH, "{need} after {length}");
                if need > data.len() {
                    break whole;
                }
                length = need;
            }
            done => break done,
        }
    };
    assert_eq!(waited, whole);
    // Cut anywhere, within bounds: this is quadratic.
    for cut in 0..data.len().min(128) {
        match (proxy_protocol::read(&data[..cut]), whole) {
            (Outcome::More { need }, Outcome::Done { length, .. }) => assert!(need <= length),
            (Outcome::More { .. }, _) => {}
            (cut, whole) => assert_eq!(cut, whole),
        }
    }
    if let Outcome::Done { header, length } = whole {
        assert!(length <= data.len() && length <= MAX_LENGTH);
        written_again(header, data);
    }
});

fn written_again(header: Header, data: &[u8]) {
    let mut out = Vec::new();
    header.write_v1(&mut out);
    let expected = if header == Header::Local { Header::Unknown } else { header };
    assert_eq!(proxy_protocol::read(&out), Outcome::Done { header: expected, length: out.len() });

    out.clear();
    let tlvs = Tlvs { alpn: Some(data), checksum: data.len() % 2 == 0, ..Tlvs::default() };
    match header.write_v2(&tlvs, &mut out) {
        Ok(()) => {
            let written = proxy_protocol::read(&out);
            assert_eq!(written, Outcome::Done { header, length: out.len() });
        }
        Err(too_long) => assert!(too_long.0 > MAX_LENGTH && out.is_empty()),
    }
}
