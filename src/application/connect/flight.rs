//! An attempt under way: a socket that connects, and TLS on it where the app has it.

use std::sync::Arc;

use crate::application::relay::{self, End, Failed};
use crate::application::route::Routed;
use crate::application::upstreams::Upstream;
use crate::infrastructure::tls::Originator;

/// What is said to a backend whose connections are secured, before what the client says.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    /// What comes before TLS.
    pub preamble: Option<Box<[u8]>>,
    /// The protocol that the client has agreed on (RFC 7301).
    pub alpn: Option<Box<[u8]>>,
}

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub end: End,
    pub routed: Routed,
    /// Whether the machine has answered; TLS may go on.
    pub answered: bool,
    /// Whether it was warm: it may have waited too long, which says nothing of the backend.
    pub warm: bool,
}

impl Flight {
    /// Goes on with TLS; whether it is there.
    pub fn secure(
        &mut self,
        upstream: &Upstream,
        (originator, greeting): (&Arc<Originator>, &Greeting),
        tools: &mut relay::Tools,
    ) -> Result<bool, Failed> {
        if !self.answered {
            self.answered = true;
            let alpn = greeting.alpn.as_deref();
            let mut session = upstream.begin_tls(originator, alpn).map_err(Failed::Tls)?;
            if let Some(preamble) = &greeting.preamble {
                session.say_before(preamble);
            }
            self.end.secure(Box::new(session));
        }
        self.end.handshake(tools)
    }
}
