//! Session tickets: counted, and kept for the next connections if these are to resume.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// More than there are clients: a server may give several for each connection.
const MOST: usize = 1000;

#[derive(Debug, Default)]
pub struct Tickets {
    keep: bool,
    kept: Mutex<VecDeque<Tls13ClientSessionValue>>,
    received: AtomicUsize,
}

impl Tickets {
    pub fn new(keep: bool) -> Self {
        Self { keep, ..Self::default() }
    }

    pub fn received(&self) -> usize {
        self.received.load(Relaxed)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.received.fetch_add(1, Relaxed);
        if self.keep {
            let mut kept = self.kept.lock().expect("nobody panics with it");
            if kept.len() == MOST {
                kept.pop_front();
            }
            kept.push_back(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().expect("nobody panics with it").pop_front()
    }
}
