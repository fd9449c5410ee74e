//! `[app.NAME]`: what holds for one app.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::de::DeValue;

use super::check::bad_path;
use super::document::Document;
use super::error::Report;
use super::number::Whole;
use super::section::Section;
use super::table;
use super::tls_name::TlsName;
use super::value::{HealthType, SendProxy};
use crate::domain::App;
use crate::domain::balance::Spill;
use crate::domain::host::HostPattern;

/// What holds for one app, where it differs from the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppConfig {
    /// Host names that lead to it.
    pub hosts: Vec<HostPattern>,
    /// Names of servers that lead to it from a listener that passes TLS through.
    pub sni: Vec<HostPattern>,
    /// How far from home its clients may be served.
    pub spill: Spill,
    /// How long a client keeps its backend, in seconds; 0 = off.
    pub affinity_ttl_secs: Option<u32>,
    /// A connection without a byte either way for so many seconds is closed.
    pub idle_timeout_secs: Option<u32>,
    /// What its backends are told of a connection before its first byte.
    pub proxy_protocol: SendProxy,
    /// How connections to its backends are secured; `None` = they are plain.
    pub tls: Option<BackendTls>,
    /// How its backends are probed, when health checks are on.
    pub health: HealthConfig,
}

/// How connections to the backends of an app are secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// Whether their certificates are checked at all.
    pub verify: bool,
    /// Who may have signed them, in PEM; `None` = whom the operating system trusts.
    pub ca: Option<PathBuf>,
    /// The name that they must be for; `None` = their address.
    pub name: Option<TlsName>,
    /// Our own certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl fmt::Display for BackendTls {
    /// In few words: `verified (ca /etc/ca.pem, name db.internal)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verify, ca, name, identity } = self;
        let ca = ca.as_ref().map(|ca| format!("ca {}", ca.display()));
        let name = name.as_ref().map(|name| format!("name {}", name.as_str()));
        let cert = identity.as_ref().map(|(cert, _)| format!("cert {}", cert.display()));
        let more: Vec<String> = [ca, name, cert].into_iter().flatten().collect();
        f.write_str(if *verify { "verified" } else { "unverified" })?;
        if more.is_empty() { Ok(()) } else { write!(f, " ({})", more.join(", ")) }
    }
}

/// How the backends of an app are probed, where it differs from the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthConfig {
    /// A connection or a request.
    pub check_type: Option<HealthType>,
    /// Path of the request.
    pub path: Option<String>,
    /// The status that passes, 100 to 599.
    pub expected_status: Option<u16>,
    /// What the request says for `Host`; the address without it.
    pub host: Option<String>,
    /// The port that is probed; the one that is served without it.
    pub port: Option<u16>,
}

pub(super) fn read(document: &Document<'_>, report: &mut Report) -> BTreeMap<App, AppConfig> {
    // `app = "web"` is a setting.
    if document.root.get("app").is_none_or(|app| !app.get_ref().is_table()) {
        return BTreeMap::new();
    }
    let mut apps = BTreeMap::new();
    let (mut hosts, mut sni) = (BTreeMap::new(), BTreeMap::new());
    for (name, section) in Section::named(document, "app", report) {
        let config = app(&section, report);
        for (key, patterns, known) in
            [("hosts", &config.hosts, &mut hosts), ("sni", &config.sni, &mut sni)]
        {
            for pattern in patterns {
                let other: Option<String> = known.insert(pattern.clone(), name.to_string());
                if let Some(other) = other {
                    let problem = format!("{pattern} leads to app.{other} already");
                    report.errors.push(section.error(key, problem));
                }
            }
        }
        match name.parse() {
            Ok(name) => {
                apps.insert(name, config);
            }
            Err(_) => report.errors.push(section.bad_name()),
        }
    }
    apps
}

fn app(section: &Section<'_>, report: &mut Report) -> AppConfig {
    section.expect_only(
        &[
            "hosts",
            "sni",
            "spill",
            "health",
            "proxy_protocol",
            "tls",
            "affinity_ttl_secs",
            "idle_timeout_secs",
        ],
        report,
    );
    let health = health(section, report);
    let ttl = section.value::<Whole<0, { table::YEAR }>>("affinity_ttl_secs", report);
    let idle = section.value::<Whole<1, { table::YEAR }>>("idle_timeout_secs", report);
    AppConfig {
        hosts: section.list("hosts", report),
        sni: section.list("sni", report),
        spill: section.value("spill", report).unwrap_or_default(),
        affinity_ttl_secs: ttl.map(Whole::get),
        idle_timeout_secs: idle.map(Whole::get),
        proxy_protocol: section.value("proxy_protocol", report).unwrap_or_default(),
        tls: tls(section, report),
        health,
    }
}

/// `tls = true` is a table with nothing in it.
fn tls(section: &Section<'_>, report: &mut Report) -> Option<BackendTls> {
    let default = BackendTls { verify: true, ca: None, name: None, identity: None };
    if !matches!(section.get("tls"), Some(DeValue::Table(_))) {
        return section.value("tls", report).unwrap_or(false).then_some(default);
    }
    let tls = section.table("tls", report)?;
    tls.expect_only(&["verify", "ca", "name", "cert", "key"], report);
    let verify = tls.value("verify", report).unwrap_or(true);
    let ca: Option<PathBuf> = tls.value("ca", report);
    if !verify && ca.is_some() {
        report.errors.push(tls.error("ca", "must not be given with verify = false"));
    }
    let (cert, key): (Option<PathBuf>, Option<PathBuf>) =
        (tls.value("cert", report), tls.value("key", report));
    for (one, is_there, other) in [("cert", cert.is_some(), "key"), ("key", key.is_some(), "cert")]
    {
        if is_there && !tls.has(other) {
            report.errors.push(tls.error(one, format!("must be given with `{other}`")));
        }
    }
    let name: Option<TlsName> = tls.value("name", report);
    Some(BackendTls { verify, ca, name, identity: cert.zip(key) })
}

fn health(section: &Section<'_>, report: &mut Report) -> HealthConfig {
    let Some(health) = section.table("health", report) else { return HealthConfig::default() };
    health.expect_only(&["type", "path", "expected_status", "host", "port"], report);
    let status: Option<Whole<100, 599>> = health.value("expected_status", report);
    let port: Option<Whole<1, 65_535>> = health.value("port", report);
    let short = |number: u32| u16::try_from(number).ok();
    let config = HealthConfig {
        check_type: health.value("type", report),
        path: health.value("path", report),
        expected_status: status.map(Whole::get).and_then(short),
        host: health.value("host", report),
        port: port.map(Whole::get).and_then(short),
    };
    if let Some(problem) = config.path.as_deref().and_then(bad_path) {
        report.errors.push(health.error("path", problem));
    }
    let visible = |host: &String| host.bytes().all(|byte| byte.is_ascii_graphic());
    if config.host.as_ref().is_some_and(|host| !visible(host)) {
        report.errors.push(health.error("host", "must be visible ASCII without spaces"));
    }
    config
}
