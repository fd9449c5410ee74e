//! Why a backend could not be reached.

use std::fmt::{self, Display};

use rustix::io::Errno;
use rustls::{AlertDescription, Error};

use crate::application::relay::Failed;
use crate::infrastructure::meters::DialFailure;

/// Why an attempt failed.
#[derive(Debug)]
pub enum Cause {
    /// Nobody answered in time.
    Timeout,
    /// What the system says.
    Socket(Option<Errno>),
    /// What TLS says.
    Tls(Failed),
}

impl Cause {
    /// Whether it comes of what the client asks for: a protocol (ALPN) that the backend does not speak.
    #[must_use]
    pub const fn is_of_the_client(&self) -> bool {
        const UNKNOWN: AlertDescription = AlertDescription::NoApplicationProtocol;
        matches!(self, Self::Tls(Failed::Tls(Error::AlertReceived(UNKNOWN))))
    }

    /// What it is called in metrics.
    #[must_use]
    pub const fn kind(&self) -> DialFailure {
        match self {
            Self::Timeout => DialFailure::Timeout,
            Self::Socket(error) => failure(*error),
            Self::Tls(_) => DialFailure::Tls,
        }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer"),
            Self::Socket(Some(error)) => error.fmt(f),
            Self::Socket(None) => f.write_str("no connection"),
            Self::Tls(failed) => write!(f, "TLS: {failed}"),
        }
    }
}

/// What an error is called in metrics.
#[must_use]
pub const fn failure(error: Option<Errno>) -> DialFailure {
    match error {
        Some(Errno::CONNREFUSED) => DialFailure::Refused,
        Some(Errno::TIMEDOUT) => DialFailure::Timeout,
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN) => {
            DialFailure::Unreachable
        }
        _ => DialFailure::Other,
    }
}

/// Whether there are no descriptors.
#[must_use]
pub const fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE)
}

/// Whether an error says something about this process and nothing about the backend.
#[must_use]
pub const fn is_local(error: Errno) -> bool {
    matches!(
        error,
        Errno::MFILE
            | Errno::NFILE
            | Errno::NOBUFS
            | Errno::NOMEM
            | Errno::NOSPC
            | Errno::ADDRNOTAVAIL
            | Errno::PERM
    )
}
