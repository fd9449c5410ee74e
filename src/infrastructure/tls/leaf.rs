//! What a certificate says of whom it is for.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::domain::host::HostPattern;

/// The longest name of a peer that is told, in bytes.
const MAX_PEER_NAME: usize = 256;

/// What is known of a certificate without believing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The names of servers in it (subjectAltName; the common name when it has none).
    pub names: Vec<HostPattern>,
    /// From when on it is valid, in seconds since the epoch.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
}

impl Leaf {
    /// Reads the first certificate of a chain, and sees that the others are certificates as well.
    pub fn of(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let mut parsed = chain.iter().enumerate().map(|(number, der)| {
            let wrong = |reason: String| {
                format!(
                    "certificate {} of {} is not well-formed: {reason}",
                    number + 1,
                    chain.len()
                )
            };
            match X509Certificate::from_der(der) {
                Ok(([], certificate)) => Ok(certificate),
                Ok(_) => Err(wrong("something follows it".into())),
                Err(error) => Err(wrong(error.to_string())),
            }
        });
        let leaf = parsed.next().ok_or("holds no certificate")??;
        parsed.try_for_each(|certificate| certificate.map(drop))?;
        let validity = leaf.validity();
        Ok(Self {
            names: names(&leaf),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

/// Who has shown `certificate`: its common name, else the first of its other names; at most 256 bytes.
pub(crate) fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common = certificate.subject().iter_common_name().next();
    let common = common.and_then(|name| name.as_str().ok());
    let others = certificate.subject_alternative_name().ok().flatten();
    let other = others.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                Some(*name)
            }
            _ => None,
        })
    });
    let name = common.or(other)?;
    Some(name[..name.floor_char_boundary(MAX_PEER_NAME)].into())
}

/// Whether `certificate` is valid at `now` (time since the Unix epoch), as far as that can be told.
pub(super) fn is_valid_at(certificate: &CertificateDer<'_>, now: Duration) -> bool {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| now <= certificate.validity().not_after.timestamp())
}

fn names(leaf: &X509Certificate<'_>) -> Vec<HostPattern> {
    let alternatives = leaf.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let named = alternatives.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let mut texts: Vec<&str> = named.collect();
    if texts.is_empty() {
        texts.extend(leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok()));
    }
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}
