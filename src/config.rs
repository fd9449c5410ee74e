//! The configuration: one table of settings, read from the environment, a file and defaults, in
//! that order of preference, with everything that is wrong reported at once.

mod app;
mod backends;
mod certificate;
mod check;
mod diff;
mod document;
mod error;
mod help;
mod list;
mod log_filter;
mod number;
mod parts;
mod resolve;
mod secret;
mod section;
mod setting;
mod source;
mod table;
mod tls_name;
mod unknown;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use app::{AppConfig, BackendTls, HealthConfig};
pub use certificate::CertificateConfig;
pub use diff::{Change, Subject, diff, parts_of};
pub use error::{ConfigError, ConfigErrors, Place};
pub use help::{readme_table, template};
pub use list::{Addresses, Cidrs, Listen, Protocols};
pub use log_filter::LogFilter;
pub use number::{Seconds, Whole};
pub use parts::ListenerConfig;
pub use resolve::{Effective, Origin};
pub use secret::{MASK, Secret};
pub use setting::Setting;
pub use source::Source;
pub use table::{Settings, TABLE};
pub use tls_name::TlsName;
pub use value::{ClientAuth, HealthType, ListenerTls, LogFormat, Mode, SendProxy, Shape, Value};

use crate::domain::cidr::Cidr;
use crate::domain::region::Atlas;
use crate::domain::{App, Backend, Country};
use document::Document;
use error::Report;
use parts::Parts;
use resolve::Resolver;

/// A configuration that holds only what is accepted.
#[derive(Clone, Debug)]
pub struct Config {
    /// Every setting.
    pub settings: Settings,
    /// `[app.NAME]`.
    pub apps: BTreeMap<App, AppConfig>,
    /// `[regions.NAME]`, over the documented map.
    pub atlas: Atlas,
    /// `[[geo_override]]`, in the order of the file.
    pub geo_overrides: Vec<(Cidr, Country)>,
    /// `[[listener]]`, in the order of the file.
    pub listeners: Vec<ListenerConfig>,
    /// `[[certificate]]`, in the order of the file.
    pub certificates: Vec<CertificateConfig>,
    /// `[[backend]]`, in the order of the file; `None` = the registry is elsewhere.
    pub backends: Option<Vec<Backend>>,
    /// Names that nobody knows; `check` fails on them.
    pub warnings: Vec<String>,
    /// What was asked for and has no effect.
    pub notices: Vec<String>,
    /// Every setting with its origin, in the order of the table.
    pub effective: Vec<Effective>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// Reads the configuration.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(source: &Source) -> Result<Config, ConfigErrors> {
    let mut report = Report::default();
    let path = source.file.as_deref().unwrap_or(Path::new(""));
    let text = source.file.as_deref().and_then(|path| {
        let text = document::read_text(path, document::MAX_FILE);
        text.map_err(|reason| {
            let subject = format!("configuration file {}", path.display());
            report.error(&subject, format!("cannot be read: {reason}"));
        })
        .ok()
    });
    let document = text.as_deref().and_then(|text| Document::parse(path, text, &mut report));
    // Rules between settings mean nothing when the file that may hold half of them was not read.
    let complete = report.errors.is_empty();

    let mut resolver = Resolver::new(&source.env, document.as_ref(), report);
    let settings = Settings::resolve(&mut resolver);
    if complete {
        check::rules(&settings, &mut resolver);
    }
    check::notices(&settings, &mut resolver);

    unknown::in_env(&source.env, &mut resolver.report);
    let parts = document.as_ref().map_or_else(Parts::default, |document| {
        unknown::in_file(document, &mut resolver.report);
        Parts::read(document, &settings, &mut resolver.report)
    });
    if complete {
        check::trust(&settings, &parts.listeners, &mut resolver);
        check::listens(&settings, &parts.listeners, &mut resolver);
        check::client_auth(&settings, &parts.certificates, &mut resolver);
    }
    let Resolver { effective, report, .. } = resolver;
    if !report.errors.is_empty() {
        return Err(ConfigErrors(report.errors));
    }
    let Report { warnings, notices, .. } = report;
    let Parts { apps, atlas, geo_overrides, listeners, certificates, backends } = parts;
    let file = source.file.clone();
    Ok(Config {
        settings,
        apps,
        atlas,
        geo_overrides,
        listeners,
        certificates,
        backends,
        warnings,
        notices,
        effective,
        file,
    })
}

impl Config {
    /// What of it would refuse everybody, put in force as [`in_place_of`](Self::in_place_of) leaves
    /// it: its listeners go on expecting a header that nobody may send any more.
    #[must_use]
    pub fn refuses_all(&self) -> Option<String> {
        let who = check::expects_header(&self.settings, &self.listeners)?;
        self.settings.proxy_protocol_trusted.get().is_empty().then(|| {
            format!(
                "EDGEPROXY_PROXY_PROTOCOL_TRUSTED: must name who may send the header as long as \
                 {who}, which only a restart changes"
            )
        })
    }

    /// Whether any listener ends TLS.
    #[must_use]
    pub fn ends_tls(&self) -> bool {
        let ends = |listener: &ListenerConfig| listener.tls == ListenerTls::Terminate;
        self.settings.tls_enabled || self.listeners.iter().any(ends)
    }

    /// What is in force when this takes the place of `running` in a process: all of it, but for what
    /// only a restart changes.
    #[must_use]
    pub fn in_place_of(mut self, running: &Self) -> Self {
        self.settings = self.settings.in_place_of(&running.settings);
        self.listeners.clone_from(&running.listeners);
        if self.backends.is_some() != running.backends.is_some() {
            // Another kind of registry.
            self.backends.clone_from(&running.backends);
        }
        for (row, before) in self.effective.iter_mut().zip(&running.effective) {
            if !row.setting.reloadable {
                row.stay(before);
            }
        }
        self
    }
}

impl Default for Settings {
    /// Every setting at its default.
    fn default() -> Self {
        Self::resolve(&mut Resolver::new(&[], None, Report::default()))
    }
}

impl Settings {
    /// The state folder: the one that was given, else that of the `SQLite` registry.
    #[must_use]
    pub fn state_folder(&self) -> PathBuf {
        let beside = self.db_path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = self.state_dir.as_deref().or(beside);
        folder.unwrap_or(Path::new(".")).into()
    }
}

#[cfg(test)]
mod tests;
