//! The task: when each file is looked at, and what is made of what it is told and what it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::RandomState;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::ConfigChange;
use super::look::{Content, Look, look};
use super::notices::{Entry, FileId, Notices, Watched};
use super::settle::Settle;
use crate::clock::{self, Time};

/// Files that are watched at once.
const MAX_FILES: usize = 1024;
/// Looks under way at once. On a file system that hangs each one has a thread to itself; when all
/// of them hang no other file is looked at.
const MAX_LOOKS: usize = 32;

/// A file to watch, and where to say whether it can be.
pub(super) struct Request {
    pub given: PathBuf,
    pub absolute: PathBuf,
    pub asked: oneshot::Sender<io::Result<()>>,
}

struct File {
    given: PathBuf,
    absolute: PathBuf,
    /// Who waits to hear whether it can be watched; nobody any more once that is decided.
    asked: Vec<oneshot::Sender<io::Result<()>>>,
    /// `None` before the first look.
    settle: Option<Settle>,
    /// What the kernel tells of it.
    followed: Vec<Entry>,
    stage: Stage,
    is_unreadable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    /// To be looked at as soon as that may be.
    Wanted,
    Looking {
        /// What this look finds may be out of date: another is to follow.
        again: bool,
    },
}

/// What the task knows.
pub(super) struct Watching {
    changes: broadcast::Sender<ConfigChange>,
    keys: RandomState,
    files: BTreeMap<FileId, File>,
    next: FileId,
    looks: JoinSet<(FileId, Time, Look)>,
    /// `None` when the kernel is not asked, or does not tell.
    notices: Option<Notices>,
    has_warned: bool,
}

impl Watching {
    pub(super) fn new(changes: broadcast::Sender<ConfigChange>) -> Self {
        Self {
            changes,
            keys: RandomState::new(),
            files: BTreeMap::new(),
            next: 0,
            looks: JoinSet::new(),
            notices: None,
            has_warned: false,
        }
    }

