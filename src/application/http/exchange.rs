//! One request and its answer, between a client and a backend: the pump of http mode.

use rustix::io::Errno;

use super::{Flow, Passed, answer_head};
use crate::application::relay::{End, Failed, Tools};
use crate::infrastructure::http1::{Field, Found, Framing, MAX_HEADERS, Response, find};

/// The longest head of a response, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Bytes that are to be sent.
#[derive(Debug, Default)]
pub struct Out {
    pub bytes: Vec<u8>,
    from: usize,
}

impl Out {
    /// Whether all of it has been sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from == self.bytes.len()
    }

    /// Sends what can be sent; whether that was all.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn flush(&mut self, end: &mut End, tools: &mut Tools) -> Result<bool, Errno> {
        loop {
            if !end.flush()? {
                return Ok(false);
            }
            if self.is_empty() {
                // Idle connections hold nothing.
                *self = Self::default();
                return Ok(true);
            }
            if !end.is_writable() {
                return Ok(false);
            }
            self.from += end.write(&self.bytes[self.from..], false, &mut tools.sealed)?;
        }
    }
}

/// What is known of a request when its answer comes.
#[derive(Debug)]
pub struct Asked {
    /// What the backend gets of it before its body.
    pub head: Vec<u8>,
    /// Its body.
    pub up: Flow,
    /// Whether the answer has no body.
    pub to_head: bool,
    /// Whether it may be made twice: it is idempotent, and has no body.
    pub repeatable: bool,
    /// Whether its client wants the connection to go on.
    pub keeps: bool,
    /// Whether it is of HTTP/1.1.
    pub is_11: bool,
    /// Whether the connection may change its protocol.
    pub upgrades: bool,
}

/// A request that a backend has, and its answer.
#[derive(Debug)]
pub struct Exchange {
    pub asked: Asked,
    pub backend: End,
    /// Whether the backend's connection has had requests before.
    pub reused: bool,
    to_backend: Out,
    /// What has arrived from the backend and is not done with.
    held: Vec<u8>,
    looked: usize,
    down: Option<Flow>,
    /// The status of the answer, once it has begun.
    pub status: Option<u16>,
    backend_keeps: bool,
    /// Whether the backend takes no more.
    deaf: bool,
    /// Bytes towards the backend, and from it.
    pub sent: u64,
    pub received: u64,
}

/// What became of a turn.
#[derive(Debug)]
pub enum Turn {
    /// Nothing to do until an event.
    Waits,
    /// The answer has come to its end, and all of it has been sent. Whether each connection may go on.
    Over {
        /// The client's.
        client: bool,
        /// The backend's.
        backend: bool,
    },
    /// The connection speaks another protocol from now on.
    Upgraded,
    /// The backend's connection ended before a byte of the answer.
    Unanswered,
    /// The backend has not answered in time.
    Late,
    /// What the backend says is no answer.
    Nonsense(&'static str),
    /// The answer broke off in the midst.
    BrokeOff,
    /// The client is gone.
    ClientGone,
    /// The client's body is not what it must be.
    BadBody(&'static str),
}

impl Exchange {
    /// One whose backend has yet to be told of it.
    #[must_use]
    pub fn new(mut asked: Asked, backend: End, reused: bool) -> Self {
        let bytes = std::mem::take(&mut asked.head);
        Self {
            asked,
            backend,
            reused,
            to_backend: Out { bytes, from: 0 },
            held: Vec::new(),
            looked: 0,
            down: None,
            status: None,
            backend_keeps: false,
            deaf: false,
            sent: 0,
            received: 0,
        }
    }

    /// Moves what can be moved. `held` is what has arrived from the client and is not done with.
    pub fn turn(
        &mut self,
        client: &mut End,
        held: &mut Vec<u8>,
        to_client: &mut Out,
        tools: &mut Tools,
    ) -> Turn {
        if let Err(turn) = self.pump_up(client, held, tools) {
            return turn;
        }
        match self.pump_down(client, to_client, tools) {
            Ok(turn) | Err(turn) => turn,
        }
    }

    /// What has arrived from the backend behind the head that has changed the protocol.
    #[must_use]
    pub fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Whether the backend must be told more.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.to_backend.is_empty()
    }

    /// Whether what the client says is of use now.
    #[must_use]
    pub fn reads_client(&self) -> bool {
        !self.asked.up.is_over() && !self.is_behind() && !self.deaf
    }

    /// Whether what the backend says is of use now.
    #[must_use]
    pub fn reads_backend(&self, to_client: &Out) -> bool {
        to_client.is_empty()
    }

    fn pump_up(&mut self, client: &mut End, held: &mut Vec<u8>, tools: &mut Tools) -> Result<(), Turn> {
        loop {
            if self.deaf {
                return Ok(());
            }
            match self.to_backend.flush(&mut self.backend, tools) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // It may have said why.
                Err(_) => {
                    self.deaf = true;
                    return Ok(());
                }
            }
            let up = &mut self.asked.up;
            if up.is_over() {
                return Ok(());
            }
            let before = self.to_backend.bytes.len();
            let taken = up.pass(held, &mut self.to_backend.bytes).map_err(|bad| Turn::BadBody(bad.why))?;
            self.sent += (self.to_backend.bytes.len() - before) as u64;
            if taken > 0 {
                held.drain(..taken);
                if held.is_empty() {
                    *held = Vec::new();
                }
                continue;
            }
            if !client.is_readable() {
                return Ok(());
            }
            match read(client, held, tools) {
                Ok(Some(false)) => {}
                Ok(None) => return Ok(()),
                Ok(Some(true)) | Err(_) => return Err(Turn::ClientGone),
            }
        }
    }

