//! Log lines that never make a worker wait: gathered by each worker, written by one thread.
//! When that thread cannot keep up, whole batches are dropped and their lines counted.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::domain::time::Time;

/// A batch is handed over when it has grown to this many bytes ...
const BATCH_BYTES: usize = 64 << 10;
/// ... or is this old.
const BATCH_AGE: Duration = Duration::from_millis(50);
/// Batches that may wait to be written: at most about 8 MiB.
const WAITING: usize = 128;

/// How long [`LogSink::flush`] waits for an output that does not take its lines.
const FLUSH_WAIT: Duration = Duration::from_secs(1);
/// How often it tries to get into a full queue in that time.
const FLUSH_TRIES: u32 = 50;

/// Where batches go. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct LogSink {
    batches: SyncSender<Batch>,
    on: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Batch {
    Lines(Vec<u8>),
    /// Everything before this has been written.
    Flushed(SyncSender<()>),
}

impl LogSink {
    /// A sink that is written to `out` by a thread of its own, which ends with the last clone.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(name: &str, out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (batches, waiting) = sync_channel(WAITING);
        std::thread::Builder::new().name(name.into()).spawn(move || write_all(&waiting, out))?;
        let on = Arc::new(AtomicBool::new(true));
        Ok(Self { batches, on, dropped: Arc::default() })
    }

    /// Whether lines are kept at all; they are at first.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Has lines kept from now on, or not.
    pub fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// How many lines were dropped because the writer could not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// One worker's end.
    #[must_use]
    pub fn writer(&self) -> LogWriter {
        LogWriter { sink: self.clone(), batch: Vec::new(), lines: 0, due: None }
    }

    /// Waits, a second at most, until what was handed over is written. For the end of the process.
    pub fn flush(&self) {
        let (flushed, wait) = sync_channel(1);
        let mut marker = Batch::Flushed(flushed);
        for _ in 0..FLUSH_TRIES {
            match self.batches.try_send(marker) {
                Ok(()) => {
                    let _ = wait.recv_timeout(FLUSH_WAIT);
                    return;
                }
                Err(TrySendError::Full(back)) => marker = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::sleep(FLUSH_WAIT / FLUSH_TRIES);
        }
    }

    fn send(&self, lines: Vec<u8>, count: u64) {
        if self.batches.try_send(Batch::Lines(lines)).is_err() {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

fn write_all(waiting: &Receiver<Batch>, mut out: impl Write) {
    for batch in waiting {
        match batch {
            // A closed pipe on the other side must not end the proxy: the lines are gone, it lives.
            Batch::Lines(lines) => drop(out.write_all(&lines).and_then(|()| out.flush())),
            Batch::Flushed(flushed) => drop(flushed.try_send(())),
        }
    }
}

/// One event of `tracing`, which goes to the sink as a whole.
#[derive(Debug)]
pub struct EventWriter {
    sink: LogSink,
    line: Vec<u8>,
}

impl Write for EventWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for EventWriter {
    fn drop(&mut self) {
        self.sink.send(std::mem::take(&mut self.line), 1);
    }
}

impl<'a> MakeWriter<'a> for LogSink {
    type Writer = EventWriter;

    fn make_writer(&'a self) -> EventWriter {
        EventWriter { sink: self.clone(), line: Vec::new() }
    }
}

/// One worker's end of the log.
#[derive(Debug)]
pub struct LogWriter {
    sink: LogSink,
    batch: Vec<u8>,
    lines: u64,
    due: Option<Time>,
}

impl LogWriter {
    /// Adds a line, which `write` appends with its line end.
    pub fn line(&mut self, now: Time, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.sink.is_on() {
            return;
        }
        write(&mut self.batch);
        self.lines += 1;
        self.due.get_or_insert(now + BATCH_AGE);
        if self.batch.len() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// When the batch should be handed over, if there is one.
    #[must_use]
    pub const fn due(&self) -> Option<Time> {
        self.due
    }

    /// Hands the batch over if it is old enough.
    pub fn flush_if_due(&mut self, now: Time) {
        if self.due.is_some_and(|due| due <= now) {
            self.flush();
        }
    }

    /// Hands the batch over.
    pub fn flush(&mut self) {
        self.due = None;
        let lines = std::mem::take(&mut self.lines);
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.sink.send(batch, lines);
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Writes nothing until it is let go.
    struct Stuck(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_drops_lines_and_counts_them_instead_of_waiting() {
        let (go, wait) = channel();
        let (written, lines) = channel();
        let sink = LogSink::start("stuck", Stuck(wait, written)).unwrap();
        let mut writer = sink.writer();
        let total = WAITING as u64 + 50;
        for n in 0..total {
            writer.line(Time::ZERO, |out| writeln!(out, "{n}").unwrap());
            writer.flush();
        }
        let dropped = sink.dropped();
        assert!((49..=50).contains(&dropped), "{dropped}");
        drop(go);
        sink.flush();
        drop((writer, sink));
        assert_eq!(lines.iter().count() as u64, total - dropped);
    }

    #[test]
    fn a_batch_waits_for_its_age_and_no_longer() {
        let sink = LogSink::start("sunk", std::io::sink()).unwrap();
        let mut writer = sink.writer();
        writer.line(Time::ZERO, |out| out.extend_from_slice(b"x\n"));
        assert_eq!(writer.due(), Some(Time::ZERO + BATCH_AGE));
        writer.flush_if_due(Time::ZERO);
        assert!(writer.due().is_some());
        writer.flush_if_due(Time::ZERO + BATCH_AGE);
        assert_eq!(writer.due(), None);
    }
}