    /// Watches until nobody can ask for more. With `notices` the kernel is asked to tell of
    /// changes.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        interval: Duration,
        notices: bool,
    ) {
        match notices.then(Notices::new).transpose() {
            Ok(notices) => self.notices = notices,
            Err(error) => self.warn(&error),
        }
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.begin_looks();
            let due = self.due();
            let rest = due.map_or(Duration::MAX, |due| due.since(clock::now()));
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.add(request),
                    None => return,
                },
                stirred = stirred(self.notices.as_ref()) => match stirred {
                    Ok(stirred) => stirred.into_iter().for_each(|id| self.stir(id)),
                    Err(error) => {
                        self.notices = None;
                        self.warn(&error);
                    }
                },
                Some(Ok((id, began, look))) = self.looks.join_next() => self.looked(id, began, look),
                _ = ticks.tick() => self.files.values_mut().for_each(File::want),
                () = tokio::time::sleep(rest), if due.is_some() => self.want_due(),
            }
        }
    }

    fn add(&mut self, request: Request) {
        let Request { given, absolute, asked } = request;
        if let Some(file) = self.files.values_mut().find(|file| file.given == given) {
            file.asked.push(asked);
            // It is decided now, or with those who wait already.
            if file.settle.is_some() && file.asked.len() == 1 {
                file.answer(&Ok(()));
            }
        } else if self.files.len() >= MAX_FILES {
            let error = format!("{MAX_FILES} files are watched already");
            let _ = asked.send(Err(io::Error::other(error)));
        } else {
            let file = File {
                given,
                absolute,
                asked: vec![asked],
                settle: None,
                followed: Vec::new(),
                stage: Stage::Wanted,
                is_unreadable: false,
            };
            self.files.insert(self.next, file);
            self.next += 1;
        }
    }

    /// There is a sign that a file may have changed.
    fn stir(&mut self, id: FileId) {
        if let Some(settle) = self.files.get_mut(&id).and_then(|file| file.settle.as_mut()) {
            settle.stir(clock::now());
        }
    }

    /// When the first of the files that had signs of a change is to be looked at.
    fn due(&self) -> Option<Time> {
        let idle = self.files.values().filter(|file| file.stage == Stage::Idle);
        idle.filter_map(|file| file.settle.as_ref()?.due()).min()
    }

    fn want_due(&mut self) {
        let now = clock::now();
        for file in self.files.values_mut() {
            if file.settle.as_ref().and_then(Settle::due).is_some_and(|due| due <= now) {
                file.want();
            }
        }
    }

    fn begin_looks(&mut self) {
        let wanted = self.files.iter_mut().filter(|(_, file)| file.stage == Stage::Wanted);
        let room = MAX_LOOKS.saturating_sub(self.looks.len());
        for (&id, file) in wanted.take(room) {
            file.stage = Stage::Looking { again: false };
            let (path, keys) = (file.absolute.clone(), self.keys.clone());
            let inotify = self.notices.as_ref().map(Notices::inotify);
            let began = clock::now();
            self.looks.spawn_blocking(move || (id, began, look(&path, &keys, inotify.as_deref())));
        }
    }

    fn looked(&mut self, id: FileId, began: Time, look: Look) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let again = file.stage == Stage::Looking { again: true };
        file.stage = if again { Stage::Wanted } else { Stage::Idle };
        let is_first = file.settle.is_none();
        let is_told = look.watched.as_ref().is_some_and(Watched::is_whole);
        let is_stale = look.watched.is_some_and(|watched| self.follow(id, watched));
        if is_first {
            self.decide(id, look.way, look.content, is_told);
        } else {
            self.compare(id, began, look.content);
        }
        if is_stale {
            self.stir(id);
        }
    }

    /// Takes in what the kernel watches for a file. Says whether something may have happened that
    /// neither the look has found nor the kernel has told of, so that another has to follow.
    fn follow(&mut self, id: FileId, watched: Watched) -> bool {
        let Watched { entries, has_gone, refused } = watched;
        if let Some(error) = refused {
            self.warn(&error);
        }
        let (Some(notices), Some(file)) = (&mut self.notices, self.files.get_mut(&id)) else {
            return false;
        };
        let is_new = entries != file.followed;
        if is_new {
            notices.replace(id, &file.followed, &entries);
            file.followed = entries;
        }
        is_new || has_gone
    }

    /// Decides whether a file can be watched, by the first look. One that cannot be read can be,
    /// when the kernel will tell that this has changed (`is_told`), unless it is none.
    fn decide(
        &mut self,
        id: FileId,
        way: io::Result<()>,
        content: io::Result<Content>,
        is_told: bool,
    ) {
        let known = match (way, content) {
            (Ok(()), Ok(content)) => Some(content),
            (Ok(()), Err(error)) if is_told && error.kind() != io::ErrorKind::InvalidInput => None,
            (Err(error), _) | (Ok(()), Err(error)) => return self.refuse(id, error),
        };
        if let Some(file) = self.files.get_mut(&id) {
            file.settle = Some(Settle::new(known));
            file.answer(&Ok(()));
        }
    }

    /// Compares what a later look found with what is known.
    fn compare(&mut self, id: FileId, began: Time, content: io::Result<Content>) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let Some(settle) = &mut file.settle else { return };
        file.is_unreadable = match &content {
            Err(error) if !file.is_unreadable => {
                let file = file.given.display();
                tracing::warn!(%file, %error, "a watched file cannot be read: it counts as unchanged");
                true
            }
            content => content.is_err(),
        };
        if settle.seen(began, content.ok()) {
            // An error is that nobody listens.
            let _ = self.changes.send(ConfigChange::FileModified(file.given.clone()));
        }
    }

    fn refuse(&mut self, id: FileId, error: io::Error) {
        let Some(mut file) = self.files.remove(&id) else { return };
        if let Some(notices) = &mut self.notices {
            notices.replace(id, &file.followed, &[]);
        }
        file.answer(&Err(error));
    }

    /// Says that polling is all there is, once.
    fn warn(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(%error, "the kernel will not tell of changes: files are polled");
        }
    }
}

/// The files that the kernel tells of; waits for ever when there are no notices.
async fn stirred(notices: Option<&Notices>) -> io::Result<BTreeSet<FileId>> {
    match notices {
        Some(notices) => notices.stirred().await,
        None => std::future::pending().await,
    }
}

impl File {
    fn want(&mut self) {
        self.stage = match self.stage {
            Stage::Idle | Stage::Wanted => Stage::Wanted,
            Stage::Looking { .. } => Stage::Looking { again: true },
        };
    }

    fn answer(&mut self, result: &io::Result<()>) {
        for asked in self.asked.drain(..) {
            let result = match result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            // Whoever asked may have gone.
            let _ = asked.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event that comes before the task knows whom it concerns is passed over.
    #[tokio::test]
    async fn a_file_that_is_newly_watched_is_looked_at_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let mut watching = Watching::new(broadcast::Sender::new(1));
        watching.notices = Some(Notices::new().unwrap());
        let (asked, mut answer) = oneshot::channel();
        watching.add(Request { given: path.clone(), absolute: path.clone(), asked });
        for is_new in [true, false] {
            watching.begin_looks();
            let (id, began, look) = watching.looks.join_next().await.unwrap().unwrap();
            watching.looked(id, began, look);
            assert_eq!(watching.due().is_some(), is_new);
            let file = watching.files.get_mut(&id).unwrap();
            file.settle = Some(Settle::new(Some(Content::Missing)));
            file.want();
        }
        assert!(answer.try_recv().unwrap().is_ok());
    }
}
