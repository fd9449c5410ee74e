//! The configuration as its users meet it: what they write, what they get, what they are told.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::domain::balance::Spill;

mod backends;
mod parts;
mod table;

/// What is written, by one user, in one folder.
struct Written {
    dir: tempfile::TempDir,
    source: Source,
}

fn written(env: &[(&str, &str)], toml: &str) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.toml");
    std::fs::write(&file, toml).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Written { dir, source: Source { env, file: Some(file) } }
}

impl Written {
    fn loaded(&self) -> Config {
        load(&self.source).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The errors, with the folder left out of file names.
    fn errors(&self) -> Vec<String> {
        let folder = format!("{}/", self.dir.path().display());
        let errors = load(&self.source).expect_err("something is wrong").0;
        errors.iter().map(|error| error.to_string().replace(&folder, "")).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let folder = format!("{}/", self.dir.path().display());
        let warnings = self.loaded().warnings;
        warnings.iter().map(|warning| warning.replace(&folder, "")).collect()
    }

    /// A file beside the configuration.
    fn beside(&mut self, variable: &str, text: &str) {
        let path = self.dir.path().join(variable);
        std::fs::write(&path, text).unwrap();
        self.source.env.push((variable.into(), path.display().to_string()));
    }
}

fn env(variables: &[(&str, &str)]) -> Written {
    written(variables, "")
}

fn toml(text: &str) -> Written {
    written(&[], text)
}

#[test]
fn environment_beats_file_beats_default() {
    let config = written(
        &[("EDGEPROXY_REGION", "EU"), ("EDGEPROXY_WORKERS", "")],
        "region = \"us\"\nworkers = 4\n[binding]\nttl_secs = 0",
    )
    .loaded();
    assert_eq!(config.settings.region.as_str(), "eu");
    assert_eq!(config.settings.workers.unwrap().get(), 4);
    assert_eq!(config.settings.binding_ttl_secs.get(), Duration::ZERO);
    let origin = |env| {
        let row = config.effective.iter().find(|row| row.setting.env == env).unwrap();
        format!("{} {}", row.value, row.origin)
    };
    assert_eq!(origin("EDGEPROXY_REGION"), "eu env");
    assert_eq!(origin("EDGEPROXY_WORKERS"), "4 file");
    assert_eq!(origin("EDGEPROXY_CONNECT_TRIES"), "3 default");
    assert_eq!(origin("EDGEPROXY_APP"), "- default");
    assert_eq!(config.effective.len(), TABLE.len());
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_place_value_and_rule() {
    let errors = written(
        &[
            ("EDGEPROXY_WORKERS", "zero"),
            ("EDGEPROXY_LISTEN_ADDR", "localhost:80"),
            ("EDGEPROXY_TLS_CERT", "/cert"),
        ],
        "connect_tries = 4\ndeny = [\"10.0.0.0/8\", 7]\ndb_path = 5\n\
         [rate_limit]\n  burst = \"x\"\n",
    )
    .errors();
    assert_eq!(errors.len(), 7, "{errors:#?}");
    for expected in [
        "EDGEPROXY_WORKERS = \"zero\": must be a whole number from 1 to 1024",
        "x.toml:1:17: connect_tries = 4 (EDGEPROXY_CONNECT_TRIES): \
         must be a whole number from 1 to 3",
        "x.toml:3:11: db_path = 5 (EDGEPROXY_DB_PATH): must be a path, in quotes",
        "x.toml:5:11: rate_limit.burst = \"x\" (EDGEPROXY_RATE_LIMIT_BURST): \
         must be a whole number from 1 to 1000000000",
        "EDGEPROXY_TLS_KEY: must be given with EDGEPROXY_TLS_CERT",
    ] {
        assert!(errors.iter().any(|error| error == expected), "{expected}\n{errors:#?}");
    }
    let starts = [
        "EDGEPROXY_LISTEN_ADDR = \"localhost:80\": must be",
        "x.toml:2:8: deny = [\"10.0.0.0/8\", 7]",
    ];
    for start in starts {
        assert!(errors.iter().any(|error| error.starts_with(start)), "{start}\n{errors:#?}");
    }
}

#[test]
fn a_file_that_is_not_toml_hides_no_other_error() {
    let errors = written(&[("EDGEPROXY_WORKERS", "0")], "region = \"sa\"\npop = gru").errors();
    assert!(errors[0].starts_with("x.toml:2:7: not TOML: "), "{errors:?}");
    assert!(errors[1].starts_with("EDGEPROXY_WORKERS = \"0\""), "{errors:?}");
}

#[test]
fn a_file_that_was_named_must_be_readable() {
    let file = Some(PathBuf::from("/nowhere/x.toml"));
    let errors = load(&Source { env: Vec::new(), file }).unwrap_err().to_string();
    assert!(errors.starts_with("configuration file /nowhere/x.toml: cannot be read: "), "{errors}");
}

#[test]
fn a_group_must_be_a_table() {
    assert_eq!(toml("pool = 5").errors(), ["x.toml:1:8: pool: must be a table"]);
}

#[test]
fn values_that_are_not_utf8_are_an_error() {
    let errors = env(&[("EDGEPROXY_POP", "gr\u{fffd}")]).errors();
    assert!(errors[0].ends_with("must be UTF-8 text"), "{errors:?}");
}

#[test]
fn unknown_names_warn_with_the_nearest_known_one() {
    let warnings = written(
        &[
            ("EDGEPROXY_WORKER", "4"),
            ("EDGEPROXY_CIRCUIT_BREAKER_TIMEOUT_SECS", "4"),
            ("EDGEPROXY_WHATEVER", "4"),
        ],
        "regoin = \"sa\"\nttl_secs = 5\n[rate_limit]\nwidow_secs = 1\n[poool]\nenabled = true\n",
    )
    .warnings();
    assert_eq!(
        warnings,
        [
            "EDGEPROXY_WORKER: unknown; did you mean EDGEPROXY_WORKERS?",
            "EDGEPROXY_CIRCUIT_BREAKER_TIMEOUT_SECS: unknown; \
             did you mean EDGEPROXY_CIRCUIT_TIMEOUT_SECS?",
            "EDGEPROXY_WHATEVER: unknown",
            "x.toml:1:1: regoin: unknown; did you mean region?",
            "x.toml:2:1: ttl_secs: unknown; did you mean binding.ttl_secs?",
            "x.toml:4:1: rate_limit.widow_secs: unknown; did you mean rate_limit.window_secs?",
            "x.toml:5:2: poool: unknown; did you mean pool?",
        ]
    );
}

#[test]
fn names_that_kubernetes_injects_are_not_unknown() {
    let config = env(&[
        ("EDGEPROXY_PORT", "tcp://10.0.0.1:80"),
        ("EDGEPROXY_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("EDGEPROXY_SERVICE_HOST", "10.0.0.1"),
        ("EDGEPROXY_API_SERVICE_PORT", "80"),
        ("EDGEPROXY_API_PORT", "tcp://10.0.0.1:80"),
        ("EDGEPROXY_CONFIG", "/x.toml"),
        ("EDGEPROXY_UNSET", ""),
    ]);
    assert_eq!(config.warnings(), [""; 0]);
}

#[test]
fn a_secret_is_shown_nowhere() {
    let config = written(
        &[("EDGEPROXY_POSTGRES_URL", "postgres://u:hunter2@db/e")],
        "api.token = \"hunter2\"",
    )
    .loaded();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.settings.api_token.as_ref().unwrap().expose(), "hunter2");
    let shown = |env| {
        let row = config.effective.iter().find(|row| row.setting.env == env);
        row.unwrap().value.clone()
    };
    assert_eq!(shown("EDGEPROXY_POSTGRES_URL"), "postgres://u:***@db/e");
    assert_eq!(shown("EDGEPROXY_API_TOKEN"), "***");

    for wrong in [
        env(&[("EDGEPROXY_API_TOKEN", "hunter2\n2")]),
        env(&[("EDGEPROXY_API_TOKEN", "hunter2\u{fffd}")]),
        toml("api.token = [\"hunter2\"]"),
        toml("api = \"hunter2\""),
        toml("api.register_token = \"hunter2\\n\""),
    ] {
        let errors = wrong.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(!errors.concat().contains("hunter2"), "{errors:?}");
    }
}

#[test]
fn a_secret_can_be_in_a_file_of_its_own_but_not_in_two_places() {
    let mut one = env(&[]);
    one.beside("EDGEPROXY_API_TOKEN_FILE", "s3cret\r\n");
    let config = one.loaded();
    assert_eq!(config.settings.api_token.unwrap().expose(), "s3cret");
    assert_eq!(config.warnings, [""; 0]);

    let mut both = env(&[("EDGEPROXY_API_TOKEN", "other")]);
    both.beside("EDGEPROXY_API_TOKEN_FILE", "s3cret");
    assert_eq!(
        both.errors(),
        ["EDGEPROXY_API_TOKEN = ***: EDGEPROXY_API_TOKEN_FILE is set too; use one"]
    );

    let mut empty = env(&[]);
    empty.beside("EDGEPROXY_API_TOKEN_FILE", "\n");
    assert!(empty.errors()[0].ends_with("is empty"));
    let missing = env(&[("EDGEPROXY_POSTGRES_URL_FILE", "/nowhere")]).errors();
    let start = "EDGEPROXY_POSTGRES_URL_FILE = \"/nowhere\": cannot be read: ";
    assert!(missing[0].starts_with(start), "{missing:?}");
}

#[test]
fn settings_are_checked_against_each_other() {
    for (variables, expected) in [
        (
            &[("EDGEPROXY_TLS_KEY", "/key")][..],
            "EDGEPROXY_TLS_CERT: must be given with EDGEPROXY_TLS_KEY",
        ),
        (
            &[("EDGEPROXY_POSTGRES_ENABLED", "on")],
            "EDGEPROXY_POSTGRES_URL: must be given when EDGEPROXY_POSTGRES_ENABLED is true",
        ),
        (
            &[("EDGEPROXY_PROXY_PROTOCOL", "yes")],
            "EDGEPROXY_PROXY_PROTOCOL_TRUSTED: \
             must name who may send the header when EDGEPROXY_PROXY_PROTOCOL is true",
        ),
    ] {
        assert_eq!(env(variables).errors(), [expected]);
    }
    // One mistake is one error.
    let both = [("EDGEPROXY_POSTGRES_ENABLED", "1"), ("EDGEPROXY_POSTGRES_URL", "a\nb")];
    assert_eq!(env(&both).errors().len(), 1);
}

#[test]
fn a_path_starts_with_a_slash_and_is_visible_ascii_and_the_error_says_how_to_write_the_rest() {
    for name in ["EDGEPROXY_METRICS_PATH", "EDGEPROXY_HEALTH_CHECK_PATH"] {
        for path in ["up", "http://web/up", "*"] {
            let expected = format!("{name} = {path:?}: must start with /");
            assert_eq!(env(&[(name, path)]).errors(), [expected]);
        }
        for path in ["/is up", "/up ", "/são", "/\u{200b}"] {
            let expected = format!(
                "{name} = {path:?}: \
                 must be visible ASCII without spaces (write others as %20 and the like)"
            );
            assert_eq!(env(&[(name, path)]).errors(), [expected]);
        }
        // The first would otherwise be a header of the request.
        for path in ["/up\r\nX: y", "/up\t", "/\0", "/\u{7f}"] {
            let expected =
                format!("{name} = {path:?}: must be text without control characters, not empty");
            assert_eq!(env(&[(name, path)]).errors(), [expected]);
        }
        for path in ["/", "/is%20up", "/~a/(b);c=d"] {
            assert_eq!(env(&[(name, path)]).warnings(), [""; 0]);
        }
    }
    let query = "/up?deep=1&fast";
    assert_eq!(env(&[("EDGEPROXY_HEALTH_CHECK_PATH", query)]).warnings(), [""; 0]);
    assert_eq!(
        env(&[("EDGEPROXY_METRICS_PATH", query)]).errors(),
        [format!("EDGEPROXY_METRICS_PATH = {query:?}: must be a path without ? and #")]
    );
    assert_eq!(
        toml("[metrics]\npath = \"m\"").errors(),
        ["x.toml:2:8: metrics.path = \"m\" (EDGEPROXY_METRICS_PATH): must start with /"]
    );
}

#[test]
fn the_metrics_do_not_take_the_place_of_what_is_served_beside_them() {
    for path in ["/healthz", "/readyz"] {
        let errors = env(&[("EDGEPROXY_METRICS_PATH", path)]).errors();
        let expected = format!(
            "EDGEPROXY_METRICS_PATH = {path:?}: must be another path than /healthz and /readyz, \
             which are served beside it"
        );
        assert_eq!(errors, [expected]);
        // A backend may well be asked there.
        assert_eq!(env(&[("EDGEPROXY_HEALTH_CHECK_PATH", path)]).warnings(), [""; 0]);
    }
    assert_eq!(env(&[("EDGEPROXY_METRICS_PATH", "/healthz/metrics")]).warnings(), [""; 0]);
}

#[test]
fn asking_for_what_works_is_not_noted() {
    let protected = env(&[
        ("EDGEPROXY_RATE_LIMIT_ENABLED", "true"),
        ("EDGEPROXY_RATE_LIMIT_DRY_RUN", "true"),
        ("EDGEPROXY_RATE_LIMIT_EXEMPT", "::1"),
        ("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true"),
        ("EDGEPROXY_HEALTH_CHECK_ENABLED", "true"),
        ("EDGEPROXY_HEALTH_CLOSE_CONNECTIONS", "true"),
        ("EDGEPROXY_SLOW_START_SECS", "30"),
        ("EDGEPROXY_PROXY_PROTOCOL", "true"),
        ("EDGEPROXY_PROXY_PROTOCOL_TRUSTED", "10.0.0.0/8"),
        ("EDGEPROXY_POSTGRES_ENABLED", "true"),
        ("EDGEPROXY_POSTGRES_URL", "postgres://u@db/e"),
        ("EDGEPROXY_POOL_ENABLED", "true"),
        ("EDGEPROXY_METRICS_ENABLED", "true"),
    ]);
    assert_eq!(protected.loaded().notices, [""; 0]);
    assert_eq!(protected.warnings(), [""; 0]);
}

#[test]
fn the_state_folder_is_given_or_systemds_or_the_registrys() {
    let folder =
        |variables: &[_]| env(variables).loaded().settings.state_folder().display().to_string();
    let systemd = ("STATE_DIRECTORY", "/var/lib/edge:/var/lib/other");
    assert_eq!(folder(&[]), ".");
    assert_eq!(folder(&[("EDGEPROXY_DB_PATH", "/srv/routing.db")]), "/srv");
    assert_eq!(folder(&[systemd]), "/var/lib/edge");
    assert_eq!(folder(&[systemd, ("EDGEPROXY_STATE_DIR", "/state")]), "/state");
}
