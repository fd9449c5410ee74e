//! Backends of every temper.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::eventually;

type Service = Arc<dyn Fn(TcpStream) + Send + Sync>;

/// A port that stays this test's own, whether or not anybody listens on it.
struct Port {
    addr: SocketAddr,
    _bound: Socket,
}

impl Port {
    fn reserve() -> Self {
        let bound = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let addr = bound.local_addr().expect("bound").as_socket().expect("an IP socket");
        Self { addr, _bound: bound }
    }

    fn listen(&self, backlog: i32) -> TcpListener {
        let socket = bind(self.addr);
        socket.listen(backlog).expect("the port is this test's");
        TcpListener::from(socket)
    }
}

fn bind(addr: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a socket");
    // So that a listener can be bound beside the reservation, and again after its connections.
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&addr.into()).expect("an address of this machine");
    socket
}

/// Serves every connection in a thread of its own.
pub struct Backend {
    port: Port,
    service: Service,
    state: Arc<State>,
    accepting: Option<(TcpListener, JoinHandle<()>)>,
}

#[derive(Default)]
struct State {
    stopping: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
    streams: Mutex<HashMap<usize, TcpStream>>,
}

impl Backend {
    /// Sends back what it gets.
    pub fn echo() -> Self {
        Self::serving(echo)
    }

    /// Says its name in a line, then sends back what it gets.
    pub fn named(name: &str) -> Self {
        Self::serving(greeter(name))
    }

    /// Does what `service` does.
    pub fn serving(service: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::begin(Port::reserve(), None, Arc::new(service))
    }

    /// Greets every connection and keeps it open, without a thread for each, until
    /// [`let_go`](Self::let_go).
    pub fn holding() -> Self {
        let held: Arc<State> = Arc::default();
        let port = Port::reserve();
        let listener = port.listen(4_096);
        let (other, state) = (listener.try_clone().expect("a descriptor"), Arc::clone(&held));
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = other.accept() {
                let number = state.arrived();
                let _ = stream.write_all(b"held\n");
                state.keep(number, stream);
            }
        });
        let service = Arc::new(|_| unreachable!("the holding loop serves"));
        Self { port, service, state: held, accepting: Some((listener, thread)) }
    }

    fn begin(port: Port, listener: Option<TcpListener>, service: Service) -> Self {
        let mut backend = Self { port, service, state: Arc::default(), accepting: None };
        let listener = listener.unwrap_or_else(|| backend.port.listen(4_096));
        backend.accept_from(listener);
        backend
    }

    fn accept_from(&mut self, listener: TcpListener) {
        let other = listener.try_clone().expect("a descriptor");
        let (state, service) = (Arc::clone(&self.state), Arc::clone(&self.service));
        state.stopping.store(false, Ordering::SeqCst);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = other.accept() {
                let (state, service) = (Arc::clone(&state), Arc::clone(&service));
                let number = state.arrived();
                state.keep(number, stream.try_clone().expect("a descriptor"));
                let serve = move || {
                    service(stream);
                    state.left(number);
                };
                std::thread::Builder::new().stack_size(256 << 10).spawn(serve).expect("a thread");
            }
        });
        self.accepting = Some((listener, thread));
    }

    pub fn addr(&self) -> SocketAddr {
        self.port.addr
    }

    /// Connections it has had.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Most connections it has had at once.
    pub fn most_at_once(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    /// Waits until it has no connection.
    pub fn wait_until_idle(&self) {
        eventually("the backend's connections end", || {
            (self.state.open.load(Ordering::SeqCst) == 0).then_some(())
        });
    }

    /// Closes what it holds.
    pub fn let_go(&self) {
        let held = std::mem::take(&mut *self.state.streams());
        self.state.open.fetch_sub(held.len(), Ordering::SeqCst);
    }

    /// Ends as a process does: its listener and its connections close.
    pub fn stop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        if let Some((listener, thread)) = self.accepting.take() {
            // Makes the waiting accept return.
            let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
            thread.join().expect("the accept loop ends");
        }
        for stream in self.state.streams().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Comes back on the same address.
    pub fn restart(&mut self) {
        let listener = self.port.listen(4_096);
        self.accept_from(listener);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn streams(&self) -> std::sync::MutexGuard<'_, HashMap<usize, TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self) -> usize {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        self.accepted.fetch_add(1, Ordering::SeqCst)
    }

    fn keep(&self, number: usize, stream: TcpStream) {
        if self.stopping.load(Ordering::SeqCst) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.streams().insert(number, stream);
    }

    fn left(&self, number: usize) {
        self.streams().remove(&number);
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(read @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}

fn greeter(name: &str) -> impl Fn(TcpStream) + Send + Sync + 'static {
    let line = format!("{name}\n");
    move |mut stream: TcpStream| {
        if stream.write_all(line.as_bytes()).is_ok() {
            echo(stream);
        }
    }
}

/// An address that refuses: bound, so that it stays this test's, and not listening.
pub struct Refusing(Port);

impl Refusing {
    pub fn new() -> Self {
        Self(Port::reserve())
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Begins to serve under a name.
    pub fn wake(self, name: &str) -> Backend {
        Backend::begin(self.0, None, Arc::new(greeter(name)))
    }
}

/// A machine that is powered off, as seen from the network: its queue of connections is full, so
/// what is sent to it is dropped without an answer.
pub struct BlackHole {
    port: Port,
    listener: TcpListener,
    _filling: Vec<TcpStream>,
}

impl BlackHole {
    /// Longest time in which a connection to a full queue must not have come about.
    const SILENCE: Duration = Duration::from_millis(150);
    /// More connections than any system lets into a queue of none.
    const MOST: usize = 8;

    pub fn new() -> Self {
        let port = Port::reserve();
        let listener = port.listen(0);
        let mut filling = Vec::new();
        while filling.len() < Self::MOST {
            match TcpStream::connect_timeout(&port.addr, Self::SILENCE) {
                Ok(stream) => filling.push(stream),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::TimedOut, "dropped, not refused");
                    return Self { port, listener, _filling: filling };
                }
            }
        }
        panic!("a listener without a queue took {} connections", Self::MOST);
    }

    pub fn addr(&self) -> SocketAddr {
        self.port.addr
    }

    /// Comes back, and serves under a name.
    pub fn wake(self, name: &str) -> Backend {
        self.wake_serving(greeter(name))
    }

    /// Comes back, and does what `service` does.
    pub fn wake_serving(self, service: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
        let Self { port, listener, _filling: filling } = self;
        drop(filling);
        SockRef::from(&listener).listen(4_096).expect("it listens");
        Backend::begin(port, Some(listener), Arc::new(service))
    }
}
