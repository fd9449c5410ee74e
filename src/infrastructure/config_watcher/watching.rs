//! The task: when each file is looked at, and what is made of what it is told and what it finds.

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::ConfigChange;
use super::look::{Look, look};
use super::notices::{FileId, Follower, Signs};
use super::settle::{Settle, Verdict};
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
    /// The trail that the kernel tells of changes on.
    followed: Option<Vec<PathBuf>>,
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
    signs: Arc<Signs>,
    /// `None` while it works, and when there is none.
    follower: Option<Follower>,
    follows: JoinSet<(Follower, FileId, Vec<PathBuf>, io::Result<()>)>,
    /// Trails to be followed, the latest of each file.
    trails: BTreeMap<FileId, Vec<PathBuf>>,
    notices: bool,
    has_warned: bool,
}

impl Watching {
    pub(super) fn new(changes: broadcast::Sender<ConfigChange>, notices: bool) -> Self {
        let signs = Arc::<Signs>::default();
        Self {
            changes,
            keys: RandomState::new(),
            files: BTreeMap::new(),
            next: 0,
            looks: JoinSet::new(),
            follower: notices.then(|| Follower::new(Arc::clone(&signs))),
            signs,
            follows: JoinSet::new(),
            trails: BTreeMap::new(),
            notices,
            has_warned: false,
        }
    }

    /// Watches until nobody can ask for more.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let signs = Arc::clone(&self.signs);
        loop {
            self.begin_looks();
            self.begin_follow();
            let due = self.due();
            let rest = due.map_or(Duration::MAX, |due| due.since(clock::now()));
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.add(request),
                    None => return,
                },
                stirred = signs.stirred() => for id in stirred {
                    if let Some(settle) = self.files.get_mut(&id).and_then(|f| f.settle.as_mut()) {
                        settle.stir(clock::now());
                    }
                },
                Some(Ok((id, began, look))) = self.looks.join_next() => self.looked(id, began, look),
                Some(followed) = self.follows.join_next() => self.followed(followed),
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
                followed: None,
                stage: Stage::Wanted,
                is_unreadable: false,
            };
            self.files.insert(self.next, file);
            self.next += 1;
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
            let began = clock::now();
            self.looks.spawn_blocking(move || (id, began, look(&path, &keys)));
        }
    }

    fn looked(&mut self, id: FileId, began: Time, look: Look) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let again = file.stage == Stage::Looking { again: true };
        file.stage = if again { Stage::Wanted } else { Stage::Idle };
        let lapsed = |trail: &Vec<PathBuf>| {
            file.followed.as_ref() != Some(trail) || self.signs.has_lapsed(trail)
        };
        let trail = look.trail.as_ref().ok().filter(|trail| self.notices && lapsed(trail)).cloned();
        let is_followed = trail.is_some();
        if let Some(trail) = trail {
            self.trails.insert(id, trail);
        }
        let Some(settle) = &mut file.settle else {
            return self.looked_first(id, look, is_followed);
        };
        file.is_unreadable = match &look.content {
            Err(error) if !file.is_unreadable => {
                let file = file.given.display();
                tracing::warn!(%file, %error, "a watched file cannot be read: it counts as unchanged");
                true
            }
            content => content.is_err(),
        };
        match settle.seen(began, look.content.ok()) {
            Verdict::Wait => {}
            Verdict::Unannounced => {
                // The kernel should have told: it may be another folder that it watches.
                if let Some(trail) = &file.followed {
                    self.signs.distrust(trail);
                }
            }
            Verdict::Changed => {
                // An error is that nobody listens.
                let _ = self.changes.send(ConfigChange::FileModified(file.given.clone()));
            }
        }
    }

    /// Decides whether the file can be watched, unless that depends on the kernel.
    fn looked_first(&mut self, id: FileId, look: Look, is_followed: bool) {
        let Some(file) = self.files.get_mut(&id) else { return };
        match (look.trail, look.content) {
            (Ok(_), Ok(content)) => {
                file.settle = Some(Settle::new(Some(content)));
                file.answer(&Ok(()));
            }
            (Ok(_), Err(error)) if is_followed && error.kind() != io::ErrorKind::InvalidInput => {}
            (Err(error), _) | (Ok(_), Err(error)) => self.refuse(id, error),
        }
    }

    fn begin_follow(&mut self) {
        if let Some(mut follower) = self.follower.take() {
            if let Some((id, trail)) = self.trails.pop_first() {
                self.follows.spawn_blocking(move || {
                    let result = follower.follow(id, &trail);
                    (follower, id, trail, result)
                });
            } else {
                self.follower = Some(follower);
            }
        }
    }

    fn followed(
        &mut self,
        done: Result<(Follower, FileId, Vec<PathBuf>, io::Result<()>), tokio::task::JoinError>,
    ) {
        // Without one it panicked, or the runtime ends.
        let Ok((follower, id, trail, result)) = done else { return self.notices = false };
        self.follower = Some(follower);
        let Some(file) = self.files.get_mut(&id) else { return };
        let is_followed = result.is_ok();
        file.followed = is_followed.then_some(trail);
        if is_followed {
            // What happened before the kernel began to tell.
            file.want();
        }
        if let Err(error) = &result
            && !self.has_warned
        {
            self.has_warned = true;
            let file = file.given.display();
            tracing::warn!(%file, %error, "the kernel will not tell of changes: files are polled");
        }
        if file.settle.is_none() {
            match result {
                Ok(()) => {
                    file.settle = Some(Settle::new(None));
                    file.answer(&Ok(()));
                }
                Err(error) => self.refuse(id, error),
            }
        }
    }

    fn refuse(&mut self, id: FileId, error: io::Error) {
        if let Some(mut file) = self.files.remove(&id) {
            file.answer(&Err(error));
            if self.notices {
                self.trails.insert(id, Vec::new());
            }
        }
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
