//! Which certificates come of which files.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use tempfile::TempDir;

use super::*;
use crate::config::{Source, load};

/// A folder with a configuration and certificates.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes `NAME.crt` and `NAME.key`.
    fn pair(&self, name: &str, names: &[&str]) {
        self.made(name, &params(names));
    }

    fn made(&self, name: &str, params: &CertificateParams) {
        let (cert, key) = made(params);
        self.write(&format!("{name}.crt"), &cert.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// A configuration in which `@` stands for the folder.
    fn config(&self, toml: &str) -> Config {
        let text = toml.replace('@', &self.0.path().display().to_string());
        self.write("config.toml", &text);
        let file = Some(self.path("config.toml"));
        load(&Source { file, ..Source::default() }).unwrap()
    }

    fn read(&self, toml: &str, before: Option<&Reading>) -> Reading {
        Reading::new(&self.config(toml), before.map(|before| &*before.certificates))
    }
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn made(params: &CertificateParams) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key)
}

fn ca() -> String {
    let mut params = params(&[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    made(&params).0.pem()
}

/// The certificate that a client is shown which asks for `name`.
fn shown(reading: &Reading, name: &str) -> Option<PathBuf> {
    let terminator = reading.certificates.terminator(&[], false);
    of(reading, &terminator.shown(Some(name))?.config)
}

fn of(reading: &Reading, server: &Arc<ServerConfig>) -> Option<PathBuf> {
    let resolver = format!("{:?}", server.cert_resolver);
    let entries = reading.certificates.entries.iter();
    let mut own = entries.filter(|entry| {
        format!("{:?}", entry.policy.server(&entry.pair, &[]).cert_resolver) == resolver
    });
    own.next().and_then(|entry| match &entry.source.files {
        Files::Made => None,
        Files::Pair { cert, .. } => cert.file_stem().map(PathBuf::from),
    })
}

fn reasons(reading: &Reading) -> Vec<(String, bool)> {
    let said = |problem: &Problem| {
        let file = problem.error.path.file_name().unwrap().display().to_string();
        (format!("{file}: {}", problem.error.reason), problem.is_fatal)
    };
    reading.problems.iter().map(said).collect()
}

/// The problem that a process does not start with.
fn refused(reading: &Reading) -> String {
    let errors = reading.check().unwrap_err();
    assert_eq!(errors.0.len(), 1, "{errors}");
    errors.to_string()
}

#[test]
fn a_name_is_shown_the_first_that_has_it_and_others_the_first_of_all() {
    let place = Place::new();
    for (name, names) in [
        ("seed", &["seed.test", "both.test"][..]),
        ("one", &["both.test", "one.test", "*.wild.test"]),
        ("two", &["ignored.test"]),
        ("folder/b", &["b.test", "one.test"]),
        ("folder/a", &["A.test"]),
    ] {
        place.pair(name, names);
    }
    let folder = "[tls]\ncert_dir = \"@/folder\"\n";
    let listed = "[[certificate]]\ncert = \"@/one.crt\"\nkey = \"@/one.key\"\n\
                  [[certificate]]\ncert = \"@/two.crt\"\nkey = \"@/two.key\"\nnames = [\"own.test\"]\n";
    let seed = "cert = \"@/seed.crt\"\nkey = \"@/seed.key\"\n";
    let all = place.read(&format!("{folder}{seed}{listed}"), None);
    assert_eq!(reasons(&all), []);
    for (name, expected) in [
        ("seed.test", "seed"),
        ("both.test", "seed"),
        ("one.test", "one"),
        ("x.wild.test", "one"),
        ("x.y.wild.test", "seed"),
        ("own.test", "two"),
        ("ignored.test", "seed"),
        ("a.test", "a"),
        ("b.test", "b"),
        ("other.test", "seed"),
    ] {
        assert_eq!(shown(&all, name), Some(expected.into()), "{name}");
    }
    let strict = all.certificates.terminator(&[], true);
    assert!(strict.shown(Some("a.test")).is_some());
    assert!(strict.shown(Some("other.test")).is_none());
    assert!(strict.shown(None).is_none());

    let rest = place.read(&format!("{folder}{listed}"), None);
    assert_eq!(shown(&rest, "other.test"), Some("one".into()));
    let rest = place.read(folder, None);
    assert_eq!(shown(&rest, "other.test"), Some("a".into()));
}

#[test]
fn with_nothing_given_one_is_made_and_kept() {
    let place = Place::new();
    let first = place.read("", None);
    assert_eq!(shown(&first, "localhost"), None);
    assert!(first.certificates.terminator(&[], true).shown(Some("localhost")).is_some());
    let second = place.read("", Some(&first));
    assert!(second.certificates.is(&first.certificates));
    // A folder is something, though there is nothing in it.
    place.write("folder/README", "");
    let empty = place.read("[tls]\ncert_dir = \"@/folder\"\n", None);
    assert!(empty.check().is_ok());
    assert!(empty.certificates.terminator(&[], false).shown(None).is_none());
    assert_eq!(empty.certificates.doubts(clock::wall()).len(), 1);
}

#[test]
fn a_folder_holds_pairs_of_several_shapes_and_other_things() {
    let place = Place::new();
    place.pair("folder/x", &["x.test"]);
    let (cert, key) = made(&params(&["y.test"]));
    place.write("folder/y.pem", &cert.pem());
    place.write("folder/y.key", &key.serialize_pem());
    place.write("folder/z.test/fullchain.pem", &cert.pem());
    place.write("folder/z.test/privkey.pem", &key.serialize_pem());
    place.write("folder/empty/README", "");
    place.write("folder/.hidden.crt", "");
    place.write("folder/ca.pem", "");
    place.write("folder/alone.crt", "");
    place.write("folder/lost.key", "");
    let reading = place.read("[tls]\ncert_dir = \"@/folder\"\n", None);
    assert_eq!(
        reasons(&reading),
        [
            ("alone.crt: has no key (NAME.key) beside it".into(), false),
            ("lost.key: has no certificate (NAME.crt or NAME.pem) beside it".into(), false),
        ]
    );
    let names = reading.certificates.entries.iter().flat_map(Entry::names).map(ToString::to_string);
    assert_eq!(names.collect::<Vec<_>>(), ["x.test", "y.test", "y.test"]);
}

#[test]
fn what_is_no_pair_is_said_with_its_file_and_what_is_accepted() {
    let place = Place::new();
    place.pair("a", &["a.test"]);
    place.pair("b", &["b.test"]);
    let pem = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    place.write("text.crt", "not a certificate");
    place.write("chain.crt", &format!("{}{}", pem("a.crt"), pem("b.crt").replace('M', "N")));
    place.write("cut.crt", &pem("a.crt")[..200]);
    let encrypted = pem("a.key").replace("PRIVATE", "ENCRYPTED PRIVATE");
    place.write("encrypted.key", &encrypted);
    for (cert, key, expected) in [
        ("a.crt", "b.key", "b.key: is not the key of the first certificate in "),
        ("text.crt", "a.key", "text.crt: holds no certificate; must be PEM (BEGIN CERTIFICATE)"),
        ("none.crt", "a.key", "none.crt: cannot be read: No such file"),
        ("chain.crt", "a.key", "chain.crt: certificate 2 of 2 is not well-formed: "),
        ("cut.crt", "a.key", "cut.crt: is not PEM: "),
        ("a.crt", "encrypted.key", "encrypted.key: holds no private key; must be PEM without a"),
        ("a.crt", "a.crt", "a.crt: holds no private key"),
    ] {
        let toml = format!("[tls]\ncert = \"@/{cert}\"\nkey = \"@/{key}\"\n");
        let said = refused(&place.read(&toml, None));
        assert!(said.contains(&format!("/{expected}")), "{said}\nis not {expected}");
    }
    let missing = refused(&place.read("[tls]\ncert_dir = \"@/nowhere\"\n", None));
    assert!(missing.contains("/nowhere: cannot be listed: No such file"), "{missing}");
}

#[test]
fn what_becomes_bad_stays_as_it_was_and_the_others_change() {
    let place = Place::new();
    place.pair("folder/a", &["a.test"]);
    place.pair("folder/b", &["b.test"]);
    let toml = "[tls]\ncert_dir = \"@/folder\"\n";
    let first = place.read(toml, None);
    let again = place.read(toml, Some(&first));
    assert!(again.certificates.is(&first.certificates), "nothing has changed");

    let before = fs::read_to_string(place.path("folder/a.key")).unwrap();
    place.pair("folder/a", &["new.test"]);
    let right = fs::read_to_string(place.path("folder/a.key")).unwrap();
    place.write("folder/a.key", &before);
    place.pair("folder/b", &["b.test", "more.test"]);
    place.pair("folder/c", &["c.test"]);
    place.write("folder/d.crt", "half");
    place.write("folder/d.key", "half");
    let second = place.read(toml, Some(&first));
    assert_eq!(second.problems.len(), 2, "{:?}", second.problems);
    assert!(second.check().is_ok(), "no certificate that the configuration names is missing");
    for (name, expected) in [("a.test", "a"), ("more.test", "b"), ("c.test", "c")] {
        assert_eq!(shown(&second, name), Some(expected.into()), "{name}");
    }
    assert!(Arc::ptr_eq(&second.certificates.entries[0].pair, &first.certificates.entries[0].pair));

    place.write("folder/a.key", &right);
    fs::remove_file(place.path("folder/b.key")).unwrap();
    let third = place.read(toml, Some(&second));
    assert_eq!(shown(&third, "new.test"), Some("a".into()));
    assert_eq!(shown(&third, "more.test"), Some("b".into()), "half of it is there");
    fs::remove_file(place.path("folder/b.crt")).unwrap();
    let fourth = place.read(toml, Some(&third));
    assert_eq!(shown(&fourth, "more.test"), Some("a".into()), "it is gone");

    fs::rename(place.path("folder"), place.path("elsewhere")).unwrap();
    let fifth = place.read(toml, Some(&fourth));
    assert!(fifth.certificates.is(&fourth.certificates));
    assert!(fifth.check().is_ok());
}

#[test]
fn another_configuration_must_be_right() {
    let place = Place::new();
    place.pair("a", &["a.test"]);
    place.pair("b", &["b.test"]);
    place.write("folder/bad.crt", "");
    place.write("folder/bad.key", "");
    let toml = |name: &str| format!("[tls]\ncert = \"@/{name}.crt\"\nkey = \"@/{name}.key\"\n");
    let first = place.read(&toml("a"), None);
    assert!(place.read(&toml("b"), Some(&first)).check().is_ok());
    assert!(place.read(&toml("none"), Some(&first)).check().is_err());
    assert!(place.read("[tls]\ncert_dir = \"@/folder\"\n", Some(&first)).check().is_err());
    place.write("a.key", "");
    let kept = place.read(&toml("a"), Some(&first));
    assert!(kept.check().is_ok(), "its paths are what they were");
    assert_eq!(kept.problems.len(), 1);
    assert!(kept.certificates.is(&first.certificates));
}

#[test]
fn an_expired_one_is_shown_at_the_start_and_takes_nobodys_place() {
    let place = Place::new();
    let expired = || {
        let mut params = params(&["a.test"]);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        params
    };
    place.made("a", &expired());
    let toml = "[tls]\ncert = \"@/a.crt\"\nkey = \"@/a.key\"\n";
    let first = place.read(toml, None);
    assert!(first.check().is_ok());
    let doubts = first.certificates.doubts(clock::wall());
    assert!(doubts[0].1.ends_with("a.crt has expired on 2021-01-01"), "{doubts:?}");
    assert!(place.read(toml, Some(&first)).problems.is_empty());

    place.pair("a", &["a.test"]);
    let second = place.read(toml, Some(&first));
    assert_eq!(second.certificates.doubts(clock::wall()), []);
    place.made("a", &expired());
    let third = place.read(toml, Some(&second));
    assert_eq!(reasons(&third), [("a.crt: has expired on 2021-01-01".into(), false)]);
    assert!(third.certificates.is(&second.certificates));
}

#[test]
fn one_that_is_not_valid_yet_waits_until_it_is_while_the_other_is() {
    let place = Place::new();
    place.pair("a", &["a.test"]);
    let toml = "[tls]\ncert = \"@/a.crt\"\nkey = \"@/a.key\"\n";
    let first = place.read(toml, None);
    let mut params = params(&["a.test"]);
    params.not_before = date_time_ymd(2126, 1, 1);
    params.not_after = date_time_ymd(2127, 1, 1);
    place.made("a", &params);
    let second = place.read(toml, Some(&first));
    assert_eq!(reasons(&second), [("a.crt: is not valid before 2126-01-01".into(), false)]);
    assert!(second.certificates.is(&first.certificates));
    assert!(place.read(toml, None).check().is_ok(), "a start shows what there is");
}

#[test]
fn two_weeks_before_its_end_and_before_its_beginning_a_certificate_is_doubtful() {
    let place = Place::new();
    let mut params = params(&["a.test"]);
    params.not_before = date_time_ymd(2026, 1, 2);
    params.not_after = date_time_ymd(2026, 3, 1);
    place.made("a", &params);
    let reading = place.read("[tls]\ncert = \"@/a.crt\"\nkey = \"@/a.key\"\n", None);
    // So many days and a half after the beginning of 2026.
    let at = |days: u64| {
        let since = std::time::Duration::from_secs(1_767_225_600 + days * 86_400 + 43_200);
        let doubts = reading.certificates.doubts(since);
        doubts.into_iter().map(|(level, text)| format!("{level} {text}")).collect::<Vec<_>>()
    };
    let cert = place.path("a.crt").display().to_string();
    assert_eq!(at(0), [format!("WARN certificate {cert} is not valid before 2026-01-02")]);
    assert_eq!(at(40), [""; 0]);
    assert_eq!(at(49), [format!("WARN certificate {cert} expires in 9 days, on 2026-03-01")]);
    assert_eq!(at(59), [format!("ERROR certificate {cert} has expired on 2026-03-01")]);
}

#[test]
fn a_name_is_the_common_one_only_when_there_is_no_other() {
    let place = Place::new();
    for (name, names) in [("with", &["san.test"][..]), ("without", &["127.0.0.1"])] {
        let mut params = params(names);
        params.distinguished_name.push(DnType::CommonName, "cn.test");
        place.made(name, &params);
        let toml = format!("[tls]\ncert = \"@/{name}.crt\"\nkey = \"@/{name}.key\"\n");
        let reading = place.read(&toml, None);
        let names: Vec<String> =
            reading.certificates.entries[0].names().map(ToString::to_string).collect();
        assert_eq!(names, [if name == "with" { "san.test" } else { "cn.test" }]);
    }
}

/// Whether a ticket that is given at `one` is worth something at `other`.
fn resumes(one: &Reading, other: &Reading, name: &str) -> bool {
    let server = |reading: &Reading| {
        let terminator = reading.certificates.terminator(&[], false);
        Arc::clone(&terminator.shown(Some(name)).unwrap().config)
    };
    let ticket = server(one).ticketer.encrypt(b"who has shown what").unwrap();
    let said = server(other).ticketer.decrypt(&ticket);
    assert!(said.is_none() || said.unwrap() == b"who has shown what");
    server(other).ticketer.decrypt(&ticket).is_some()
}

#[test]
fn tickets_outlive_certificates_and_not_what_was_asked_for() {
    let place = Place::new();
    place.pair("a", &["a.test"]);
    place.pair("b", &["b.test"]);
    let (one, other) = (ca(), ca());
    place.write("ca.pem", &one);
    place.write("same.pem", &one);
    let toml = |tls: &str, certificate: &str| {
        format!(
            "[tls]\ncert = \"@/a.crt\"\nkey = \"@/a.key\"\n{tls}\n\
             [[certificate]]\ncert = \"@/b.crt\"\nkey = \"@/b.key\"\n{certificate}\n"
        )
    };
    let open = place.read(&toml("", ""), None);
    place.pair("a", &["a.test", "more.test"]);
    let swapped = place.read(&toml("alpn = [\"h2\"]", ""), Some(&open));
    assert!(!swapped.certificates.is(&open.certificates));
    assert!(resumes(&open, &swapped, "a.test"));
    let asking = place.read(&toml("", "client_ca = \"@/ca.pem\""), Some(&swapped));
    assert!(resumes(&open, &asking, "a.test"), "nothing is asked for there");
    assert!(!resumes(&open, &asking, "b.test"));
    assert!(!resumes(&asking, &open, "b.test"));
    let same = place.read(&toml("", "client_ca = \"@/same.pem\""), Some(&asking));
    assert!(resumes(&asking, &same, "b.test"), "what counts is what is in the file");
    let optional = "client_ca = \"@/ca.pem\"\nclient_auth = \"optional\"";
    let optional = place.read(&toml("", optional), Some(&asking));
    assert!(!resumes(&optional, &asking, "b.test"));
    let elsewhere = place.read(&toml("client_ca = \"@/ca.pem\"", ""), Some(&asking));
    assert!(resumes(&asking, &elsewhere, "b.test"));
    assert!(!resumes(&open, &elsewhere, "a.test"));

    place.write("ca.pem", &other);
    let toml = toml("", "client_ca = \"@/ca.pem\"");
    let changed = place.read(&toml, Some(&asking));
    assert!(!resumes(&asking, &changed, "b.test"));
    place.write("ca.pem", "nobody");
    let bad = place.read(&toml, Some(&changed));
    assert!(bad.check().is_ok());
    assert!(bad.certificates.is(&changed.certificates));
    assert!(refused(&place.read(&toml, None)).contains("ca.pem: holds no certificate"));
}

#[test]
fn a_file_that_is_too_long_is_not_read() {
    let place = Place::new();
    place.pair("a", &["a.test"]);
    place.write("a.key", &"x".repeat(2 << 20));
    let said = refused(&place.read("[tls]\ncert = \"@/a.crt\"\nkey = \"@/a.key\"\n", None));
    assert!(said.ends_with("a.key: is longer than 1048576 bytes"), "{said}");
}

#[test]
fn what_is_decided_for_a_name_goes_before_what_other_certificates_say_and_holds_below() {
    let place = Place::new();
    place.pair("main", &["main.test", "admin.test", "a.deep.test"]);
    place.pair("guarded", &["admin.test", "*.deep.test"]);
    place.pair("free", &["free.deep.test"]);
    place.pair("folder/f", &["admin.test", "b.deep.test"]);
    place.write("ca.pem", &ca());
    let toml = "[tls]\ncert = \"@/main.crt\"\nkey = \"@/main.key\"\ncert_dir = \"@/folder\"\n\
                [[certificate]]\ncert = \"@/guarded.crt\"\nkey = \"@/guarded.key\"\n\
                client_ca = \"@/ca.pem\"\n\
                [[certificate]]\ncert = \"@/free.crt\"\nkey = \"@/free.key\"\n\
                names = [\"free.deep.test\"]\n";
    let reading = place.read(toml, None);
    assert_eq!(reasons(&reading), []);
    let guard = &reading.certificates.entries[1].policy;
    let terminator = reading.certificates.terminator(&[], false);
    for (name, expected, is_asked) in [
        ("admin.test", "guarded", true),
        ("a.deep.test", "guarded", true),
        ("b.deep.test", "guarded", true),
        ("x.y.deep.test", "guarded", true),
        ("free.deep.test", "free", false),
        ("main.test", "main", false),
        ("other.test", "main", false),
    ] {
        assert_eq!(shown(&reading, name), Some(expected.into()), "{name}");
        assert_eq!(terminator.asks_the_same(Some(name), guard), is_asked, "{name}");
    }
    let strict = reading.certificates.terminator(&[], true);
    assert!(strict.shown(Some("x.y.deep.test")).is_none() && strict.shown(None).is_none());
    assert!(strict.asks_the_same(Some("a.deep.test"), guard));
    let said = reading.certificates.doubts(clock::wall());
    let warns = |(_, text): &(_, String)| text.contains("guarded.crt: only those need");
    assert!(said.iter().any(warns), "{said:?}");
}
