//! What is shipped for Prometheus and Grafana fits what the program serves.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Backend, Edge, PATIENCE, Refusing, Row, Site, eventually};

/// What Prometheus adds to what it reads.
const ITS_OWN_FAMILIES: [&str; 1] = ["up"];
const ITS_OWN_LABELS: [&str; 3] = ["job", "instance", "le"];

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(shipped(name)).expect("a file that is shipped")
}

fn dashboard() -> Value {
    serde_json::from_str(&text("grafana/edgeproxy.json")).expect("the dashboard is JSON")
}

fn promtool(args: &[&str], file: &Path) {
    let output = Command::new("promtool").args(args).arg(file).output();
    let output = output.expect("promtool is there; `scripts/test` gets it");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "promtool {args:?} {}:\n{}{}",
        file.display(),
        said(&output.stdout),
        said(&output.stderr)
    );
}

/// A proxy with every protection on, to which everything has happened that is counted by name.
fn busy_edge(backend: &Backend, refusing: &Refusing) -> (Edge, String) {
    let edge = Site::new()
        .without_affinity()
        .env("EDGEPROXY_METRICS_ENABLED", "true")
        .env("EDGEPROXY_METRICS_LISTEN_ADDR", "127.0.0.1:0")
        .env("EDGEPROXY_TLS_ENABLED", "true")
        .env("EDGEPROXY_TLS_LISTEN_ADDR", "127.0.0.1:0")
        .env("EDGEPROXY_CIRCUIT_BREAKER_ENABLED", "true")
        .env("EDGEPROXY_RATE_LIMIT_ENABLED", "true")
        .backend(Row::new("drained", backend.addr()).app("other").weight(0))
        .backend(Row::new("well", backend.addr()).place("eu", "DE"))
        .backend(Row::new("dead", refusing.addr()))
        .env("EDGEPROXY_APP", "web")
        .start();
    // The nearest one refuses, the next one serves.
    assert_eq!(edge.visit().expect("somebody serves").served_by, "named");
    let page = eventually("the visit is counted", || {
        let page = metrics(&edge);
        page.contains("edgeproxy_routed_total{").then_some(page)
    });
    (edge, page)
}

/// The page that Prometheus reads.
fn metrics(edge: &Edge) -> String {
    let ready = edge.wait_for_log("edge-proxy is ready");
    let (_, rest) = ready.split_once(" metrics=\"").expect("it says where");
    let (addr, _) = rest.split_once('"').expect("a text in quotes");
    let mut stream = TcpStream::connect(addr).expect("the metrics listener accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

/// The names of the page's families with their types, and all labels.
fn read(page: &str) -> (BTreeMap<&str, &str>, BTreeSet<&str>) {
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let labels = page.lines().filter(|line| !line.starts_with('#')).flat_map(|line| {
        let (_, labels) = line.split_once('{').unwrap_or_default();
        labels.split("\",").filter_map(|label| label.split_once("=\"").map(|(name, _)| name))
    });
    (families.collect(), labels.collect())
}

/// An expression taken apart: the metrics that it reads, and the labels that it names.
#[derive(Debug, Default)]
struct Expression {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

impl Expression {
    fn parse(text: &str) -> Self {
        const LISTS: [&str; 6] = ["by", "on", "without", "ignoring", "group_left", "group_right"];
        const OPERATORS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];
        let mut found = Self::default();
        let mut rest = text;
        // Of a list of labels, or of a selector's matchers.
        let mut close = None;
        let mut list = false;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '"' => 2 + rest[1..].find('"').expect("a text ends"),
                '[' => 1 + rest.find(']').expect("a span ends"),
                'a'..='z' | 'A'..='Z' | '_' => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                '$' | '0'..='9' => 1 + rest[1..].find(|c| !is_word(c)).unwrap_or(rest.len() - 1),
                _ => first.len_utf8(),
            };
            let (token, after) = rest.split_at(length);
            rest = after;
            if Some(token) == close {
                close = None;
            } else if token == "{" {
                close = Some("}");
            } else if token == "(" && std::mem::take(&mut list) {
                close = Some(")");
            } else if !token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                // A number, a text, a sign.
            } else if close.is_some() {
                found.labels.insert(token.to_owned());
            } else if LISTS.contains(&token) {
                list = rest.trim_start().starts_with('(');
            } else if !OPERATORS.contains(&token) && !is_function(rest) {
                found.metrics.insert(token.to_owned());
            }
        }
        found
    }
}

/// Whether the word before this is a function, as in `rate(...)` and `sum by (...) (...)`.
fn is_function(rest: &str) -> bool {
    let rest = rest.trim_start();
    let next = rest.split(|c| !is_word(c)).next();
    rest.starts_with('(') || next == Some("by") || next == Some("without")
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The panels of the dashboard that show something.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("panels");
    panels.iter().filter(|panel| panel["type"] != "row").collect()
}

/// Every expression of the dashboard, as Grafana sends it.
fn dashboard_expressions() -> Vec<String> {
    let dashboard = dashboard();
    let shown: Vec<String> = panels(&dashboard)
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"))
        .map(|target| target["expr"].as_str().expect("an expression").to_owned())
        .collect();
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let asked = variables.iter().filter_map(|variable| {
        let values = variable["definition"].as_str()?.strip_prefix("label_values(")?;
        let (selector, label) = values.strip_suffix(')')?.rsplit_once(", ")?;
        Some(format!("count by ({label}) ({selector})"))
    });
    let known = ["$instance", "$backend", "$pop"];
    let mut all: Vec<String> = shown.into_iter().chain(asked).collect();
    for expression in &mut all {
        *expression = expression.replace("$__rate_interval", "5m");
        for variable in known {
            *expression = expression.replace(variable, ".*");
        }
        assert!(!expression.contains('$'), "a variable that is not there: {expression}");
    }
    all
}

