//! What only the file can say.

use super::*;

/// The one error of a file.
fn error(text: &str) -> String {
    let errors = toml(text).errors();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors[0].clone()
}

#[test]
fn a_listener_has_addresses_and_may_have_an_app() {
    let config = toml(
        "[[listener]]\naddr = \"127.0.0.1:0\"\n\
         [[listener]]\naddr = [\"0.0.0.0:5432\", \"[::1]:5432\"]\napp = \"db\"\nmode = \"http\"\n",
    )
    .loaded();
    assert_eq!(config.listeners[0].addr, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!(config.listeners[0].app, None);
    assert_eq!(config.listeners[1].addr.len(), 2);
    assert_eq!(config.listeners[1].app.as_ref().unwrap().as_str(), "db");
    assert_eq!(
        config.listeners.iter().map(|l| l.mode).collect::<Vec<_>>(),
        [None, Some(Mode::Http)]
    );
    assert_eq!(config.notices, [""; 0]);
}

#[test]
fn a_listener_without_an_address_is_refused() {
    assert!(
        error("[[listener]]\napp = \"a\"").starts_with("x.toml:1:1: listener.addr: must be given")
    );
    assert!(
        error("[[listener]]\naddr = 80").starts_with("x.toml:2:8: listener.addr = 80: must be one")
    );
    assert_eq!(
        error("[listener]\naddr = \"0.0.0.0:1\""),
        "x.toml:1:1: listener = {...}: must be tables [[listener]]"
    );
}

#[test]
fn a_listener_ends_tls_or_passes_it_through_or_does_neither() {
    let listener = |tls| format!("[[listener]]\naddr = \"0.0.0.0:1\"\ntls = {tls}\n");
    for (tls, expected) in [
        ("true", ListenerTls::Terminate),
        ("\"passthrough\"", ListenerTls::Passthrough),
        ("false", ListenerTls::Off),
    ] {
        assert_eq!(toml(&listener(tls)).loaded().listeners[0].tls, expected);
    }
    assert!(error(&listener("\"ends\"")).ends_with("must be false, true or passthrough"));
}

#[test]
fn something_listens() {
    assert_eq!(
        error("listen_addr = \"off\""),
        "x.toml:1:15: listen_addr = \"off\" (EDGEPROXY_LISTEN_ADDR): must be an address as long as \
         there is no other listener (EDGEPROXY_TLS_ENABLED, [[listener]])"
    );
    for other in ["[tls]\nenabled = true", "[[listener]]\naddr = \"0.0.0.0:1\""] {
        assert_eq!(toml(&format!("listen_addr = \"off\"\n{other}")).loaded().notices, [""; 0]);
    }
}

#[test]
fn a_listener_that_expects_a_header_needs_somebody_who_may_send_it() {
    let listener = "[[listener]]\naddr = \"0.0.0.0:1\"\nproxy_protocol = true\n";
    assert_eq!(
        error(listener),
        "EDGEPROXY_PROXY_PROTOCOL_TRUSTED: \
         must name who may send the header when a [[listener]] has proxy_protocol = true"
    );
    let text = format!("proxy_protocol_trusted = []\n{listener}");
    assert_eq!(
        error(&text),
        "x.toml:1:26: proxy_protocol_trusted = [] (EDGEPROXY_PROXY_PROTOCOL_TRUSTED): \
         must name who may send the header when a [[listener]] has proxy_protocol = true"
    );
    let text = format!("proxy_protocol_trusted = [\"10.0.0.0/8\"]\n{listener}");
    assert!(toml(&text).loaded().listeners[0].proxy_protocol);
    // One mistake is one error.
    let text = format!("proxy_protocol_trusted = [\"ten\"]\nproxy_protocol = true\n{listener}");
    assert_eq!(toml(&text).errors().len(), 1);
}

#[test]
fn what_would_have_running_listeners_refuse_everybody_is_told() {
    let expecting = toml("proxy_protocol = true\nproxy_protocol_trusted = [\"10.0.0.0/8\"]\n");
    let expecting = expecting.loaded();
    assert_eq!(expecting.refuses_all(), None);
    assert_eq!(toml("").loaded().refuses_all(), None);
    assert_eq!(
        toml("").loaded().in_place_of(&expecting).refuses_all().unwrap(),
        "EDGEPROXY_PROXY_PROTOCOL_TRUSTED: must name who may send the header as long as \
         EDGEPROXY_PROXY_PROTOCOL is true, which only a restart changes"
    );
}

#[test]
fn an_app_says_how_far_its_clients_go_and_for_how_long_they_stay() {
    let config = toml(
        "[app.web]\nspill = \"region\"\naffinity_ttl_secs = 0\nidle_timeout_secs = 60\n[app.api]\n",
    )
    .loaded();
    let web = &config.apps[&"web".parse().unwrap()];
    assert_eq!(
        (web.spill, web.affinity_ttl_secs, web.idle_timeout_secs),
        (Spill::Region, Some(0), Some(60))
    );
    assert_eq!(config.apps[&"api".parse().unwrap()], AppConfig::default());
    assert_eq!(config.notices, [""; 0]);
}

#[test]
fn an_app_says_which_header_its_backends_get() {
    let config = toml(
        "[app.old]\nproxy_protocol = \"v1\"\n[app.new]\nproxy_protocol = \"v2\"\n\
         [app.none]\nproxy_protocol = \"off\"\n[app.silent]\n",
    )
    .loaded();
    let sent = |app: &str| config.apps[&app.parse().unwrap()].proxy_protocol;
    assert_eq!(
        ["old", "new", "none", "silent"].map(sent),
        [SendProxy::V1, SendProxy::V2, SendProxy::Off, SendProxy::Off]
    );
    assert_eq!(
        error("[app.web]\nproxy_protocol = true"),
        "x.toml:2:18: app.web.proxy_protocol = true: must be off, v1 or v2, in quotes"
    );
}

#[test]
fn an_app_says_how_its_backends_are_probed_where_that_differs() {
    let config = toml(
        "[app.web]\nhealth = { type = \"http\", path = \"/up?deep=1\", expected_status = 204, \
         host = \"web.example:81\", port = 81 }\n\
         [app.db.health]\ntype = \"tcp\"\n[app.api]\n",
    )
    .loaded();
    let health = |app: &str| config.apps[&app.parse().unwrap()].health.clone();
    assert_eq!(
        health("web"),
        HealthConfig {
            check_type: Some(HealthType::Http),
            path: Some("/up?deep=1".into()),
            expected_status: Some(204),
            host: Some("web.example:81".into()),
            port: Some(81),
        }
    );
    let tcp = HealthConfig { check_type: Some(HealthType::Tcp), ..HealthConfig::default() };
    assert_eq!(health("db"), tcp);
    assert_eq!(health("api"), HealthConfig::default());
    assert_eq!((config.warnings, config.notices), (Vec::new(), Vec::new()));
}

#[test]
fn a_probe_that_could_not_be_sent_is_refused_with_its_place() {
    let health = |rule: &str| error(&format!("[app.web.health]\n{rule}\n"));
    let visible = "must be visible ASCII without spaces";
    for (rule, expected) in [
        (
            "type = \"icmp\"",
            "x.toml:2:8: app.web.health.type = \"icmp\": must be tcp or http".into(),
        ),
        ("path = \"up\"", "x.toml:2:8: app.web.health.path = \"up\": must start with /".into()),
        (
            "path = \"/is up\"",
            format!(
                "x.toml:2:8: app.web.health.path = \"/is up\": {visible} \
                 (write others as %20 and the like)"
            ),
        ),
        ("host = \"a b\"", format!("x.toml:2:8: app.web.health.host = \"a b\": {visible}")),
        (
            "port = 0",
            "x.toml:2:8: app.web.health.port = 0: must be a whole number from 1 to 65535".into(),
        ),
        (
            "port = 65536",
            "x.toml:2:8: app.web.health.port = 65536: must be a whole number from 1 to 65535"
                .into(),
        ),
        (
            "expected_status = 99",
            "x.toml:2:19: app.web.health.expected_status = 99: \
             must be a whole number from 100 to 599"
                .into(),
        ),
        (
            "expected_status = \"OK\"",
            "x.toml:2:19: app.web.health.expected_status = \"OK\": \
             must be a whole number from 100 to 599"
                .into(),
        ),
    ] {
        assert_eq!(health(rule), expected);
    }
    // No header can be smuggled into the request.
    for rule in ["host = \"\"", "host = \"a\\r\\nX: y\"", "path = \"/\\r\\nX: y\""] {
        assert!(health(rule).ends_with(": must be text without control characters, not empty"));
    }
    assert!(error("[app.web]\nhealth = 1").ends_with("app.web.health = 1: must be a table"));
    // All that is wrong is said at once.
    let both = toml("[app.web]\nhealth = { path = \"up\", port = -1 }").errors();
    assert_eq!(both.len(), 2, "{both:#?}");
}

#[test]
fn hosts_are_names_or_wildcards() {
    let config = toml(
        "[app.web]\nhosts = [\"a.example\", \"*.b.example\"]\nsni = [\"a.example\"]\n\
         [app.quiet]\nproxy_protocol = \"v2\"\ntls = false\n",
    )
    .loaded();
    let hosts = config.apps[&"web".parse().unwrap()].hosts.iter().map(ToString::to_string);
    assert_eq!(hosts.collect::<Vec<_>>(), ["a.example", "*.b.example"]);
    assert_eq!(config.notices, [""; 0]);
    assert!(error("[app.web]\nhosts = [\"a b\"]").contains("app.web.hosts"));
}

#[test]
fn tls_to_backends_is_verified_unless_it_is_said_that_it_is_not() {
    let tls = |text: &str| toml(text).loaded().apps[&"web".parse().unwrap()].tls.clone();
    assert_eq!(tls("[app.web]\ntls = false"), None);
    assert_eq!(tls("[app.web]\nspill = \"any\""), None);
    assert_eq!(tls("[app.web]\ntls = true").unwrap().to_string(), "verified");
    let all = "ca = \"ca.pem\"\nname = \"db.internal\"\ncert = \"c.pem\"\nkey = \"k.pem\"";
    assert_eq!(
        tls(&format!("[app.web.tls]\n{all}")).unwrap().to_string(),
        "verified (ca ca.pem, name db.internal, cert c.pem)"
    );
    assert_eq!(tls("[app.web]\ntls = { verify = false }").unwrap().to_string(), "unverified");
}

#[test]
fn tls_to_backends_that_makes_no_sense_is_refused() {
    for (text, expected) in [
        ("tls = 2", "x.toml:2:7: app.web.tls = 2: must be true/false/1/0/yes/no/on/off"),
        (
            "tls = { verify = false, ca = \"a\" }",
            "x.toml:2:30: app.web.tls.ca = \"a\": must not be given with verify = false",
        ),
        (
            "tls = { cert = \"a\" }",
            "x.toml:2:16: app.web.tls.cert = \"a\": must be given with `key`",
        ),
        (
            "tls = { name = \"a b\" }",
            "x.toml:2:16: app.web.tls.name = \"a b\": must be a host name such as db.internal, or an IP address",
        ),
    ] {
        assert_eq!(error(&format!("[app.web]\n{text}")), expected);
    }
}

#[test]
fn a_bad_app_is_refused_with_its_place() {
    assert_eq!(
        error("[app.web]\nspill = \"near\""),
        "x.toml:2:9: app.web.spill = \"near\": must be any, region or country"
    );
    assert_eq!(
        error("[app.web]\nspill = 1"),
        "x.toml:2:9: app.web.spill = 1: must be any, region or country, in quotes"
    );
    assert!(error("[app.web]\nidle_timeout_secs = 0").contains("app.web.idle_timeout_secs = 0"));
    assert!(error("[app.web]\nhosts = [\"a\", 1]").starts_with("x.toml:2:15: app.web.hosts = 1: "));
    assert!(error("[app.\"a b\"]").starts_with("x.toml:1:1: [app.a b]: the name must be 1 to 128"));
    assert!(error("[app]\nweb = 1").starts_with("x.toml:2:7: app.web = 1: must be a table"));
}

#[test]
fn app_is_a_name_or_tables() {
    let config = toml("app = \"web\"").loaded();
    assert_eq!(config.settings.app.unwrap().as_str(), "web");
    assert!(config.apps.is_empty());
    assert!(error("app = 5").starts_with("x.toml:1:7: app = 5 (EDGEPROXY_APP): must be 1 to 128"));
}

#[test]
fn regions_move_countries_and_reorder_neighbours() {
    let config =
        toml("[regions.AF]\ncountries = [\"za\", \"NA\"]\nnear = [\"eu\", \"us\"]").loaded();
    let region = config.atlas.region_of("ZA".parse().unwrap()).unwrap();
    assert_eq!(region.as_str(), "af");
    assert_eq!(config.atlas.near[&region].len(), 2);

    assert_eq!(
        error("[regions.a]\ncountries = [\"ZA\"]\n[regions.b]\ncountries = [\"za\"]"),
        "x.toml:4:13: regions.b.countries = [\"za\"]: ZA is in regions.a already"
    );
    assert_eq!(
        error("[regions.a]\ncountries = [\"ZAF\"]"),
        "x.toml:2:14: regions.a.countries = \"ZAF\": must be two letters (ISO 3166-1)"
    );
    assert!(error("[regions.\"a b\"]").contains("[regions.a b]: the name must be"));
}

#[test]
fn an_override_needs_a_range_and_a_country() {
    let config = toml("[[geo_override]]\ncidr = \"10.0.0.0/8\"\ncountry = \"cl\"").loaded();
    let (cidr, country) = config.geo_overrides[0];
    assert_eq!((cidr.to_string(), country.to_string()), ("10.0.0.0/8".into(), "CL".into()));

    let errors = toml("[[geo_override]]\ncidr = \"home\"\ncountry = \"\"").errors();
    assert!(
        errors[0].starts_with("x.toml:2:8: geo_override.cidr = \"home\": must be"),
        "{errors:?}"
    );
    assert!(
        errors[1].starts_with("x.toml:3:11: geo_override.country = \"\": must be"),
        "{errors:?}"
    );
    let missing = toml("[[geo_override]]").errors();
    assert_eq!(missing.len(), 2, "{missing:?}");
}

#[test]
fn a_certificate_has_files_and_may_have_names_and_ask_clients_for_theirs() {
    let config = toml(
        "[[certificate]]\ncert = \"/a.crt\"\nkey = \"/a.key\"\n\
         [[certificate]]\ncert = \"/b.crt\"\nkey = \"/b.key\"\nnames = [\"B.test\", \"*.b.test\"]\n\
         client_ca = \"/ca.pem\"\nclient_auth = \"optional\"\n",
    )
    .loaded();
    let shown: Vec<_> = config.certificates.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "/a.crt (key /a.key)",
            "/b.crt (key /b.key, names b.test *.b.test, client_ca /ca.pem, client_auth optional)"
        ]
    );
    assert_eq!(
        error("[[certificate]]\ncert = \"/a.crt\""),
        "x.toml:1:1: certificate.key: must be given: a path"
    );
    let pair = "[[certificate]]\ncert = \"/a.crt\"\nkey = \"/a.key\"\n";
    assert_eq!(
        error(&format!("{pair}client_auth = \"maybe\"\nclient_ca = \"/ca\"")),
        "x.toml:4:15: certificate.client_auth = \"maybe\": must be required or optional"
    );
}

