//! The certificates that clients are shown where TLS ends here, and what clients are asked for.

mod source;
mod standing;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) use standing::{Standing, Validity};
pub(super) use watch::CertificateWatch;

use super::summary::host_name;
use crate::clock;
use crate::config::{ClientAuth, Config};
use crate::domain::host::HostPattern;
use crate::infrastructure::tls::{BadFile, Pair, Policy, Shown, Terminator};
use source::{Clients, Files, Source};

/// Those that one reading of the configuration's files has found. Never changed: others take their
/// place.
#[derive(Clone, Debug, Default)]
pub(super) struct Certificates {
    /// In the order of precedence: a name is the first's that has it, and the first is for all other
    /// names.
    entries: Vec<Entry>,
    /// Where some of them are.
    folder: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Entry {
    source: Source,
    pair: Arc<Pair>,
    policy: Arc<Policy>,
}

/// What reading the files comes to.
pub(super) struct Reading {
    /// What can be shown now: where there is a problem, what was shown before.
    pub certificates: Arc<Certificates>,
    pub problems: Vec<Problem>,
}

/// A certificate that is not in force, or an older one than there is.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// The file that it is known by.
    about: PathBuf,
    error: BadFile,
    /// Whether what is configured cannot be had: it has taken nothing's place.
    is_fatal: bool,
}

/// Files of certificates without which the configuration cannot be put in force.
#[derive(Debug)]
pub struct BadFiles(pub Vec<BadFile>);

impl fmt::Display for BadFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, error) in self.0.iter().enumerate() {
            write!(f, "{}certificates: {error}", if place > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for BadFiles {}

impl Reading {
    /// Reads everything that `config` names. Blocks while it does.
    ///
    /// Without certificates from `before`, at the start, everything must be right, but a certificate
    /// that has expired is shown all the same: clients that look are no worse off than with none, and
    /// the others are served. Later on, what is not right leaves what was there before, and an expired
    /// one takes nobody's place.
    pub fn new(config: &Config, before: Option<&Certificates>) -> Self {
        let mut reader = Reader::new(config, before);
        let sources = reader.sources(config);
        let entries = sources.into_iter().filter_map(|source| reader.entry(source)).collect();
        let folder = config.settings.tls_cert_dir.clone();
        let Reader { problems, .. } = reader;
        Self { certificates: Arc::new(Certificates { entries, folder }), problems }
    }

    /// Nothing, if what is configured can be had.
    ///
    /// # Errors
    /// Every file that is not right.
    pub fn check(&self) -> Result<(), BadFiles> {
        let fatal = self.problems.iter().filter(|problem| problem.is_fatal);
        let mut errors: Vec<BadFile> = fatal.map(|problem| problem.error.clone()).collect();
        errors.dedup();
        if errors.is_empty() { Ok(()) } else { Err(BadFiles(errors)) }
    }
}

impl Certificates {
    /// What a listener that offers `protocols` shows. When it is `strict`, names without a certificate
    /// are refused.
    pub fn terminator(&self, protocols: &[String], strict: bool) -> Arc<Terminator> {
        let mut by_name = HashMap::new();
        let mut decided = Vec::new();
        let mut default = None;
        for entry in &self.entries {
            let policy = Arc::clone(&entry.policy);
            let shown = Shown { config: policy.server(&entry.pair, protocols), policy };
            for name in entry.names() {
                by_name.entry(name.to_string()).or_insert_with(|| shown.clone());
            }
            if entry.source.is_decided {
                decided.extend(entry.names().map(|name| (name.clone(), shown.clone())));
            }
            if !strict {
                default.get_or_insert(shown);
            }
        }
        // Of several for one name the first counts, which here is the last.
        let decided = decided.into_iter().rev().collect();
        Arc::new(Terminator::new(by_name, decided, default))
    }

    /// Every file that they come from, each once.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            self.entries.iter().flat_map(|entry| entry.source.paths()).collect();
        files.sort();
        files.dedup();
        files
    }

    /// Whether these are the same as `other`.
    fn is(&self, other: &Self) -> bool {
        let same = |(one, two): (&Entry, &Entry)| {
            one.source == two.source
                && Arc::ptr_eq(&one.pair, &two.pair)
                && Arc::ptr_eq(&one.policy, &two.policy)
        };
        self.entries.len() == other.entries.len()
            && self.entries.iter().zip(&other.entries).all(same)
    }
}

impl Entry {
    fn names(&self) -> impl Iterator<Item = &HostPattern> {
        let own = &self.source.names;
        if own.is_empty() { self.pair.names() } else { own }.iter()
    }
}

/// Reads files, and falls back on what they were before.
struct Reader<'a> {
    before: Option<&'a Certificates>,
    by_files: HashMap<&'a Files, &'a Entry>,
    by_clients: HashMap<Option<&'a Clients>, &'a Arc<Policy>>,
    /// Whether the folder is the one of before.
    is_same_folder: bool,
    /// What the files of CAs have come to; those of many certificates are one.
    asked: HashMap<Option<Clients>, Result<Arc<Policy>, BadFile>>,
    /// All that are known, of before and of now.
    policies: Vec<Arc<Policy>>,
    problems: Vec<Problem>,
    now: i64,
}

