//! A point of presence on disk: a folder with a registry, a configuration file and an environment.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::api::TOKEN;
use super::edge::Edge;
use super::postgres::Postgres;
use super::registry::Row;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_edge-proxy");

/// A folder that the program runs in, and the environment that it runs with: nothing of this
/// machine's own settings reaches it.
pub struct Site {
    dir: TempDir,
    env: Vec<(String, String)>,
    rows: Vec<Row>,
    toml: String,
    descriptors: Option<u32>,
}

/// A command that has come to its end.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Site {
    /// With nothing said of it at all.
    pub fn bare() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self { dir, env: Vec::new(), rows: Vec::new(), toml: String::new(), descriptors: None }
    }

    /// Listens on a port that the system chooses, looks at its registry every second.
    pub fn new() -> Self {
        Self::bare()
            .env("EDGEPROXY_LISTEN_ADDR", "127.0.0.1:0")
            .env("EDGEPROXY_DB_RELOAD_SECS", "1")
            .env("EDGEPROXY_WORKERS", "2")
    }

    /// With a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    /// With lines of the configuration file.
    pub fn toml(mut self, text: &str) -> Self {
        self.toml.push_str(text);
        self.toml.push('\n');
        self
    }

    /// With a backend in the registry.
    pub fn backend(mut self, row: Row) -> Self {
        self.rows.push(row);
        self
    }

    /// Without affinity: each connection is a choice of its own.
    pub fn without_affinity(self) -> Self {
        self.env("EDGEPROXY_BINDING_TTL_SECS", "0")
    }

    /// With the registry in a `PostgreSQL`, looked at so often besides; who is new has its whole share.
    pub fn with_postgres(self, server: &Postgres, reload_secs: &str) -> Self {
        self.env("EDGEPROXY_POSTGRES_ENABLED", "true")
            .env("EDGEPROXY_POSTGRES_URL", &server.url())
            .env("EDGEPROXY_POSTGRES_RELOAD_SECS", reload_secs)
            .env("EDGEPROXY_SLOW_START_SECS", "0")
    }

    /// With the control API, on a port that the system chooses; backends on loopback may register.
    pub fn with_api(self) -> Self {
        self.env("EDGEPROXY_API_ENABLED", "true")
            .env("EDGEPROXY_API_LISTEN_ADDR", "127.0.0.1:0")
            .env("EDGEPROXY_API_TOKEN", TOKEN)
    }

    /// With metrics, on a port that the system chooses.
    pub fn with_metrics(self) -> Self {
        self.env("EDGEPROXY_METRICS_ENABLED", "true")
            .env("EDGEPROXY_METRICS_LISTEN_ADDR", "127.0.0.1:0")
    }

    /// With the documentation's addresses: 127.0.1.0/24 is in Chile, .2 in Germany, .3 in Japan.
    pub fn with_geography(self) -> Self {
        self.toml("[[geo_override]]\ncidr = \"127.0.1.0/24\"\ncountry = \"CL\"")
            .toml("[[geo_override]]\ncidr = \"127.0.2.0/24\"\ncountry = \"DE\"")
            .toml("[[geo_override]]\ncidr = \"127.0.3.0/24\"\ncountry = \"JP\"")
    }

    /// With a limit of descriptors, which the program cannot raise.
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn registry(&self) -> PathBuf {
        self.path("routing.db")
    }

    /// Changes the registry as any other program would.
    pub fn sql(&self, statements: &str) {
        let other = rusqlite::Connection::open(self.registry()).expect("the registry opens");
        other.busy_timeout(super::PATIENCE).expect("a timeout");
        other.execute_batch(statements).expect("the statements run");
    }

    /// Writes the registry and the configuration file.
    pub fn prepared(self) -> Self {
        std::fs::write(self.path("config.toml"), &self.toml).expect("the file is written");
        if !self.rows.is_empty() {
            let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
            let text = serde_json::to_string(&rows).expect("JSON");
            // With settings that are right, so that the test's own may be wrong.
            let imported =
                Self::run_to_end(self.command_with(&[], &["backends", "import", "-"]), &text);
            assert_eq!(imported.code, Some(0), "{imported:?}");
        }
        self
    }

    /// Starts the program and waits until it is ready.
    pub fn start(self) -> Edge {
        let prepared = self.prepared();
        Edge::start(prepared)
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Finished {
        Self::run_to_end(self.command(args), "")
    }

    /// A command with this site's environment.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_with(&self.env, args)
    }

    fn command_with(&self, env: &[(String, String)], args: &[&str]) -> Command {
        let mut command = match self.descriptors {
            None => Command::new(PROGRAM),
            Some(limit) => {
                let mut shell = Command::new("/bin/sh");
                let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
                shell.arg("-c").arg(script).arg(PROGRAM);
                shell
            }
        };
        command
            .args(args)
            .env_clear()
            .env("EDGEPROXY_CONFIG", self.path("config.toml"))
            .env("EDGEPROXY_DB_PATH", self.registry())
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run_to_end(mut command: Command, input: &str) -> Finished {
        let mut child = command.stdin(Stdio::piped()).spawn().expect("the program starts");
        if let Some(mut stdin) = child.stdin.take() {
            // A command that fails early does not read it.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().expect("the program ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Finished { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}
