//! A client's first bytes, whatever they are: no panic, the same answer however they arrive, and the
//! same as rustls gives where it takes the hello.

#![no_main]

use edgeproxy::infrastructure::client_hello::{self, ClientHello, MAX_LENGTH, Outcome, Wrong};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

fuzz_target!(|data: &[u8]| {
    let whole = client_hello::read(data);
    arrives(data, &whole);
    agrees_with_rustls(data, &whole);
});

/// Whoever waits for what is needed gets the same answer, soon.
fn arrives(data: &[u8], whole: &Outcome<'_>) {
    let mut rounds = 0;
    let mut length = 0;
    loop {
        match client_hello::read(&data[..length]) {
            Outcome::More { need } => {
                assert!(need > length && need <= MAX_LENGTH, "{need} after {length}");
                if need > data.len() {
                    break;
                }
                length = need;
            }
            Outcome::Done { hello, length: end } => {
                assert!(end <= length);
                let Outcome::Done { hello: other, length } = whole else { panic!("{whole:?}") };
                assert_eq!((said(&hello), end), (said(other), *length));
                break;
            }
            Outcome::Wrong(wrong) => {
                let Outcome::Wrong(other) = whole else { panic!("{whole:?}") };
                assert_eq!(wrong, *other);
                break;
            }
        }
        rounds += 1;
        assert!(rounds < 64, "{rounds} rounds");
    }
    // Any other place to cut gives what is right, or asks for more than there is.
    let cut = data.first().map_or(0, |first| usize::from(*first) * 7 % data.len());
    match (client_hello::read(&data[..cut]), whole) {
        (Outcome::More { need }, Outcome::Done { length, .. }) => assert!(need <= *length),
        (Outcome::More { .. }, _) => {}
        (Outcome::Done { length, .. }, Outcome::Done { length: other, .. }) => {
            assert_eq!(length, *other)
        }
        (Outcome::Wrong(wrong), Outcome::Wrong(other)) => assert_eq!(wrong, *other),
        (cut, whole) => panic!("{cut:?}, then {whole:?}"),
    }
}

fn agrees_with_rustls(data: &[u8], whole: &Outcome<'_>) {
    // This much it takes that is not taken here: hellos of SSL 3, names of unknown types without the
    // length that they must have, and long ones.
    let stricter = [Wrong::NotTls, Wrong::Malformed("server name")];
    if data.len() > MAX_LENGTH || matches!(whole, Outcome::Wrong(wrong) if stricter.contains(wrong))
    {
        return;
    }
    let mut acceptor = Acceptor::default();
    let mut rest = data;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        let Ok(accepted) = acceptor.accept() else { return };
        let Some(accepted) = accepted else { continue };
        let theirs = accepted.client_hello();
        let Outcome::Done { hello, .. } = whole else { panic!("rustls takes it: {whole:?}") };
        assert_eq!(hello.name().map(|name| name.as_str()), theirs.server_name());
        let alpn: Vec<&[u8]> = theirs.alpn().map_or_else(Vec::new, Iterator::collect);
        assert_eq!(said(hello).1, alpn);
        return;
    }
}

fn said(hello: &ClientHello<'_>) -> (Option<String>, Vec<Vec<u8>>) {
    let protocols = hello.protocols().map(|protocol| protocol.to_vec()).collect();
    (hello.name().map(ToString::to_string), protocols)
}
