//! Listening sockets: bound by the composition root, and the accept loop that every worker runs.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::domain::time::Time;

/// Connections that may wait to be accepted, for each worker; the system's own limit
/// (`net.core.somaxconn`) may be lower.
const BACKLOG: i32 = 4_096;
/// Connections accepted in one go at most, so that open ones have their turn.
const ACCEPTS: usize = 64;
/// How long to leave the queue alone when there is nothing left to accept with.
const PAUSE: Duration = Duration::from_millis(100);
/// Least time between two warnings about that.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    addr: SocketAddr,
    error: std::io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, error } = self;
        match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {addr}: the address is in use by another process")
            }
            std::io::ErrorKind::AddrNotAvailable => {
                write!(f, "cannot listen on {addr}: this machine has no such address")
            }
            std::io::ErrorKind::PermissionDenied => write!(
                f,
                "cannot listen on {addr}: not permitted (ports below 1024 need CAP_NET_BIND_SERVICE)"
            ),
            _ => write!(f, "cannot listen on {addr}: {error}"),
        }
    }
}

impl std::error::Error for BindError {}

/// Binds `addr` once for each of `workers`, so that the system spreads connections over them. `[::]` takes
/// IPv4 too, unless `only_v6` leaves that to a listener of its own.
///
/// # Errors
/// When the address is in use, also by another instance of this program: the first socket is bound
/// without `SO_REUSEPORT`, so that no second instance takes a share of the traffic in silence.
pub fn bind(addr: SocketAddr, only_v6: bool, workers: usize) -> Result<Vec<OwnedFd>, BindError> {
    let failed = |error| BindError { addr, error };
    let alone = socket(addr, only_v6, false).map_err(failed)?;
    // Port 0: all workers share the port that the system chose.
    let addr = alone.local_addr().ok().and_then(|bound| bound.as_socket()).unwrap_or(addr);
    drop(alone);
    (0..workers)
        .map(|_| {
            let socket = socket(addr, only_v6, true)?;
            socket.listen(BACKLOG)?;
            Ok(OwnedFd::from(socket))
        })
        .collect::<std::io::Result<_>>()
        .map_err(failed)
}

/// The address that a socket is bound to.
#[must_use]
pub fn local_addr(socket: impl AsFd) -> Option<SocketAddr> {
    rustix::net::getsockname(socket).ok()?.try_into().ok()
}

fn socket(addr: SocketAddr, only_v6: bool, shared: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit it, which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(addr))?;
    Ok(socket)
}

/// One worker's listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    /// Its number: which of the configured listeners it is.
    pub number: u16,
    /// How many to accept before the system says that there are no more: grows while there are.
    batch: usize,
    paused_until: Option<Time>,
    warned: Option<Time>,
}

impl Listener {
    /// A listener on a bound socket.
    #[must_use]
    pub const fn new(socket: OwnedFd, number: u16) -> Self {
        Self { socket, number, batch: 1, paused_until: None, warned: None }
    }

    /// The socket.
    #[must_use]
    pub const fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Until when nothing is accepted, if it is paused.
    #[must_use]
    pub const fn paused_until(&self) -> Option<Time> {
        self.paused_until
    }

    /// Ends the pause if it is over; whether it did.
    pub fn resume(&mut self, now: Time) -> bool {
        let over = self.paused_until.is_some_and(|until| until <= now);
        if over {
            self.paused_until = None;
        }
        over
    }

    /// Accepts what waits, some of it; `accepted` says whether there is what one more would take.
    /// When there is not, and on an error, it pauses and never gives up;
    /// [`paused_until`](Self::paused_until) tells.
    pub fn accept(&mut self, now: Time, mut accepted: impl FnMut(OwnedFd, SocketAddr) -> bool) {
        for _ in 0..self.batch {
            match self.accept_one(now) {
                Ok(Some((socket, peer))) => {
                    if !accepted(socket, peer) {
                        return self.pause(now, Errno::MFILE);
                    }
                }
                Ok(None) => {}
                Err(()) => {
                    self.batch = (self.batch / 2).max(1);
                    return;
                }
            }
        }
        self.batch = (self.batch * 2).min(ACCEPTS);
    }

    /// Accepts all that waits, and lets nobody new in: what has shaken hands is served, who has not
    /// tries again and finds the listener gone, or the next process.
    pub fn accept_last(self, now: Time, mut accepted: impl FnMut(OwnedFd, SocketAddr)) {
        let mut listener = self;
        while let Ok(next) = listener.accept_one(now) {
            if let Some((socket, peer)) = next {
                accepted(socket, peer);
            }
        }
    }

    /// From now on no new handshake begins; those under way may end. See
    /// [`accept_last`](Self::accept_last).
    pub fn turn_away(&self) {
        // Classic BPF on the TCP header: drop a segment whose SYN flag is set, pass the others.
        let flags = SockFilter::new(0x30, 0, 0, 13);
        let is_syn = SockFilter::new(0x45, 0, 1, 0x02);
        let drop_it = SockFilter::new(0x06, 0, 0, 0);
        let pass_it = SockFilter::new(0x06, 0, 0, u32::MAX);
        let socket = socket2::SockRef::from(&self.socket);
        // Where the system refuses filters, handshakes go on until the socket is closed.
        let _ = socket.attach_filter(&[flags, is_syn, drop_it, pass_it]);
    }

    /// Leaves the queue alone for a while, because of `error`.
    pub fn pause(&mut self, now: Time, error: Errno) {
        self.paused_until = Some(now + PAUSE);
        if self.warned.is_none_or(|at| now.since(at) >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(%error, "cannot accept: pausing {PAUSE:?} at a time until it goes");
        }
    }

    fn accept_one(&mut self, now: Time) -> Result<Option<(OwnedFd, SocketAddr)>, ()> {
        match acceptfrom_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok((socket, peer)) => {
                let peer = peer.and_then(|peer: SocketAddrAny| SocketAddr::try_from(peer).ok());
                Ok(peer.map(|peer| (socket, peer)))
            }
            Err(Errno::AGAIN) => Err(()),
            // The client has gone, or the network says something about it alone (accept(2)).
            Err(
                Errno::CONNABORTED
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::TIMEDOUT,
            ) => Ok(None),
            Err(error) => {
                self.pause(now, error);
                Err(())
            }
        }
    }
}
