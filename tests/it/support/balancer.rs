//! `HAProxy`, nginx and OpenSSL, before an edge or behind it: their own files, their own port, gone with the
//! test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::backend::Refusing;
use super::eventually;
use super::process::is_listened_on;

/// Where nginx has its modules, when streams are one of them.
const STREAM_MODULES: [&str; 2] = [
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "/usr/lib64/nginx/modules/ngx_stream_module.so",
];

/// A running one. Killed when dropped.
pub struct Balancer {
    folder: TempDir,
    port: Refusing,
    process: Child,
}

impl Balancer {
    /// `HAProxy` listening at `port` with what follows in its configuration.
    pub fn haproxy(port: Refusing, sections: &str) -> Self {
        let text = format!(
            "defaults\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n{sections}\n"
        );
        Self::start("haproxy", port, &text, |command, file| {
            command.args(["-db", "-f"]).arg(file);
        })
    }

    /// nginx listening at `port` with what follows in its configuration: `http` or `stream`.
    pub fn nginx(port: Refusing, sections: &str) -> Self {
        let module = STREAM_MODULES.into_iter().find(|module| Path::new(module).is_file());
        let module = module.map_or_else(String::new, |module| format!("load_module {module};\n"));
        let text = format!(
            "{module}daemon off;\nmaster_process off;\npid nginx.pid;\n\
             events {{ worker_connections 256; }}\n{sections}\n"
        );
        Self::start("nginx", port, &text, |command, file| {
            let folder = file.parent().expect("a folder");
            command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(file);
        })
    }

    /// `openssl s_server` listening at `port`.
    pub fn openssl(port: Refusing, arguments: &[&str]) -> Self {
        let accept = port.addr().to_string();
        Self::start("openssl", port, "", |command, _| {
            command.args(["s_server", "-accept", &accept]).args(arguments);
        })
    }

    fn start(
        name: &str,
        port: Refusing,
        text: &str,
        arguments: impl FnOnce(&mut Command, &Path),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("configuration");
        fs::write(&file, text).expect("the file is written");
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        // It ends with the thread that starts it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program(name));
        arguments(&mut command, &file);
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("it starts");
        let mut this = Self { folder, port, process };
        eventually("it listens", || {
            if let Some(ended) = this.process.try_wait().expect("a child") {
                panic!("{name} ended with {ended}\n{}", this.log());
            }
            is_listened_on(this.addr()).then_some(())
        });
        this
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the balancer\n{}\n---", self.log());
        }
    }
}

/// Not everybody looks where servers are.
fn program(name: &str) -> PathBuf {
    let system = Path::new("/usr/sbin").join(name);
    if system.is_file() { system } else { name.into() }
}