impl<'a> Reader<'a> {
    fn new(config: &Config, before: Option<&'a Certificates>) -> Self {
        let entries = before.map_or(&[][..], |before| &before.entries);
        let by_clients: HashMap<_, _> =
            entries.iter().map(|entry| (entry.source.clients.as_ref(), &entry.policy)).collect();
        Self {
            before,
            by_files: entries.iter().map(|entry| (&entry.source.files, entry)).collect(),
            policies: by_clients.values().map(|policy| Arc::clone(policy)).collect(),
            by_clients,
            is_same_folder: before.is_some_and(|b| b.folder == config.settings.tls_cert_dir),
            asked: HashMap::new(),
            problems: Vec::new(),
            now: super::unix_now(),
        }
    }

    /// Where certificates come from, in the order of precedence.
    fn sources(&mut self, config: &Config) -> Vec<Source> {
        let settings = &config.settings;
        let mut sources = source::named(config);
        if let Some(folder) = &settings.tls_cert_dir {
            let usual = source::clients_of(settings);
            let is_known = |files: &Files| self.by_files.contains_key(files);
            match source::in_folder(folder, is_known) {
                Ok((found, alone)) => {
                    let found = found.into_iter().map(|files| Source {
                        files,
                        names: Vec::new(),
                        clients: usual.clone(),
                        is_in_folder: true,
                        is_decided: false,
                    });
                    sources.extend(found);
                    let alone = alone.into_iter().map(|error| Problem {
                        about: error.path.clone(),
                        error,
                        is_fatal: false,
                    });
                    self.problems.extend(alone);
                }
                Err(error) => {
                    let known = self.before.filter(|_| self.is_same_folder);
                    let known = known.into_iter().flat_map(|before| &before.entries);
                    let known = known.map(|entry| entry.source.clone());
                    sources.extend(known.filter(|source| source.is_in_folder));
                    let is_fatal = !self.is_same_folder;
                    self.problems.push(Problem { about: folder.clone(), error, is_fatal });
                }
            }
        }
        if sources.is_empty() && settings.tls_cert_dir.is_none() {
            sources.push(Source {
                files: Files::Made,
                names: Vec::new(),
                clients: source::clients_of(settings),
                is_in_folder: false,
                is_decided: false,
            });
        }
        sources
    }

    fn entry(&mut self, source: Source) -> Option<Entry> {
        let policy = self.policy(&source);
        let pair = self.pair(&source);
        Some(Entry { pair: pair?, policy: policy?, source })
    }

    fn pair(&mut self, source: &Source) -> Option<Arc<Pair>> {
        let old = self.by_files.get(&source.files).map(|entry| &entry.pair);
        let Files::Pair { cert, key } = &source.files else {
            return Some(old.map_or_else(|| Arc::new(self_signed()), Arc::clone));
        };
        let read = Pair::read(cert, key, old).and_then(|pair| {
            let is_news = self.before.is_some() && !old.is_some_and(|old| Arc::ptr_eq(old, &pair));
            if is_news && pair.not_after() < self.now {
                let reason = format!("has expired on {}", standing::date(pair.not_after()));
                return Err(BadFile::new(cert, reason));
            }
            // Looked at again and again: it takes its place when its time comes.
            let is_early = is_news && pair.not_before() > self.now;
            if is_early && old.is_some_and(|old| old.not_after() >= self.now) {
                let reason = format!("is not valid before {}", standing::date(pair.not_before()));
                return Err(BadFile::new(cert, reason));
            }
            Ok(pair)
        });
        match read {
            Ok(pair) => Some(pair),
            Err(error) => {
                let is_expected = !source.is_in_folder || !self.is_same_folder;
                let is_fatal = old.is_none() && is_expected;
                self.problems.push(Problem { about: cert.clone(), error, is_fatal });
                old.map(Arc::clone)
            }
        }
    }

    /// What clients are asked for; never less than is configured.
    fn policy(&mut self, source: &Source) -> Option<Arc<Policy>> {
        if let Some(asked) = self.asked.get(&source.clients) {
            return asked.as_ref().ok().map(Arc::clone);
        }
        let read = match &source.clients {
            None => Ok(Policy::open(&self.policies)),
            Some(Clients { ca, auth }) => {
                Policy::of_clients(ca, *auth == ClientAuth::Optional, &self.policies)
            }
        };
        let old = self.by_clients.get(&source.clients.as_ref()).copied();
        let policy = read.or_else(|error| {
            let (about, is_fatal) = (error.path.clone(), old.is_none());
            self.problems.push(Problem { about, error: error.clone(), is_fatal });
            old.map(Arc::clone).ok_or(error)
        });
        self.policies.extend(policy.iter().map(Arc::clone));
        self.asked.insert(source.clients.clone(), policy.clone());
        policy.ok()
    }
}

/// One for development.
fn self_signed() -> Pair {
    tracing::warn!(
        "no certificate is given: one was made for development, which no client has a reason to \
         trust (EDGEPROXY_TLS_CERT and EDGEPROXY_TLS_KEY give one)"
    );
    Pair::self_signed(&["localhost", &host_name(), "127.0.0.1", "::1"])
}

/// Reads what `config` names as a process that starts with it would; what it would warn of.
///
/// # Errors
/// What it would not start with.
pub fn check(config: &Config) -> Result<Vec<String>, BadFiles> {
    if !config.ends_tls() {
        return Ok(Vec::new());
    }
    let reading = Reading::new(config, None);
    reading.check()?;
    let problems = reading.problems.iter().map(|problem| problem.error.to_string());
    let doubts = reading.certificates.doubts(clock::wall()).into_iter().map(|(_, text)| text);
    Ok(problems.chain(doubts).collect())
}
