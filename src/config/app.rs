//! `[app.NAME]`: what holds for one app.

use std::collections::BTreeMap;

use super::check::bad_path;
use super::document::Document;
use super::error::Report;
use super::number::Whole;
use super::section::Section;
use super::table;
use super::value::{HealthType, SendProxy};
use crate::domain::App;
use crate::domain::balance::Spill;
use crate::domain::host::HostPattern;

const HOSTS: &str = "routing by Host is not in this version; a listener serves one app";
const BACKEND_TLS: &str = "must be false: TLS to backends is not in this version";

/// What holds for one app, where it differs from the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppConfig {
    /// Host names that lead to it.
    pub hosts: Vec<String>,
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
    /// How its backends are probed, when health checks are on.
    pub health: HealthConfig,
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
    let mut names: BTreeMap<HostPattern, String> = BTreeMap::new();
    for (name, section) in Section::named(document, "app", report) {
        let config = app(&section, report);
        for pattern in &config.sni {
            if let Some(other) = names.insert(pattern.clone(), name.to_string()) {
                let problem = format!("{pattern} leads to app.{other} already");
                report.errors.push(section.error("sni", problem));
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
    leave_out(section, report);
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
        health,
    }
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

/// Checks the keys that are for a later version, and notes those that ask for something.
fn leave_out(section: &Section<'_>, report: &mut Report) {
    if section.has("hosts") {
        section.notice("hosts", HOSTS, report);
    }
    if section.value("tls", report) == Some(true) {
        // Plain bytes where encryption was asked for is no fallback.
        report.errors.push(section.error("tls", BACKEND_TLS));
    }
}
