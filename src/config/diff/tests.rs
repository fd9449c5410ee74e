//! What a user who has edited the file is told.

use crate::config::{Config, Source, diff, load};

fn config(env: &[(&str, &str)], toml: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, toml).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    load(&Source { env, file: Some(file) }).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The changes from one file to another, each as a line.
fn changes(env: &[(&str, &str)], old: &str, new: &str) -> Vec<String> {
    let changes = diff(&config(env, old), &config(env, new));
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn equal_configurations_differ_in_nothing() {
    let text = "workers = 2\napi.token = \"t\"\n[app.web]\nspill = \"region\"\n\
                [regions.sa]\ncountries = [\"ZA\"]\n[[listener]]\naddr = \"0.0.0.0:1\"\n";
    assert_eq!(changes(&[], text, text), [""; 0]);
    // Other words for the same values.
    assert_eq!(changes(&[], "", "connect_tries = 3\n[app.web]\nspill = \"any\""), [""; 0]);
    assert_eq!(changes(&[], "region = \"eu\"", "region = \"EU\" # Europe"), [""; 0]);
}

#[test]
fn settings_change_in_the_order_of_the_table_with_what_it_takes() {
    let old = "workers = 2\ndeny = \"10.0.0.0/8\"\n";
    let new = "app = \"web\"\nworkers = 4\n[rate_limit]\nburst = 20\n";
    assert_eq!(
        changes(&[], old, new),
        [
            "app: - -> web (needs a restart)",
            "workers: 2 -> 4 (needs a restart)",
            "deny: 10.0.0.0/8 -> -",
            "rate_limit.burst: 10 -> 20",
        ]
    );
    let found = diff(&config(&[], old), &config(&[], new));
    assert_eq!((found[0].old_value.as_deref(), found[0].new_value.as_str()), (None, "web"));
    assert_eq!((found[2].new_value.as_str(), found[2].reloadable), ("-", true));
}

#[test]
fn a_secret_that_changes_is_noticed_and_not_shown() {
    let token = |secret| format!("api.token = \"{secret}\"");
    let (old, new) = (config(&[], &token("hunter2")), config(&[], &token("hunter3")));
    let found = diff(&old, &new);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), "api.token: *** -> ***");
    assert!(!format!("{old:?}{new:?}{found:?}").contains("hunter"));
    assert_eq!(changes(&[], "", &token("hunter2")), ["api.token: - -> ***"]);

    let env = [("EDGEPROXY_API_TOKEN", "hunter1")];
    assert_eq!(
        changes(&env, &token("hunter2"), &token("hunter3")),
        ["api.token: *** -> *** (overridden by EDGEPROXY_API_TOKEN)"]
    );
    assert_eq!(changes(&env, &token("hunter2"), &token("hunter2")), [""; 0]);
}

#[test]
fn a_change_of_the_file_that_the_environment_overrides_is_said_to_be_one() {
    let env = [("EDGEPROXY_REGION", "ap"), ("EDGEPROXY_WORKERS", "2")];
    assert_eq!(
        changes(&env, "region = \"us\"", "region = \"eu\"\nworkers = 8"),
        [
            "region: us -> eu (overridden by EDGEPROXY_REGION)",
            "workers: - -> 8 (overridden by EDGEPROXY_WORKERS)",
        ]
    );
    assert_eq!(
        changes(&env, "workers = 8", ""),
        ["workers: 8 -> - (overridden by EDGEPROXY_WORKERS)"]
    );
    // What the file says and nobody can read is nobody's business while it is overridden.
    assert_eq!(changes(&env, "workers = 0", "workers = 2000"), [""; 0]);
}

#[test]
fn a_variable_that_comes_or_goes_changes_the_value_itself() {
    let file = "workers = 2";
    let env = [("EDGEPROXY_WORKERS", "4")];
    let lines = |old: &Config, new: &Config| -> Vec<String> {
        diff(old, new).iter().map(ToString::to_string).collect()
    };
    let (with, without) = (config(&env, file), config(&[], file));
    assert_eq!(lines(&without, &with), ["workers: 2 -> 4 (needs a restart)"]);
    assert_eq!(lines(&with, &without), ["workers: 4 -> 2 (needs a restart)"]);
    let same = config(&[("EDGEPROXY_WORKERS", "2")], file);
    assert_eq!(lines(&without, &same), [""; 0]);
    assert_eq!(lines(&same, &without), [""; 0]);
}

#[test]
fn every_key_of_an_app_is_a_change_of_its_own() {
    let old = "[app.web]\nspill = \"region\"\nidle_timeout_secs = 60\n\
               health = { type = \"http\", path = \"/up\", port = 81 }\n";
    let new = "[app.api]\naffinity_ttl_secs = 0\nhosts = [\"a.example\", \"b.example\"]\n\
               [app.web]\nspill = \"country\"\n\
               health = { path = \"/up\", expected_status = 204, host = \"h\" }\n";
    assert_eq!(
        changes(&[], old, new),
        [
            "app.api.hosts: - -> a.example,b.example",
            "app.api.affinity_ttl_secs: - -> 0",
            "app.web.spill: region -> country",
            "app.web.idle_timeout_secs: 60 -> -",
            "app.web.health.type: http -> -",
            "app.web.health.expected_status: - -> 204",
            "app.web.health.host: - -> h",
            "app.web.health.port: 81 -> -",
        ]
    );
    assert_eq!(changes(&[], "[app.web]\nspill = \"region\"", ""), ["app.web.spill: region -> any"]);
}

