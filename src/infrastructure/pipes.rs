//! Pipes for moving bulk data between sockets without copying it, kept for the next to need one.

use std::os::fd::OwnedFd;

use rustix::io;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// What a pipe should hold, in bytes: somewhat more than is moved at once. An unprivileged user may
/// have 64 MiB in all.
const WANTED: usize = 256 << 10;
/// Empty pipes kept by one worker.
const KEPT: usize = 16;

/// An empty pipe.
#[derive(Debug)]
pub struct Pipe {
    /// The end that is read.
    pub output: OwnedFd,
    /// The end that is written.
    pub input: OwnedFd,
    /// How much it holds, in bytes.
    pub capacity: usize,
}

/// One worker's spare pipes.
#[derive(Debug, Default)]
pub struct Pipes {
    spare: Vec<Pipe>,
}

impl Pipes {
    /// A spare pipe or a new one; smaller than wished for where the system says so
    /// (`/proc/sys/fs/pipe-user-pages-soft`).
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.spare.pop() {
            return Ok(pipe);
        }
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let capacity =
            fcntl_setpipe_size(&input, WANTED).or_else(|_| fcntl_getpipe_size(&input))?;
        Ok(Pipe { output, input, capacity })
    }

    /// Takes back a pipe that is empty.
    pub fn give_back(&mut self, pipe: Pipe) {
        if self.spare.len() < KEPT {
            self.spare.push(pipe);
        }
    }

    /// Closes all spare pipes.
    pub fn release(&mut self) {
        self.spare.clear();
    }
}
