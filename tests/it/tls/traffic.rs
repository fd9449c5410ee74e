//! Bytes, ends and resets, both ways, through TLS.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::peer::{Pop, VERSIONS, last_flight, rest, to_send};
use crate::support::{Backend, PATIENCE};

/// Hands over all that it hears until the end, then says how much that was.
fn listening() -> (Backend, std::sync::mpsc::Receiver<Vec<u8>>) {
    let (heard, hears) = channel();
    let backend = Backend::serving(move |mut stream| {
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes);
        let _ = stream.write_all(format!("{} bytes", bytes.len()).as_bytes());
        end.unwrap();
        let _ = heard.send(bytes);
    });
    (backend, hears)
}

#[test]
fn who_says_all_with_its_last_word_of_the_handshake_is_heard_to_the_end() {
    for version in VERSIONS {
        let (backend, hears) = listening();
        let pop = Pop::before(&backend);
        // Twice, since the second handshake is another: it goes on from the first.
        let config = Arc::new(pop.config(version));
        for finishes in [false, true, true] {
            let mut tls = pop.comer(&config);
            let flight = last_flight(&mut tls);
            tls.conn.writer().write_all(b"all that I have to say").unwrap();
            tls.conn.send_close_notify();
            let all = [flight, to_send(&mut tls.conn)].concat();
            tls.sock.write_all(&all).unwrap();
            if finishes {
                tls.sock.shutdown(Shutdown::Write).unwrap();
            }
            assert_eq!(rest(&mut tls).unwrap(), b"22 bytes", "{version:?}, finishes: {finishes}");
            assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), b"all that I have to say");
        }
    }
}
