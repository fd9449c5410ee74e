//! What the system says of a process.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

/// Memory that a process has for itself alone and has touched, in KiB. Counts no program text and
/// no file that happens to be mapped.
pub fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse().ok()).expect("Linux 4.5 or newer")
}

/// How often the main thread of a process has gone to sleep.
pub fn sleeps(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).expect("Linux counts them")
}

/// Threads of a process.
pub fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").count()
}

/// Whether a process handles SIGTERM and SIGINT itself.
pub fn handles_signals(pid: u32) -> bool {
    [Signal::TERM, Signal::INT].into_iter().all(|signal| handles(pid, signal))
}

/// Whether a process handles a signal itself.
pub fn handles(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 1
}

/// Lets this process open as many descriptors as it may, and says how many that is.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(now).unwrap_or(usize::MAX)
}

/// Whether every thread of a process has been stopped by a signal.
pub fn is_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// States of the connections of this machine to an IPv4 address, as numbered by Linux: 1 is
/// established, 2 unanswered, 8 closed by the peer.
pub fn connections_to(addr: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(addr) = addr else { panic!("{addr} is not an IPv4 address") };
    let ip = u32::from_ne_bytes(addr.ip().octets());
    let wanted = format!("{ip:08X}:{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux");
    let states = table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(2);
        (columns.next()? == wanted).then(|| u8::from_str_radix(columns.next()?, 16).ok())?
    });
    states.collect()
}

/// Makes a named pipe: whoever opens it to read waits for whoever writes.
pub fn make_pipe(path: &Path) {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("a pipe");
}

/// The pipe's end to write to, if somebody waits at the other.
pub fn open_pipe(path: &Path) -> Option<File> {
    let pipe = open(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok()?;
    Some(File::from(pipe))
}

/// Whether somebody listens on an IPv4 address of this machine.
pub fn is_listened_on(addr: SocketAddr) -> bool {
    const LISTENS: &str = "0A";
    let SocketAddr::V4(addr) = addr else { panic!("{addr} is not an IPv4 address") };
    let ip = u32::from_ne_bytes(addr.ip().octets());
    let wanted = format!("{ip:08X}:{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux");
    table.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().take(4).collect();
        matches!(columns[..], [_, local, _, state] if local == wanted && state == LISTENS)
    })
}