#[test]
fn a_region_changes_as_a_whole() {
    let old = "[regions.af]\ncountries = [\"ZA\"]\nnear = [\"eu\", \"us\"]\n\
               [regions.sa]\ncountries = [\"GY\"]\n";
    let new = "[regions.af]\ncountries = [\"ZA\", \"NA\"]\nnear = [\"us\", \"eu\"]\n";
    assert_eq!(
        changes(&[], old, new),
        [
            "regions.af: countries ZA near eu,us -> countries NA,ZA near us,eu",
            "regions.sa: countries GY -> -",
        ]
    );
}

#[test]
fn of_overrides_and_listeners_only_what_differs_is_said() {
    let geo = |ranges: &[u8]| -> String {
        let one = |n| format!("[[geo_override]]\ncidr = \"10.{n}.0.0/16\"\ncountry = \"BR\"\n");
        ranges.iter().map(one).collect()
    };
    assert_eq!(
        changes(&[], &geo(&[1, 2, 3]), &geo(&[1, 4, 3])),
        ["geo_override: 10.2.0.0/16 = BR -> 10.4.0.0/16 = BR"]
    );
    assert_eq!(changes(&[], &geo(&[1, 1]), &geo(&[1])), ["geo_override: 10.1.0.0/16 = BR -> -"]);
    assert_eq!(changes(&[], &geo(&[1]), &geo(&[2, 1])), ["geo_override: - -> 10.2.0.0/16 = BR"]);
    let all: Vec<u8> = (0..=255).collect();
    let long = changes(&[], "", &geo(&all));
    assert!(long[0].len() < 200 && long[0].ends_with("..."), "{long:?}");

    let listener = "[[listener]]\naddr = [\"0.0.0.0:1\", \"[::]:1\"]\napp = \"db\"\n";
    assert_eq!(
        changes(&[], "", listener),
        ["listener: - -> 0.0.0.0:1,[::]:1 (app db) (needs a restart)"]
    );
    let other = listener.replace("\"db\"", "\"web\"");
    assert_eq!(
        changes(&[], listener, &other),
        ["listener: 0.0.0.0:1,[::]:1 (app db) -> 0.0.0.0:1,[::]:1 (app web) (needs a restart)"]
    );
}

/// A registry in the file: each backend with its last octet and a line of its own.
fn backends(all: &[(&str, u8, &str)]) -> String {
    let one = |(id, octet, line): &(&str, u8, &str)| {
        format!(
            "[[backend]]\nid = \"{id}\"\napp = \"web\"\nregion = \"sa\"\ncountry = \"BR\"\n\
             wg_ip = \"10.0.0.{octet}\"\nport = 80\n{line}\n"
        )
    };
    all.iter().map(one).collect()
}

#[test]
fn every_column_of_a_backend_is_a_change_of_its_own_and_one_that_comes_or_goes_is_one() {
    let old = backends(&[("b", 2, "weight = 1"), ("a", 1, ""), ("gone", 3, "")]);
    let new = backends(&[
        ("a", 1, "weight = 5\nhealthy = false"),
        ("new", 4, "weight = 9"),
        ("b", 9, "hard_limit = 0\nupdated_at = \"2026-01-01\""),
    ]);
    assert_eq!(
        changes(&[], &old, &new),
        [
            "backend.a.healthy: true -> false",
            "backend.a.weight: 1 -> 5",
            "backend.b.wg_ip: 10.0.0.2 -> 10.0.0.9",
            "backend.b.hard_limit: 150 -> 0",
            "backend.b.updated_at: - -> 2026-01-01",
            "backend.gone: 10.0.0.3:80 (app web, sa BR) -> -",
            "backend.new: - -> 10.0.0.4:80 (app web, sa BR)",
        ]
    );
    assert_eq!(
        changes(&[], &backends(&[("a", 1, "")]), "backend = []"),
        ["backend.a: 10.0.0.1:80 (app web, sa BR) -> -"]
    );
}

#[test]
fn backends_in_another_order_or_other_words_are_the_same() {
    let old = backends(&[("a", 1, ""), ("b", 2, "healthy = true")]);
    let new = backends(&[("b", 2, "healthy = 1"), ("a", 1, "weight = 1")]);
    assert_eq!(changes(&[], &old, &new), [""; 0]);
}

#[test]
fn a_registry_that_comes_into_the_file_or_leaves_it_needs_a_restart() {
    let two = backends(&[("a", 1, ""), ("b", 2, "")]);
    assert_eq!(changes(&[], "", &two), ["backend: - -> 2 backends (needs a restart)"]);
    let one = backends(&[("a", 1, "")]);
    assert_eq!(changes(&[], &one, ""), ["backend: 1 backend -> - (needs a restart)"]);
    assert_eq!(changes(&[], "backend = []", ""), ["backend: 0 backends -> - (needs a restart)"]);
}

#[test]
fn certificates_change_without_a_restart_and_what_a_listener_does_with_tls_does_not() {
    let one = "[[certificate]]\ncert = \"/a.crt\"\nkey = \"/a.key\"\n";
    let two = format!("{one}names = [\"a.test\"]\n");
    assert_eq!(changes(&[], "", one), ["certificate: - -> /a.crt (key /a.key)"]);
    assert_eq!(
        changes(&[], one, &two),
        ["certificate: /a.crt (key /a.key) -> /a.crt (key /a.key, names a.test)"]
    );
    let settings = "[tls]\nalpn = [\"h2\"]\nclient_ca = \"/ca.pem\"\n";
    assert_eq!(changes(&[], "", settings), ["tls.alpn: - -> h2", "tls.client_ca: - -> /ca.pem"]);
    let listener = "[[listener]]\naddr = \"0.0.0.0:1\"\n";
    assert_eq!(
        changes(&[], listener, &format!("{listener}tls = true\nalpn = \"h2\"\n")),
        ["listener: 0.0.0.0:1 -> 0.0.0.0:1 (tls) (alpn h2) (needs a restart)"]
    );
}