    fn pump_down(&mut self, client: &mut End, to_client: &mut Out, tools: &mut Tools) -> Result<Turn, Turn> {
        loop {
            match to_client.flush(client, tools) {
                Ok(true) => {}
                Ok(false) => return Ok(Turn::Waits),
                Err(_) => return Err(Turn::ClientGone),
            }
            if self.down.as_ref().is_some_and(Flow::is_over) {
                let up_is_over = self.asked.up.is_over() && !self.is_behind() && !self.deaf;
                return Ok(Turn::Over {
                    client: self.asked.keeps && up_is_over,
                    backend: self.backend_keeps && up_is_over && self.held.is_empty(),
                });
            }
            if self.pass(to_client)? {
                if self.status == Some(101) {
                    return Ok(Turn::Upgraded);
                }
                continue;
            }
            if !self.backend.is_readable() {
                return Ok(Turn::Waits);
            }
            match read(&mut self.backend, &mut self.held, tools) {
                Ok(Some(false)) => {}
                Ok(None) => return Ok(Turn::Waits),
                Ok(Some(true)) => self.backend_closed(to_client)?,
                Err(_) => return Err(self.broken()),
            }
        }
    }

    /// Passes on what has arrived of the answer; whether anything was.
    fn pass(&mut self, to_client: &mut Out) -> Result<bool, Turn> {
        if let Some(down) = &mut self.down {
            let before = to_client.bytes.len();
            let taken = down.pass(&self.held, &mut to_client.bytes).map_err(|_| Turn::BrokeOff)?;
            self.received += (to_client.bytes.len() - before) as u64;
            self.held.drain(..taken);
            return Ok(taken > 0);
        }
        match find(&self.held, self.looked) {
            Found::More(_) if self.held.len() > MAX_HEAD => Err(Turn::Nonsense("too long a head")),
            Found::More(looked) => {
                self.looked = looked;
                Ok(false)
            }
            Found::Bad(bad) => Err(Turn::Nonsense(bad.why)),
            Found::Whole(length) => {
                let head: Vec<u8> = self.held.drain(..length).collect();
                self.looked = 0;
                self.begin(&head, to_client)?;
                Ok(true)
            }
        }
    }

    /// Takes up the head of an answer.
    fn begin(&mut self, head: &[u8], to_client: &mut Out) -> Result<(), Turn> {
        let mut fields: [Field<'_>; MAX_HEADERS] = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let asked = &mut self.asked;
        let read = Response::read(head, &mut fields, asked.to_head);
        let response = read.map_err(|bad| Turn::Nonsense(bad.why))?;
        let upgrades = response.status == 101;
        if upgrades && !asked.upgrades {
            return Err(Turn::Nonsense("a change of protocol that nobody asked for"));
        }
        let before = to_client.bytes.len();
        if response.status < 200 && !upgrades {
            if asked.is_11 {
                let passed = Passed { framing: Framing::None, keeps: true, is_11: true, upgrades };
                answer_head(&response, passed, &mut to_client.bytes);
            }
            return Ok(());
        }
        let framing = match response.framing {
            Framing::UntilClose | Framing::Chunked if asked.is_11 => Framing::Chunked,
            Framing::UntilClose | Framing::Chunked => Framing::UntilClose,
            framing => framing,
        };
        asked.keeps &= framing != Framing::UntilClose;
        self.backend_keeps = response.keeps_alive && !upgrades;
        // What the client has yet to say would be taken for its next request.
        let keeps = asked.keeps && asked.up.is_over();
        asked.keeps = keeps;
        let passed = Passed { framing, keeps, is_11: asked.is_11, upgrades };
        answer_head(&response, passed, &mut to_client.bytes);
        self.received += (to_client.bytes.len() - before) as u64;
        self.status = Some(response.status);
        self.down = Some(Flow::new(response.framing, framing));
        Ok(())
    }

    /// The backend has sent its last byte.
    fn backend_closed(&mut self, to_client: &mut Out) -> Result<(), Turn> {
        let cut_off = self.backend.is_cut_off();
        let down = self.down.as_mut().filter(|_| !cut_off);
        if down.is_some_and(|down| down.close(&mut to_client.bytes)) {
            self.backend_keeps = false;
            return Ok(());
        }
        Err(self.broken())
    }

    fn broken(&self) -> Turn {
        match (&self.down, self.held.is_empty()) {
            (Some(_), _) => Turn::BrokeOff,
            (None, true) => Turn::Unanswered,
            (None, false) => Turn::Nonsense("an answer that breaks off in its head"),
        }
    }
}

/// Reads once, to the end of `held`; whether that was the last. `None` = there is nothing now.
///
/// # Errors
/// When the peer is gone.
pub fn read(end: &mut End, held: &mut Vec<u8>, tools: &mut Tools) -> Result<Option<bool>, Failed> {
    let Some(read) = end.read(tools)? else { return Ok(None) };
    let bytes = if end.tls().is_some() { &tools.plain[..] } else { &tools.scratch[..read.bytes] };
    held.extend_from_slice(bytes);
    if read.ended && read.bytes > 0 {
        // The end is read again, behind what came before it.
        end.ends_again();
        return Ok(Some(false));
    }
    Ok(Some(read.ended))
}
