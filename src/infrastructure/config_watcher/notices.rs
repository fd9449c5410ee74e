//! The kernel's notices (inotify): which folders are watched, and what their events say of files.
//!
//! Each look has the kernel watch the folders that decide what the file holds, and reads the file
//! after that. An event is of use when the task knows whom it concerns; one that comes earlier is
//! passed over. So a file whose entries are not those of the look before is looked at once more,
//! when the task knows them: what happened meanwhile is found, what happens from then on is told.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A watched file.
pub(super) type FileId = u64;

/// An entry of a watched folder: the kernel's number for that, never given to another, and a name.
pub(super) type Entry = (i32, OsString);

/// Bytes of events that are read at once; the longest event has 272.
const BATCH: usize = 4096;

/// What is a sign of a change. That somebody reads is none.
const SIGNS: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// The kernel's watches, and whose they are.
#[derive(Debug)]
pub(super) struct Notices {
    inotify: AsyncFd<Arc<OwnedFd>>,
    /// The files that each entry decides about.
    files: BTreeMap<Entry, BTreeSet<FileId>>,
}

/// What the kernel watches for a file.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub entries: Vec<Entry>,
    /// A folder went away before it could be watched.
    pub has_gone: bool,
    /// Why a folder is not watched that is there: it may not be read, or there are no more watches.
    pub refused: Option<io::Error>,
}

impl Watched {
    /// Whether the kernel tells of all that decides about the file.
    pub(super) const fn is_whole(&self) -> bool {
        !self.has_gone && self.refused.is_none()
    }
}

/// Has the kernel watch the folders of a trail; blocks, on a file system that does. One that is
/// watched already stays so, under its number.
pub(super) fn watch(inotify: &OwnedFd, trail: &[PathBuf]) -> Watched {
    let mut watched = Watched::default();
    for entry in trail {
        let (Some(folder), Some(name)) = (entry.parent(), entry.file_name()) else { continue };
        match inotify::add_watch(inotify, folder, SIGNS) {
            Ok(number) => watched.entries.push((number, name.into())),
            Err(Errno::NOENT | Errno::NOTDIR) => watched.has_gone = true,
            Err(error) => {
                let why = match error {
                    Errno::NOSPC => "no more watches (fs.inotify.max_user_watches)".into(),
                    error => error.to_string(),
                };
                let text = format!("{}: {why}", folder.display());
                watched.refused = Some(io::Error::other(text));
            }
        }
    }
    watched
}

