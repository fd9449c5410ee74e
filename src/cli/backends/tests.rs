//! Each command, as typed, against a registry in a file.

use clap::Parser;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::adapters::outbound::sqlite::{Access, SqliteBackendRepository};
use crate::domain::Backend;
use crate::domain::ports::Registry;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Backends,
}

struct Desk {
    folder: TempDir,
    repo: SqliteBackendRepository,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routing.db");
        let repo = SqliteBackendRepository::open(&path, Access::Create).unwrap();
        Self { folder, repo }
    }

    /// With two backends of app `web`: `gru-1` (sa) and `fra-1` (eu).
    fn stocked() -> Self {
        let desk = Self::new();
        desk.ok("add gru-1 --app web --region sa --country BR --addr 10.0.0.1:80");
        desk.ok("add fra-1 --app web --region eu --wg-ip 2001:db8::1 --port 443 --weight 2");
        desk
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sql(&self, sql: &str) {
        rusqlite::Connection::open(self.file("routing.db")).unwrap().execute_batch(sql).unwrap();
    }

    /// Types a command; `@` stands for the desk's folder.
    fn run(&self, line: &str) -> anyhow::Result<(Outcome, String)> {
        block_on(self.typed(line))
    }

    async fn typed(&self, line: &str) -> anyhow::Result<(Outcome, String)> {
        let line = line.replace('@', &format!("{}/", self.folder.path().display()));
        let words = std::iter::once("backends").chain(line.split_whitespace());
        let command = Line::try_parse_from(words)?.command;
        let mut out = Vec::new();
        let outcome = run(command, &self.repo, &mut out).await?;
        Ok((outcome, String::from_utf8(out)?))
    }

    fn ok(&self, line: &str) -> String {
        let (outcome, out) = self.run(line).unwrap();
        assert_eq!(outcome, Outcome::Done, "{out}");
        out
    }

    fn err(&self, line: &str) -> String {
        format!("{:#}", self.run(line).unwrap_err())
    }

    fn all(&self) -> Registry {
        block_on(self.repo.load()).unwrap()
    }

    fn backend(&self, id: &str) -> Backend {
        self.all().backends.into_iter().find(|b| b.id.as_str() == id).unwrap()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn add_writes_a_backend_with_the_documented_defaults() {
    let desk = Desk::new();
    let out = desk.ok("add gru-1 --app web --region SA --addr [2001:db8::1]:8080");
    assert_eq!(out, "gru-1 added: [2001:db8::1]:8080 in sa\n");
    let backend = desk.backend("gru-1");
    assert_eq!((backend.weight, backend.soft_limit, backend.hard_limit), (1, 100, 150));
    assert!(backend.healthy && !backend.deleted && backend.country.is_none());
}

#[test]
fn add_refuses_what_is_there_and_what_no_row_may_hold() {
    let desk = Desk::stocked();
    for (line, said) in [
        ("add gru-1 --app web --region sa --addr 10.0.0.9:80", "`edge-proxy backends set gru-1`"),
        ("add x --app web --region sa --addr 10.0.0.1:80", "10.0.0.1:80 is already used by gru-1"),
        ("add x --app web --region sa --addr db.internal:80", "host names are not looked up"),
        ("add x --app web --region sa --addr 10.0.0.9", "--addr = \"10.0.0.9\": must be IP:PORT"),
        ("add x --app web --region sa --addr 10.0.0.9:70000", "port = 70000"),
        ("add x --app web --region sa --addr 10.0.0.9:1 --weight -1", "weight = -1: must be"),
        ("add x --app web --region sa", "wg_ip = NULL"),
        ("add x --region sa --addr 10.0.0.9:80", "--app"),
        ("add x --app web --region sa --addr 10.0.0.9:80 --port 1", "cannot be used with"),
    ] {
        let error = desk.err(line);
        assert!(error.contains(said), "{line}: {error}");
    }
    assert_eq!(desk.all().backends.len(), 2);
}

#[test]
fn add_brings_back_a_deleted_id_and_repairs_a_row_that_does_not_parse() {
    let desk = Desk::stocked();
    desk.ok("remove gru-1");
    desk.ok("add gru-1 --app web --region sa --addr 10.0.0.7:80");
    assert!(!desk.backend("gru-1").deleted);
    desk.sql("UPDATE backends SET port = 70000 WHERE id = 'gru-1'");
    assert!(desk.err("set gru-1 --port 80").contains("port = 70000"));
    desk.ok("add gru-1 --app web --region sa --addr 10.0.0.7:80");
    assert_eq!(desk.all().skipped, []);
}

#[test]
fn set_changes_what_is_given_and_nothing_else() {
    let desk = Desk::stocked();
    let before = desk.backend("fra-1");
    desk.ok("set fra-1 --weight 5 --country de --healthy off");
    let after = desk.backend("fra-1");
    let country = "DE".parse().ok();
    assert_eq!(
        Backend { updated_at: None, ..after },
        Backend { weight: 5, country, healthy: false, updated_at: None, ..before }
    );
    desk.ok("set fra-1 --addr 10.0.0.8:81 --region ap --app api");
    let moved = desk.backend("fra-1");
    assert_eq!((moved.addr().to_string(), moved.app.as_str()), ("10.0.0.8:81".into(), "api"));
}

#[test]
fn an_unknown_id_is_refused_with_the_nearest_known_one() {
    let desk = Desk::stocked();
    for line in ["set gru1 --weight 2", "drain gru1", "remove gru1", "check gru1"] {
        let error = desk.err(line);
        assert_eq!(error, "no backend \"gru1\"; did you mean gru-1?", "{line}");
    }
    assert_eq!(desk.err("drain zzz"), "no backend \"zzz\"");
    assert!(desk.err("set gru-1").contains("nothing to change"));
    assert!(desk.err("set gru-1 --hard-limit lots").contains("hard_limit = \"lots\""));
    assert!(desk.err("set fra-1 --addr 10.0.0.1:80").contains("already used by gru-1"));
}

#[test]
fn drain_says_how_it_is_undone_and_set_undoes_it() {
    let desk = Desk::stocked();
    let out = desk.ok("drain gru-1");
    assert!(out.contains("no new connections; open ones go on"), "{out}");
    assert!(!desk.backend("gru-1").healthy);
    desk.ok("set gru-1 --healthy true");
    assert!(desk.backend("gru-1").healthy);
}

#[test]
fn remove_marks_a_backend_deleted_and_the_list_leaves_it_out() {
    let desk = Desk::stocked();
    desk.ok("remove gru-1");
    assert!(desk.backend("gru-1").deleted);
    assert!(!desk.ok("list").contains("gru-1"));
    assert!(desk.ok("list --all").contains("deleted"));
    assert!(desk.err("drain gru-1").contains("is deleted; `edge-proxy backends add gru-1`"));
}

#[test]
fn list_is_an_aligned_table() {
    let desk = Desk::stocked();
    desk.ok("drain fra-1");
    desk.ok("add api-1 --app api --region us --addr 10.0.0.3:80 --weight 0");
    assert_eq!(
        desk.ok("list"),
        "\
id     app  region  country  address            healthy  weight  soft  hard  state
api-1  api  us      -        10.0.0.3:80        yes      0       100   150   weight_zero
fra-1  web  eu      -        [2001:db8::1]:443  no       2       100   150   draining
gru-1  web  sa      BR       10.0.0.1:80        yes      1       100   150   ready
"
    );
    assert_eq!(desk.ok("list --app api").lines().count(), 2);
}

#[test]
fn list_json_is_an_array_that_a_machine_reads() {
    let desk = Desk::stocked();
    let list: serde_json::Value = serde_json::from_str(&desk.ok("list --json --app web")).unwrap();
    assert_eq!(list[1]["id"], "gru-1");
    assert_eq!(list[1]["address"], "10.0.0.1:80");
    assert_eq!((&list[1]["healthy"], &list[1]["state"]), (&true.into(), &"ready".into()));
    assert_eq!(Desk::new().ok("list --json"), "[]\n");
}

#[test]
fn check_tells_who_answers_and_who_refuses() {
    let desk = Desk::new();
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (up, down) = (listener.local_addr().unwrap(), closed.local_addr().unwrap());
        drop(closed);
        desk.typed(&format!("add up --app web --region sa --addr {up}")).await.unwrap();
        desk.typed(&format!("add down --app web --region sa --addr {down}")).await.unwrap();
        let (outcome, out) = desk.typed("check").await.unwrap();
        assert_eq!(outcome.exit_code(), 0);
        let lines: Vec<_> = out.lines().collect();
        assert!(lines[0].starts_with("down ") && lines[0].ends_with("refused"), "{out}");
        assert!(lines[1].starts_with("up ") && lines[1].ends_with(" ms"), "{out}");
        assert_eq!(lines[2], "1 of 2 answered");
        let (outcome, _) = desk.typed("check down").await.unwrap();
        assert_eq!(outcome.exit_code(), 3);
    });
}

