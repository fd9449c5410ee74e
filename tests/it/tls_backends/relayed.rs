//! Bytes, byte for byte, with TLS on neither side, on one and on both; and every kind of end.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, ServerConnection};

use super::peers::{Peer, Pki, Secured, TLS12, TLS13};
use super::{Front, before, front, trusting};
use crate::support::{Backend, PATIENCE, Refusing, Row, Site, noise};

/// Every side with TLS and without: one edge, two backends that do the same, four ways.
struct Four {
    front: Front,
    client: Arc<ClientConfig>,
    plain_to_secured: Refusing,
    secured_to_plain: Refusing,
    _plain: Backend,
    _secured: Secured,
}

impl Four {
    fn around(service: impl Fn(&mut Peer) + Clone + Send + Sync + 'static) -> Self {
        let pki = Pki::new();
        let same = service.clone();
        let plain = Backend::serving(move |stream| {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            service(&mut Peer::Plain(stream));
        });
        let secured = Secured::serving(pki.server(), same);
        let [plain_to_secured, secured_to_plain] = [Refusing::new(), Refusing::new()];
        let site = Site::new()
            .env("EDGEPROXY_APP", "plain")
            .backend(Row::new("plain", plain.addr()).app("plain"))
            .backend(Row::new("secured", secured.addr()));
        let tables = format!(
            "{}[[listener]]\naddr = \"{}\"\napp = \"web\"\n[[listener]]\naddr = \"{}\"\ntls = true",
            trusting(&pki),
            plain_to_secured.addr(),
            secured_to_plain.addr()
        );
        let front = front(&pki, site, &tables, "app = \"web\"");
        let client = Arc::new(pki.client(None));
        let (_plain, _secured) = (plain, secured);
        Self { front, client, plain_to_secured, secured_to_plain, _plain, _secured }
    }

    /// Where clients come, whether with TLS, and whether the backend has it.
    fn ways(&self) -> [(SocketAddr, Option<&Arc<ClientConfig>>, bool); 4] {
        [
            (self.front.edge.addr, None, false),
            (self.plain_to_secured.addr(), None, true),
            (self.secured_to_plain.addr(), Some(&self.client), false),
            (self.front.addr, Some(&self.client), true),
        ]
    }
}

const MUCH: usize = 3 << 20;

#[test]
fn much_goes_up_and_then_down_whole_while_the_client_has_ended() {
    let four = Four::around(|peer| {
        let (got, in_order) = peer.rest();
        assert!(in_order && got == noise(1, MUCH));
        peer.write_all(&noise(2, MUCH)).unwrap();
        peer.finish();
    });
    for (to, tls, _) in four.ways() {
        let mut client = Peer::connect(to, tls);
        client.write_all(&noise(1, MUCH)).unwrap();
        client.finish();
        let (got, in_order) = client.rest();
        assert!(in_order && got == noise(2, MUCH), "{to}: {} bytes", got.len());
        let own = client.stream().local_addr().unwrap();
        drop(client);
        let line = four.front.edge.access_of_addr(own);
        let much = MUCH.to_string();
        let expected = (&*much, &*much, "client_closed");
        assert_eq!((&line["sent"], &line["received"], &line["reason"]), expected);
    }
}

#[test]
fn much_goes_down_and_then_up_whole_while_the_backend_has_ended() {
    let (says, said) = mpsc::channel();
    let four = Four::around(move |peer| {
        peer.write_all(&noise(2, MUCH)).unwrap();
        peer.finish();
        let (got, in_order) = peer.rest();
        says.send(in_order && got == noise(1, MUCH)).unwrap();
    });
    for (to, tls, _) in four.ways() {
        let mut client = Peer::connect(to, tls);
        if tls.is_some() {
            // It is the client who begins with TLS.
            client.flush().unwrap();
        }
        let (got, in_order) = client.rest();
        assert!(in_order && got == noise(2, MUCH), "{to}: {} bytes", got.len());
        client.write_all(&noise(1, MUCH)).unwrap();
        client.finish();
        assert!(said.recv_timeout(PATIENCE).unwrap(), "{to}");
        let own = client.stream().local_addr().unwrap();
        assert_eq!(&four.front.edge.access_of_addr(own)["reason"], "backend_closed");
    }
}

