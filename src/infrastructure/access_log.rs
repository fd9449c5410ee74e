//! Log lines that never make a worker wait: gathered by each worker, written by one thread.
//! When that thread cannot keep up, whole batches are dropped and their lines counted.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::domain::time::Time;

/// A batch is handed over when it has grown to this many bytes ...
const BATCH_BYTES: usize = 16 << 10;
/// ... or is this old.
const BATCH_AGE: Duration = Duration::from_millis(50);
/// Batches that may wait to be written: at most about 4 MiB.
const WAITING: usize = 256;

/// Where batches go. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct AccessLog {
    batches: Option<SyncSender<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
}

/// The thread that writes; join it after the last [`AccessLog`] is gone.
#[derive(Debug)]
pub struct AccessLogThread(Option<JoinHandle<()>>);

impl AccessLog {
    /// A log that is written to `out`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(out: impl Write + Send + 'static) -> std::io::Result<(Self, AccessLogThread)> {
        let (batches, waiting) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&waiting, out))?;
        let log = Self { batches: Some(batches), dropped: Arc::default() };
        Ok((log, AccessLogThread(Some(thread))))
    }

    /// A log that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { batches: None, dropped: Arc::default() }
    }

    /// Whether lines are kept at all.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.batches.is_some()
    }

    /// How many lines were dropped because the writer could not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// One worker's end.
    #[must_use]
    pub fn writer(&self) -> LogWriter {
        LogWriter { log: self.clone(), batch: Vec::new(), lines: 0, due: None }
    }
}

impl AccessLogThread {
    /// Waits until everything handed over is written.
    pub fn join(mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(waiting: &Receiver<Vec<u8>>, mut out: impl Write) {
    for batch in waiting {
        // A closed pipe on the other side must not end the proxy: the lines are gone, it lives.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
    }
}

/// One worker's end of the log.
#[derive(Debug)]
pub struct LogWriter {
    log: AccessLog,
    batch: Vec<u8>,
    lines: u64,
    due: Option<Time>,
}

impl LogWriter {
    /// Adds a line, which `write` appends with its line end.
    pub fn line(&mut self, now: Time, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.log.is_on() {
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
        if batch.is_empty() {
            return;
        }
        let Some(batches) = &self.log.batches else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = batches.try_send(batch)
        {
            self.log.dropped.fetch_add(lines, Ordering::Relaxed);
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
        let (log, thread) = AccessLog::start(Stuck(wait, written)).unwrap();
        let mut writer = log.writer();
        let total = WAITING as u64 + 50;
        for n in 0..total {
            writer.line(Time::ZERO, |out| writeln!(out, "{n}").unwrap());
            writer.flush();
        }
        let dropped = log.dropped();
        assert!((49..=50).contains(&dropped), "{dropped}");
        drop((writer, go));
        drop(log);
        thread.join();
        assert_eq!(lines.iter().count() as u64, total - dropped);
    }

    #[test]
    fn a_batch_waits_for_its_age_and_no_longer() {
        let (log, _thread) = AccessLog::start(std::io::sink()).unwrap();
        let mut writer = log.writer();
        writer.line(Time::ZERO, |out| out.extend_from_slice(b"x\n"));
        assert_eq!(writer.due(), Some(Time::ZERO + BATCH_AGE));
        writer.flush_if_due(Time::ZERO);
        assert!(writer.due().is_some());
        writer.flush_if_due(Time::ZERO + BATCH_AGE);
        assert_eq!(writer.due(), None);
    }
}
