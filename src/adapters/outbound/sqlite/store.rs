//! The file itself: when it is opened, when it is read again, how it is written.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::{Access, leases, rows, schema};
use crate::clock;
use crate::domain::ports::{Registry, Renewal};
use crate::domain::{AdminState, Backend, BackendId};

/// How long another program's lock is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

const MISSING: &str = "no such file; `edge-proxy backends add` or `edge-proxy run` creates it";

/// How old the last change to a file must be before its times tell the next change from it: file
/// systems count time in steps, of up to 2 s.
const SETTLED: Duration = Duration::from_secs(3);

/// One registry file and what was last read from it.
///
/// The file is open only while it is read or written. A connection held between looks would keep
/// other programs from moving the write-ahead log into the file as they leave, and a log that
/// stays is played into whatever file takes its place: `mv new.db routing.db` would give a
/// damaged database. So changes are told from the files' own state, not from `data_version`.
pub(super) struct Store {
    path: PathBuf,
    access: Access,
    /// The file's state at the last reading, once it can be relied on.
    seen: Option<Stamp>,
    registry: Registry,
    /// Counts readings that differ from the one before; 0 = nothing read yet.
    serial: u64,
}

impl Store {
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, String> {
        if access == Access::Create {
            create(path)?;
        }
        let store = Self {
            path: path.into(),
            access,
            seen: None,
            registry: Registry::default(),
            serial: 0,
        };
        rows::check(&store.connection()?)?;
        Ok(store)
    }

    pub(super) const fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }

    /// Reads everything, changed or not.
    pub(super) fn reread(&mut self) -> Result<(), String> {
        self.seen = None;
        self.refresh().map(drop)
    }

    /// Reads the rows when something may have changed, and says whether it did.
    pub(super) fn refresh(&mut self) -> Result<bool, String> {
        // Taken before reading: what changes meanwhile is read again next time.
        let before = Stamp::of(&self.path)?;
        if self.seen.as_ref() == Some(&before) {
            return Ok(false);
        }
        self.seen = None;
        let registry = rows::read(&mut self.connection()?)?;
        self.seen = before.is_settled(clock::wall()).then_some(before);
        if self.serial == 0 || registry != self.registry {
            self.registry = registry;
            self.serial += 1;
        }
        Ok(true)
    }

    pub(super) fn put(&mut self, backends: &[Backend]) -> Result<(), String> {
        self.write(|transaction| schema::put(transaction, backends))
    }

    pub(super) fn remove(&mut self, id: &BackendId) -> Result<bool, String> {
        self.write(|transaction| schema::remove(transaction, id))
    }

    pub(super) fn register(&mut self, backend: &Backend, expires_at: i64) -> Result<i64, String> {
        self.write(|transaction| leases::register(transaction, backend, expires_at))
    }

    pub(super) fn renew(&mut self, renewals: Vec<Renewal>) -> Result<(), String> {
        self.write(|transaction| leases::renew(transaction, renewals))
    }

    pub(super) fn set_state(&mut self, id: &BackendId, state: AdminState) -> Result<bool, String> {
        self.write(|transaction| leases::set_state(transaction, id, state))
    }

    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        if self.access == Access::ReadOnly {
            return Err("opened for reading only".into());
        }
        self.seen = None;
        let mut connection = self.connection()?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| explain(&error))?;
        let done = work(&transaction)?;
        transaction.commit().map_err(|error| explain(&error))?;
        Ok(done)
    }

    fn connection(&self) -> Result<Connection, String> {
        metadata(&self.path)?.ok_or(MISSING)?;
        let flags = match self.access {
            Access::ReadOnly => OpenFlags::SQLITE_OPEN_READ_ONLY,
            // Readers too: they take part in keeping a write-ahead log.
            Access::Create | Access::Existing => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        connect(&self.path, flags)
    }
}

/// What tells one state of a database from another without opening it.
#[derive(PartialEq, Eq)]
struct Stamp {
    file: FileStamp,
    /// The write-ahead log, when there is something in it.
    log: Option<FileStamp>,
}

#[derive(PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// Also moves when a file is overwritten and given its old time back (`cp -p`, `rsync -t`).
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Result<Self, String> {
        let file = metadata(path)?.ok_or(MISSING)?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = std::fs::metadata(log).ok().filter(|log| log.len() > 0);
        Ok(Self { file: FileStamp::from(&file), log: log.as_ref().map(FileStamp::from) })
    }

    /// Whether any later change would show: the last one is long enough ago.
    fn is_settled(&self, wall: Duration) -> bool {
        let limit = i64::try_from(wall.saturating_sub(SETTLED).as_secs()).unwrap_or(i64::MAX);
        std::iter::once(&self.file).chain(&self.log).all(|file| file.modified.0 < limit)
    }
}

impl From<&Metadata> for FileStamp {
    fn from(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

fn metadata(path: &Path) -> Result<Option<Metadata>, String> {
    match std::fs::metadata(path) {
        Ok(file) if file.is_dir() => Err("is a directory, not a database file".into()),
        Ok(file) if !file.is_file() => Err("is not a regular file".into()),
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn create(path: &Path) -> Result<(), String> {
    let fresh = metadata(path)?.is_none_or(|file| file.len() == 0);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(format!("cannot be created: there is no folder {}", folder.display()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut connection = connect(path, flags)?;
    if fresh {
        // A file system that cannot share memory refuses; the default journal does there.
        let _ = connection.pragma_update(None, "journal_mode", "wal");
    }
    schema::create(&mut connection)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, String> {
    let open = || {
        let connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(connection)
    };
    open().map_err(|error| {
        // Asked by name: to open and close the file would drop the locks that SQLite holds on it.
        match rustix::fs::access(path, rustix::fs::Access::READ_OK) {
            Err(reason) if path.exists() => {
                format!("cannot be read: {}", io::Error::from(reason))
            }
            _ => explain(&error),
        }
    })
}

/// What went wrong, for the person who owns the file.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "is not a SQLite database".into(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("locked by another program for more than {} s", BUSY_TIMEOUT.as_secs())
        }
        Some(ErrorCode::DatabaseCorrupt) => format!("is damaged: {error}"),
        Some(ErrorCode::CannotOpen) => format!("cannot be opened: {error}"),
        // Also when only reading: a write-ahead log is kept in files beside this one.
        Some(ErrorCode::ReadOnly) => "this user may not write to the file or its folder".into(),
        _ => error.to_string(),
    }
}