#[test]
fn a_client_that_must_have_a_certificate_needs_a_ca_that_it_comes_from() {
    let auth = "EDGEPROXY_TLS_CLIENT_AUTH";
    let problem = "must be given with EDGEPROXY_TLS_CLIENT_CA";
    assert_eq!(
        error("[tls]\nclient_auth = \"required\""),
        format!("x.toml:2:15: tls.client_auth = \"required\" ({auth}): {problem}")
    );
    let pair = "[[certificate]]\ncert = \"/a.crt\"\nkey = \"/a.key\"\n";
    let own = format!("{pair}client_auth = \"optional\"\n");
    assert_eq!(
        error(&own),
        "x.toml:4:15: certificate.client_auth = \"optional\": must be given with client_ca"
    );
    for right in [
        "[tls]\nclient_ca = \"/ca\"\nclient_auth = \"optional\"".into(),
        format!("{own}client_ca = \"/ca\""),
        format!("{own}[tls]\nclient_ca = \"/ca\""),
        format!("{pair}client_ca = \"/ca\"\n[tls]\nclient_auth = \"optional\""),
    ] {
        toml(&right).loaded();
    }
}

#[test]
fn a_listener_that_ends_tls_may_offer_protocols_of_its_own() {
    let listener =
        |tls, alpn| format!("[[listener]]\naddr = \"0.0.0.0:1\"\ntls = {tls}\nalpn = {alpn}\n");
    let config = toml(&listener("true", "[\"h2\", \"http/1.1\"]")).loaded();
    assert_eq!(config.listeners[0].alpn.as_ref().unwrap().get(), ["h2", "http/1.1"]);
    assert!(config.ends_tls());
    assert_eq!(
        error(&listener("false", "\"h2\"")),
        "x.toml:4:8: listener.alpn = \"h2\": must be given with tls = true only"
    );
    assert!(error(&listener("true", "[\"h 2\"]")).contains("must be names of protocols"));
}

#[test]
fn unknown_keys_in_these_tables_warn_too() {
    let warnings = toml(
        "[app.web]\nspil = \"any\"\nhealth = { tipe = \"tcp\" }\n[regions.x]\ncountry = [\"ZA\"]\n\
         [[listener]]\naddr = \"0.0.0.0:1\"\nadress = 1\n",
    )
    .warnings();
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
    assert!(
        warnings.contains(&"x.toml:2:1: app.web.spil: unknown; did you mean spill?".to_owned())
    );
    assert!(
        warnings
            .contains(&"x.toml:3:12: app.web.health.tipe: unknown; did you mean type?".to_owned())
    );
}