#[test]
fn both_ways_at_once_in_pieces_of_any_size() {
    let four = Four::around(super::peers::echo);
    for (to, tls, _) in four.ways() {
        let mut client = Peer::connect(to, tls);
        for (number, size) in
            [1, 2, 100, 16_383, 16_384, 16_385, 61_440, 100_000, 200_000, 1].into_iter().enumerate()
        {
            let bytes = noise(number as u64, size);
            client.write_all(&bytes).unwrap();
            client.flush().unwrap();
            assert!(client.exactly(size).unwrap() == bytes, "{to}: {size}");
        }
    }
}

#[test]
fn an_end_that_tls_does_not_know_of_stays_one_for_a_client_with_tls() {
    for client_first in [false, true] {
        let four = Four::around(move |peer| {
            if client_first {
                peer.rest();
            }
            peer.write_all(b"half").unwrap();
            peer.flush().unwrap();
            peer.cut_off();
            if !client_first {
                peer.rest();
            }
        });
        for (to, tls, secured) in four.ways() {
            let mut client = Peer::connect(to, tls);
            client.flush().unwrap();
            if client_first {
                client.finish();
            }
            let (got, in_order) = client.rest();
            assert_eq!(got, b"half");
            // Where the backend is plain its end is the end.
            assert_eq!(in_order, !(secured && tls.is_some()), "{to} {client_first}");
        }
    }
}

#[test]
fn and_so_does_a_clients_for_a_backend_with_tls() {
    let (says, said) = mpsc::channel();
    let four = Four::around(move |peer| says.send(peer.rest()).unwrap());
    for (to, tls, secured) in four.ways() {
        let mut client = Peer::connect(to, tls);
        client.write_all(b"half").unwrap();
        client.flush().unwrap();
        client.cut_off();
        let (got, in_order) = said.recv_timeout(PATIENCE).unwrap();
        assert_eq!(got, b"half");
        assert_eq!(in_order, !(secured && tls.is_some()), "{to}");
    }
}

#[test]
fn a_reset_of_either_side_is_one_for_the_other() {
    let (says, said) = mpsc::channel();
    let four = Four::around(move |peer| {
        let mut first = [0];
        peer.read_exact(&mut first).unwrap();
        if first == *b"r" {
            socket2::SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).unwrap();
            return;
        }
        // So that the client knows that it has come.
        peer.write_all(&first).and_then(|()| peer.flush()).unwrap();
        says.send(peer.read(&mut first).map_err(|error| error.kind())).unwrap();
    });
    for (to, tls, _) in four.ways() {
        let mut client = Peer::connect(to, tls);
        client.write_all(b"r").unwrap();
        client.flush().unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{to}");
        let mut client = Peer::connect(to, tls);
        client.echo("g").unwrap();
        socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let got = said.recv_timeout(PATIENCE).unwrap();
        assert_eq!(got, Err(io::ErrorKind::ConnectionReset), "{to}");
    }
}

/// Answers a hello, and has all of what follows in the flight that ends the handshake.
fn in_one_flight(
    versions: &'static [&'static rustls::SupportedProtocolVersion],
    ends: bool,
) -> (Pki, Backend) {
    let pki = Pki::new();
    let mut config = pki.issue(&["127.0.0.1"]).server(versions);
    config.send_half_rtt_data = true;
    let config = Arc::new(config);
    let backend = Backend::serving(move |mut stream: TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&config)).unwrap();
        server.writer().write_all(b"hello\n").unwrap();
        let is_last = |server: &ServerConnection| versions == TLS13 || !server.is_handshaking();
        loop {
            server.read_tls(&mut stream).unwrap();
            server.process_new_packets().unwrap();
            if ends && is_last(&server) {
                server.send_close_notify();
            }
            // All at once.
            let mut flight = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut flight).unwrap();
            }
            stream.write_all(&flight).unwrap();
            if is_last(&server) {
                break;
            }
        }
        if ends {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        while let Ok(1..) = stream.read(&mut [0; 1_024]) {}
    });
    (pki, backend)
}

