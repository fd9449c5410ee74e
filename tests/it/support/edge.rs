//! A running edge-proxy.

use std::io;
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::api::Api;
use super::client::{Client, Visit};
use super::http::{Answer, ask};
use super::lines::{Access, Lines};
use super::metrics::Metrics;
use super::site::Site;
use super::{PATIENCE, eventually, process};

/// The real binary, running. Killed when dropped.
pub struct Edge {
    pub site: Site,
    pub addr: SocketAddr,
    metrics: Option<SocketAddr>,
    api: Option<SocketAddr>,
    child: Child,
    pub(super) log: Lines,
    access: Lines,
}

/// How a process ended.
#[derive(Debug)]
pub struct Exit {
    /// `None` when a signal killed it.
    pub code: Option<i32>,
    /// Since it was waited for.
    pub took: Duration,
    /// All that it said of connections, as it is.
    pub access_lines: Vec<String>,
    /// All that it logged.
    pub log: Vec<String>,
}

impl Exit {
    /// All that it said of connections.
    pub fn access(&self) -> Vec<Access> {
        self.access_lines.iter().map(|line| Access::parse(line)).collect()
    }

    /// Whether it logged this.
    pub fn logged(&self, text: &str) -> bool {
        self.log.iter().any(|line| line.contains(text))
    }
}

impl Edge {
    pub(super) fn start(site: Site) -> Self {
        Self::start_with(site, |stdout| Some(Lines::of(stdout)))
    }

    /// Starts with something done to the process, by its id, before it is ready.
    pub fn start_while(site: Site, meanwhile: impl FnOnce(u32)) -> Self {
        Self::start_in(site, |stdout| Some(Lines::of(stdout)), meanwhile)
    }

    /// Starts with standard output left to `reader`, which may close it or never read it.
    pub fn start_with(site: Site, reader: impl FnOnce(ChildStdout) -> Option<Lines>) -> Self {
        Self::start_in(site, reader, |_| {})
    }

    fn start_in(
        site: Site,
        reader: impl FnOnce(ChildStdout) -> Option<Lines>,
        meanwhile: impl FnOnce(u32),
    ) -> Self {
        let mut child = site.command(&[]).spawn().expect("the program starts");
        let log = Lines::of(child.stderr.take().expect("piped"));
        let access = reader(child.stdout.take().expect("piped")).unwrap_or_else(Lines::none);
        meanwhile(child.id());
        // Of several, the first.
        let bound = |line: &str, key: &str| {
            let forms = [format!("{key}=\""), format!("\"{key}\":\"")];
            let (_, rest) = forms.iter().find_map(|form| line.split_once(form))?;
            let (addr, _) = rest.split_once(['"', ','])?;
            addr.parse().ok()
        };
        let ready = |line: &str| {
            let addr = line.contains("edge-proxy is ready").then(|| bound(line, "listening"))?;
            Some((addr.expect("an address"), bound(line, "metrics"), bound(line, "api")))
        };
        let Some((addr, metrics, api)) = log.find(PATIENCE, ready) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("edge-proxy did not start:\n{}", log.so_far().join("\n"));
        };
        Self { site, addr, metrics, api, child, log, access }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How often its control plane has gone to sleep so far.
    pub fn sleeps(&self) -> u64 {
        process::sleeps(self.pid())
    }

    pub fn memory_kib(&self) -> u64 {
        process::memory_kib(self.pid())
    }

    pub fn descriptors(&self) -> usize {
        process::descriptors(self.pid())
    }

    pub fn threads(&self) -> usize {
        process::threads(self.pid())
    }

    /// Open descriptors of the process once it has all that it needs to serve.
    pub fn descriptors_at_rest(&self) -> usize {
        eventually("it handles signals", || process::handles_signals(self.pid()).then_some(()));
        self.descriptors()
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// A client on 127.0.0.1.
    pub fn client(&self) -> Client {
        self.try_client_from("127.0.0.1").expect("the proxy accepts")
    }

    /// A client at an address of its own.
    pub fn try_client_from(&self, ip: &str) -> io::Result<Client> {
        Client::connect(ip, self.addr)
    }

    /// A client that connects and waits for the backend's greeting.
    pub fn visit(&self) -> io::Result<Visit> {
        self.visit_from("127.0.0.1")
    }

    /// Who serves a client, if anybody does.
    pub fn served_by(&self) -> Option<String> {
        self.visit().ok().map(|visit| visit.served_by)
    }

    /// The same from an address of its own.
    pub fn visit_from(&self, ip: &str) -> io::Result<Visit> {
        let mut client = self.try_client_from(ip)?;
        let served_by = client.greeting()?;
        Ok(Visit { client, served_by })
    }

    /// A client that is turned away with a reset: what the access log says of it.
    pub fn refusal_of(&self, ip: &str) -> Access {
        self.access_of_addr(Client::refused(ip, self.addr))
    }

    /// A client that asks a [`Web`](super::Web) for its name.
    pub fn fetch(&self) -> io::Result<String> {
        self.try_client_from("127.0.0.1")?.fetch()
    }

    /// Where the control API listens.
    pub fn api_addr(&self) -> SocketAddr {
        self.api.expect("a site with the API")
    }

    /// The control API, asked with the site's token.
    pub fn api(&self) -> Api {
        Api::at(self.api_addr())
    }

    /// Where metrics are served.
    pub fn metrics_addr(&self) -> SocketAddr {
        self.metrics.expect("a site with metrics")
    }

    /// What the metrics listener answers.
    pub fn get(&self, path: &str) -> Answer {
        ask(self.metrics_addr(), "GET", path).expect("an answer of the metrics listener")
    }

    /// All metrics as they are now.
    pub fn metrics(&self) -> Metrics {
        let page = self.get("/metrics");
        assert_eq!(page.status, 200, "{}", page.body);
        Metrics::parse(&page.body)
    }

    /// The metrics, once `wanted` is true of them.
    pub fn metrics_when(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        eventually(what, || Some(self.metrics()).filter(&wanted))
    }

    /// The first log line with this text, once there is one.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_log_within(PATIENCE, text)
    }

