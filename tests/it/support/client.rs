//! Clients.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;
use super::http::read_answer;

/// A client's connection. Nothing that it waits for is waited for longer than patience lasts.
#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
}

/// A client that was greeted, and by whom.
#[derive(Debug)]
pub struct Visit {
    pub client: Client,
    pub served_by: String,
}

impl Client {
    /// Connects from an address of this machine.
    pub fn connect(ip: &str, to: SocketAddr) -> io::Result<Self> {
        let ip: IpAddr = ip.parse().expect("an address");
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if ip != Ipv4Addr::LOCALHOST {
            socket.bind(&SocketAddr::new(ip, 0).into())?;
        }
        socket.connect_timeout(&to.into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Connects, and is turned away with a reset; says from which address. The reset may come before
    /// the connection is even known to be there.
    pub fn refused(ip: &str, to: SocketAddr) -> SocketAddr {
        let ip: IpAddr = ip.parse().expect("an address");
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(ip, 0).into()).expect("an address of this machine");
        let from = socket.local_addr().expect("bound").as_socket().expect("an IP socket");
        let turned_away = socket.connect_timeout(&to.into(), PATIENCE).and_then(|()| {
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read(&mut [0; 1])
        });
        let error = turned_away.expect_err("no connection of such a client");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        from
    }

    /// Its own address.
    pub fn addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("connected")
    }

    /// The line that the backend says first.
    pub fn greeting(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            if byte == *b"\n" {
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            line.push(byte[0]);
        }
    }

    /// Asks a [`Web`](super::Web) for its name; can be done again and again.
    pub fn fetch(&mut self) -> io::Result<String> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
        let answer = read_answer(&mut self.stream)?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Ok(answer.body)
    }

    /// Says something to a backend that echoes, and hears it back.
    pub fn echo(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())?;
        let mut answer = vec![0; text.len()];
        self.stream.read_exact(&mut answer)?;
        assert_eq!(String::from_utf8_lossy(&answer), text, "the echo is exact");
        Ok(())
    }

    /// Everything up to the end of the stream.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("still connected");
    }

    /// Goes away with a reset in place of a close.
    pub fn reset(self) {
        reset(self.stream);
    }

    /// Whether the stream has ended, looked for no longer than `patience`.
    pub fn has_ended(&mut self, patience: Duration) -> bool {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout");
        match self.stream.read(&mut [0; 1]) {
            Ok(read) => {
                assert_eq!(read, 0, "no byte is expected");
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                false
            }
            Err(error) => panic!("the stream failed: {error}"),
        }
    }
}

/// Closes a connection so that the peer sees a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(stream);
}
