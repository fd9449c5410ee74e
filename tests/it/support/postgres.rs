//! A private `PostgreSQL`: its own files, its own port, gone with the test.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use edgeproxy::adapters::outbound::{PostgresBackendRepository, PostgresConfig};
use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

use super::eventually;

/// Nothing is written for ever: a test's data need not survive the machine.
const SETTINGS: &str = "\
fsync = off
full_page_writes = off
max_connections = 60
shared_buffers = 8MB
max_wal_senders = 0
wal_level = minimal
autovacuum = off
timezone = 'UTC'
listen_addresses = '127.0.0.1'
";

/// Everybody on the machine may do as they like; a connection by network needs a password.
const RULES: &str = "\
local all all trust
host all all 127.0.0.1/32 scram-sha-256
";

/// The owner of the database and of what is in it.
pub const USER: &str = "edge";
/// A password that must never be seen.
pub const PASSWORD: &str = "s3cret";
/// The name of the database.
pub const NAME: &str = "registry";

/// A running server. Stopped when dropped.
pub struct Postgres {
    folder: TempDir,
    port: u16,
    server: Option<Child>,
}

/// A pooler in transaction mode before a server. Stopped when dropped.
pub struct PgBouncer {
    _folder: TempDir,
    port: u16,
    pooler: Child,
}

impl Postgres {
    /// A server with a database, and a role that owns it.
    pub fn start() -> Self {
        Self::start_at(free_port())
    }

