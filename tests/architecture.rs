//! The house rules that a compiler does not know: who may use whom, who may read the time and the
//! environment, and what the documents must say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines.
const MAX_LINES: usize = 600;

/// Which parts of the crate each part may use, besides itself. Inbound and outbound never meet but
/// in `app`.
const DIRECTION: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain"]),
    ("config", &["domain", "clock"]),
    ("infrastructure", &["domain", "clock"]),
    ("application", &["domain", "clock", "infrastructure"]),
    ("adapters::inbound", &["domain", "clock", "infrastructure", "application"]),
    ("adapters::outbound", &["domain", "clock", "infrastructure"]),
    (
        "app",
        &[
            "domain",
            "clock",
            "config",
            "infrastructure",
            "application",
            "adapters::inbound",
            "adapters::outbound",
        ],
    ),
    (
        "cli",
        &[
            "domain",
            "clock",
            "config",
            "infrastructure",
            "application",
            "adapters::inbound",
            "adapters::outbound",
            "app",
        ],
    ),
];

/// What only some files may say.
const RESERVED: &[(&str, &[&str])] = &[
    ("Instant::now", &["clock.rs"]),
    ("SystemTime::now", &["clock.rs"]),
    ("env::var", &["config/source.rs"]),
    ("allow(dead_code)", &[]),
];

/// A source file: its path below `src`, and its text.
struct Source {
    path: String,
    text: String,
}

/// Everything about a file that is against the rules.
fn offences(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let code = code_of(&source.text);
    let part = part_of(&source.path);
    for used in uses(&code) {
        let allowed = DIRECTION.iter().find(|(name, _)| *name == part).map(|(_, allowed)| *allowed);
        // The crate's root and its binary only name modules.
        let Some(allowed) = allowed else { continue };
        if used != part && !allowed.contains(&used.as_str()) {
            found.push(format!("{}: {part} uses {used}", source.path));
        }
    }
    for (words, places) in RESERVED {
        if code.contains(words) && !places.contains(&source.path.as_str()) {
            found.push(format!("{}: says {words}", source.path));
        }
    }
    if source.path.ends_with("mod.rs") {
        found.push(format!("{}: is a mod.rs", source.path));
    }
    let lines = source.text.lines().count();
    if lines >= MAX_LINES {
        found.push(format!("{}: has {lines} lines", source.path));
    }
    found
}

/// The part of the crate that a file belongs to; empty for the root.
fn part_of(path: &str) -> String {
    let module = path.strip_suffix(".rs").unwrap_or(path);
    let mut steps = module.split('/');
    match (steps.next(), steps.next()) {
        (Some("adapters"), Some(side)) => format!("adapters::{side}"),
        (Some("lib" | "main" | "adapters") | None, _) => String::new(),
        (Some(part), _) => part.into(),
    }
}

/// The parts of the crate that code names by `crate::` paths, groups included.
fn uses(code: &str) -> Vec<String> {
    let mut parts: Vec<String> = paths_after(code, "crate::")
        .into_iter()
        .flat_map(|path| match path.strip_prefix("adapters") {
            Some(sides) => paths_after(&format!("{sides};"), "::")
                .into_iter()
                .map(|side| format!("adapters::{}", first_step(&side)))
                .collect(),
            None => vec![first_step(&path)],
        })
        .collect();
    parts.sort();
    parts.dedup();
    parts
}

/// What follows each `prefix`: one path, or every member of a group in braces.
fn paths_after(code: &str, prefix: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(prefix) {
        // `$crate::` and `some_crate::` are somebody else's.
        let foreign = rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        rest = &rest[at + prefix.len()..];
        if foreign && prefix == "crate::" {
            continue;
        }
        if let Some(group) = rest.strip_prefix('{') {
            paths.extend(members(group));
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || "_:{}, \n".contains(c)));
            paths.push(rest[..end.unwrap_or(rest.len())].to_owned());
        }
        if prefix == "::" {
            break;
        }
    }
    paths
}

/// The members of a group whose opening brace has been read.
fn members(group: &str) -> Vec<String> {
    let mut depth = 1;
    let mut member = String::new();
    let mut all = Vec::new();
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            all.push(std::mem::take(&mut member).trim().to_owned());
        } else {
            member.push(c);
        }
        if depth == 0 {
            break;
        }
    }
    all.retain(|member| !member.is_empty());
    all
}