impl Notices {
    /// Of no folder yet.
    ///
    /// # Errors
    /// When the user has as many instances, or the process as many descriptors, as it may have.
    ///
    /// # Panics
    /// Outside a tokio runtime whose I/O is enabled.
    #[expect(
        deprecated,
        reason = "what took its place is unsafe, and asks for what an `Arc<OwnedFd>` is: one \
                  descriptor, open for as long as that lives"
    )]
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let inotify = AsyncFd::with_interest(Arc::new(inotify), Interest::READABLE)?;
        Ok(Self { inotify, files: BTreeMap::new() })
    }

    /// Where looks have folders watched.
    pub(super) fn inotify(&self) -> Arc<OwnedFd> {
        Arc::clone(self.inotify.get_ref())
    }

    /// Puts `after` in the place of `before` as the entries that decide about a file, and has the
    /// folders left alone that no file needs any more. A look under way may have found one of them
    /// watched: its entries will be new ones, so another follows and has it watched anew.
    pub(super) fn replace(&mut self, id: FileId, before: &[Entry], after: &[Entry]) {
        for entry in after {
            self.files.entry(entry.clone()).or_default().insert(id);
        }
        for entry in before.iter().filter(|entry| !after.contains(entry)) {
            let Some(files) = self.files.get_mut(entry) else { continue };
            files.remove(&id);
            if files.is_empty() {
                self.files.remove(entry);
                if self.in_folder(entry.0).next().is_none() {
                    // An error is that the folder has gone, and the watch with it.
                    let _ = inotify::remove_watch(self.inotify.get_ref(), entry.0);
                }
            }
        }
    }

    /// The files that may have changed since the last call; waits until there is one. Nothing is
    /// lost when the future is dropped.
    ///
    /// # Errors
    /// When there will be no more notices.
    pub(super) async fn stirred(&self) -> io::Result<BTreeSet<FileId>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            // An error is that there was nothing to read.
            if let Ok(stirred) = ready.try_io(|inotify| self.read(inotify.get_ref())) {
                let stirred = stirred?;
                if !stirred.is_empty() {
                    return Ok(stirred);
                }
            }
        }
    }

    /// Reads one batch of events.
    fn read(&self, inotify: &OwnedFd) -> io::Result<BTreeSet<FileId>> {
        let mut batch = [MaybeUninit::uninit(); BATCH];
        let mut events = Reader::new(inotify, &mut batch);
        let mut stirred = BTreeSet::new();
        loop {
            let event = events.next()?;
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                // The kernel had more to tell than it could keep.
                stirred.extend(self.files.values().flatten());
            } else if let Some(name) = event.file_name() {
                let entry = (event.wd(), OsStr::from_bytes(name.to_bytes()).into());
                stirred.extend(self.files.get(&entry).into_iter().flatten());
            } else {
                // It is about the folder itself, which has other rights, another name, or has gone.
                stirred.extend(self.in_folder(event.wd()).flatten());
            }
            if events.is_buffer_empty() {
                return Ok(stirred);
            }
        }
    }

    /// The files that each entry of a folder decides about.
    fn in_folder(&self, number: i32) -> impl Iterator<Item = &BTreeSet<FileId>> {
        let entries = self.files.range((number, OsString::new())..);
        entries.take_while(move |((other, _), _)| *other == number).map(|(_, files)| files)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use super::*;

    impl Notices {
        /// Has `names` in `folder` followed for a file, as one look does.
        fn follow(&mut self, id: FileId, folder: &Path, names: &[&str]) -> Vec<Entry> {
            let trail: Vec<_> = names.iter().map(|name| folder.join(name)).collect();
            let entries = watch(&self.inotify(), &trail).entries;
            self.replace(id, &[], &entries);
            entries
        }

        /// How many folders the kernel says that it watches.
        fn watches(&self) -> usize {
            let info = format!("/proc/self/fdinfo/{}", self.inotify.as_raw_fd());
            let info = fs::read_to_string(info).unwrap();
            info.lines().filter(|line| line.starts_with("inotify wd:")).count()
        }
    }

    #[tokio::test]
    async fn a_folder_is_watched_once_and_for_as_long_as_a_file_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("x")).unwrap();
        let mut notices = Notices::new().unwrap();
        let one = notices.follow(1, folder.path(), &["c", "..data", "x/c"]);
        let two = notices.follow(2, folder.path(), &["c"]);
        assert_eq!(notices.watches(), 2);
        notices.replace(1, &one, &one[..2]);
        assert_eq!(notices.watches(), 1);
        notices.replace(1, &one[..2], &[]);
        assert_eq!(notices.watches(), 1);
        notices.replace(2, &two, &[]);
        assert_eq!(notices.watches(), 0);
        assert!(notices.files.is_empty());
    }

    #[tokio::test]
    async fn only_what_is_on_a_trail_is_a_sign() {
        let folder = tempfile::tempdir().unwrap();
        let watched = folder.path().join("x");
        fs::create_dir(&watched).unwrap();
        fs::write(watched.join("c"), "").unwrap();
        let mut notices = Notices::new().unwrap();
        notices.follow(7, &watched, &["c"]);
        notices.follow(8, &watched, &["d"]);
        fs::write(watched.join("other"), "").unwrap();
        fs::read(watched.join("c")).unwrap();
        fs::write(watched.join("d"), "").unwrap();
        assert_eq!(notices.stirred().await.unwrap(), [8].into());
        fs::rename(&watched, folder.path().join("y")).unwrap();
        assert_eq!(notices.stirred().await.unwrap(), [7, 8].into());
    }

    #[test]
    fn a_folder_that_has_gone_is_none_that_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inotify = inotify::init(CreateFlags::CLOEXEC).unwrap();
        let watched = watch(&inotify, &[folder.path().join("x/c"), folder.path().join("c")]);
        assert!(watched.has_gone && watched.refused.is_none());
        assert_eq!(watched.entries.len(), 1);
    }
}
