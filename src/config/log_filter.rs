//! What is logged, in the words of `RUST_LOG`.

use std::fmt;

use tracing_subscriber::EnvFilter;

use super::value::{Value, is_plain};

/// A filter that parses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter, for the log.
    ///
    /// # Panics
    /// Never: it was parsed before.
    #[must_use]
    pub fn filter(&self) -> EnvFilter {
        // The library warns of what any client can do; whoever wants to hear it names it.
        let filter = format!("h2=off,{}", self.0);
        EnvFilter::try_new(filter).expect("what was parsed parses again")
    }
}

impl Value for LogFilter {
    fn parse(text: &str) -> Option<Self> {
        (is_plain(text) && EnvFilter::try_new(text).is_ok()).then(|| Self(text.into()))
    }

    fn accepts() -> String {
        "error, warn, info, debug, trace or a filter such as info,access=off".into()
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
