//! As much of HTTP as tests need.

use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// An answer, with its status line and headers as they are.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Longest head that is read.
const LONGEST_HEAD: usize = 16 << 10;

/// Asks once, on a connection of its own.
pub fn ask(addr: SocketAddr, method: &str, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    read_answer(&mut stream)
}

/// Reads one answer with the body that its `Content-Length` says.
pub fn read_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let head = read_head(stream)?;
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    let mut length = 0;
    for line in head.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(Error::other)?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let body = String::from_utf8(body).map_err(Error::other)?;
    Ok(Answer { status: status.ok_or_else(|| Error::other(head.clone()))?, head, body })
}

/// Reads the head of a request or an answer, with the empty line at its end.
pub fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > LONGEST_HEAD {
            return Err(Error::new(ErrorKind::InvalidData, "a head without an end"));
        }
    }
    String::from_utf8(head).map_err(Error::other)
}
