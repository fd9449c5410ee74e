//! What could be understood in two ways reaches no backend: request smuggling, seen from both ends.

use std::collections::HashMap;
use std::net::IpAddr;

use super::corpus::{Case, Expected, SECOND, SECOND_SEEN, cases};
use super::raw::{Message, Recorder, Said, Told, address, answers, at_once, tell};
use crate::support::{Access, Edge, Row, Site};

/// A case, and how it is said.
struct Tried<'c> {
    case: &'c Case,
    said: Said,
}

impl Tried<'_> {
    /// What its client says, and whether it says that nothing follows.
    fn bytes(&self) -> (Vec<u8>, bool) {
        match self.case.expected {
            Expected::CutOff => (self.case.bytes.clone(), true),
            _ => ([&self.case.bytes, SECOND.as_bytes()].concat(), false),
        }
    }

    /// What the backend must see, and what the proxy itself must answer at the end.
    fn expected(&self) -> (Vec<String>, &'static [u16]) {
        match &self.case.expected {
            Expected::Refused(statuses) | Expected::Stopped(statuses) => (Vec::new(), statuses),
            Expected::Passed(seen) => {
                (seen.iter().cloned().chain([SECOND_SEEN.to_owned()]).collect(), &[])
            }
            Expected::Alone(seen) => (vec![seen.clone()], &[]),
            Expected::Then(seen, statuses) => (vec![seen.clone()], statuses),
            Expected::CutOff => (Vec::new(), &[]),
        }
    }

    /// What is wrong with what has come of it.
    fn fault(&self, told: &Told, seen: &[String], access: &[&Access]) -> Option<String> {
        let (expected, statuses) = self.expected();
        if seen != expected {
            return Some(format!("the backend saw {seen:#?}\nin place of {expected:#?}"));
        }
        if self.case.expected == Expected::CutOff {
            let heard = String::from_utf8_lossy(&told.bytes);
            return (!heard.is_empty()).then(|| format!("answered: {heard}"));
        }
        let methods: Vec<&str> = seen.iter().filter_map(|seen| seen.split(' ').next()).collect();
        let answers = match answers(&told.bytes, &methods) {
            Ok(answers) if !told.reset => answers,
            Ok(answers) => return Some(format!("reset behind {answers:#?}")),
            Err(error) => {
                return Some(format!("{error}: {}", String::from_utf8_lossy(&told.bytes)));
            }
        };
        if answers.len() != expected.len() + usize::from(!statuses.is_empty()) {
            return Some(format!("answers: {answers:#?}"));
        }
        for ((answer, seen), method) in answers.iter().zip(seen).zip(&methods) {
            let text = answer.text();
            if answer.status() != 200 || (*method != "HEAD" && text != *seen) {
                return Some(format!("the answer to {seen:?} is {answer:#?}"));
            }
        }
        let last = answers.last()?;
        if !statuses.is_empty() && !statuses.contains(&last.status()) {
            return Some(format!("{} in place of {statuses:?}: {}", last.status(), last.text()));
        }
        if last.all("connection") != ["close"] {
            return Some(format!("it does not say that it ends: {last:#?}"));
        }
        let reasons: Vec<&str> = access.iter().map(|line| &line["reason"]).collect();
        let mut wanted = vec!["served"; expected.len()];
        wanted.extend((!statuses.is_empty()).then_some("bad_request"));
        (reasons != wanted).then(|| format!("the access log says {reasons:?}, not {wanted:?}"))
    }
}

/// What a backend must not see, whoever asks.
fn hop_fault(request: &Message) -> Option<String> {
    let all = |name: &str| request.all(name);
    let is_fine = matches!(all("connection")[..], [] | ["te" | "upgrade"])
        && all("te").iter().all(|value| *value == "trailers")
        && all("upgrade").iter().all(|value| *value == "websocket")
        && ["keep-alive", "proxy-connection", "trailer", "http2-settings"]
            .iter()
            .all(|name| all(name).is_empty());
    (!is_fine).then(|| format!("fields of another hop: {request:#?}"))
}

