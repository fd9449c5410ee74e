//! What only the file can say: regions, overrides, listeners, apps, backends.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::app::{self, AppConfig};
use super::backends;
use super::certificate::{self, CertificateConfig};
use super::document::Document;
use super::error::Report;
use super::list::{Addresses, Protocols};
use super::section::Section;
use super::table::Settings;
use super::value::{ListenerTls, Mode};
use crate::domain::cidr::Cidr;
use crate::domain::region::Atlas;
use crate::domain::{App, Backend, Country, Region};

/// The tables at the top of the file that are not groups of settings.
pub(super) const NAMES: [&str; 6] =
    ["listener", "certificate", "regions", "geo_override", backends::KEY, "app"];

/// A `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where it listens, at least one address.
    pub addr: Vec<SocketAddr>,
    /// The app that it serves; `None` = the registry's only one. When it passes TLS through: where
    /// those go whose server's name leads nowhere; `None` = they are refused.
    pub app: Option<App>,
    /// What it carries; `None` = as the settings say.
    pub mode: Option<Mode>,
    /// Whether each connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// What it does with TLS.
    pub tls: ListenerTls,
    /// The protocols that it offers, where it ends TLS; `None` = as the settings say.
    pub alpn: Option<Protocols>,
}

/// What the file says beside the settings.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub apps: BTreeMap<App, AppConfig>,
    pub atlas: Atlas,
    pub geo_overrides: Vec<(Cidr, Country)>,
    pub listeners: Vec<ListenerConfig>,
    pub certificates: Vec<CertificateConfig>,
    pub backends: Option<Vec<Backend>>,
}

impl Parts {
    pub(super) fn read(document: &Document<'_>, settings: &Settings, report: &mut Report) -> Self {
        Self {
            apps: app::read(document, report),
            atlas: atlas(document, report),
            geo_overrides: geo_overrides(document, report),
            listeners: listeners(document, report),
            certificates: certificate::read(document, settings, report),
            backends: backends::read(document, report),
        }
    }
}

fn atlas(document: &Document<'_>, report: &mut Report) -> Atlas {
    let mut atlas = Atlas::default();
    for (name, section) in Section::named(document, "regions", report) {
        section.expect_only(&["countries", "near"], report);
        let countries: Vec<Country> = section.list("countries", report);
        let near: Vec<Region> = section.list("near", report);
        let Ok(region) = name.parse::<Region>() else {
            report.errors.push(section.bad_name());
            continue;
        };
        for country in countries {
            // `[regions.SA]` and `[regions.sa]` are one region, so only another one is an error.
            match atlas.countries.insert(country, region.clone()) {
                Some(other) if other != region => {
                    let problem = format!("{country} is in regions.{other} already");
                    report.errors.push(section.error("countries", problem));
                }
                _ => {}
            }
        }
        if !near.is_empty() {
            atlas.near.entry(region).or_default().extend(near);
        }
    }
    atlas
}

fn geo_overrides(document: &Document<'_>, report: &mut Report) -> Vec<(Cidr, Country)> {
    let sections = Section::array(document, "geo_override", report);
    let read = |section: &Section<'_>| {
        section.expect_only(&["cidr", "country"], report);
        let cidr = section.required("cidr", report);
        let country = section.required("country", report);
        cidr.zip(country)
    };
    sections.iter().filter_map(read).collect()
}

fn listeners(document: &Document<'_>, report: &mut Report) -> Vec<ListenerConfig> {
    let sections = Section::array(document, "listener", report);
    sections.iter().filter_map(|section| listener(section, report)).collect()
}

fn listener(section: &Section<'_>, report: &mut Report) -> Option<ListenerConfig> {
    section.expect_only(&["addr", "app", "mode", "tls", "alpn", "proxy_protocol"], report);
    let addr: Option<Addresses> = section.required("addr", report);
    let app = section.value("app", report);
    let mode = section.value("mode", report);
    let tls: ListenerTls = section.value("tls", report).unwrap_or_default();
    let proxy_protocol = section.value("proxy_protocol", report).unwrap_or_default();
    let alpn = section.value("alpn", report);
    if alpn.is_some() && tls != ListenerTls::Terminate {
        report.errors.push(section.error("alpn", "must be given with tls = true only"));
    }
    if mode == Some(Mode::Http) && tls == ListenerTls::Passthrough {
        let problem = "must not be http with tls = \"passthrough\": nothing is decrypted there";
        report.errors.push(section.error("mode", problem));
    }
    Some(ListenerConfig { addr: addr?.get().to_vec(), app, mode, proxy_protocol, tls, alpn })
}
