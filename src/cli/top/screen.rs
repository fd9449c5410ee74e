//! A terminal for as long as something is watched: a screen of its own, and single keys.

use std::io::{self, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Another screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Where the size is not known.
const USUAL: (usize, usize) = (80, 24);

/// The terminal, until it is dropped.
pub(super) struct Screen {
    out: io::Stdout,
    /// As it was; `None` = nobody types here.
    before: Option<Termios>,
    keys: mpsc::Receiver<u8>,
    signals: [Signal; 2],
}

impl Screen {
    /// Takes it over; `None` when there is none.
    pub fn open() -> io::Result<Option<Self>> {
        let mut out = io::stdout();
        if !out.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut single = before.clone();
            single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(io::stdin(), OptionalActions::Now, &single)?;
        }
        write!(out, "{ENTER}")?;
        out.flush()?;
        let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        Ok(Some(Self { out, keys: typed(before.is_some()), before, signals }))
    }

    /// Columns and lines.
    pub fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.out) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => USUAL,
        }
    }

    /// Shows lines in place of those before.
    pub fn show(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (number, line) in lines.iter().enumerate() {
            if number > 0 {
                text.push_str("\r\n");
            }
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        let mut out = self.out.lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Returns when whoever watches has had enough.
    pub async fn left(&mut self) {
        let Self { keys, signals: [interrupt, terminate], .. } = self;
        loop {
            tokio::select! {
                key = keys.recv() => match key {
                    Some(b'q' | b'Q' | 4 | 27) => return,
                    Some(_) => {}
                    // Nobody types; a signal ends it.
                    None => std::future::pending().await,
                },
                _ = interrupt.recv() => return,
                _ = terminate.recv() => return,
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write!(self.out, "{LEAVE}").and_then(|()| self.out.flush());
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Keys, one by one.
fn typed(is_terminal: bool) -> mpsc::Receiver<u8> {
    let (sender, keys) = mpsc::channel(8);
    if is_terminal {
        // It ends with the process: nothing can wake a thread that reads a terminal.
        std::thread::spawn(move || {
            let mut key = [0];
            while matches!(io::stdin().read(&mut key), Ok(1)) {
                if sender.blocking_send(key[0]).is_err() {
                    return;
                }
            }
        });
    }
    keys
}
