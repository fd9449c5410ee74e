//! A registry in the file.

use super::*;

/// A backend with these lines instead of its own.
fn with(id: &str, lines: &[(&str, &str)]) -> String {
    let mut columns = vec![
        ("id", format!("{id:?}")),
        ("app", "\"web\"".into()),
        ("region", "\"sa\"".into()),
        ("wg_ip", "\"10.0.0.1\"".into()),
        ("port", "80".into()),
    ];
    for (column, value) in lines {
        match columns.iter_mut().find(|(known, _)| known == column) {
            Some(known) => known.1 = (*value).into(),
            None => columns.push((column, (*value).into())),
        }
    }
    columns
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .fold("[[backend]]\n".into(), |text, (column, value)| format!("{text}{column} = {value}\n"))
}

fn backends(text: &str) -> Vec<Backend> {
    toml(text).loaded().backends.expect("a registry")
}

/// The errors of one backend that has this line.
fn errors_of(column: &str, value: &str) -> Vec<String> {
    toml(&with("gru-1", &[(column, value)])).errors()
}

#[test]
fn a_backend_has_the_columns_and_the_defaults_of_a_row() {
    let text = with("gru-1", &[])
        + "[[backend]]\nid = \"fra-1\"\napp = \"api\"\nregion = \"EU\"\ncountry = \"de\"\n\
           wg_ip = \"2001:db8::1\"\nport = 0x1F90\nhealthy = false\nweight = 0\nsoft_limit = 5\n\
           hard_limit = \"6\"\ndeleted = true\ncreated_at = \"2026-01-02 03:04:05\"\n\
           updated_at = 2026-02-03\n";
    let config = toml(&text).loaded();
    assert_eq!((config.warnings, config.notices), (Vec::new(), Vec::new()));
    let backends = config.backends.unwrap();
    let plain = &backends[0];
    assert_eq!((plain.id.as_str(), plain.country, plain.lease.is_none()), ("gru-1", None, true));
    assert_eq!((plain.weight, plain.soft_limit, plain.hard_limit), (1, 100, 150));
    assert!(plain.healthy && !plain.deleted);
    let full = &backends[1];
    assert_eq!((full.app.as_str(), full.region.as_str()), ("api", "eu"));
    assert_eq!(full.country, "DE".parse().ok());
    assert_eq!(full.addr().to_string(), "[2001:db8::1]:8080");
    assert_eq!((full.weight, full.soft_limit, full.hard_limit), (0, 5, 6));
    assert!(!full.healthy && full.deleted);
    assert_eq!(full.created_at.as_deref(), Some("2026-01-02 03:04:05"));
    assert_eq!(full.updated_at.as_deref(), Some("2026-02-03"));
}

#[test]
fn a_file_that_says_nothing_of_backends_is_no_registry_and_an_empty_list_is_one() {
    assert_eq!(toml("region = \"sa\"").loaded().backends, None);
    assert_eq!(env(&[]).loaded().backends, None);
    assert_eq!(backends("backend = []"), []);
    assert_eq!(
        toml("backend = 1").errors(),
        ["x.toml:1:11: backend = 1: must be tables [[backend]]"]
    );
    assert!(toml("[backend]\nid = \"a\"").errors()[0].ends_with("must be tables [[backend]]"));
}

#[test]
fn healthy_and_deleted_are_switches_or_the_numbers_of_a_database() {
    for (written, meant) in [("true", true), ("false", false), ("1", true), ("0", false)] {
        let text = with("a", &[("healthy", written), ("deleted", written)]);
        let read = &backends(&text)[0];
        assert_eq!((read.healthy, read.deleted), (meant, meant), "{written}");
    }
    assert_eq!(
        errors_of("healthy", "2"),
        ["x.toml:7:11: backend.gru-1.healthy = 2: must be true/false/1/0/yes/no/on/off"]
    );
}

#[test]
fn a_bad_column_is_named_with_its_place_its_value_and_what_is_accepted() {
    let name = "1 to 128 visible characters without spaces, quotes or commas";
    let ip = "an IP address (host names are not looked up)";
    let port = "a whole number from 1 to 65535";
    for (column, value, expected) in [
        ("port", "70000", format!("6:8: backend.gru-1.port = 70000: must be {port}")),
        ("port", "80.5", format!("6:8: backend.gru-1.port = 80.5: must be {port}")),
        ("port", "\"http\"", format!("6:8: backend.gru-1.port = \"http\": must be {port}")),
        ("port", "", format!("1:1: backend.gru-1.port: must be given: {port}")),
        ("wg_ip", "\"db\"", format!("5:9: backend.gru-1.wg_ip = \"db\": must be {ip}")),
        ("wg_ip", "7", "5:9: backend.gru-1.wg_ip = 7: must be text, in quotes".into()),
        ("wg_ip", "", format!("1:1: backend.gru-1.wg_ip: must be given: {ip}")),
        ("app", "\"a b\"", format!("3:7: backend.gru-1.app = \"a b\": must be {name}")),
        ("region", "true", "4:10: backend.gru-1.region = true: must be text, in quotes".into()),
        (
            "country",
            "\"BRA\"",
            "7:11: backend.gru-1.country = \"BRA\": must be empty or two letters (ISO 3166-1)"
                .into(),
        ),
        ("country", "55", "7:11: backend.gru-1.country = 55: must be text, in quotes".into()),
        (
            "weight",
            "-1",
            "7:10: backend.gru-1.weight = -1: must be a whole number from 0 to 1000000".into(),
        ),
        (
            "hard_limit",
            "99999999999999999999",
            "7:14: backend.gru-1.hard_limit = 99999999999999999999: \
             must be a whole number from 0 to 2147483647"
                .into(),
        ),
        ("created_at", "5", "7:14: backend.gru-1.created_at = 5: must be text, in quotes".into()),
        // Without an id it is one of several, and has its place only.
        ("id", "", format!("1:1: backend.id: must be given: {name}")),
        ("id", "\"a,b\"", format!("2:6: backend.id = \"a,b\": must be {name}")),
        ("id", "1", "2:6: backend.id = 1: must be text, in quotes".into()),
    ] {
        assert_eq!(errors_of(column, value), [format!("x.toml:{expected}")]);
    }
}

