//! What is wrong with a configuration: who, where, what was given, what is accepted.

use std::fmt;
use std::path::PathBuf;

/// Everything that is wrong with a configuration, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, error) in self.0.iter().enumerate() {
            if place > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One thing that is wrong: `EDGEPROXY_WORKERS = "zero": must be a whole number from 1 to 1024`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where in the file; `None` outside it.
    pub place: Option<Place>,
    /// The name, and the value given unless it is a secret; `None` for a file that is not TOML.
    pub subject: Option<String>,
    /// What is wrong or what is accepted.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// What reading a configuration has to say.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<String>,
    pub notices: Vec<String>,
}

impl Report {
    /// An error that is not about one place in the file.
    pub(super) fn error(&mut self, subject: &str, problem: impl Into<String>) {
        self.errors.push(ConfigError {
            place: None,
            subject: Some(subject.into()),
            problem: problem.into(),
        });
    }

    /// The value of `result`; its error is kept.
    pub(super) fn keep<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }
}