/// Tries all of them at an edge, and says what is wrong.
fn try_all(site: Site, tried: &[Tried<'_>]) {
    let backend = Recorder::new();
    let mut edge: Edge =
        site.env("EDGEPROXY_MODE", "http").backend(Row::new("a", backend.addr())).start();
    let told = at_once(tried.len(), |number| {
        let (bytes, ends) = tried[number].bytes();
        tell(edge.addr, address(number), &bytes, tried[number].said, ends)
    });
    assert!(edge.lives(), "it has ended");
    let exit = edge.stop();
    assert_eq!(exit.code, Some(0));
    let access = exit.access();
    let (requests, left) = backend.to_the_end();

    let mut faults = Vec::new();
    let mut seen: HashMap<IpAddr, Vec<String>> = HashMap::new();
    for request in &requests {
        faults.extend(hop_fault(request));
        let ip = request.one("x-forwarded-for").and_then(|ip| ip.parse().ok());
        seen.entry(ip.expect("an address")).or_default().push(request.summary());
    }
    let mut lines: HashMap<&str, Vec<&Access>> = HashMap::new();
    for line in &access {
        lines.entry(&line["client"]).or_default().push(line);
    }
    let mut beginnings: Vec<String> =
        left.iter().map(|left| String::from_utf8_lossy(&left.bytes).into_owned()).collect();
    for (number, (tried, told)) in tried.iter().zip(&told).enumerate() {
        let ip = address(number);
        let seen = seen.remove(&ip).unwrap_or_default();
        let access = lines.get(&*told.from.to_string()).cloned().unwrap_or_default();
        let fault = tried.fault(told, &seen, &access);
        faults
            .extend(fault.map(|fault| format!("{} ({:?}): {fault}", tried.case.name, tried.said)));
        // Only of what broke off there may be a beginning.
        if matches!(tried.case.expected, Expected::Stopped(_) | Expected::CutOff) {
            let by = format!("x-forwarded-for: {ip}\r\n");
            beginnings.retain(|text| !text.contains(&by));
        }
    }
    faults.extend(seen.into_values().flatten().map(|request| format!("from nobody: {request}")));
    faults.extend(beginnings.into_iter().map(|text| format!("half a request: {text}")));
    let why = left.into_iter().filter_map(|left| left.why);
    faults.extend(why.map(|why| format!("no request at the backend: {why}")));
    assert!(
        faults.is_empty(),
        "{} of {} cases:\n{}",
        faults.len(),
        tried.len(),
        faults.join("\n---\n")
    );
}

/// Every case, said in each of these ways.
fn said_by<'a>(cases: &'a [Case], steps: &'a [usize]) -> Vec<Tried<'a>> {
    let of = |case| {
        steps.iter().map(move |step| {
            let case: &Case = case;
            // What is long would take long.
            let step = (*step).max(case.bytes.len() / 400);
            Tried { case, said: if step == usize::MAX { Said::AtOnce } else { Said::By(step) } }
        })
    };
    cases.iter().flat_map(of).collect()
}

#[test]
fn nothing_ambiguous_reaches_a_backend() {
    let cases = cases();
    try_all(Site::new(), &said_by(&cases, &[usize::MAX]));
}

#[test]
fn nothing_ambiguous_reaches_a_backend_by_connections_that_are_shared() {
    let cases = cases();
    try_all(Site::new().env("EDGEPROXY_POOL_ENABLED", "true"), &said_by(&cases, &[usize::MAX, 7]));
}

#[test]
fn byte_by_byte_everything_is_understood_as_in_one_go() {
    let cases = cases();
    try_all(Site::new().env("EDGEPROXY_POOL_ENABLED", "true"), &said_by(&cases, &[1]));
}

#[test]
fn wherever_a_request_is_split_it_is_the_same() {
    let names =
        ["a POST", "chunks", "two in one go", "two trailers", "a chunk of \"5;x=\\\"y\\\"\""];
    let cases: Vec<Case> =
        cases().into_iter().filter(|case| names.contains(&&*case.name)).collect();
    assert_eq!(cases.len(), names.len());
    let split = |case| {
        let case: &Case = case;
        (1..case.bytes.len() + SECOND.len()).map(move |at| Tried { case, said: Said::Split(at) })
    };
    let tried: Vec<Tried<'_>> = cases.iter().flat_map(split).collect();
    try_all(Site::new().env("EDGEPROXY_POOL_ENABLED", "true"), &tried);
}

#[test]
fn who_names_no_host_asks_for_the_address_that_he_has_found() {
    let backend = Recorder::new();
    let site = Site::new().env("EDGEPROXY_MODE", "http").backend(Row::new("a", backend.addr()));
    let edge = site.start();
    let text = b"GET / HTTP/1.0\r\n\r\n";
    let told = tell(edge.addr, address(0), text, Said::AtOnce, false);
    let answers = answers(&told.bytes, &["GET"]).unwrap();
    assert_eq!(answers[0].text(), format!("GET / {} none", edge.addr));
}
