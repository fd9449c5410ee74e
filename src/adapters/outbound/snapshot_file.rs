//! The last good table of a registry in a file on this machine, to start from when the store does not
//! answer.
//!
//! It is replaced whole: written beside its place, synchronised, and renamed over. When the file was
//! last written or [confirmed](SnapshotFile::confirm) says how old what is in it is.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::domain::backend::{Number, RawRow};
use crate::domain::ports::Registry;
use crate::domain::{AdminState, Backend, Lease};

/// Name of the file in the state folder.
const NAME: &str = "registry-snapshot.json";
/// What this version writes, and the only one that it reads.
const VERSION: u32 = 1;
/// Longest file that is read, in bytes: some millions of rows.
const MAX_FILE: u64 = 1 << 30;

/// Where the last good table is kept, and of which store.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    store: String,
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
        Self { path: folder.join(NAME), store }
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
        let Content { version, store, backends } = content;
        if version != VERSION {
            return Err(format!("its version is {version}; this program reads {VERSION}"));
        }
        if store != self.store {
            return Err(format!("it is of another registry: {store}"));
        }
        let backends: Result<Vec<_>, String> = backends.into_iter().map(Row::backend).collect();
        let registry = Registry {
            backends: backends.map_err(|reason| format!("damaged: {reason}"))?,
            skipped: Vec::new(),
        };
        // One from the future is as good as new.
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Some(Kept { registry, age: clock::wall().saturating_sub(since) }))
    }

    /// Puts `registry` in the place of what is kept, if anything; the rows that were left out are not.
    /// Blocks.
    ///
    /// # Errors
    /// When it cannot be written; what was kept is kept still.
    pub fn write(&self, registry: &Registry) -> io::Result<()> {
        let content = Content {
            version: VERSION,
            store: self.store.clone(),
            backends: registry.backends.iter().map(Row::of).collect(),
        };
        // Of this process alone: another one with the same folder writes beside it.
        let part = self.path.with_extension(format!("{}.part", std::process::id()));
        let written = write_whole(&part, &content).and_then(|()| fs::rename(&part, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written?;
        // The rename itself outlives a loss of power too.
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    /// Notes that the store still says what is kept. Blocks.
    ///
    /// # Errors
    /// When there is no file, or its times cannot be set.
    pub fn confirm(&self) -> io::Result<()> {
        let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times =
            Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
        Ok(rustix::fs::futimens(File::options().write(true).open(&self.path)?, &times)?)
    }
}

fn write_whole(path: &Path, content: &Content) -> io::Result<()> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut out = BufWriter::new(file);
    serde_json::to_writer(&mut out, content)?;
    out.flush()?;
    out.get_ref().sync_all()
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
        let file = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        assert!(file.read().unwrap().is_none());
        file.write(&Registry::default()).unwrap();
        file.write(&registry()).unwrap();
        assert_eq!(file.read().unwrap().unwrap().registry, registry());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn it_is_as_old_as_when_it_was_last_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        assert!(file.confirm().is_err());
        file.write(&registry()).unwrap();
        let day = Duration::from_secs(86_400);
        let yesterday = UNIX_EPOCH + clock::wall().saturating_sub(day);
        File::options().write(true).open(file.path()).unwrap().set_modified(yesterday).unwrap();
        assert!(file.read().unwrap().unwrap().age >= day);
        file.confirm().unwrap();
        assert!(file.read().unwrap().unwrap().age < day);
    }

    #[test]
    fn one_of_another_store_or_damaged_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        file.write(&registry()).unwrap();
        let other = SnapshotFile::new(folder.path(), "PostgreSQL y".into());
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
        let file = SnapshotFile::new(&folder.path().join("none"), "PostgreSQL x".into());
        assert!(file.read().unwrap().is_none());
        assert_eq!(file.write(&registry()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
