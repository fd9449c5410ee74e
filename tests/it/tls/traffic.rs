//! Bytes, ends and resets, both ways, through TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::peer::{
    Pop, TLS13, VERSIONS, exchange, last_flight, rest, say_end, shake_hands, to_send,
};
use crate::support::{Backend, PATIENCE, eventually, noise, reset};

const MIB: usize = 1 << 20;

/// Hands over all that it hears until the end, then says how much that was.
fn listening() -> (Backend, Receiver<Vec<u8>>) {
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

/// Says `down` in pieces of every size while it listens; hands over what it hears.
fn talking(down: Vec<u8>) -> (Backend, Receiver<Vec<u8>>) {
    let (heard, hears) = channel();
    let backend = Backend::serving(move |mut stream| {
        let mut writing = stream.try_clone().unwrap();
        let down = down.clone();
        let sender = thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(3);
            let mut left = &down[..];
            while !left.is_empty() {
                let (piece, later) = left.split_at(random.usize(1..=100_000).min(left.len()));
                writing.write_all(piece).unwrap();
                left = later;
            }
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        sender.join().unwrap();
        let _ = heard.send(bytes);
    });
    (backend, hears)
}

#[test]
fn bytes_arrive_exactly_in_both_directions_at_once_whatever_their_number() {
    for (up, down) in [(0, 0), (1, 0), (0, 1), (16_384, 16_385), (8 * MIB, 6 * MIB)] {
        let (sent, answered) = (noise(1, up), noise(2, down));
        let (backend, hears) = talking(answered.clone());
        let pop = Pop::before(&backend);
        for version in VERSIONS {
            let mut tls = pop.tls(version);
            let from = tls.sock.local_addr().unwrap();
            let heard = exchange(&mut tls, &sent, up as u64);
            assert!(heard == answered, "{} of {down} bytes down, or others", heard.len());
            let arrived = hears.recv_timeout(PATIENCE).unwrap();
            assert!(arrived == sent, "{} of {up} bytes up, or others", arrived.len());
            let line = pop.edge.access_of_addr(from);
            assert_eq!((&line["sent"], &line["received"]), (&*up.to_string(), &*down.to_string()));
        }
    }
}

#[test]
fn who_says_all_with_its_last_word_of_the_handshake_is_heard_to_the_end() {
    for version in VERSIONS {
        let (backend, hears) = listening();
        let pop = Pop::before(&backend);
        // The second handshake is another: it goes on from the first.
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

#[test]
fn who_says_all_and_goes_at_once_is_heard_to_the_end() {
    // Its tickets then come to nobody, and are answered with a reset.
    for version in VERSIONS {
        let (backend, hears) = listening();
        let pop = Pop::before(&backend);
        let config = Arc::new(pop.config(version));
        for _ in 0..20 {
            let mut tls = pop.comer(&config);
            let flight = last_flight(&mut tls);
            tls.conn.writer().write_all(b"all that I have to say").unwrap();
            tls.conn.send_close_notify();
            let all = [flight, to_send(&mut tls.conn)].concat();
            tls.sock.write_all(&all).unwrap();
            drop(tls);
            assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), b"all that I have to say");
        }
    }
}

#[test]
fn who_has_said_all_and_is_gone_is_still_heard_to_the_end() {
    let (go, may_read) = channel::<()>();
    let may_read = Mutex::new(may_read);
    let (heard, hears) = channel();
    let backend = Backend::serving(move |mut stream| {
        stream.write_all(b"!").unwrap();
        let _ = may_read.lock().unwrap().recv();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).map_err(|error| error.kind());
        let _ = heard.send((bytes, end));
    });
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        // So much is with the proxy at once.
        let said = noise(8, 40_000);
        let mut tls = pop.tls(version);
        let from = tls.sock.local_addr().unwrap();
        tls.read_exact(&mut [0]).unwrap();
        tls.conn.writer().write_all(&said).unwrap();
        say_end(&mut tls);
        reset(tls.sock);
        go.send(()).unwrap();
        let (bytes, end) = hears.recv_timeout(PATIENCE).unwrap();
        assert!(bytes == said && end.is_ok(), "{} bytes, {end:?}", bytes.len());
        assert_eq!(pop.reason_of(from), "client_closed");
    }
}

