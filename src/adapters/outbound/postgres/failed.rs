//! What went wrong, for the person who owns the database.

use std::error::Error;

use tokio_postgres::error::{Severity, SqlState};

/// A request that failed.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    /// What the server called it; `None` when it was not the server who refused.
    pub code: Option<SqlState>,
    pub reason: String,
    /// Whether the connection can be used no more.
    pub fatal: bool,
    /// Whether nothing was heard at all, in the time there was.
    pub late: bool,
}

impl Failed {
    /// Whether the server answered with one of these.
    pub(super) fn is(&self, codes: &[SqlState]) -> bool {
        self.code.as_ref().is_some_and(|code| codes.contains(code))
    }

    /// The connection is lost.
    pub(super) fn lost(reason: impl Into<String>) -> Self {
        Self { fatal: true, ..Self::plain(reason) }
    }

    /// Nothing was heard, and nothing is known of the connection.
    pub(super) fn late(reason: impl Into<String>) -> Self {
        Self { late: true, ..Self::lost(reason) }
    }

    /// Something of our own that is no fault of the connection's.
    pub(super) fn plain(reason: impl Into<String>) -> Self {
        Self { code: None, reason: reason.into(), fatal: false, late: false }
    }

    /// The same, of a write that may have been made nevertheless.
    pub(super) fn in_doubt(self) -> Self {
        Self { reason: format!("{}; whether it was written is not known", self.reason), ..self }
    }

    /// The same, after what was being done.
    pub(super) fn because(self, what: &str) -> Self {
        Self { reason: format!("{what}: {}", self.reason), ..self }
    }
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else {
            return Self::lost(reason(&error));
        };
        let mut reason = said.message().to_owned();
        for more in [said.detail(), said.hint()].into_iter().flatten() {
            reason.push_str("; ");
            reason.push_str(more.trim_end_matches('.'));
        }
        let fatal = match said.parsed_severity() {
            Some(severity) => severity != Severity::Error,
            None => said.severity() != "ERROR",
        };
        Self { code: Some(said.code().clone()), reason, fatal, late: false }
    }
}

/// In words that do not repeat what was tried.
fn reason(error: &tokio_postgres::Error) -> String {
    if error.is_closed() {
        return "the connection was lost".into();
    }
    let whole = chain(error);
    match whole.split_once(": ") {
        Some(("error connecting to server", cause)) => cause.into(),
        Some(("error performing TLS handshake", cause)) => format!("TLS: {cause}"),
        _ => whole,
    }
}

/// An error and what caused it, in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Some repeat their cause.
        if !parts.last().is_some_and(|last| last.ends_with(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}
