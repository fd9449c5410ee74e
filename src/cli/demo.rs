//! `edge-proxy demo`: sample backends in three regions and the proxy, in one process on loopback.

mod sample;

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use tokio::sync::mpsc;

use super::run::Log;
use crate::adapters::outbound::sqlite::{Access, SqliteBackendRepository};
use crate::app::{Edge, Process};
use crate::config::{Source, load};
use crate::domain::AdminState;
use crate::domain::ports::BackendRepository;
use crate::infrastructure::log_sink::LogSink;
use crate::infrastructure::shutdown_signal;
use sample::Sample;

/// The port to listen on, or the next free one.
const PORT: u16 = 8080;

/// The sample backends: id, region, country.
const BACKENDS: [(&str, &str, &str); 6] = [
    ("scl-1", "sa", "CL"),
    ("gru-1", "sa", "BR"),
    ("fra-1", "eu", "DE"),
    ("ams-1", "eu", "NL"),
    ("nrt-1", "ap", "JP"),
    ("sin-1", "ap", "SG"),
];

/// Makes addresses of this machine look like clients in three countries.
const PLACES: &str = r#"
[[geo_override]]
cidr = "127.0.1.0/24"
country = "CL"
[[geo_override]]
cidr = "127.0.2.0/24"
country = "DE"
[[geo_override]]
cidr = "127.0.3.0/24"
country = "JP"
"#;

const PROMPT_HELP: &str = "commands: list | stop ID | start ID | drain ID | ready ID | quit";

/// Serves until Ctrl+C or `quit`.
pub(super) fn run() -> anyhow::Result<u8> {
    super::runtime()?.block_on(demo())
}

async fn demo() -> anyhow::Result<u8> {
    let folder = Folder::new()?;
    let registry = folder.0.join("routing.db");
    let repository = SqliteBackendRepository::open(&registry, Access::Create)?;
    let mut samples = Vec::new();
    for (id, region, country) in BACKENDS {
        samples.push(Sample::start(id, region, country).await?);
    }
    let rows = samples.iter().map(Sample::row).collect::<anyhow::Result<Vec<_>>>()?;
    repository.put(rows).await?;

    let source = source(&folder.0, &registry)?;
    let config = load(&source)?;
    let log = Log::start(&config)?;
    let access_log = LogSink::start("access-log", std::io::stdout())?;
    let set_log = log.setter(&access_log);
    // Closing the terminal ends it, as it ends any other program in it.
    let process =
        Process { source: Arc::new(move || source.clone()), set_log, access_log, hangup: None };
    let edge = Edge::start(config, process).await?;
    let addr = edge.addrs().clients.first().copied().context("the proxy listens nowhere")?;
    let api = edge.addrs().api.first().copied().context("the API listens nowhere")?;
    introduce(addr, api, &registry)?;

    let mut lines = prompt();
    let until = async {
        let asked = async {
            while let Some(line) = lines.recv().await {
                match obey(&line, &mut samples, &repository).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => println!("{error:#}"),
                }
            }
            // Without a terminal there is nobody to ask: only a signal ends it.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = asked => {}
            () = shutdown_signal() => {}
        }
    };
    edge.run(until).await;
    log.sink.flush();
    Ok(0)
}

/// The demo takes nothing from the environment, so that it is the same everywhere.
fn source(folder: &Path, registry: &Path) -> anyhow::Result<Source> {
    let file = folder.join("demo.toml");
    std::fs::write(&file, PLACES).with_context(|| format!("cannot write {}", file.display()))?;
    let path = registry.to_str().context("the folder for temporary files has no UTF-8 name")?;
    let port = free_port(PORT)?;
    let env = [
        ("EDGEPROXY_LISTEN_ADDR", format!("127.0.0.1:{port}")),
        ("EDGEPROXY_API_ENABLED", "true".into()),
        ("EDGEPROXY_API_LISTEN_ADDR", format!("127.0.0.1:{}", free_port(port + 1)?)),
        ("EDGEPROXY_DB_PATH", path.into()),
        ("EDGEPROXY_DB_RELOAD_SECS", "1".into()),
        ("EDGEPROXY_SHUTDOWN_TIMEOUT_SECS", "2".into()),
        ("EDGEPROXY_POP", "demo".into()),
        ("RUST_LOG", "warn".into()),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
    Ok(Source { env, file: Some(file) })
}

/// The first port from one on that nobody listens on.
fn free_port(from: u16) -> anyhow::Result<u16> {
    (from..from + 100)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| anyhow!("no free port from {from} to {}", from + 99))
}

fn introduce(addr: SocketAddr, api: SocketAddr, registry: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let token = registry.with_file_name("edge-proxy.token");
    let (registry, token) = (registry.display(), token.display());
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\
edge-proxy demo: a POP in region sa, listening on http://{addr}
Backends: {}.

Ask as a client in Chile, Germany or Japan; the nearest backend answers:

  curl --interface 127.0.1.1 http://{addr}/
  curl --interface 127.0.2.1 http://{addr}/
  curl --interface 127.0.3.1 http://{addr}/

Ask again: the same backend answers, because a client keeps its backend for 600 s (affinity).
Type `stop fra-1` and ask from Germany once more: ams-1 answers, in the same region, and no request
fails. `start fra-1` brings it back.

See it all in a browser, or ask why a client goes where it goes: http://{api}/
(Changes there need the token in {token}.)

From another terminal, on this very process:

  export EDGEPROXY_DB_PATH={registry}
  {program} top
  {program} route 127.0.2.1
  {program} backends drain scl-1 --wait 1m

Every connection ends with a line here that says where it went. {PROMPT_HELP}
",
        BACKENDS.map(|(id, region, country)| format!("{id} ({region}, {country})")).join(", "),
        program = program.display(),
    )?;
    Ok(out.flush()?)
}

/// What is typed, a line at a time.
fn prompt() -> mpsc::Receiver<String> {
    let (typed, lines) = mpsc::channel(1);
    // It ends with the process: nothing can wake a thread that reads a terminal.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if typed.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Does what was typed; whether to go on.
async fn obey(
    line: &str,
    samples: &mut [Sample],
    repository: &dyn BackendRepository,
) -> anyhow::Result<bool> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [] => {}
        ["quit" | "exit"] => return Ok(false),
        ["list"] => {
            for sample in samples.iter() {
                println!("{sample}");
            }
        }
        ["stop", id] => {
            find(samples, id)?.stop();
            println!("{id} is stopped: connections to it are refused");
        }
        ["start", id] => {
            find(samples, id)?.restart().await?;
            println!("{id} serves again");
        }
        [verb @ ("drain" | "ready"), id] => {
            let state = if *verb == "ready" { AdminState::Ready } else { AdminState::Drain };
            repository.set_state(find(samples, id)?.row()?.id, state).await?;
            println!("{id}: {verb}, live within a second");
        }
        _ => println!("{PROMPT_HELP}"),
    }
    Ok(true)
}

fn find<'a>(samples: &'a mut [Sample], id: &str) -> anyhow::Result<&'a mut Sample> {
    let sample = samples.iter_mut().find(|sample| sample.id() == id);
    sample.ok_or_else(|| anyhow!("no backend {id}; `list` names them"))
}

/// A folder for the time of the demo.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("edgeproxy-demo-{}", std::process::id()));
        // Ours alone, and made by us: a folder that is there already is somebody else's.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
