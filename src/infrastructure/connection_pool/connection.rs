//! A connection on loan from a pool.

use std::io::{self, IoSlice};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::shared::Seat;

const HELD: &str = "the stream is held until the connection is dropped";

/// A connection to a backend, which goes back to its pool when it is dropped.
///
/// Drop it between two exchanges only. The next user would get what is left of an answer that was not
/// read to its end: [`discard`](Self::discard) a connection when an exchange was cut short.
#[derive(Debug)]
pub struct PooledConnection {
    /// Before the seat, so that the socket is closed when its place becomes free.
    stream: Option<TcpStream>,
    reusable: bool,
    seat: Seat,
}

impl PooledConnection {
    pub(super) fn new(stream: TcpStream, seat: Seat) -> Self {
        Self { stream: Some(stream), reusable: true, seat }
    }

    /// Closes the connection instead of giving it back.
    pub fn discard(mut self) {
        self.reusable = false;
    }

    /// Takes the socket out of the pool, which forgets it: it no longer counts as one of the backend's.
    #[must_use]
    pub fn into_inner(mut self) -> TcpStream {
        self.release()
    }

    fn release(&mut self) -> TcpStream {
        self.stream.take().expect(HELD)
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if self.reusable
            && let Some(stream) = self.stream.take()
        {
            self.seat.give_back(stream);
        }
    }
}

impl Deref for PooledConnection {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        self.stream.as_ref().expect(HELD)
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect(HELD)
    }
}

impl AsyncRead for PooledConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.get_mut()).poll_read(context, buffer)
    }
}

impl AsyncWrite for PooledConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.get_mut()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.get_mut()).poll_flush(context)
    }

    /// Ends the writing side; the connection will not be used again.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // That our own side has ended is not seen by looking for the peer's end.
        this.reusable = false;
        Pin::new(&mut **this).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.get_mut()).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        (**self).is_write_vectored()
    }
}