fn first_step(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The code without its comments, which may name what they like.
fn code_of(text: &str) -> String {
    let code = |line: &str| {
        let whole = line.trim_start().starts_with("//");
        if whole { String::new() } else { line.split(" // ").next().unwrap_or_default().to_owned() }
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    found.sort();
    let source = |path: PathBuf| Source {
        path: path.strip_prefix(&src).unwrap().display().to_string(),
        text: fs::read_to_string(&path).unwrap(),
    };
    found.into_iter().map(source).collect()
}

#[test]
fn every_part_uses_only_what_stands_before_it_and_keeps_the_house_rules() {
    let sources = sources();
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    let mut files: BTreeMap<String, usize> = BTreeMap::new();
    for source in &sources {
        *files.entry(part_of(&source.path)).or_default() += 1;
    }
    for (part, _) in DIRECTION {
        assert!(files.contains_key(*part), "the rules know {part}, the crate does not");
    }
    for part in files.keys().filter(|part| !part.is_empty()) {
        assert!(DIRECTION.iter().any(|(name, _)| name == part), "no rule for {part}");
    }
    let offences: Vec<String> = sources.iter().flat_map(offences).collect();
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn what_is_against_the_rules_is_found() {
    for (path, text, expected) in [
        ("domain/geo.rs", "use crate::clock;", "domain uses clock"),
        ("clock.rs", "use crate::config::Config;", "clock uses config"),
        (
            "infrastructure/slab.rs",
            "fn f() { crate::application::relay::turn() }",
            "infrastructure uses application",
        ),
        ("infrastructure.rs", "use crate::{domain::Time, app};", "infrastructure uses app"),
        (
            "application/relay.rs",
            "use crate::adapters::inbound::listener;",
            "application uses adapters::inbound",
        ),
        (
            "adapters/inbound/worker.rs",
            "use crate::adapters::{inbound::listener, outbound::sqlite};",
            "adapters::inbound uses adapters::outbound",
        ),
        (
            "adapters/outbound/geo/mmdb.rs",
            "use crate::{\n    domain::Country,\n    application::locate::{Geo, Location},\n};",
            "adapters::outbound uses application",
        ),
        ("config/check.rs", "use crate::infrastructure::slab;", "config uses infrastructure"),
        ("app/summary.rs", "use crate::cli;", "app uses cli"),
        ("domain/time.rs", "let now = std::time::Instant::now();", "says Instant::now"),
        ("app.rs", "let now = SystemTime::now();", "says SystemTime::now"),
        ("cli/run.rs", "std::env::var_os(\"HOME\")", "says env::var"),
        ("cli/run.rs", "#[allow(dead_code)]", "says allow(dead_code)"),
        ("domain/mod.rs", "", "is a mod.rs"),
        ("domain/balance.rs", &"\n".repeat(MAX_LINES), "has 600 lines"),
    ] {
        let source = Source { path: path.into(), text: text.into() };
        let found = offences(&source);
        assert_eq!(found, [format!("{path}: {expected}")], "{text}");
    }
}

#[test]
fn what_is_within_the_rules_is_not_found() {
    for (path, text) in [
        ("domain/geo.rs", "// crate::clock may be named here\nuse crate::domain::Country;"),
        ("domain/geo.rs", "use other_crate::app::thing; let x = 1; // crate::app"),
        ("clock.rs", "Instant::now(); SystemTime::now()"),
        ("config/source.rs", "std::env::vars_os()"),
        ("app.rs", "use crate::{adapters::{inbound, outbound}, config};"),
        ("cli.rs", "use crate::app::Edge; use crate::adapters::outbound::sqlite;"),
        ("lib.rs", "pub mod domain;"),
    ] {
        let source = Source { path: path.into(), text: text.into() };
        assert_eq!(offences(&source), [""; 0], "{text}");
    }
}

#[test]
fn the_readme_has_the_settings_table_as_the_code_has_it() {
    const FROM: &str = "<!-- settings -->\n";
    const TO: &str = "<!-- /settings -->";
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    let (_, rest) = readme.split_once(FROM).expect("a marker before the table");
    let (table, _) = rest.split_once(TO).expect("a marker after the table");
    assert!(
        table.trim() == edgeproxy::config::readme_table().trim(),
        "README.md is out of date: between the markers put\n{}",
        edgeproxy::config::readme_table()
    );
}

#[test]
fn the_lock_file_is_committed_and_nothing_is_built_with_ring() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is there");
    assert!(lock.contains("name = \"edgeproxy\""));
    // rustls-webpki names it as an option (`ring?/alloc`), which Cargo locks although nobody takes
    // it up; whoever took it up would be named here too.
    let users: Vec<&str> = lock
        .split("[[package]]")
        .filter(|package| package.lines().any(|line| line.trim() == "\"ring\","))
        .filter_map(|package| package.split('"').nth(1))
        .collect();
    assert!(users.iter().all(|user| *user == "rustls-webpki"), "ring has come in: {users:?}");
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap_or_default();
    assert!(!ignored.lines().any(|line| line.trim().ends_with("Cargo.lock")), "it is ignored");
}
