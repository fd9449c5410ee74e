//! Where certificates come from: what the configuration names, and what is in the folder.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{ClientAuth, Config, Settings};
use crate::domain::host::HostPattern;
use crate::infrastructure::tls::BadFile;

/// Certificates in the folder that are taken, the first by name.
const MAX_IN_FOLDER: usize = 4_096;

/// Where a certificate comes from, and what holds for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub files: Files,
    /// What it is shown for; empty = the names in it.
    pub names: Vec<HostPattern>,
    pub clients: Option<Clients>,
    pub is_in_folder: bool,
    /// Whether the configuration says of which names, or of which clients: that goes before what is in
    /// other certificates, and holds for names below as well.
    pub is_decided: bool,
}

/// What it is read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Files {
    /// It is made here, for development.
    Made,
    Pair {
        cert: PathBuf,
        key: PathBuf,
    },
}

/// Of whom clients must have certificates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Clients {
    pub ca: PathBuf,
    pub auth: ClientAuth,
}

impl Source {
    /// Every file that it needs.
    pub fn paths(&self) -> Vec<PathBuf> {
        let pair = match &self.files {
            Files::Made => [None, None],
            Files::Pair { cert, key } => [Some(cert), Some(key)],
        };
        let ca = self.clients.as_ref().map(|clients| &clients.ca);
        pair.into_iter().chain([ca]).flatten().cloned().collect()
    }
}

/// What `settings` say of clients' certificates.
pub(super) fn clients_of(settings: &Settings) -> Option<Clients> {
    let ca = settings.tls_client_ca.clone()?;
    Some(Clients { ca, auth: settings.tls_client_auth.unwrap_or(ClientAuth::Required) })
}

/// The certificates that the configuration names, those of the settings first.
pub(super) fn named(config: &Config) -> Vec<Source> {
    let settings = &config.settings;
    let main = settings.tls_cert.clone().zip(settings.tls_key.clone()).map(|(cert, key)| Source {
        files: Files::Pair { cert, key },
        names: Vec::new(),
        clients: clients_of(settings),
        is_in_folder: false,
        is_decided: false,
    });
    let others = config.certificates.iter().map(|certificate| {
        let ca = certificate.client_ca.as_ref().or(settings.tls_client_ca.as_ref());
        let auth = certificate.client_auth.or(settings.tls_client_auth);
        let auth = auth.unwrap_or(ClientAuth::Required);
        let (cert, key) = (certificate.cert.clone(), certificate.key.clone());
        Source {
            files: Files::Pair { cert, key },
            names: certificate.names.clone(),
            clients: ca.map(|ca| Clients { ca: ca.clone(), auth }),
            is_in_folder: false,
            is_decided: !certificate.names.is_empty()
                || certificate.client_ca.is_some()
                || certificate.client_auth.is_some(),
        }
    });
    main.into_iter().chain(others).collect()
}

/// Which files of one name there are.
#[derive(Default)]
struct Found {
    crt: bool,
    pem: bool,
    key: bool,
}

/// The pairs in a folder, by name, and files that lack their other half; those that are known to be
/// pairs are given as such. A `.pem` that is alone is something else.
pub(super) fn in_folder(
    folder: &Path,
    is_known: impl Fn(&Files) -> bool,
) -> Result<(Vec<Files>, Vec<BadFile>), BadFile> {
    let mut names: BTreeMap<OsString, Found> = BTreeMap::new();
    let mut pairs: Vec<(OsString, Files)> = Vec::new();
    let failed = |error| BadFile::new(folder, format!("cannot be listed: {error}"));
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = folder.join(&name);
        if path.is_dir() {
            let (cert, key) = (path.join("fullchain.pem"), path.join("privkey.pem"));
            let is_pair = cert.exists() && key.exists();
            let files = Files::Pair { cert, key };
            if is_pair || is_known(&files) {
                pairs.push((name, files));
            }
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_owned();
        match path.extension().and_then(OsStr::to_str) {
            Some("crt") => names.entry(stem).or_default().crt = true,
            Some("pem") => names.entry(stem).or_default().pem = true,
            Some("key") => names.entry(stem).or_default().key = true,
            _ => {}
        }
    }
    let mut alone = Vec::new();
    for (stem, found) in names {
        let file = |extension: &str| {
            let mut name = stem.clone();
            name.push(extension);
            folder.join(name)
        };
        let pair = |extension| Files::Pair { cert: file(extension), key: file(".key") };
        let known = [".crt", ".pem"].map(pair).into_iter().find(&is_known);
        let files = match (found, known) {
            (Found { crt: true, key: true, .. }, _) => Some(pair(".crt")),
            (Found { pem: true, key: true, .. }, _) => Some(pair(".pem")),
            (_, Some(known)) => Some(known),
            (Found { crt: true, .. }, None) => {
                alone.push(BadFile::new(&file(".crt"), "has no key (NAME.key) beside it"));
                None
            }
            (Found { key: true, .. }, None) => {
                let reason = "has no certificate (NAME.crt or NAME.pem) beside it";
                alone.push(BadFile::new(&file(".key"), reason));
                None
            }
            _ => None,
        };
        pairs.extend(files.map(|files| (stem.clone(), files)));
    }
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    if pairs.len() > MAX_IN_FOLDER {
        let reason =
            format!("holds more than {MAX_IN_FOLDER} certificates; the others are left out");
        alone.push(BadFile::new(folder, reason));
    }
    Ok((pairs.into_iter().map(|(_, files)| files).take(MAX_IN_FOLDER).collect(), alone))
}