#[test]
fn check_reaches_more_backends_than_it_dials_at_once() {
    let desk = Desk::new();
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut lines = vec!["id,app,region,wg_ip,port".to_owned()];
        lines.extend((0..150).map(|n| format!("b{n:03},app{n},sa,127.0.0.1,{port}")));
        std::fs::write(desk.file("in.csv"), lines.join("\n")).unwrap();
        desk.typed("import @in.csv").await.unwrap();
        let (_, out) = desk.typed("check").await.unwrap();
        let ids: Vec<_> = out.lines().take(150).map(|line| line[..4].to_owned()).collect();
        assert!(ids.is_sorted(), "{out}");
        assert_eq!(out.lines().count(), 151);
    });
}

#[test]
fn export_and_import_lose_nothing_but_the_times() {
    let desk = Desk::stocked();
    desk.ok("drain fra-1");
    desk.ok("add old --app api --region my-own --addr 10.0.0.5:1 --soft-limit 0 --hard-limit 0");
    desk.ok("remove old");
    let timeless = |desk: &Desk| {
        // Leases are each store's own.
        let bare = |b: Backend| Backend { created_at: None, updated_at: None, lease: None, ..b };
        desk.all().backends.into_iter().map(bare).collect::<Vec<_>>()
    };
    for name in ["all.json", "all.csv"] {
        assert!(desk.ok(&format!("export @{name}")).contains("3 backends written"));
        let other = Desk::new();
        std::fs::copy(desk.file(name), other.file(name)).unwrap();
        assert_eq!(other.ok(&format!("import @{name}")), "3 new, 0 replaced\n");
        assert_eq!(timeless(&other), timeless(&desk), "{name}");
        assert_eq!(other.ok(&format!("import @{name}")), "0 new, 3 replaced\n");
    }
    let printed: serde_json::Value = serde_json::from_str(&desk.ok("export")).unwrap();
    assert_eq!(printed.as_array().map(Vec::len), Some(3));
    assert!(desk.err("export @all.txt").contains(".json or .csv"));
}

