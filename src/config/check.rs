//! What no single setting can know: rules between settings, and what this version leaves out.

use super::resolve::Resolver;
use super::table::Settings;

/// Reports the rules that `settings` break together.
pub(super) fn rules(settings: &Settings, resolver: &mut Resolver<'_>) {
    let s = settings;
    let (cert, key) = ("EDGEPROXY_TLS_CERT", "EDGEPROXY_TLS_KEY");
    match (&s.tls_cert, &s.tls_key) {
        (Some(_), None) => resolver.refuse(key, &[cert], &format!("must be given with {cert}")),
        (None, Some(_)) => resolver.refuse(cert, &[key], &format!("must be given with {key}")),
        (Some(_), Some(_)) | (None, None) => {}
    }
    if s.postgres_enabled && s.postgres_url.is_none() {
        let rule = "must be given when EDGEPROXY_POSTGRES_ENABLED is true";
        resolver.refuse("EDGEPROXY_POSTGRES_URL", &[], rule);
    }
    for (path, env) in [
        (&s.health_check_path, "EDGEPROXY_HEALTH_CHECK_PATH"),
        (&s.metrics_path, "EDGEPROXY_METRICS_PATH"),
    ] {
        if let Some(problem) = bad_path(path) {
            resolver.refuse(env, &[], problem);
        }
    }
    let metrics = "EDGEPROXY_METRICS_PATH";
    if ["/healthz", "/readyz"].contains(&s.metrics_path.as_str()) {
        let rule = "must be another path than /healthz and /readyz, which are served beside it";
        resolver.refuse(metrics, &[], rule);
    }
    if s.metrics_path.contains(['?', '#']) {
        resolver.refuse(metrics, &[], "must be a path without ? and #");
    }
    // The header would otherwise be carried to backends as the client's first bytes.
    if s.proxy_protocol {
        let rule = "the PROXY protocol is not in this version; must be false";
        resolver.refuse("EDGEPROXY_PROXY_PROTOCOL", &[], rule);
    }
}

/// What is wrong with the path of a request, if anything.
pub(super) fn bad_path(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        Some("must start with /")
    } else if path.bytes().any(|byte| !byte.is_ascii_graphic()) {
        Some("must be visible ASCII without spaces (write others as %20 and the like)")
    } else {
        None
    }
}

/// Notes every setting that asks for what is not in this version, and what happens instead.
pub(super) fn notices(settings: &Settings, resolver: &mut Resolver<'_>) {
    for given in &resolver.effective {
        let asked = given.setting.asks.is_some_and(|asks| asks(settings));
        if let Some(later) = given.setting.later
            && asked
        {
            let notice = format!("{}={}: {later}", given.setting.env, given.value);
            resolver.report.notices.push(notice);
        }
    }
}