#[test]
fn who_goes_in_the_midst_of_its_hello_is_not_waited_for() {
    let backend = Backend::echo();
    let pop = Pop::before(&backend);
    let hello = to_send(&mut super::peer::connection(&Arc::new(pop.config(&TLS13))));
    for length in [3, 100, hello.len()] {
        // It is there with its end when it is first looked at.
        pop.edge.freeze();
        let mut client = pop.client();
        client.stream.write_all(&hello[..length]).unwrap();
        client.finish();
        pop.edge.thaw();
        let from = client.addr();
        client.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // Long before its time has come.
        if let Err(error) = client.rest() {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert_eq!(pop.reason_of(from), "tls_failed");
    }
}

#[test]
fn a_backend_that_speaks_first_is_heard_first() {
    let backend = Backend::named("a");
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        let mut tls = pop.tls(version);
        let mut heard = [0; 2];
        tls.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *b"a\n");
        tls.write_all(b"and I answer").unwrap();
        let mut heard = [0; 12];
        tls.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *b"and I answer");
    }
}

#[test]
fn a_record_for_each_byte_and_a_segment_for_each_byte() {
    const RECORDS: usize = 20_000;
    let (backend, hears) = listening();
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        let mut tls = pop.tls(version);
        let sent = noise(4, RECORDS);
        for piece in sent.chunks(500) {
            for byte in piece {
                tls.conn.writer().write_all(&[*byte]).unwrap();
            }
            let bytes = to_send(&mut tls.conn);
            tls.sock.write_all(&bytes).unwrap();
        }
        say_end(&mut tls);
        assert_eq!(rest(&mut tls).unwrap(), format!("{RECORDS} bytes").as_bytes());
        assert!(hears.recv_timeout(PATIENCE).unwrap() == sent);

        let mut tls = pop.comer(&Arc::new(pop.config(version)));
        tls.sock.set_nodelay(true).unwrap();
        while tls.conn.is_handshaking() {
            byte_by_byte(&mut tls.conn, &mut tls.sock);
            tls.conn.read_tls(&mut tls.sock).unwrap();
            tls.conn.process_new_packets().unwrap();
        }
        tls.conn.writer().write_all(b"in the smallest pieces").unwrap();
        tls.conn.send_close_notify();
        byte_by_byte(&mut tls.conn, &mut tls.sock);
        assert_eq!(rest(&mut tls).unwrap(), b"22 bytes");
        assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), b"in the smallest pieces");
    }
}

fn byte_by_byte(connection: &mut rustls::ClientConnection, stream: &mut TcpStream) {
    for byte in to_send(connection) {
        stream.write_all(&[byte]).unwrap();
        // The kernel would else hand over several as one.
        thread::yield_now();
    }
}

#[test]
fn a_client_that_has_said_its_last_word_still_hears() {
    let backend = Backend::serving(|mut stream| {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        stream.write_all(&noise(3, MIB)).unwrap();
    });
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        for [says_it, finishes] in [[true, false], [true, true], [false, true]] {
            let mut tls = pop.tls(version);
            tls.write_all(b"question").unwrap();
            if says_it {
                say_end(&mut tls);
            }
            if finishes {
                tls.sock.shutdown(Shutdown::Write).unwrap();
            }
            let from = tls.sock.local_addr().unwrap();
            assert!(rest(&mut tls).unwrap() == noise(3, MIB), "{says_it} {finishes}");
            drop(tls);
            assert_eq!(pop.reason_of(from), "client_closed");
        }
    }
}

#[test]
fn a_backend_that_has_said_its_last_word_still_hears() {
    let (heard, hears) = channel();
    let backend = Backend::serving(move |mut stream| {
        stream.write_all(b"that is all").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let _ = heard.send(bytes);
    });
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        let mut tls = pop.tls(version);
        assert_eq!(rest(&mut tls).unwrap(), b"that is all");
        // And then the connection's end, without another record.
        assert_eq!(tls.sock.read(&mut [0]).unwrap(), 0);
        tls.write_all(&noise(4, MIB)).unwrap();
        say_end(&mut tls);
        assert!(hears.recv_timeout(PATIENCE).unwrap() == noise(4, MIB));
        let from = tls.sock.local_addr().unwrap();
        drop(tls);
        assert_eq!(pop.reason_of(from), "backend_closed");
    }
}

