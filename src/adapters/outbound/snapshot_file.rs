//! The last good table of a registry in a file on this machine, to start from when the store does not
//! answer.
//!
//! It is replaced whole: written beside its place, synchronised, and renamed over. When the file was
//! last written or [confirmed](SnapshotFile::confirm) says how old what is in it is. Each store has a file
//! of its own, so that several processes can share a folder; those of one store replace each other's.
//!
//! Renewals of leases are no reason to write it again: a lease that went on when it was written is taken
//! to have had as much left when it was last confirmed.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::domain::backend::{Number, RawRow};
use crate::domain::ports::Registry;
use crate::domain::{AdminState, Backend, Lease};

/// How the file's name begins; a number of its store and `.json` follow.
const NAME: &str = "registry-snapshot-";
/// How the name of one that is being written ends.
const PART: &str = ".part";
/// What this version writes, and the only one that it reads.
const VERSION: u32 = 1;
/// A file that is being written for so long is not any more.
const ABANDONED: Duration = Duration::from_secs(60);
/// Longest file that is read, in bytes: some millions of rows.
const MAX_FILE: u64 = 1 << 30;

/// Where the last good table is kept, and of which store.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    store: String,
    /// The file that was written last, by device and inode.
    written: Option<(u64, u64)>,
}

/// What was kept.
#[derive(Debug)]
pub struct Kept {
    /// The table.
    pub registry: Registry,
    /// How long ago the store was last known to say so.
    pub age: Duration,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    /// As [`describe`](crate::domain::ports::BackendRepository::describe) names it.
    store: String,
    /// When, in seconds since the Unix epoch; files of before there were renewals do not say.
    #[serde(default)]
    written: Option<i64>,
    backends: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    id: String,
    app: String,
    region: String,
    country: Option<String>,
    wg_ip: String,
    port: u16,
    healthy: bool,
    weight: u32,
    soft_limit: u32,
    hard_limit: u32,
    deleted: bool,
    created_at: Option<String>,
    updated_at: Option<String>,
    lease: Option<LeaseRow>,
}

#[derive(Serialize, Deserialize)]
struct LeaseRow {
    generation: i64,
    expires_at: Option<i64>,
    admin_state: String,
}

