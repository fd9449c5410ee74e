//! The kernel's notices (inotify): which folders are watched, and what their events say of files.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// A watched file.
pub(super) type FileId = u64;

/// What the kernel has told, for the task; and what is worth telling.
#[derive(Debug, Default)]
pub(super) struct Signs {
    followed: Mutex<Followed>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Followed {
    /// Entries of folders that decide what a file holds, and which files.
    entries: HashMap<PathBuf, BTreeSet<FileId>>,
    /// The folders that they are in.
    folders: HashMap<PathBuf, Folder>,
    /// Files with signs of a change that the task has not taken.
    stirred: BTreeSet<FileId>,
}

#[derive(Debug, Default)]
struct Folder {
    files: BTreeSet<FileId>,
    /// Not so when it went away, though there may be another of its name.
    is_watched: bool,
}

impl Signs {
    /// The files that may have changed since the last call; waits until there is one.
    pub(super) async fn stirred(&self) -> BTreeSet<FileId> {
        loop {
            let stirred = std::mem::take(&mut self.followed().stirred);
            if !stirred.is_empty() {
                return stirred;
            }
            self.told.notified().await;
        }
    }

    /// Whether the kernel would not tell of a change on `trail`.
    pub(super) fn has_lapsed(&self, trail: &[PathBuf]) -> bool {
        let followed = self.followed();
        let is_watched =
            |folder| followed.folders.get(folder).is_some_and(|known| known.is_watched);
        !trail.iter().all(|entry| is_watched(folder_of(entry)))
    }

    /// Takes it that the kernel does not tell of changes on `trail`, until it is followed again.
    pub(super) fn distrust(&self, trail: &[PathBuf]) {
        let mut followed = self.followed();
        for entry in trail {
            if let Some(folder) = followed.folders.get_mut(folder_of(entry)) {
                folder.is_watched = false;
            }
        }
    }

    /// Takes in an event. Called by the thread that reads them, for all that happens in a folder.
    fn tell(&self, event: &notify::Event) {
        let is_read = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => true,
            _ => false,
        };
        if is_read {
            return;
        }
        let has_gone =
            matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        let mut followed = self.followed();
        let Followed { entries, folders, stirred } = &mut *followed;
        for path in &event.paths {
            stirred.extend(entries.get(path).into_iter().flatten());
            if let Some(folder) = folders.get_mut(path) {
                folder.is_watched &= !has_gone;
                stirred.extend(&folder.files);
            }
        }
        // The kernel had more to tell than it could keep.
        if event.need_rescan() {
            stirred.extend(folders.values().flat_map(|folder| &folder.files));
        }
        if !stirred.is_empty() {
            drop(followed);
            self.told.notify_one();
        }
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    /// Puts `after` in the place of `before` as the trail of a file. Returns the folders to watch,
    /// and those that nobody asks for any more.
    fn replace(
        &mut self,
        id: FileId,
        before: &[PathBuf],
        after: &[PathBuf],
    ) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let mut new = Vec::new();
        for entry in after {
            self.entries.entry(entry.clone()).or_default().insert(id);
            let path = folder_of(entry);
            let folder = self.folders.entry(path.into()).or_default();
            folder.files.insert(id);
            if !folder.is_watched {
                // From now on an event may say otherwise.
                folder.is_watched = true;
                new.push(path.into());
            }
        }
        let mut left = Vec::new();
        for entry in before {
            if !after.contains(entry)
                && let Some(files) = self.entries.get_mut(entry)
            {
                files.remove(&id);
                if files.is_empty() {
                    self.entries.remove(entry);
                }
            }
            let path = folder_of(entry);
            if !after.iter().any(|entry| folder_of(entry) == path)
                && let Some(folder) = self.folders.get_mut(path)
            {
                folder.files.remove(&id);
                if folder.files.is_empty() {
                    self.folders.remove(path);
                    left.push(path.into());
                }
            }
        }
        (new, left)
    }
}

/// Has the kernel tell of what happens on the trails of files. Blocks, on a file system that does.
pub(super) struct Follower {
    signs: Arc<Signs>,
    trails: HashMap<FileId, Vec<PathBuf>>,
    inotify: Inotify,
}

impl Follower {
    pub(super) fn new(signs: Arc<Signs>) -> Self {
        Self { signs, trails: HashMap::new(), inotify: Inotify(None) }
    }