#[test]
fn openssl_and_curl_find_nothing_wrong_with_how_it_ends() {
    let backend = Backend::serving(|mut stream| {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nto the end").unwrap();
    });
    let pop = Pop::before(&backend);
    for version in ["-tls1_3", "-tls1_2"] {
        let mut command = pop.openssl_command(&[version, "-quiet"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let done = child.wait_with_output().unwrap();
        drop(stdin);
        let (out, err) =
            (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && out.ends_with("to the end"), "{version}: {done:?}");
        assert!(!err.contains("error"), "{version}: {err}");
    }
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let version: Vec<&str> = version.split('=').collect();
        let name = super::peer::NAME;
        let done = std::process::Command::new("curl")
            .args(["-sS", "--http1.0", "--max-time", "15", "--cacert"])
            .arg(pop.authority())
            .args(version)
            .args(["--resolve", &format!("{name}:{}:127.0.0.1", pop.addr.port())])
            .arg(format!("https://{name}:{}/", pop.addr.port()))
            .output()
            .unwrap();
        let said = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert_eq!((&*said.0, &*said.1), ("to the end", ""));
    }
}

#[test]
fn a_reset_is_passed_on_both_ways() {
    let (seen, sights) = channel();
    let backend = Backend::serving(move |mut stream| {
        let mut order = [0];
        stream.read_exact(&mut order).unwrap();
        stream.write_all(&order).unwrap();
        if order == *b"r" {
            reset(stream);
        } else {
            let _ = seen.send(stream.read(&mut [0]).map_err(|error| error.kind()));
        }
    });
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        let mut tls = pop.tls(version);
        tls.write_all(b"w").unwrap();
        tls.read_exact(&mut [0]).unwrap();
        let from = tls.sock.local_addr().unwrap();
        reset(tls.sock);
        assert_eq!(sights.recv_timeout(PATIENCE), Ok(Err(ErrorKind::ConnectionReset)));
        assert_eq!(pop.reason_of(from), "client_reset");

        let mut tls = pop.tls(version);
        let from = tls.sock.local_addr().unwrap();
        tls.write_all(b"r").unwrap();
        assert_eq!(rest(&mut tls).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(pop.reason_of(from), "backend_reset");
    }
}

const BULK: usize = 24 * MIB;
/// A proxy that keeps what its peer does not take would hold the whole of [`BULK`].
const ROOM_KIB: u64 = 4 << 10;

/// Writes all of `bytes`, then ends; says so when the other side takes no more for a while.
fn write_until_stuck(mut stream: &TcpStream, bytes: &[u8], stuck: impl Fn()) {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(more) => written += more,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
                stuck();
            }
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn a_client_that_stops_reading_stops_the_backend_and_gets_every_byte_later() {
    let bytes = Arc::new(noise(5, BULK));
    let (stuck, gets_stuck) = channel();
    let sent = Arc::clone(&bytes);
    let backend = Backend::serving(move |mut stream| {
        write_until_stuck(&stream, &sent, || stuck.send(()).unwrap_or_default());
        let _ = stream.read(&mut [0]);
    });
    let pop = Pop::before(&backend);
    for version in VERSIONS {
        let before = pop.edge.memory_kib();
        let mut tls = pop.tls(version);
        gets_stuck.recv_timeout(PATIENCE).expect("the backend's writes come to a halt");
        let mut most = pop.edge.memory_kib();
        let mut heard = Vec::with_capacity(BULK);
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = tls.read(&mut piece).unwrap();
            if read == 0 {
                break;
            }
            heard.extend_from_slice(&piece[..read]);
            most = most.max(pop.edge.memory_kib());
        }
        assert!(heard == **bytes, "{} of {BULK} bytes, or others", heard.len());
        assert!(most < before + ROOM_KIB, "memory went from {before} to {most} KiB");
        drop(tls);
        backend.wait_until_idle();
        while gets_stuck.try_recv().is_ok() {}
    }
}

#[test]
fn a_backend_that_stops_reading_stops_the_client_and_gets_every_byte_later() {
    let (go, may_read) = channel::<()>();
    let may_read = Mutex::new(may_read);
    let (heard, hears) = channel();
    let backend = Backend::serving(move |mut stream| {
        let _ = may_read.lock().unwrap().recv();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let _ = heard.send(bytes);
    });
    let pop = Pop::before(&backend);
    let bytes = noise(6, BULK);
    for version in VERSIONS {
        let before = pop.edge.memory_kib();
        let mut tls = pop.comer(&Arc::new(pop.config(version)));
        shake_hands(&mut tls).unwrap();
        tls.conn.set_buffer_limit(None);
        tls.conn.writer().write_all(&bytes).unwrap();
        tls.conn.send_close_notify();
        let sealed = to_send(&mut tls.conn);
        let (stuck, gets_stuck) = channel();
        let stream = tls.sock.try_clone().unwrap();
        let sender = thread::spawn(move || {
            write_until_stuck(&stream, &sealed, || stuck.send(()).unwrap_or_default());
        });
        gets_stuck.recv_timeout(PATIENCE).expect("the client's writes come to a halt");
        let mut most = pop.edge.memory_kib();
        go.send(()).unwrap();
        let arrived = eventually("the backend has read it all", || {
            most = most.max(pop.edge.memory_kib());
            hears.try_recv().ok()
        });
        sender.join().unwrap();
        assert!(arrived == bytes, "{} of {BULK} bytes, or others", arrived.len());
        assert!(most < before + ROOM_KIB, "memory went from {before} to {most} KiB");
        rest(&mut tls).unwrap();
    }
}