    /// The same at a port that must be free.
    pub fn start_at(port: u16) -> Self {
        let folder = private_folder();
        let data = folder.path().join("data");
        let made = as_server(&program("initdb"))
            .args(["--no-sync", "--wal-segsize=1", "--auth=trust", "--username=postgres"])
            .args(["--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut this = Self { folder, port, server: None };
        this.write("pg_hba.conf", RULES);
        this.set("");
        this.launch();
        this.sql_in("postgres", &format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'"));
        this.create_database(NAME);
        this
    }

    /// Makes a database that belongs to the role, like the first.
    pub fn create_database(&self, name: &str) {
        self.sql_in("postgres", &format!("CREATE DATABASE {name} OWNER {USER}"));
    }

    /// The address of the database, with the password.
    pub fn url(&self) -> String {
        self.url_of(USER, PASSWORD, NAME)
    }

    /// The same for somebody else, or another database.
    pub fn url_of(&self, user: &str, password: &str, name: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{name}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its Unix socket is.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// A repository in the database, with a long interval: what is seen soon was heard of.
    pub fn repository(&self) -> PostgresBackendRepository {
        PostgresBackendRepository::new(config(&self.url()))
    }

    /// What another program does to the database, as its superuser; its answer without headings.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in(NAME, sql)
    }

    /// The same in another database.
    pub fn sql_in(&self, name: &str, sql: &str) -> String {
        let done = self.psql("postgres", name, sql).output().expect("psql runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{sql}\n{said}");
        String::from_utf8(done.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// Another program at work, which stays until it is killed or done.
    pub fn session(&self, sql: &str) -> Child {
        let mut psql = self.psql("postgres", NAME, sql);
        psql.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psql runs")
    }

    fn psql(&self, user: &str, name: &str, sql: &str) -> Command {
        let mut command = Command::new(program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", name]);
        command.arg("-h").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
        command.args(["-c", sql]).stdin(Stdio::null());
        command
    }

    /// How many connections the role has to the database.
    pub fn connections(&self) -> usize {
        self.backends().len()
    }

    /// The server's processes for connections of the role.
    pub fn backends(&self) -> Vec<i32> {
        let asked = format!("SELECT pid FROM pg_stat_activity WHERE usename = '{USER}' ORDER BY 1");
        self.sql(&asked).lines().map(|pid| pid.parse().expect("a process id")).collect()
    }

    /// Ends everything at once, as a power failure does.
    pub fn kill(&mut self) {
        self.stop_with(Signal::KILL);
    }

    /// Has it accept connections and say nothing.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let server = self.server.as_ref().expect("it runs");
        let all = children(server.id()).into_iter().chain([Pid::from_child(server)]);
        for pid in all {
            // One of them may just have ended.
            let _ = kill_process(pid, signal);
        }
    }

    /// Starts again after `kill`, on the same port.
    pub fn restart(&mut self) {
        self.launch();
    }

    /// Encrypts connections by network with this certificate and key, from the next start.
    pub fn set_tls(&mut self, certificate: &str, key: &str) {
        self.write("server.crt", certificate);
        self.write("server.key", key);
        self.stop_with(Signal::QUIT);
        let roots = self.folder.path().join("data/root.crt").exists();
        self.set(if roots { "ssl = on\nssl_ca_file = 'root.crt'\n" } else { "ssl = on\n" });
        self.launch();
    }

    /// Believes clients' certificates that these have signed, from the next `set_tls`.
    pub fn set_client_roots(&self, certificates: &str) {
        self.write("root.crt", certificates);
    }

    /// Says who may connect how (`pg_hba.conf`) by network.
    pub fn set_rules(&self, rules: &str) {
        self.write("pg_hba.conf", &format!("local all all trust\n{rules}\n"));
        let before = self.sql("SELECT pg_conf_load_time()");
        self.sql("SELECT pg_reload_conf()");
        // A connection sees the time at which the server it came from had read them.
        eventually("the rules are in force", || {
            (self.sql("SELECT pg_conf_load_time()") != before).then_some(())
        });
    }

    fn set(&self, more: &str) {
        let mut settings = String::from(SETTINGS);
        let _ = writeln!(settings, "port = {}", self.port);
        let _ = writeln!(settings, "unix_socket_directories = '{}'", self.folder.path().display());
        settings.push_str(more);
        self.write("postgresql.conf", &settings);
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.path().join("data").join(file);
        fs::write(&path, text).expect("a file of the server");
        give_away(&path, 0o600);
    }

    fn launch(&mut self) {
        let data = self.folder.path().join("data");
        let log = fs::File::create(self.folder.path().join("log")).expect("a log");
        let server = as_server(&program("postgres"))
            .arg("-D")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.server = Some(server);
        eventually("the server is ready", || {
            let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if let Some(ended) = self.server.as_mut().and_then(|s| s.try_wait().ok().flatten()) {
                panic!("the server ended with {ended}\n{}", self.log());
            }
            // The file of a server that was killed names another process.
            let pid = self.server.as_ref().map(|server| server.id().to_string());
            let is_ours = file.lines().next() == pid.as_deref();
            (is_ours && file.lines().nth(7).is_some_and(|s| s.trim() == "ready")).then_some(())
        });
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn stop_with(&mut self, signal: Signal) {
        let Some(mut server) = self.server.take() else { return };
        let pids = children(server.id());
        if signal == Signal::KILL {
            // Those too who would end by themselves a moment later.
            for pid in &pids {
                let _ = kill_process(*pid, signal);
            }
        }
        let _ = kill_process(Pid::from_child(&server), signal);
        let _ = server.wait();
        // What is left of them holds the shared memory, and the next server would not start.
        eventually("its processes are gone", || {
            let is_gone = |pid: &Pid| {
                let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
                stat.map_or(true, |stat| stat.contains(") Z "))
            };
            pids.iter().all(is_gone).then_some(())
        });
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}\n---", self.log());
        }
        self.stop_with(Signal::QUIT);
    }
}

impl PgBouncer {
    /// A pooler of two server connections.
    pub fn before(server: &Postgres) -> Self {
        let folder = private_folder();
        let port = free_port();
        let users = folder.path().join("users");
        let settings = folder.path().join("settings");
        let text = format!(
            "[databases]\n\
             {NAME} = host=127.0.0.1 port={} dbname={NAME} user={USER} password={PASSWORD}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = 2\n",
            server.port,
            users.display(),
        );
        for (path, text) in [(&users, format!("\"{USER}\" \"{PASSWORD}\"\n")), (&settings, text)] {
            fs::write(path, text).expect("a file of the pooler");
            give_away(path, 0o600);
        }
        let pooler = as_server(&program("pgbouncer"))
            .arg("-q")
            .arg(settings)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer starts");
        eventually("the pooler listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { _folder: folder, port, pooler }
    }

    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{NAME}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.pooler.kill();
        let _ = self.pooler.wait();
    }
}

/// Short waits, and an interval so long that nothing is seen by it.
pub fn config(url: &str) -> PostgresConfig {
    PostgresConfig {
        url: url.into(),
        max_connections: 4,
        min_connections: 0,
        connect_timeout: Duration::from_secs(5),
        query_timeout: Duration::from_secs(10),
        reload_interval: Duration::from_secs(3600),
    }
}

/// A program: of the server's the newest that is installed, others wherever they are.
fn program(name: &str) -> PathBuf {
    // Not everybody looks there.
    let system = Path::new("/usr/sbin").join(name);
    if system.is_file() {
        return system;
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &PathBuf| {
        let version = path.file_name().and_then(|version| version.to_str());
        version.and_then(|version| version.parse::<u32>().ok())
    };
    let newest = versions
        .map(|version| version.path())
        .filter(|path| path.join("bin").join(name).is_file())
        .max_by_key(number);
    newest.map_or_else(|| name.into(), |version| version.join("bin").join(name))
}

/// A program as the user whom the server belongs to: it refuses to be root's. It ends with the
/// thread that starts it.
fn as_server(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if getuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program).current_dir("/");
    command
}

fn private_folder() -> TempDir {
    // Not in the target folder, which the server's user may not enter.
    let folder = tempfile::Builder::new().prefix("edge-pg").tempdir().expect("a folder");
    give_away(folder.path(), 0o700);
    folder
}

/// Makes a file the server's, when that is somebody else.
fn give_away(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
    if getuid().is_root() {
        let users = fs::read_to_string("/etc/passwd").expect("the users");
        let user = users.lines().find_map(|line| line.strip_prefix("postgres:"));
        let mut ids = user.expect("a user `postgres`").split(':').skip(1);
        let mut id = || ids.next().and_then(|id| id.parse().ok());
        chown(path, id(), id()).expect("root may");
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<Pid> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let pid = |pid: &str| Pid::from_raw(pid.parse().ok()?);
    listed.unwrap_or_default().split_whitespace().filter_map(pid).collect()
}