    /// Follows `trail` for a file, in the place of the one before; an empty one ends it.
    ///
    /// # Errors
    /// When the kernel will not tell of all of it: it has no more watches, a folder may not be
    /// read, or has just gone.
    pub(super) fn follow(&mut self, id: FileId, trail: &[PathBuf]) -> io::Result<()> {
        let before = self.trails.remove(&id).unwrap_or_default();
        let (new, left) = self.signs.followed().replace(id, &before, trail);
        if !trail.is_empty() {
            self.trails.insert(id, trail.into());
        }
        for folder in left {
            self.inotify.unwatch(&folder);
        }
        let mut result = Ok(());
        for folder in new {
            // One of this name that has gone may be known still.
            self.inotify.unwatch(&folder);
            if let Err(error) = self.inotify.watch(&folder, &self.signs) {
                if let Some(folder) = self.signs.followed().folders.get_mut(&folder) {
                    folder.is_watched = false;
                }
                result = Err(error);
            }
        }
        result
    }
}

/// The watcher of the `notify` crate, made when it is first needed. It panics, and does so again
/// when it is dropped, when the thread that it reads in could not be started.
struct Inotify(Option<RecommendedWatcher>);

impl Inotify {
    fn watch(&mut self, folder: &Path, signs: &Arc<Signs>) -> io::Result<()> {
        if self.0.is_none() {
            let signs = Arc::clone(signs);
            let handler = move |event: notify::Result<notify::Event>| {
                if let Ok(event) = event {
                    signs.tell(&event);
                }
            };
            self.0 = Some(notify::recommended_watcher(handler).map_err(into_io)?);
        }
        self.contained(|watcher| watcher.watch(folder, RecursiveMode::NonRecursive))
    }

    fn unwatch(&mut self, folder: &Path) {
        // An error is that it was not watched.
        let _ = self.contained(|watcher| watcher.unwatch(folder));
    }

    fn contained(
        &mut self,
        call: impl FnOnce(&mut RecommendedWatcher) -> notify::Result<()>,
    ) -> io::Result<()> {
        let Some(mut watcher) = self.0.take() else { return Ok(()) };
        if let Ok(result) = catch_unwind(AssertUnwindSafe(|| call(&mut watcher))) {
            self.0 = Some(watcher);
            result.map_err(into_io)
        } else {
            std::mem::forget(watcher);
            Err(io::Error::other("no thread can be started to read notices"))
        }
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let watcher = self.0.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(watcher)));
    }
}

fn into_io(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        notify::ErrorKind::MaxFilesWatch => {
            io::Error::other("no more watches (fs.inotify.max_user_watches)")
        }
        notify::ErrorKind::PathNotFound => io::ErrorKind::NotFound.into(),
        _ => io::Error::other(error),
    }
}

fn folder_of(entry: &Path) -> &Path {
    entry.parent().unwrap_or(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(texts: &[&str]) -> Vec<PathBuf> {
        texts.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_folder_is_watched_once_and_for_as_long_as_a_file_needs_it() {
        let mut followed = Followed::default();
        let one = paths(&["/v/c", "/v/..data", "/v/..1/c"]);
        assert_eq!(followed.replace(1, &[], &one), (paths(&["/v", "/v/..1"]), vec![]));
        assert_eq!(followed.replace(2, &[], &paths(&["/v/d"])), (vec![], vec![]));
        let two = paths(&["/v/c", "/v/..data", "/v/..2/c"]);
        assert_eq!(followed.replace(1, &one, &two), (paths(&["/v/..2"]), paths(&["/v/..1"])));
        assert_eq!(followed.replace(1, &two, &[]), (vec![], paths(&["/v/..2"])));
        assert_eq!(followed.replace(2, &paths(&["/v/d"]), &[]), (vec![], paths(&["/v"])));
        assert!(followed.entries.is_empty());
    }

    #[tokio::test]
    async fn only_what_is_on_a_trail_is_a_sign() {
        let signs = Signs::default();
        let trail = paths(&["/v/c"]);
        signs.followed().replace(7, &[], &trail);
        let event = |kind, path: &str| notify::Event::new(kind).add_path(path.into());
        let written = EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        signs.tell(&event(written, "/v/other"));
        signs.tell(&event(opened, "/v/c"));
        assert!(signs.followed().stirred.is_empty());
        signs.tell(&event(written, "/v/c"));
        assert_eq!(signs.stirred().await, [7].into());

        assert!(!signs.has_lapsed(&trail));
        let removed = EventKind::Remove(notify::event::RemoveKind::Folder);
        signs.tell(&event(removed, "/v"));
        assert_eq!(signs.stirred().await, [7].into());
        assert!(signs.has_lapsed(&trail));
        assert_eq!(signs.followed().replace(7, &trail, &trail).0, paths(&["/v"]));
        assert!(!signs.has_lapsed(&trail));

        signs.tell(&notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan));
        assert_eq!(signs.stirred().await, [7].into());
    }
}
