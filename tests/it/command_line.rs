//! What the commands print.

use serde_json::Value;

use crate::support::{Row, Site};

/// Three regions; nobody is asked, so nobody has to be there.
fn three_regions() -> Site {
    let at = |host: &str| format!("{host}:8080").parse().unwrap();
    Site::new()
        .with_geography()
        .backend(Row::new("scl-1", at("10.50.1.1")).place("sa", "CL").weight(3))
        .backend(Row::new("scl-2", at("10.50.1.2")).place("sa", "CL").weight(1))
        .backend(Row::new("gru-1", at("10.50.2.1")).place("sa", "BR"))
        .backend(Row::new("fra-1", at("10.50.3.1")).place("eu", "DE"))
        .backend(Row::new("nrt-1", at("10.50.4.1")).place("ap", "JP"))
        .prepared()
}

fn standings(site: &Site, args: &[&str]) -> (Option<i32>, Value) {
    let done = site.run(args);
    let value = serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"));
    (done.code, value)
}

fn standing<'a>(explanation: &'a Value, id: &str) -> &'a Value {
    let backends = explanation["backends"].as_array().unwrap();
    backends.iter().find(|backend| backend["id"] == id).unwrap_or_else(|| panic!("no {id}"))
}

#[test]
fn route_says_first_that_it_is_offline_then_ranks_every_backend_with_a_reason() {
    let site = three_regions();
    let asked = site.run(&["route", "127.0.1.9"]);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    let first = asked.err.lines().next().unwrap();
    assert!(first.contains("offline: load, probes and affinity unknown"), "{first}");

    let lines: Vec<&str> = asked.out.lines().collect();
    assert!(lines[0].contains("127.0.1.9: country CL, region sa"), "{}", lines[0]);
    let table: Vec<Vec<&str>> = lines
        .iter()
        .skip_while(|line| !line.starts_with("BACKEND"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let order: Vec<&str> = table[1..].iter().map(|row| row[0]).collect();
    assert_eq!(order, ["scl-1", "scl-2", "gru-1", "fra-1", "nrt-1"]);
    assert!(asked.out.contains("75 %") && asked.out.contains("25 %"), "{}", asked.out);
    assert!(asked.out.contains("chosen: the client's country"), "{}", asked.out);
    assert!(asked.out.contains("farther: another region"), "{}", asked.out);
}

#[test]
fn route_as_json_has_tier_share_and_reason_of_every_backend() {
    let (code, said) = standings(&three_regions(), &["route", "127.0.2.9", "--json"]);
    assert_eq!(code, Some(0));
    assert_eq!((&said["country"], &said["region"]), (&"DE".into(), &"eu".into()));
    assert_eq!(said["backends"].as_array().unwrap().len(), 5);
    let first = &said["backends"][0];
    assert_eq!((&first["id"], &first["tier"]), (&"fra-1".into(), &0.into()));
    assert!((first["share"].as_f64().unwrap() - 100.0).abs() < 0.01);
    // The POP is in sa.
    assert_eq!(standing(&said, "gru-1")["tier"], 2);
    assert_eq!(standing(&said, "nrt-1")["tier"], 3);
    assert_eq!(standing(&said, "nrt-1")["address"], "10.50.4.1:8080");
}

#[test]
fn route_without_a_backend_or_a_region_says_what_would_be_then() {
    let site = three_regions();
    let (_, said) = standings(&site, &["route", "127.0.2.9", "--json", "--without", "fra-1"]);
    assert_eq!(said["backends"][0]["tier"], 2, "the POP's own region is next: {said}");
    let without = ["route", "127.0.2.9", "--json", "--without", "eu", "--without", "sa"];
    let (_, said) = standings(&site, &without);
    assert_eq!(said["backends"][0]["id"], "nrt-1");

    let unknown = site.run(&["route", "127.0.2.9", "--without", "gone-9"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("gone-9"), "{}", unknown.err);
}

#[test]
fn route_exits_with_3_when_no_backend_is_eligible_and_says_why_for_each() {
    let site = three_regions();
    site.sql("UPDATE backends SET healthy = 0; UPDATE backends SET weight = 0 WHERE id = 'gru-1'");
    let asked = site.run(&["route", "127.0.1.9"]);
    assert_eq!(asked.code, Some(3), "{asked:?}");
    assert!(!asked.out.contains("chosen"), "{}", asked.out);
    for id in ["scl-1", "scl-2", "gru-1", "fra-1", "nrt-1"] {
        let line = asked.out.lines().find(|line| line.starts_with(id)).unwrap();
        assert!(line.split_whitespace().count() >= 7, "no reason: {line}");
    }
}

#[test]
fn route_asks_which_app_when_there_are_several() {
    let site = Site::new()
        .backend(Row::new("a", "10.0.0.1:80".parse().unwrap()).app("shop"))
        .backend(Row::new("b", "10.0.0.2:80".parse().unwrap()).app("mail"))
        .prepared();
    let asked = site.run(&["route", "192.0.2.1"]);
    assert_eq!(asked.code, Some(1));
    assert!(asked.err.contains("mail, shop"), "{}", asked.err);
    let (code, said) = standings(&site, &["route", "192.0.2.1", "--app", "mail", "--json"]);
    assert_eq!((code, &said["backends"][0]["id"]), (Some(0), &"b".into()));
}

#[test]
fn config_shows_every_value_with_its_origin_and_no_secret() {
    let site = Site::new()
        .toml("pop = \"gru\"\nworkers = 7\n[pool]\nmax_per_backend = 33")
        .env("EDGEPROXY_API_TOKEN", "s3cret-token")
        .env("EDGEPROXY_POSTGRES_URL", "postgres://edge:hunter2@db:5432/edge")
        .prepared();
    let shown = site.run(&["config"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let line = |name: &str| {
        let found = shown.out.lines().find(|line| line.split(' ').next() == Some(name));
        found.unwrap_or_else(|| panic!("no {name} in:\n{}", shown.out)).to_owned()
    };
    assert!(line("EDGEPROXY_WORKERS").ends_with("= 2  (env)"), "the environment wins");
    assert!(line("EDGEPROXY_POP").ends_with("= gru  (file)"));
    assert!(line("EDGEPROXY_POOL_MAX_PER_BACKEND").ends_with("= 33  (file)"));
    assert!(line("EDGEPROXY_REGION").ends_with("= sa  (default)"));
    assert!(line("EDGEPROXY_API_TOKEN").ends_with("= ***  (env)"));
    assert!(line("EDGEPROXY_POSTGRES_URL").contains("postgres://edge:***@db:5432/edge"));
    assert_eq!(shown.out.lines().count(), edgeproxy::config::TABLE.len());

    let (code, rows) = standings(&site, &["config", "--json"]);
    assert_eq!((code, rows.as_array().unwrap().len()), (Some(0), edgeproxy::config::TABLE.len()));
    for text in [&shown.out, &shown.err, &rows.to_string()] {
        assert!(!text.contains("s3cret") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_secret_from_a_file_is_masked_too() {
    let site = Site::new();
    let file = site.path("token");
    std::fs::write(&file, "s3cret-token\n").unwrap();
    let site = site.env("EDGEPROXY_API_TOKEN_FILE", &file.display().to_string()).prepared();
    let shown = site.run(&["config"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.out.contains("***") && !shown.out.contains("s3cret"), "{}", shown.out);
}

#[test]
fn the_template_is_accepted_by_check() {
    let template = Site::new().prepared().run(&["config", "--template"]);
    assert_eq!(template.code, Some(0));
    assert!(template.out.lines().count() > 100, "{}", template.out);
    let site = Site::new().toml(&template.out).prepared();
    let checked = site.run(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.contains("configuration ok"), "{}", checked.out);
    assert!(checked.out.contains("config.toml"), "{}", checked.out);
}

#[test]
fn help_has_examples_and_exit_codes_and_version_is_the_packages() {
    let site = Site::new().prepared();
    let help = site.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for word in ["Examples:", "edge-proxy demo", "Exit codes: 0 ok", "backends", "completions"] {
        assert!(help.out.contains(word), "no {word:?} in:\n{}", help.out);
    }
    for command in [&["route", "--help"][..], &["backends", "add", "--help"], &["check", "--help"]]
    {
        let help = site.run(command);
        assert!(help.out.contains("Example"), "{command:?}: {}", help.out);
    }
    let version = site.run(&["--version"]);
    assert_eq!(version.out.trim(), format!("edge-proxy {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_printed_for_every_shell() {
    let site = Site::new().prepared();
    for shell in ["bash", "zsh", "fish"] {
        let printed = site.run(&["completions", shell]);
        assert_eq!(printed.code, Some(0), "{printed:?}");
        assert!(printed.out.contains("edge-proxy") && printed.out.contains("backends"), "{shell}");
    }
}

#[test]
fn a_registry_survives_export_and_import_in_both_formats() {
    let site = three_regions();
    let drained = site.run(&["backends", "drain", "gru-1"]);
    assert_eq!(drained.code, Some(0), "{drained:?}");
    let removed = site.run(&["backends", "remove", "nrt-1"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let original = site.run(&["backends", "export"]);
    assert_eq!(original.code, Some(0), "{original:?}");
    let rows: Value = serde_json::from_str(&original.out).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 5, "deleted ones too");

    for name in ["backends.json", "backends.csv"] {
        let file = site.path(name).display().to_string();
        let exported = site.run(&["backends", "export", &file]);
        assert_eq!(exported.code, Some(0), "{exported:?}");
        let second = Site::new().prepared();
        let imported = second.run(&["backends", "import", &file]);
        assert_eq!(imported.code, Some(0), "{imported:?}");
        assert!(imported.out.contains("5 new, 0 replaced"), "{}", imported.out);
        assert_eq!(second.run(&["backends", "export"]).out, original.out, "by way of {name}");
    }
}

#[test]
fn an_import_with_one_bad_row_imports_nothing_and_names_it() {
    let site = three_regions();
    let file = site.path("bad.csv");
    std::fs::write(
        &file,
        "id,app,region,wg_ip,port\nok,web,sa,10.0.0.9,80\nbad,web,sa,nowhere,80\n",
    )
    .unwrap();
    let before = site.run(&["backends", "export"]).out;
    let failed = site.run(&["backends", "import", &file.display().to_string()]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.contains("nothing imported") && failed.err.contains("bad"), "{failed:?}");
    assert_eq!(site.run(&["backends", "export"]).out, before);
}

#[test]
fn backends_are_listed_changed_and_missed_by_name() {
    let site = three_regions();
    let changed = site.run(&["backends", "set", "fra-1", "--weight", "9", "--soft-limit", "50"]);
    assert_eq!(changed.code, Some(0), "{changed:?}");
    let (code, rows) = standings(&site, &["backends", "list", "--json"]);
    assert_eq!((code, rows.as_array().unwrap().len()), (Some(0), 5));
    let fra = rows.as_array().unwrap().iter().find(|row| row["id"] == "fra-1").unwrap();
    assert_eq!((&fra["weight"], &fra["soft_limit"]), (&9.into(), &50.into()));

    let missed = site.run(&["backends", "drain", "fra-2"]);
    assert_eq!(missed.code, Some(1));
    assert!(missed.err.contains("did you mean fra-1?"), "{}", missed.err);
}

#[test]
fn backends_check_dials_each_and_exits_with_3_when_none_answers() {
    let dead = crate::support::Refusing::new();
    let site = Site::new().backend(Row::new("dead", dead.addr())).prepared();
    let checked = site.run(&["backends", "check"]);
    assert_eq!(checked.code, Some(3), "{checked:?}");
    assert!(checked.out.contains("dead") && checked.out.contains("refused"), "{checked:?}");
    let _awake = dead.wake("awake");
    let checked = site.run(&["backends", "check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn route_on_an_empty_registry_exits_with_3_and_says_what_to_do() {
    let edge = Site::new().start();
    for command in [&["route", "192.0.2.1"][..], &["route", "192.0.2.1", "--app", "web"]] {
        let asked = edge.site.run(command);
        assert_eq!(asked.code, Some(3), "{asked:?}");
        assert!(asked.err.contains("the registry is empty"), "{}", asked.err);
        assert!(asked.err.contains("`edge-proxy backends add`"), "{}", asked.err);
    }
}
