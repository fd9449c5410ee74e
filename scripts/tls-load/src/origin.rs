//! A plain origin: answers each request with as many bytes as it asks for.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Result};
use tokio::net::{TcpListener, TcpStream};

pub const REQUEST: usize = 9;
pub const FILLING: u8 = b'.';
const PIECE: usize = 256 * 1024;

static ANSWER: [u8; PIECE] = [FILLING; PIECE];

/// A request for `length` bytes, after which the origin closes or waits for the next.
pub fn request(close: bool, length: u64) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[0] = close.into();
    bytes[1..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Serves until it is ended.
pub async fn serve(address: SocketAddr) -> std::result::Result<(), String> {
    let listener =
        TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?;
    loop {
        // One that cannot be accepted is missed by the client, which counts it.
        if let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(answer(connection));
        }
    }
}

async fn answer(mut connection: TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut bytes = [0; REQUEST];
    loop {
        connection.read_exact(&mut bytes).await?;
        let mut left = u64::from_be_bytes(bytes[1..].try_into().expect("8 bytes"));
        while left > 0 {
            let piece = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
            connection.write_all(&ANSWER[..piece]).await?;
            left -= piece as u64;
        }
        if bytes[0] == 1 {
            return Ok(());
        }
    }
}
