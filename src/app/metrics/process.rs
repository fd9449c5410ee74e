//! The usual numbers about a process, as Prometheus' own client libraries name them.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::adapters::outbound::prometheus::{Kind, Page};

/// Writes what the system says; what it does not say is left out.
pub(super) fn write(page: &mut Page) {
    let mut gauge = |name, kind, help, value: Option<f64>| {
        if let Some(value) = value {
            page.family(name, kind, help).sample(&[], value);
        }
    };
    let stat = Stat::read();
    gauge(
        "process_cpu_seconds_total",
        Kind::Counter,
        "User and system time spent, in seconds.",
        stat.as_ref().and_then(Stat::cpu_seconds),
    );
    gauge(
        "process_start_time_seconds",
        Kind::Gauge,
        "Start of the process, in seconds since the Unix epoch.",
        stat.as_ref().and_then(Stat::started),
    );
    gauge(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Memory in use, in bytes.",
        status("VmRSS:").map(|kib| kib * 1_024.0),
    );
    gauge(
        "process_virtual_memory_bytes",
        Kind::Gauge,
        "Address space in use, in bytes.",
        status("VmSize:").map(|kib| kib * 1_024.0),
    );
    gauge("process_threads", Kind::Gauge, "Threads.", status("Threads:"));
    gauge("process_open_fds", Kind::Gauge, "Descriptors in use.", open_descriptors().map(number));
    gauge(
        "process_max_fds",
        Kind::Gauge,
        "Most descriptors.",
        getrlimit(Resource::Nofile).current.map(number),
    );
}

/// Linux 6.2 and newer say it as the folder's size; there it is not counted one by one.
fn open_descriptors() -> Option<u64> {
    let folder = "/proc/self/fd";
    let size = fs::metadata(folder).ok()?.len();
    if size > 0 { Some(size) } else { Some(fs::read_dir(folder).ok()?.count() as u64 - 1) }
}

/// `/proc/self/stat` behind the name, whose fields proc(5) numbers from 3.
struct Stat(String);

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        text.rsplit_once(") ").map(|(_, rest)| Self(rest.to_owned()))
    }

    fn field(&self, number: usize) -> Option<f64> {
        self.0.split_ascii_whitespace().nth(number - 3)?.parse().ok()
    }

    fn cpu_seconds(&self) -> Option<f64> {
        Some((self.field(14)? + self.field(15)?) / ticks_per_second())
    }

    fn started(&self) -> Option<f64> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
        Some(boot + self.field(22)? / ticks_per_second())
    }
}

fn ticks_per_second() -> f64 {
    number(rustix::param::clock_ticks_per_second())
}

/// A number of `/proc/self/status`.
fn status(name: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floating ones")]
const fn number(whole: u64) -> f64 {
    whole as f64
}