    /// The same with a deadline that is itself part of what is tested.
    pub fn wait_for_log_within(&self, deadline: Duration, text: &str) -> String {
        let found = self.log.find(deadline, |line| line.contains(text).then(|| line.to_owned()));
        found.unwrap_or_else(|| {
            panic!("no {text:?} in the log within {deadline:?}:\n{}", self.log.so_far().join("\n"))
        })
    }

    /// How many lines with this text were logged so far.
    pub fn times_logged(&self, text: &str) -> usize {
        self.log.so_far().iter().filter(|line| line.contains(text)).count()
    }

    /// What was logged so far.
    pub fn log_so_far(&self) -> Vec<String> {
        self.log.so_far()
    }

    /// The access-log lines so far, as they are.
    pub fn access_lines(&self) -> Vec<String> {
        self.access.so_far()
    }

    /// The access-log line about a client, once there is one.
    pub fn access_of(&self, client: &Client) -> Access {
        self.access_of_addr(client.addr())
    }

    /// The same, of a client that is gone.
    pub fn access_of_addr(&self, client: SocketAddr) -> Access {
        let wanted = format!(" client={client} ");
        self.access
            .find(PATIENCE, |line| line.contains(&wanted).then(|| Access::parse(line)))
            .unwrap_or_else(|| panic!("no access line{wanted}: {:#?}", self.access.so_far()))
    }

    /// The first access-log line with this text, as it is, once there is one.
    pub fn access_line(&self, text: &str) -> String {
        let found = self.access.find(PATIENCE, |line| line.contains(text).then(|| line.to_owned()));
        found.unwrap_or_else(|| panic!("no {text:?} in {:#?}", self.access.so_far()))
    }

    /// Waits until so many connections have ended for this reason, or one that ends in this.
    pub fn wait_for_ends(&self, count: usize, reason: &str) {
        let mut seen = 0;
        let found = self.access.find(PATIENCE, |line| {
            seen += usize::from(line.ends_with(reason));
            (seen >= count).then_some(())
        });
        assert!(found.is_some(), "{seen} of {count} connections ended with reason={reason}");
    }

    /// Sends a signal to a process that has had the time to prepare for it.
    pub fn signal(&self, signal: Signal) {
        eventually("it handles signals", || process::handles_signals(self.pid()).then_some(()));
        self.signal_at_once(signal);
    }

    /// Sends a signal, prepared or not.
    pub fn signal_at_once(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// Stops the process where it stands, until it is sent `SIGCONT`.
    pub fn freeze(&self) {
        self.signal_at_once(Signal::STOP);
        eventually("it stands still", || process::is_stopped(self.pid()).then_some(()));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal_at_once(Signal::CONT);
    }

    /// Waits for the end of the process.
    pub fn exit(&mut self) -> Exit {
        let begun = Instant::now();
        let status: ExitStatus = eventually("the process ends", || {
            self.child.try_wait().expect("a child of this process")
        });
        let took = begun.elapsed();
        let access_lines = self.access.to_the_end(PATIENCE);
        Exit { code: status.code(), took, access_lines, log: self.log.to_the_end(PATIENCE) }
    }

    /// Kills it, and gives back what it ran with, to start it again.
    pub fn killed(mut self) -> Site {
        self.signal_at_once(Signal::KILL);
        self.exit();
        std::mem::replace(&mut self.site, Site::new())
    }

    /// Ends it as a supervisor does, and waits.
    pub fn stop(mut self) -> Exit {
        self.signal(Signal::TERM);
        self.exit()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of edge-proxy\n{}\n---", self.log.so_far().join("\n"));
        }
    }
}