#[test]
fn every_error_of_every_backend_is_said_at_once() {
    let text = with("a", &[("port", "0"), ("weight", "-1"), ("region", "7")])
        + &with("b", &[("wg_ip", "\"10.0.0.2\"")])
        + &with("c", &[("wg_ip", "\"\""), ("app", "")]);
    let errors = toml(&text).errors();
    let subjects: Vec<_> = errors.iter().map(|error| error.split(' ').nth(1).unwrap()).collect();
    assert_eq!(
        subjects,
        [
            "backend.a.region",
            "backend.a.port",
            "backend.a.weight",
            "backend.c.app:",
            "backend.c.wg_ip"
        ]
    );
}

#[test]
fn two_backends_of_one_id_are_an_error_that_names_both() {
    let copied = with("a", &[]) + &with("b", &[("wg_ip", "\"10.0.0.2\"")]) + &with(" a ", &[]);
    assert_eq!(
        toml(&copied).errors(),
        ["x.toml:14:6: backend.a.id = \" a \": already used by the backend of line 1"]
    );
    // Nor is one of them forgiven for what else is wrong with the other.
    let wrong = with("a", &[("port", "0")]) + &with("a", &[]);
    assert_eq!(toml(&wrong).errors().len(), 2);
}

#[test]
fn two_backends_of_one_app_on_one_address_are_an_error_that_names_both() {
    let twins = with("b", &[]) + "\n" + &with("a", &[]);
    assert_eq!(
        toml(&twins).errors(),
        ["x.toml:12:9: backend.a.wg_ip = \"10.0.0.1\": \
          wg_ip and port are already used by backend b of app web (line 1)"]
    );
    let apart = with("a", &[])
        + &with("b", &[("port", "81")])
        + &with("c", &[("app", "\"api\"")])
        + &with("d", &[("deleted", "true")]);
    assert_eq!(backends(&apart).len(), 4);
}

#[test]
fn a_column_that_nobody_knows_warns_with_the_backend_and_the_nearest_column() {
    let text = with("gru-1", &[("wieght", "5")]);
    assert_eq!(
        toml(&text).warnings(),
        ["x.toml:7:1: backend.gru-1.wieght: unknown; did you mean weight?"]
    );
}

#[test]
fn backends_are_in_the_file_or_in_postgresql_but_not_in_both() {
    let postgres = "[postgres]\nenabled = true\nurl = \"postgres://u@db/e\"\n";
    assert_eq!(
        toml(&format!("{postgres}{}", with("a", &[]))).errors()[0],
        "x.toml:2:11: postgres.enabled = true (EDGEPROXY_POSTGRES_ENABLED): must be false with \
         [[backend]] (x.toml:4:1): backends are kept in the file or in PostgreSQL, not in both"
    );
    let variables =
        [("EDGEPROXY_POSTGRES_ENABLED", "1"), ("EDGEPROXY_POSTGRES_URL", "postgres://u@db/e")];
    let errors = written(&variables, "backend = []").errors();
    let start = "EDGEPROXY_POSTGRES_ENABLED = \"true\": must be false with [[backend]] (x.toml:1:";
    assert!(errors.len() == 1 && errors[0].starts_with(start), "{errors:?}");
    let off =
        [("EDGEPROXY_POSTGRES_ENABLED", "0"), ("EDGEPROXY_POSTGRES_URL", "postgres://u@db/e")];
    assert_eq!(written(&off, &with("a", &[])).loaded().notices, [""; 0]);
}

#[test]
fn a_sqlite_file_that_was_asked_for_beside_them_is_noted_to_be_unread() {
    let unread = "not read, since [[backend]] in the configuration file is the registry";
    let given = [("EDGEPROXY_DB_PATH", "/srv/routing.db")];
    assert_eq!(
        written(&given, &with("a", &[])).loaded().notices,
        [format!(
            "EDGEPROXY_DB_PATH=/srv/routing.db: {unread}; its folder is still the state folder"
        )]
    );
    let text = format!("db_path = \"r.db\"\nstate_dir = \"/state\"\n{}", with("a", &[]));
    assert_eq!(toml(&text).loaded().notices, [format!("EDGEPROXY_DB_PATH=r.db: {unread}")]);
    assert_eq!(toml(&with("a", &[])).loaded().notices, [""; 0]);
    assert_eq!(env(&given).loaded().notices, [""; 0]);
}