/// Every expression of the alerts.
fn alert_expressions() -> Vec<String> {
    let text = text("prometheus/alerts.yml");
    let mut expressions = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(first) = line.trim_start().strip_prefix("expr: ") else { continue };
        let mut expression = first.trim_start_matches(">-").to_owned();
        let indent = |line: &str| line.len() - line.trim_start().len();
        let depth = indent(line);
        while let Some(more) = lines.next_if(|next| indent(next) > depth) {
            expression += " ";
            expression += more.trim();
        }
        expressions.push(expression);
    }
    expressions
}

#[test]
fn the_alerts_are_valid_and_fire_when_they_should_and_not_otherwise() {
    promtool(&["check", "rules"], &shipped("prometheus/alerts.yml"));
    promtool(&["test", "rules"], &shipped("prometheus/alerts_test.yml"));
    promtool(&["check", "config"], &shipped("prometheus/scrape.yml"));
}

#[test]
fn every_alert_says_what_it_is_about_what_it_means_and_what_to_do_and_is_tested() {
    let (rules, tests) = (text("prometheus/alerts.yml"), text("prometheus/alerts_test.yml"));
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert_eq!(alerts.len(), alert_expressions().len());
    let mut names = HashSet::new();
    for alert in alerts {
        let name = alert.lines().next().expect("a name");
        assert!(names.insert(name), "{name} is there twice");
        for part in ["severity: ", "summary: \"", "description: \"", "runbook: \""] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        assert!(tests.contains(name), "{name} is not tested");
    }
}

#[test]
fn every_expression_of_the_dashboard_is_promql() {
    let rules: Vec<Value> = dashboard_expressions()
        .iter()
        .enumerate()
        .map(|(number, expr)| json!({ "record": format!("panel:{number}"), "expr": expr }))
        .collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("dashboard.yml");
    // JSON is YAML.
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(&file, groups.to_string()).expect("the file is written");
    promtool(&["check", "rules"], &file);
}

#[test]
fn every_metric_and_label_of_the_dashboard_and_the_alerts_is_served() {
    let (backend, refusing) = (Backend::named("named"), Refusing::new());
    let (_edge, page) = busy_edge(&backend, &refusing);
    let (families, labels) = read(&page);
    let is_served = |metric: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| {
            let family = metric.strip_suffix(part)?;
            families.get(family).filter(|kind| **kind == "histogram")
        });
        families.get(metric).is_some_and(|kind| *kind != "histogram")
            || histogram.is_some()
            || ITS_OWN_FAMILIES.contains(&metric)
    };
    for text in dashboard_expressions().into_iter().chain(alert_expressions()) {
        let expression = Expression::parse(&text);
        assert!(!expression.metrics.is_empty(), "no metric in {text}");
        for metric in &expression.metrics {
            assert!(is_served(metric), "{metric} of {text} is not in:\n{page}");
        }
        for label in &expression.labels {
            let label = label.as_str();
            let is_known = labels.contains(label) || ITS_OWN_LABELS.contains(&label);
            assert!(is_known, "{label} of {text} is not in:\n{page}");
        }
    }
}

#[test]
fn the_dashboard_shows_every_family_that_is_edgeproxys_own() {
    let (backend, refusing) = (Backend::named("named"), Refusing::new());
    let (_edge, page) = busy_edge(&backend, &refusing);
    let shown: BTreeSet<String> =
        dashboard_expressions().iter().flat_map(|text| Expression::parse(text).metrics).collect();
    let (families, _) = read(&page);
    for (family, _) in families.iter().filter(|(family, _)| family.starts_with("edgeproxy_")) {
        let is_it = |metric: &String| {
            let part = metric.strip_prefix(family);
            part.is_some_and(|part| ["", "_bucket", "_sum", "_count"].contains(&part))
        };
        assert!(shown.iter().any(is_it), "{family} is not shown");
    }
}

#[test]
fn the_dashboards_panels_have_ids_titles_units_and_places_of_their_own() {
    let dashboard = dashboard();
    let mut ids = HashSet::new();
    let mut places = HashSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "twice: {}", panel["id"]);
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        let place = |key| panel["gridPos"][key].as_u64().expect("a place");
        assert!(place("x") + place("w") <= 24, "{} is too wide", panel["title"]);
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(places.insert((x, y)), "{} overlaps another", panel["title"]);
            }
        }
    }
    for panel in panels(&dashboard) {
        let (title, unit) = (&panel["title"], &panel["fieldConfig"]["defaults"]["unit"]);
        assert!(unit.as_str().is_some_and(|unit| !unit.is_empty()), "{title} has no unit");
        assert!(panel["description"].is_string(), "{title} has no description");
        for source in [&panel["datasource"], &panel["targets"][0]["datasource"]] {
            assert_eq!(source["uid"], "${datasource}", "{title} is of one installation only");
        }
    }
    let names: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .expect("variables")
        .iter()
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    assert_eq!(names, ["datasource", "pop", "instance", "backend"]);
}

#[test]
fn an_expression_is_taken_apart() {
    let text = "sum by (app, le) (rate(a_total{b=~\"x|y{z\", c!=\"\"}[5m])) > on (d) group_left 2e3 \
                and max without(e) (f{}) - 1 unless g offset 5m";
    let Expression { metrics, labels } = Expression::parse(text);
    assert_eq!(metrics.iter().collect::<Vec<_>>(), ["a_total", "f", "g"]);
    assert_eq!(labels.iter().collect::<Vec<_>>(), ["app", "b", "c", "d", "e", "le"]);
}
