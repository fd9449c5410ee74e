//! A backend that speaks HTTP.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::backend::Backend;
use super::http::read_head;

/// Answers `GET /`, which clients ask, with its name; and anything else, which probes ask, with a
/// status that can be changed. A connection can carry any number of requests.
pub struct Web {
    backend: Backend,
    state: Arc<State>,
}

struct State {
    name: String,
    status: AtomicU16,
    visits: AtomicUsize,
    probes: Mutex<Vec<String>>,
}

impl Web {
    /// It tells probes that all is well.
    pub fn named(name: &str) -> Self {
        let state = Arc::new(State {
            name: name.into(),
            status: AtomicU16::new(200),
            visits: AtomicUsize::new(0),
            probes: Mutex::default(),
        });
        let served = Arc::clone(&state);
        let backend = Backend::serving(move |stream| served.serve(stream));
        Self { backend, state }
    }

    /// It answers probes with this status from now on.
    pub fn tells_probes(&self, status: u16) {
        self.state.status.store(status, Ordering::SeqCst);
    }

    pub fn addr(&self) -> SocketAddr {
        self.backend.addr()
    }

    /// How often clients have asked.
    pub fn visits(&self) -> usize {
        self.state.visits.load(Ordering::SeqCst)
    }

    /// The heads of the requests of probes.
    pub fn probes(&self) -> Vec<String> {
        self.state.probes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections that it has had, whoever made them.
    pub fn accepted(&self) -> usize {
        self.backend.accepted()
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        while let Ok(head) = read_head(&mut stream) {
            let status = if head.starts_with("GET / ") {
                self.visits.fetch_add(1, Ordering::SeqCst);
                200
            } else {
                self.probes.lock().unwrap_or_else(PoisonError::into_inner).push(head);
                self.status.load(Ordering::SeqCst)
            };
            // RFC 9110, 15.3.5: what has no content has no length either.
            let content = if status == 204 {
                "\r\n".into()
            } else {
                format!("Content-Length: {}\r\n\r\n{}", self.name.len(), self.name)
            };
            let answer = format!("HTTP/1.1 {status} -\r\n{content}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
