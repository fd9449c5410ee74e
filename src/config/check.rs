//! What no single setting can know: rules between settings.

use super::backends;
use super::certificate::CertificateConfig;
use super::parts::ListenerConfig;
use super::resolve::{Origin, Resolver};
use super::secret::Secret;
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
    if s.postgres_enabled
        && let Some(place) = resolver.place(backends::KEY)
    {
        let rule = format!(
            "must be false with [[backend]] ({place}): \
             backends are kept in the file or in PostgreSQL, not in both"
        );
        resolver.refuse("EDGEPROXY_POSTGRES_ENABLED", &[], &rule);
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
    let (cert, key) = ("EDGEPROXY_API_TLS_CERT", "EDGEPROXY_API_TLS_KEY");
    for (one, has_one, other, has_other) in [
        (cert, s.api_tls_cert.is_some(), key, s.api_tls_key.is_some()),
        (key, s.api_tls_key.is_some(), cert, s.api_tls_cert.is_some()),
        (
            "EDGEPROXY_API_TLS_CLIENT_CA",
            s.api_tls_client_ca.is_some(),
            cert,
            s.api_tls_cert.is_some(),
        ),
    ] {
        if has_one && !has_other {
            resolver.refuse(one, &[other], &format!("must be given with {other}"));
        }
    }
    let same = |token: &Secret| s.api_token.as_ref() == Some(token);
    if s.api_register_token.as_ref().is_some_and(same) {
        let rule = "must be another token than EDGEPROXY_API_TOKEN, which may do everything";
        resolver.refuse("EDGEPROXY_API_REGISTER_TOKEN", &["EDGEPROXY_API_TOKEN"], rule);
    }
    if s.metrics_path.contains(['?', '#']) {
        resolver.refuse(metrics, &[], "must be a path without ? and #");
    }
}

/// Reports that nobody may send the header that some of the `listeners` expect.
pub(super) fn trust(
    settings: &Settings,
    listeners: &[ListenerConfig],
    resolver: &mut Resolver<'_>,
) {
    if let Some(who) = expects_header(settings, listeners)
        && settings.proxy_protocol_trusted.get().is_empty()
    {
        let rule = format!("must name who may send the header when {who}");
        resolver.refuse("EDGEPROXY_PROXY_PROTOCOL_TRUSTED", &["EDGEPROXY_PROXY_PROTOCOL"], &rule);
    }
}

/// Reports that nothing at all listens for clients.
pub(super) fn listens(
    settings: &Settings,
    listeners: &[ListenerConfig],
    resolver: &mut Resolver<'_>,
) {
    if settings.listen_addr.get().is_empty() && !settings.tls_enabled && listeners.is_empty() {
        let rule = "must be an address as long as there is no other listener \
                    (EDGEPROXY_TLS_ENABLED, [[listener]])";
        resolver.refuse("EDGEPROXY_LISTEN_ADDR", &["EDGEPROXY_TLS_ENABLED"], rule);
    }
}

/// Reports that clients are to have certificates, and nothing says of whom: nobody would be asked.
pub(super) fn client_auth(
    settings: &Settings,
    certificates: &[CertificateConfig],
    resolver: &mut Resolver<'_>,
) {
    let has_ca = settings.tls_client_ca.is_some()
        || certificates.iter().any(|certificate| certificate.client_ca.is_some());
    if !has_ca && settings.tls_client_auth.is_some() {
        let (auth, ca) = ("EDGEPROXY_TLS_CLIENT_AUTH", "EDGEPROXY_TLS_CLIENT_CA");
        resolver.refuse(auth, &[ca], &format!("must be given with {ca}"));
    }
}

/// What has listeners expect the PROXY protocol header, if anything.
pub(super) fn expects_header(
    settings: &Settings,
    listeners: &[ListenerConfig],
) -> Option<&'static str> {
    if settings.proxy_protocol {
        Some("EDGEPROXY_PROXY_PROTOCOL is true")
    } else if listeners.iter().any(|listener| listener.proxy_protocol) {
        Some("a [[listener]] has proxy_protocol = true")
    } else {
        None
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

/// Notes what is asked for and has no effect.
pub(super) fn notices(settings: &Settings, resolver: &mut Resolver<'_>) {
    unread_file(settings, resolver);
}

/// Notes that the `SQLite` file that was asked for is not read beside backends in the file.
fn unread_file(settings: &Settings, resolver: &mut Resolver<'_>) {
    if resolver.place(backends::KEY).is_none() {
        return;
    }
    let given = resolver
        .effective
        .iter()
        .find(|row| row.setting.env == "EDGEPROXY_DB_PATH" && row.origin != Origin::Default);
    if let Some(row) = given {
        let mut notice = format!(
            "{}={}: not read, since [[backend]] in the configuration file is the registry",
            row.setting.env, row.value
        );
        if settings.state_dir.is_none() {
            notice.push_str("; its folder is still the state folder");
        }
        resolver.report.notices.push(notice);
    }
}
