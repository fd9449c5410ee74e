//! One connection's TLS, as a machine of bytes: it is given what has arrived and says what to send. It
//! owns no buffer while nothing is on its way; who drives it lends those that it works in.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, HandshakeKind, ProtocolVersion, ServerConfig};

use super::leaf::{is_valid_at, name_of};

/// The most plaintext in one record, in bytes (RFC 8446, 5.1).
const RECORD: usize = 16 << 10;
/// What a record adds to its plaintext, in bytes, at most.
const PER_RECORD: usize = 64;
/// What may have to go before it, in bytes: a change of keys, an alert.
const BESIDE: usize = 512;

/// How many bytes `plain` bytes have at most when they are sealed.
#[must_use]
pub const fn sealed_length(plain: usize) -> usize {
    plain + (plain / RECORD + 1) * PER_RECORD + BESIDE
}

/// One end of TLS on one connection.
pub struct Session {
    machine: Machine,
    said: Said,
    /// What has arrived of a record, or of a handshake's message, that is not whole.
    incoming: Vec<u8>,
    /// What came behind the handshake, before anybody could take it.
    early: Vec<u8>,
    /// Why it cannot go on.
    failure: Option<Error>,
    /// Whether the peer was told that nothing follows.
    closed: bool,
}

enum Machine {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What comes of what has arrived, besides plaintext.
#[derive(Debug, Default)]
struct Said {
    /// What is to be sent, and from where on: what is before that has been taken.
    outgoing: Vec<u8>,
    from: usize,
    /// Whether the peer has said that nothing follows.
    peer_closed: bool,
}

impl Session {
    /// A server's.
    ///
    /// # Errors
    /// When `config` cannot be used.
    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Self::new(Machine::Server(connection)))
    }

    /// A client's of the server `name`, which offers the protocol `alpn`, or those of `config` without
    /// it. What it says first is there at once.
    ///
    /// # Errors
    /// When `config` cannot be used.
    pub fn client(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
        alpn: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let config = Arc::clone(config);
        let connection = match alpn {
            Some(alpn) => {
                UnbufferedClientConnection::new_with_alpn(config, name, vec![alpn.to_vec()])
            }
            None => UnbufferedClientConnection::new(config, name),
        }?;
        let mut session = Self::new(Machine::Client(connection));
        session.take(&mut [], &mut Vec::new())?;
        Ok(session)
    }

    fn new(machine: Machine) -> Self {
        let (incoming, early) = (Vec::new(), Vec::new());
        Self { machine, said: Said::default(), incoming, early, failure: None, closed: false }
    }

    /// Whether the handshake is over.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.machine.is_handshaking()
    }

    /// Why nothing more can be taken up, if so.
    #[must_use]
    pub const fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// How many bytes are kept of what is not whole.
    #[must_use]
    pub const fn unread(&self) -> usize {
        self.incoming.len()
    }

    /// Whether the peer has said that nothing follows.
    #[must_use]
    pub const fn peer_closed(&self) -> bool {
        self.said.peer_closed
    }

    /// Puts what is not whole yet to the head of `buffer`; how much that is, in bytes.
    pub fn unread_into(&mut self, buffer: &mut [u8]) -> usize {
        let length = self.incoming.len();
        buffer[..length].copy_from_slice(&self.incoming);
        self.incoming = Vec::new();
        length
    }

    /// Takes up `arrived`, which begins with what [`unread_into`](Self::unread_into) gave, and leaves
    /// garbage there. What it decrypts is appended to `plain`; what there is to say to
    /// [`outgoing`](Self::outgoing).
    ///
    /// # Errors
    /// When the peer breaks the protocol or is not who it must be. There may be an alert to send.
    pub fn take(&mut self, arrived: &mut [u8], plain: &mut Vec<u8>) -> Result<(), Error> {
        let taken = match &mut self.machine {
            Machine::Server(connection) => take(connection, arrived, plain, &mut self.said),
            Machine::Client(connection) => take(connection, arrived, plain, &mut self.said),
        };
        // The alert is the last that is said.
        self.closed |= taken.is_err();
        self.failure = taken.as_ref().err().cloned();
        let taken = taken?;
        // After the end nothing counts.
        if taken < arrived.len() && !self.said.peer_closed {
            self.incoming = arrived[taken..].to_vec();
        }
        Ok(())
    }

    /// Encrypts `plain` to the head of `sealed`, which must have [`sealed_length`] bytes; how much that
    /// is. The `last` is followed by the word that nothing follows.
    ///
    /// # Errors
    /// When the handshake is not over, or the keys are used up.
    pub fn seal(&mut self, plain: &[u8], last: bool, sealed: &mut [u8]) -> Result<usize, Error> {
        let last = last && !self.closed;
        self.closed |= last;
        let incoming = &mut self.incoming;
        match &mut self.machine {
            Machine::Server(connection) => seal(connection, incoming, plain, last, sealed),
            Machine::Client(connection) => seal(connection, incoming, plain, last, sealed),
        }
    }

    /// What is to be sent.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        &self.said.outgoing[self.said.from..]
    }

    /// Notes that so many bytes of it have been sent.
    pub fn sent(&mut self, bytes: usize) {
        self.said.from += bytes;
        if self.said.from == self.said.outgoing.len() {
            self.said.outgoing = Vec::new();
            self.said.from = 0;
        }
    }

    /// Has `bytes` sent before all that there is to send: what comes before TLS.
    pub fn say_before(&mut self, bytes: &[u8]) {
        self.said.outgoing.splice(..0, bytes.iter().copied());
    }

    /// Has `bytes`, which are sealed, sent after what there is.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.said.outgoing.extend_from_slice(bytes);
    }

    /// Whether the peer was told that nothing follows.
    #[must_use]
    pub const fn closed(&self) -> bool {
        self.closed
    }

    /// Keeps plaintext that came behind the handshake.
    pub fn keep_early(&mut self, plain: &[u8]) {
        self.early.extend_from_slice(plain);
    }

    /// Gives it back, once.
    #[must_use]
    pub fn take_early(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.early)
    }

    /// The version agreed on, as everybody writes it.
    #[must_use]
    pub fn version(&self) -> Option<&'static str> {
        match self.machine.protocol_version()? {
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            _ => None,
        }
    }

    /// The cipher suite agreed on, by its name in the registry of IANA.
    #[must_use]
    pub fn cipher(&self) -> Option<&'static str> {
        let name = self.machine.negotiated_cipher_suite()?.suite().as_str()?;
        // The library tells the suites of version 1.3 by a prefix.
        Some(match name {
            "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
            "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
            "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
            other => other,
        })
    }

    /// The protocol agreed on (RFC 7301).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.machine.alpn_protocol()
    }

    /// Whether the handshake went on from one before.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.machine.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Who the peer has shown to be: the common name of its certificate, else the first of its other
    /// names; at most 256 bytes.
    #[must_use]
    pub fn peer_name(&self) -> Option<String> {
        name_of(self.peer_certificate()?)
    }

    /// Whether that certificate is not valid any more at `now` (time since the Unix epoch).
    #[must_use]
    pub fn peer_has_expired(&self, now: Duration) -> bool {
        self.peer_certificate().is_some_and(|certificate| !is_valid_at(certificate, now))
    }

    /// The certificate with which the peer has shown who it is.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.machine.peer_certificates()?.first()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("said", &self.said).finish_non_exhaustive()
    }
}

