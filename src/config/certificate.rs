//! `[[certificate]]`: a certificate for the names that it is for.

use std::fmt;
use std::path::PathBuf;

use super::document::Document;
use super::error::Report;
use super::section::Section;
use super::table::Settings;
use super::value::{ClientAuth, Value};
use crate::domain::host::HostPattern;

/// A certificate, besides that of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateConfig {
    /// Its chain (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// What it is shown for; empty = the names in it.
    pub names: Vec<HostPattern>,
    /// The CAs that certificates of clients must come from; `None` = as the settings say.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have one; `None` = as the settings say.
    pub client_auth: Option<ClientAuth>,
}

impl fmt::Display for CertificateConfig {
    /// For a line of a log: `/a.crt (key /a.key, names a.test)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cert, key, names, client_ca, client_auth } = self;
        write!(f, "{} (key {}", cert.display(), key.display())?;
        for (number, name) in names.iter().enumerate() {
            write!(f, "{}{name}", if number == 0 { ", names " } else { " " })?;
        }
        if let Some(ca) = client_ca {
            write!(f, ", client_ca {}", ca.display())?;
        }
        if let Some(auth) = client_auth {
            write!(f, ", client_auth {}", auth.show())?;
        }
        f.write_str(")")
    }
}

pub(super) fn read(
    document: &Document<'_>,
    settings: &Settings,
    report: &mut Report,
) -> Vec<CertificateConfig> {
    let sections = Section::array(document, "certificate", report);
    sections.iter().filter_map(|section| certificate(section, settings, report)).collect()
}

fn certificate(
    section: &Section<'_>,
    settings: &Settings,
    report: &mut Report,
) -> Option<CertificateConfig> {
    section.expect_only(&["cert", "key", "names", "client_ca", "client_auth"], report);
    let cert = section.required("cert", report);
    let key = section.required("key", report);
    let names = section.list("names", report);
    let client_ca = section.value("client_ca", report);
    // Nobody would be asked for one.
    if section.has("client_auth") && !section.has("client_ca") && settings.tls_client_ca.is_none() {
        report.errors.push(section.error("client_auth", "must be given with client_ca"));
    }
    let client_auth = section.value("client_auth", report);
    Some(CertificateConfig { cert: cert?, key: key?, names, client_ca, client_auth })
}