#[test]
fn an_export_that_must_leave_rows_out_says_so() {
    let desk = Desk::stocked();
    desk.sql("UPDATE backends SET port = 0 WHERE id = 'gru-1'");
    let (outcome, out) = desk.run("export").unwrap();
    assert_eq!((outcome, outcome.exit_code()), (Outcome::Incomplete, 1));
    assert!(!out.contains("gru-1"));
}

#[test]
fn import_reports_every_bad_row_and_then_writes_nothing() {
    let desk = Desk::stocked();
    std::fs::write(
        desk.file("in.json"),
        r#"[{"id": "ok", "app": "web", "region": "sa", "wg_ip": "10.0.0.50", "port": 80},
            {"id": "port", "app": "web", "region": "sa", "wg_ip": "10.0.0.51", "port": 70000},
            {"id": "half", "app": "web", "region": "sa", "wg_ip": "10.0.0.52", "port": 1.5},
            {"id": "ok", "app": "web", "region": "sa", "wg_ip": "10.0.0.53", "port": 80},
            {"id": "taken", "app": "web", "region": "sa", "wg_ip": "10.0.0.1", "port": "80"}]"#,
    )
    .unwrap();
    let error = desk.err("import @in.json");
    for part in [
        "nothing imported",
        "port: port = 70000",
        "half: port = \"1.5\"",
        "backend ok: given twice",
        "backend taken: 10.0.0.1:80 is already used by gru-1",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(desk.all().backends.len(), 2);
}

#[test]
fn import_reads_what_spreadsheets_write_and_a_dry_run_writes_nothing() {
    let desk = Desk::new();
    let text = "\u{feff}id,app,region,country,wg_ip,port,weight,created_at\r\n\
        \"a\",web,sa,BR,\"10.0.0.1\",80,,2020-01-01\r\n\r\nb,web,sa,,10.0.0.2,80,3,\r\n";
    std::fs::write(desk.file("in.csv"), text).unwrap();
    let dry = desk.ok("import @in.csv --dry-run");
    assert_eq!(dry, "2 new, 0 replaced (dry run: nothing written)\n");
    assert_eq!(desk.all(), Registry::default());
    desk.ok("import @in.csv");
    assert_eq!((desk.backend("a").weight, desk.backend("b").weight), (1, 3));
}

#[test]
fn import_names_what_is_wrong_with_a_file() {
    let desk = Desk::new();
    for (text, said) in [
        ("", "is empty"),
        ("id,app\na\n", "row 1: 1 cells, 2 column names"),
        ("id,soft_limt\na,1\n", "no column \"soft_limt\""),
        ("id\n\"a\n", "a quoted cell does not end"),
        ("{\"id\": 1}", "must be a JSON array of objects"),
        ("[{\"nope\": 1}]", "no column \"nope\""),
    ] {
        std::fs::write(desk.file("in"), text).unwrap();
        let error = desk.err("import @in");
        assert!(error.contains(said) && error.contains("/in"), "{text:?}: {error}");
    }
    assert!(desk.err("import @none.csv").contains("No such file"));
}

#[test]
fn only_add_and_import_create_a_registry() {
    let creates = |line: &str| {
        let words = std::iter::once("backends").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().command.creates()
    };
    assert!(creates("add a --app web --region sa --addr 10.0.0.1:80"));
    assert!(creates("import -"));
    for line in ["list", "set a", "drain a", "remove a", "check", "export", "import - --dry-run"] {
        assert!(!creates(line), "{line}");
    }
}

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory;
    Line::command().debug_assert();
}