impl SnapshotFile {
    /// The file in `folder` for the table of `store`. Nothing is read or written yet.
    #[must_use]
    pub fn new(folder: &Path, store: String) -> Self {
        let path = folder.join(format!("{NAME}{:016x}.json", number(&store)));
        Self { path, store, written: None }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept; `None` when there is nothing. Blocks.
    ///
    /// # Errors
    /// When there is a file that cannot be used, which is then none of this store's or damaged.
    pub fn read(&self) -> Result<Option<Kept>, String> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| error.to_string())?,
        };
        let modified = file.metadata().and_then(|metadata| metadata.modified());
        let modified = modified.map_err(|error| error.to_string())?;
        let content: Content = serde_json::from_reader(BufReader::new(file.take(MAX_FILE)))
            .map_err(|error| format!("damaged: {error}"))?;
        let Content { version, store, written, backends } = content;
        if version != VERSION {
            return Err(format!("its version is {version}; this program reads {VERSION}"));
        }
        if store != self.store {
            return Err(format!("it is of another registry: {store}"));
        }
        let backends: Result<Vec<_>, String> = backends.into_iter().map(Row::backend).collect();
        let mut registry = Registry {
            backends: backends.map_err(|reason| format!("damaged: {reason}"))?,
            skipped: Vec::new(),
        };
        // One from the future is as good as new.
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Some(written) = written {
            prolong(&mut registry, written, whole_secs(since));
        }
        Ok(Some(Kept { registry, age: clock::wall().saturating_sub(since) }))
    }

    /// Puts `registry` in the place of what is kept, if anything; the rows that were left out are not.
    /// `unix_now` (seconds since the Unix epoch) says which leases go on. Blocks.
    ///
    /// # Errors
    /// When it cannot be written; what was kept is kept still.
    pub fn write(&mut self, registry: &Registry, unix_now: i64) -> io::Result<()> {
        let content = Content {
            version: VERSION,
            store: self.store.clone(),
            written: Some(unix_now),
            backends: registry.backends.iter().map(Row::of).collect(),
        };
        self.sweep();
        // Nobody else's: another process with the same folder writes beside it.
        let part = self.path.with_extension(format!("{:016x}{PART}", fastrand::u64(..)));
        let written = write_whole(&part, &content)
            .and_then(|file| fs::rename(&part, &self.path).map(|()| file));
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        self.written = Some(identity(&written?)?);
        // The rename itself outlives a loss of power too.
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    /// Notes that the store still says what was written last, but for leases that have been renewed.
    /// Blocks.
    ///
    /// # Errors
    /// When that file is not there any more, or another in its place, or its times cannot be set.
    pub fn confirm(&self) -> io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        if self.written != Some(identity(&file)?) {
            return Err(io::Error::other("another process has replaced it"));
        }
        let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times =
            Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
        Ok(rustix::fs::futimens(file, &times)?)
    }

    /// Removes what writers that were killed have left, once it is a minute old.
    fn sweep(&self) {
        let Some(folder) = self.path.parent().and_then(|folder| fs::read_dir(folder).ok()) else {
            return;
        };
        for entry in folder.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let since = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let is_old = since.is_some_and(|since| clock::wall().saturating_sub(since) > ABANDONED);
            if name.starts_with(NAME) && name.ends_with(PART) && is_old {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Gives leases that went on when the file was `written` as much time from when it was `confirmed`, both
/// in seconds since the Unix epoch.
fn prolong(registry: &mut Registry, written: i64, confirmed: i64) {
    let by = confirmed.saturating_sub(written).max(0);
    for lease in registry.backends.iter_mut().filter_map(|backend| backend.lease.as_mut()) {
        if !lease.has_ended(written) {
            lease.expires_at = lease.expires_at.map(|at| at.saturating_add(by));
        }
    }
}

fn whole_secs(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The same number for the same name, whatever the machine and the version (FNV-1a, 64 bits).
fn number(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn write_whole(path: &Path, content: &Content) -> io::Result<File> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let mut out = BufWriter::new(file);
    serde_json::to_writer(&mut out, content)?;
    let file = out.into_inner()?;
    file.sync_all()?;
    Ok(file)
}

impl Row {
    fn of(backend: &Backend) -> Self {
        let b = backend;
        Self {
            id: b.id.to_string(),
            app: b.app.to_string(),
            region: b.region.to_string(),
            country: b.country.map(|country| country.to_string()),
            wg_ip: b.wg_ip.to_string(),
            port: b.port,
            healthy: b.healthy,
            weight: b.weight,
            soft_limit: b.soft_limit,
            hard_limit: b.hard_limit,
            deleted: b.deleted,
            created_at: b.created_at.clone(),
            updated_at: b.updated_at.clone(),
            lease: b.lease.as_ref().map(LeaseRow::of),
        }
    }

    fn backend(self) -> Result<Backend, String> {
        let number = |given: u32| Some(Number::Whole(given.into()));
        let id = self.id.clone();
        let lease = self.lease.map(LeaseRow::lease).transpose()?;
        let row = RawRow {
            id: Some(self.id),
            app: Some(self.app),
            region: Some(self.region),
            country: self.country,
            wg_ip: Some(self.wg_ip),
            port: number(self.port.into()),
            healthy: number(self.healthy.into()),
            weight: number(self.weight),
            soft_limit: number(self.soft_limit),
            hard_limit: number(self.hard_limit),
            deleted: number(self.deleted.into()),
            created_at: self.created_at,
            updated_at: self.updated_at,
            lease,
        };
        Backend::try_from(row).map_err(|reason| format!("backend {id}: {reason}"))
    }
}

impl LeaseRow {
    fn of(lease: &Lease) -> Self {
        let Lease { generation, expires_at, admin_state } = *lease;
        Self { generation, expires_at, admin_state: admin_state.as_str().into() }
    }

    fn lease(self) -> Result<Lease, String> {
        let Self { generation, expires_at, admin_state } = self;
        let admin_state: AdminState = admin_state.parse()?;
        Ok(Lease { generation, expires_at, admin_state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> i64 {
        whole_secs(clock::wall())
    }

    fn registry() -> Registry {
        let row = |id: &str, ip: &str| RawRow {
            id: Some(id.into()),
            app: Some("web".into()),
            region: Some("sa".into()),
            country: Some("BR".into()),
            wg_ip: Some(ip.into()),
            port: Some(Number::Whole(80)),
            updated_at: Some("2026-01-01 00:00:00".into()),
            ..RawRow::default()
        };
        let lease = Lease { generation: 7, expires_at: Some(99), admin_state: AdminState::Maint };
        let rows = [
            row("a", "10.0.0.1"),
            RawRow { healthy: Some(Number::Whole(0)), country: None, ..row("b", "2001:db8::1") },
            RawRow { lease: Some(lease), deleted: Some(Number::Whole(1)), ..row("c", "10.0.0.3") },
        ];
        let backends = rows.map(|row| Backend::try_from(row).unwrap()).to_vec();
        Registry { backends, skipped: Vec::new() }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_left_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        assert!(file.read().unwrap().is_none());
        file.write(&Registry::default(), now()).unwrap();
        file.write(&registry(), now()).unwrap();
        assert_eq!(file.read().unwrap().unwrap().registry, registry());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn it_is_as_old_as_when_it_was_last_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        assert!(file.confirm().is_err());
        file.write(&registry(), now()).unwrap();
        let day = Duration::from_secs(86_400);
        let yesterday = UNIX_EPOCH + clock::wall().saturating_sub(day);
        File::options().write(true).open(file.path()).unwrap().set_modified(yesterday).unwrap();
        assert!(file.read().unwrap().unwrap().age >= day);
        file.confirm().unwrap();
        assert!(file.read().unwrap().unwrap().age < day);
    }

    #[test]
    fn a_lease_has_as_much_left_as_when_it_was_written_unless_it_had_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        let now = now();
        let mut written = registry();
        let ends = [Some(now + 30), Some(now - 30), None];
        for (backend, expires_at) in written.backends.iter_mut().zip(ends) {
            backend.lease =
                Some(Lease { generation: 1, expires_at, admin_state: AdminState::Ready });
        }
        file.write(&written, now).unwrap();
        let confirmed = UNIX_EPOCH + clock::wall() + Duration::from_secs(3_600);
        let opened = File::options().write(true).open(file.path()).unwrap();
        opened.set_modified(confirmed).unwrap();
        let kept = file.read().unwrap().unwrap().registry;
        assert!(kept.is_same_but_for_expiries(&written));
        let read: Vec<_> = kept.backends.iter().map(|b| b.lease.as_ref().unwrap()).collect();
        let left = read[0].expires_at.unwrap() - now - 3_600;
        assert!((30..=32).contains(&left), "{left}");
        assert_eq!((read[1].expires_at, read[2].expires_at), (ends[1], None));
        // A clock that was put back takes nothing away, and an older file does not say when.
        opened.set_modified(UNIX_EPOCH).unwrap();
        assert_eq!(file.read().unwrap().unwrap().registry, written);
        let text = fs::read_to_string(file.path()).unwrap();
        let at = text.find("\"written\":").unwrap();
        let end = at + text[at..].find(',').unwrap();
        fs::write(file.path(), format!("{}{}", &text[..at], &text[end + 1..])).unwrap();
        assert_eq!(file.read().unwrap().unwrap().registry, written);
    }

    #[test]
    fn only_what_was_written_last_is_confirmed_and_what_others_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        let mut other = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        file.write(&registry(), now()).unwrap();
        other.write(&Registry::default(), now()).unwrap();
        assert!(file.confirm().unwrap_err().to_string().contains("replaced"));
        other.confirm().unwrap();
        let left = file.path().with_extension("1.part");
        File::create(&left).unwrap().set_modified(UNIX_EPOCH).unwrap();
        file.write(&registry(), now()).unwrap();
        assert!(!left.exists());
        file.confirm().unwrap();
    }

    #[test]
    fn one_of_another_store_or_damaged_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        file.write(&registry(), now()).unwrap();
        let other = SnapshotFile::new(folder.path(), "PostgreSQL y".into());
        assert!(other.read().unwrap().is_none(), "each has its own");
        fs::copy(file.path(), other.path()).unwrap();
        assert_eq!(other.read().unwrap_err(), "it is of another registry: PostgreSQL x");
        let text = fs::read_to_string(file.path()).unwrap();
        for (damage, reason) in [
            (text[..text.len() / 2].to_owned(), "damaged: "),
            (text.replace("10.0.0.1", "db.internal"), "damaged: backend a: wg_ip"),
            (text.replacen("\"version\":1", "\"version\":9", 1), "its version is 9"),
        ] {
            fs::write(file.path(), damage).unwrap();
            let said = file.read().unwrap_err();
            assert!(said.contains(reason), "{said}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = SnapshotFile::new(&folder.path().join("none"), "PostgreSQL x".into());
        assert!(file.read().unwrap().is_none());
        assert_eq!(file.write(&registry(), now()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
