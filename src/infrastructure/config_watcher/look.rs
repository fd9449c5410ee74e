//! One look at a file: where its path leads, and what it holds. Blocks.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::notices::{Watched, watch};
use super::trail::trail;

/// So much of a file is compared by its content, in bytes. What follows it is compared by the
/// file's length and times.
const MAX_READ: u64 = 1 << 20;

/// What a look finds.
pub(super) struct Look {
    /// Whether the path leads anywhere; see [`trail`].
    pub way: io::Result<()>,
    /// What the kernel watches of it; `None` when it does not.
    pub watched: Option<Watched>,
    /// What the file holds.
    pub content: io::Result<Content>,
}

/// What a file holds, as far as it takes to see that it has changed.
///
/// A hash and not the content, which may be secret and need not be in memory twice. Its keys are
/// drawn by each watcher, so that nobody can make two files of one hash, and of two files that are
/// not made for it, one pair in 2^64 goes unnoticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// There is no file.
    Missing,
    /// There is one.
    Held {
        /// Of up to [`MAX_READ`] bytes.
        hash: u64,
        /// How many they were.
        length: usize,
        /// For a longer file: inode, length, and the times of the last write and of the last change
        /// of anything.
        beyond: Option<(u64, u64, [i64; 4])>,
    },
}

/// Looks at the absolute `path`, when the kernel watches all that it can of what leads there:
/// what changes while it looks is either found or told.
pub(super) fn look(path: &Path, keys: &RandomState, inotify: Option<&OwnedFd>) -> Look {
    let (entries, way) = trail(path);
    let watched = inotify.map(|inotify| watch(inotify, &entries));
    let gone = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    let content = match read(path, keys) {
        Err(error) if gone.contains(&error.kind()) => Ok(Content::Missing),
        content => content,
    };
    Look { way, watched, content }
}

fn read(path: &Path, keys: &RandomState) -> io::Result<Content> {
    // Opening a pipe would else wait for whoever writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    (&file).take(MAX_READ).read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    let times = [after.mtime(), after.mtime_nsec(), after.ctime(), after.ctime_nsec()];
    let is_longer = bytes.len() as u64 == MAX_READ && after.len() > MAX_READ;
    Ok(Content::Held {
        hash: keys.hash_one(bytes.as_slice()),
        length: bytes.len(),
        beyond: is_longer.then(|| (after.ino(), after.len(), times)),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn content_is_all_that_counts_of_a_short_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, keys) = (folder.path().join("x"), RandomState::new());
        let held = || look(&path, &keys, None).content.unwrap();
        assert_eq!(held(), Content::Missing);
        fs::write(&path, "one").unwrap();
        let one = held();
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(held(), one);
        fs::write(&path, "two").unwrap();
        assert_ne!(held(), one);
        fs::write(folder.path().join("y"), "one").unwrap();
        fs::rename(folder.path().join("y"), &path).unwrap();
        assert_eq!(held(), one);
    }

    #[test]
    fn a_change_behind_what_is_read_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (path, keys) = (folder.path().join("x"), RandomState::new());
        fs::write(&path, vec![b'x'; 2 << 20]).unwrap();
        let before = look(&path, &keys, None).content.unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"y").unwrap();
        assert_ne!(look(&path, &keys, None).content.unwrap(), before);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            let error = look(path, &RandomState::new(), None).content.unwrap_err();
            assert_eq!(error.to_string(), "it is not a regular file", "{}", path.display());
        }
    }
}
