//! What a scanner finds that looks for everything that was ever wrong with TLS.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::peer::{NAME, Pop};
use crate::support::{Row, Site, Web};

/// How bad what is found may be.
const HARMLESS: [&str; 3] = ["OK", "INFO", "LOW"];
/// What it says of itself: of the `openssl` that it makes use of.
const ITS_OWN: &str = "engine_problem";
/// What it must have looked at.
const LOOKED_AT: [&str; 8] =
    ["SSLv2", "TLS1", "TLS1_3", "cipherlist_NULL", "heartbleed", "ticketbleed", "ROBOT", "LUCKY13"];
/// Longest that it may take, in seconds.
const LONGEST: &str = "300";

#[test]
fn testssl_finds_nothing_worse_than_low() {
    let web = Web::named("a");
    let site = Site::new().backend(Row::new("a", web.addr()));
    let mut pop = Pop::of(site);
    let found = pop.edge.site.path("found.json");
    let uri = format!("{NAME}:{}", pop.addr.port());
    let done = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "timeout", LONGEST, "testssl"])
        .args(["--quiet", "--color", "0", "--warnings", "off", "--ip", "127.0.0.1"])
        .args(["--nodns", "none", "--assume-http", "--add-ca"])
        .arg(pop.authority())
        // Protocols, ciphers by kind, and vulnerabilities.
        .args(["-p", "-s", "-U", "--jsonfile"])
        .arg(&found)
        .arg(&uri)
        .stdin(Stdio::null())
        .output()
        .expect("testssl runs");
    let text = fs::read_to_string(&found).unwrap_or_else(|_| panic!("{done:?}"));
    let found: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let of = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let looked_at: BTreeSet<String> = found.iter().map(|finding| of(finding, "id")).collect();
    for id in LOOKED_AT {
        assert!(looked_at.contains(id), "{id} is not among {looked_at:?}\n{done:?}");
    }
    for finding in &found {
        let (id, severity) = (of(finding, "id"), of(finding, "severity"));
        assert!(id == ITS_OWN || HARMLESS.contains(&&*severity), "{finding:#}");
    }
    pop.edge.wait_for_ends(1, "tls_failed");
    pop.has_no_bug();
    assert!(pop.edge.lives());
}