#[test]
fn what_comes_in_one_flight_with_the_backends_handshake_is_passed_on() {
    for versions in [TLS13, TLS12] {
        for ends in [false, true] {
            let (pki, backend) = in_one_flight(versions, ends);
            let edge = before(&pki, backend.addr());
            for _ in 0..3 {
                let mut client = edge.client();
                assert_eq!(client.greeting().unwrap(), "hello", "{versions:?} {ends}");
                if ends {
                    assert_eq!(client.rest().unwrap(), b"");
                }
            }
        }
    }
}

#[test]
fn what_comes_in_one_flight_with_the_clients_handshake_is_passed_on() {
    let (says, said) = mpsc::channel();
    let four = Four::around(move |peer| says.send(peer.rest()).unwrap());
    for (to, tls, _) in four.ways() {
        let Some(config) = tls else { continue };
        for ends in [false, true] {
            let name = "localhost".try_into().unwrap();
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
            while client.is_handshaking() {
                let mut flight = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut flight).unwrap();
                }
                stream.write_all(&flight).unwrap();
                client.read_tls(&mut stream).unwrap();
                client.process_new_packets().unwrap();
            }
            client.writer().write_all(b"at once").unwrap();
            if ends {
                client.send_close_notify();
            }
            let mut flight = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut flight).unwrap();
            }
            stream.write_all(&flight).unwrap();
            if !ends {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let (got, _) = said.recv_timeout(PATIENCE).expect("the backend hears of the end");
            assert_eq!(got, b"at once", "{to} {ends}");
        }
    }
}

#[test]
fn a_message_that_has_come_in_part_does_not_stop_what_goes_the_other_way() {
    let pki = Pki::new();
    let mut config = pki.issue(&["127.0.0.1"]).server(TLS13);
    // Tickets have several records then.
    config.max_fragment_size = Some(64);
    let config = Arc::new(config);
    let backend = Backend::serving(move |mut stream: TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut flight = Vec::new();
        while server.is_handshaking() {
            stream.write_all(&flight).unwrap();
            flight.clear();
            server.read_tls(&mut stream).unwrap();
            server.process_new_packets().unwrap();
            while server.wants_write() {
                server.write_tls(&mut flight).unwrap();
            }
        }
        // The first record of many.
        let first = 5 + usize::from(u16::from_be_bytes([flight[3], flight[4]]));
        assert!(flight.len() > 2 * first);
        stream.write_all(&flight[..first]).unwrap();
        let mut peer = Peer::Server(Box::new(rustls::StreamOwned::new(server, stream)));
        for rest in [&flight[first..], b""] {
            let got = peer.exactly(5).unwrap();
            peer.stream().try_clone().unwrap().write_all(rest).unwrap();
            peer.write_all(&got).unwrap();
            peer.flush().unwrap();
        }
    });
    let edge = before(&pki, backend.addr());
    for _ in 0..3 {
        let mut client = edge.client();
        // Said after the handshake, when the record has come.
        edge.metrics_when("it is connected", |metrics| {
            metrics.sum("edgeproxy_backend_connections_active", &[]) == 1
        });
        client.echo("hello").unwrap();
        client.echo("again").unwrap();
        drop(client);
        edge.metrics_when("it is gone", |metrics| {
            metrics.sum("edgeproxy_backend_connections_active", &[]) == 0
        });
    }
    assert_eq!(edge.times_logged("a bug in edge-proxy"), 0);
}