impl Deref for Machine {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        match self {
            Self::Server(connection) => connection,
            Self::Client(connection) => connection,
        }
    }
}

/// What both kinds can do.
trait Connection {
    type Data;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Whether there is something to say.
    fn is_behind(&self) -> bool;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn is_behind(&self) -> bool {
        self.wants_write()
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn is_behind(&self) -> bool {
        self.wants_write()
    }
}

/// Goes through `bytes` until more is needed; how many are done with.
fn take<C: Connection>(
    connection: &mut C,
    bytes: &mut [u8],
    plain: &mut Vec<u8>,
    said: &mut Said,
) -> Result<usize, Error> {
    let mut taken = 0;
    loop {
        let UnbufferedStatus { mut discard, state } = connection.process(&mut bytes[taken..]);
        let goes_on = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(data)) => {
                said.say(data);
                true
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                true
            }
            Ok(ConnectionState::PeerClosed) => {
                said.peer_closed = true;
                true
            }
            Ok(_) => false,
            Err(error) => {
                // What is left to say is why. It is asked for only while there is something: the library
                // would go on behind what it has read of a message in pieces, which is not there.
                while connection.is_behind()
                    && let Ok(ConnectionState::EncodeTlsData(data)) =
                        connection.process(&mut []).state
                {
                    said.say(data);
                }
                return Err(error);
            }
        };
        taken += discard;
        if !goes_on {
            return Ok(taken);
        }
    }
}

/// Encrypts `plain` to the head of `out`, behind what is to be said before it; how much that is. Of
/// `incoming`, which is not whole, the library has read the beginning and must find it again.
fn seal<C: Connection>(
    connection: &mut C,
    incoming: &mut [u8],
    plain: &[u8],
    last: bool,
    out: &mut [u8],
) -> Result<usize, Error> {
    let mut written = 0;
    loop {
        match connection.process(incoming).state? {
            ConnectionState::EncodeTlsData(mut data) => {
                let more = data.encode(&mut out[written..]);
                written += more.map_err(|error| Error::General(error.to_string()))?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            ConnectionState::WriteTraffic(mut traffic) => {
                let used_up =
                    |error: rustls::unbuffered::EncryptError| Error::General(error.to_string());
                if !plain.is_empty() {
                    written += traffic.encrypt(plain, &mut out[written..]).map_err(used_up)?;
                }
                if last {
                    written += traffic.queue_close_notify(&mut out[written..]).map_err(used_up)?;
                }
                return Ok(written);
            }
            ConnectionState::Closed => return Ok(written),
            _ => return Err(Error::HandshakeNotComplete),
        }
    }
}

impl Said {
    /// Appends a record to what is to be sent.
    fn say<D>(&mut self, mut data: EncodeTlsData<'_, D>) {
        let Err(EncodeError::InsufficientSize(needs)) = data.encode(&mut []) else { return };
        let at = self.outgoing.len();
        self.outgoing.resize(at + needs.required_size, 0);
        // It has the room that it asked for.
        let _ = data.encode(&mut self.outgoing[at..]);
    }
}
