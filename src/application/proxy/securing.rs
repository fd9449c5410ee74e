//! Clients that come by TLS which ends here: from their hello to the end of the handshake.

use std::fmt;
use std::sync::Arc;

use super::arriving::{Arriving, Awaits, Look, UNRECOGNIZED_NAME};
use super::{CLIENT, Comer, Proxy};
use crate::application::account::Reason;
use crate::application::admission::Admitted;
use crate::application::relay::{End, Failed, Tools};
use crate::clock;
use crate::domain::time::Time;
use crate::infrastructure::client_hello::{self, Outcome, Wrong};
use crate::infrastructure::slab::Key;
use crate::infrastructure::tls::{Policy, Session, Terminator};

/// Most that is kept of what a client says in the midst of its handshake, in bytes: a chain of certificates
/// with keys that withstand quantum computers has about 20 thousand.
const LONGEST_FLIGHT: usize = 32 << 10;

/// A handshake that has begun.
pub(super) struct Handshake {
    terminator: Arc<Terminator>,
    /// The beginning of a hello that is not whole, and how long it is at least.
    hello: Vec<u8>,
    need: usize,
    /// The server's name that the client asks for.
    pub name: Option<Box<str>>,
    /// What is asked of the client.
    policy: Option<Arc<Policy>>,
}

impl Proxy {
    /// Begins the handshake of a client that has been let in. One with a `key` is watched under it.
    pub(super) fn await_handshake(
        &mut self,
        comer: Comer,
        end: End,
        key: Option<Key>,
        admitted: Admitted,
        terminator: &Arc<Terminator>,
        now: Time,
    ) {
        let terminator = Arc::clone(terminator);
        let handshake =
            Handshake { terminator, hello: Vec::new(), need: 0, name: None, policy: None };
        let awaits = Awaits::Handshake(admitted, Box::new(handshake));
        self.await_first(Arriving::new(end, comer, awaits, now), key, now);
    }

    /// Has it told when one that has more to say than its socket takes can go on.
    pub(super) fn watch_handshake(&mut self, id: Key, arriving: &mut Arriving) -> bool {
        match arriving.end.rewatch_writes() {
            Some((socket, interest)) => {
                self.reactor.rewatch(socket, id.token(CLIENT), interest).is_ok()
            }
            None => true,
        }
    }
}

impl Handshake {
    /// Goes on as far as what has arrived leads.
    pub(super) fn go_on(&mut self, end: &mut End, tools: &mut Tools) -> Look {
        while end.tls().is_none() {
            match self.begin(end, tools) {
                Err(Look::Waits) if end.is_readable() => {}
                // It will never be whole, and nobody tells of an end again.
                Err(Look::Waits) if end.read_closed() => return Look::Ends(Reason::TlsFailed),
                Err(look) => return look,
                Ok(()) => {}
            }
        }
        match end.handshake(tools) {
            Ok(true) => Look::Secured,
            Ok(false) if end.tls().is_some_and(|tls| tls.unread() > LONGEST_FLIGHT) => {
                failed(&Failed::TooLong)
            }
            Ok(false) => Look::Waits,
            Err(Failed::Socket(_)) => Look::Ends(Reason::ClientReset),
            Err(error) => failed(&error),
        }
    }

    /// Reads the hello, and answers it with the certificate for its name.
    fn begin(&mut self, end: &mut End, tools: &mut Tools) -> Result<(), Look> {
        let Tools { scratch, plain, .. } = tools;
        let before = self.hello.len();
        scratch[..before].copy_from_slice(&self.hello);
        let arrived = match end.receive(&mut scratch[before..]) {
            // Balancers look like this whether somebody listens.
            Ok(Some(0)) if before == 0 => return Err(Look::Ends(Reason::ClientClosed)),
            Ok(Some(0)) => return Err(Look::Ends(Reason::TlsFailed)),
            Ok(Some(read)) => before + read,
            Ok(None) => return Err(Look::Waits),
            Err(_) => return Err(Look::Ends(Reason::ClientReset)),
        };
        let arrived = &mut scratch[..arrived];
        if arrived.len() < self.need {
            self.hello = arrived.to_vec();
            return Err(Look::Waits);
        }
        let name = match client_hello::read(arrived) {
            Outcome::More { need } => {
                self.hello = arrived.to_vec();
                self.need = need;
                return Err(Look::Waits);
            }
            Outcome::Done { hello, .. } => hello.name().map(|name| name.as_str().into()),
            // The library would wait for all of it.
            Outcome::Wrong(wrong @ Wrong::TooLong(_)) => return Err(failed(&wrong)),
            // It is told why, in the words of the library.
            Outcome::Wrong(_) => None,
        };
        self.hello = Vec::new();
        self.name = name;
        let Some(shown) = self.terminator.shown(self.name.as_deref()) else {
            return Err(Look::Unrecognized);
        };
        self.policy = Some(Arc::clone(&shown.policy));
        plain.clear();
        let mut session = Session::server(&shown.config).map_err(|error| failed(&error))?;
        let taken = session.take(arrived, plain);
        session.keep_early(plain);
        end.secure(Box::new(session));
        taken.map_err(|error| {
            let _ = end.flush();
            failed(&error)
        })
    }
}

impl Handshake {
    /// Whether what has been asked of the client is what is asked of it now, and what it has shown is
    /// still worth something: a session may go on for longer than a certificate is valid.
    pub(super) fn is_enough(&self, session: &Session, now: Option<&Arc<Terminator>>) -> bool {
        let name = self.name.as_deref();
        let asked = self.policy.as_ref().zip(now);
        asked.is_some_and(|(policy, now)| now.asks_the_same(name, policy))
            && !(session.resumed() && session.peer_has_expired(clock::wall()))
    }
}

impl Handshake {
    /// The server's name that was asked for, and what was asked of the client.
    pub(super) fn into_parts(self) -> (Option<Box<str>>, Option<Arc<Policy>>) {
        (self.name, self.policy)
    }
}

/// Says why there is no handshake.
fn failed(error: &dyn fmt::Display) -> Look {
    tracing::debug!(%error, "TLS failed");
    Look::Ends(Reason::TlsFailed)
}

/// Says to a client that there is no certificate for the name that it asks for.
pub(super) fn refuse(end: End, tools: &mut Tools) {
    // Its hello has been read.
    end.say_last(0, &UNRECOGNIZED_NAME, &mut tools.scratch);
}
