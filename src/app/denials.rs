//! Clients that operators have denied while the process runs: each until a moment or for good, and kept
//! in a file, so that a restart lets nobody in again.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::domain::cidr::Cidr;

/// Most entries.
pub(super) const MOST: usize = 10_000;
/// The file in the state folder.
const FILE: &str = "edge-proxy.deny.json";

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    pub cidr: Cidr,
    /// Seconds since the epoch; `None` = until it is taken off.
    pub expires_at: Option<i64>,
    pub note: Option<String>,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    cidr: String,
    expires_at: Option<i64>,
    note: Option<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Denials {
    entries: Mutex<Vec<Denial>>,
    /// Where they outlive the process, if they can.
    file: Option<PathBuf>,
}

impl Denials {
    /// Those that a process before has left in the state folder and that go on at `unix_now`.
    pub fn kept(folder: &Path, unix_now: i64) -> Self {
        let file = folder.join(FILE);
        let entries = match read(&file) {
            Ok(entries) => entries,
            Err(reason) => {
                tracing::warn!("{}: {reason}; nobody is denied by it", file.display());
                Vec::new()
            }
        };
        let denials = Self { entries: Mutex::new(entries), file: Some(file) };
        denials.expire(unix_now);
        denials
    }

    /// All entries, by range.
    pub fn all(&self) -> Vec<Denial> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the next one ends.
    pub fn next_end(&self) -> Option<i64> {
        self.all().iter().filter_map(|denial| denial.expires_at).min()
    }

    /// Adds an entry, in place of that of the same range. `false` when there are too many.
    pub fn add(&self, denial: Denial) -> bool {
        self.change(|entries| {
            entries.retain(|known| known.cidr != denial.cidr);
            let has_room = entries.len() < MOST;
            if has_room {
                entries.push(denial);
                entries.sort_by_key(|denial| denial.cidr.to_string());
            }
            has_room
        })
    }

    /// Takes an entry off; `false` when there is none.
    pub fn remove(&self, cidr: Cidr) -> bool {
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|known| known.cidr != cidr);
            entries.len() < before
        })
    }

    /// Takes those off that have ended; whether there were any.
    pub fn expire(&self, unix_now: i64) -> bool {
        let is_over = |denial: &Denial| denial.expires_at.is_some_and(|at| at <= unix_now);
        self.all().iter().any(is_over)
            && self.change(|entries| {
                entries.retain(|denial| !is_over(denial));
                true
            })
    }

    /// Changes the entries, and the file if that made a difference.
    fn change(&self, act: impl FnOnce(&mut Vec<Denial>) -> bool) -> bool {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = act(&mut entries);
        if let Some(file) = self.file.as_ref().filter(|_| changed)
            && let Err(error) = write(file, &entries)
        {
            tracing::warn!("{}: {error}; a restart forgets who was denied", file.display());
        }
        changed
    }
}

fn read(file: &Path) -> Result<Vec<Denial>, String> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let written: Vec<Written> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let entry = |Written { cidr, expires_at, note }| {
        let bad = |_| format!("{cidr:?} is no address range");
        Ok(Denial { cidr: cidr.parse().map_err(bad)?, expires_at, note })
    };
    written.into_iter().take(MOST).map(entry).collect()
}

/// The whole file is there, or the one before.
fn write(file: &Path, entries: &[Denial]) -> std::io::Result<()> {
    let written: Vec<Written> = entries
        .iter()
        .map(|Denial { cidr, expires_at, note }| Written {
            cidr: cidr.to_string(),
            expires_at: *expires_at,
            note: note.clone(),
        })
        .collect();
    let part = file.with_extension("part");
    let mut options = std::fs::OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    out.write_all(&serde_json::to_vec_pretty(&written)?)?;
    out.sync_all()?;
    std::fs::rename(&part, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(cidr: &str, expires_at: Option<i64>) -> Denial {
        Denial { cidr: cidr.parse().unwrap(), expires_at, note: None }
    }

    #[test]
    fn entries_outlive_the_process_until_they_end() {
        let folder = tempfile::tempdir().unwrap();
        let denials = Denials::kept(folder.path(), 0);
        assert!(denials.add(denial("192.0.2.0/24", Some(100))));
        assert!(denials.add(denial("2001:db8::/32", None)));
        assert!(denials.add(denial("192.0.2.0/24", Some(200))), "the later word counts");
        assert!(denials.add(denial("198.51.100.1", Some(50))));
        assert_eq!(denials.next_end(), Some(50));

        let again = Denials::kept(folder.path(), 60);
        let expected = [denial("192.0.2.0/24", Some(200)), denial("2001:db8::/32", None)];
        assert_eq!(again.all(), expected);
        assert!(again.remove("2001:db8::/32".parse().unwrap()));
        assert!(!again.remove("2001:db8::/32".parse().unwrap()));
        assert!(again.expire(200) && !again.expire(300));
        assert_eq!(Denials::kept(folder.path(), 0).all(), []);
    }

    #[test]
    fn a_file_that_makes_no_sense_denies_nobody_and_is_replaced_by_the_next_entry() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "[{\"cidr\": 7}]").unwrap();
        let denials = Denials::kept(folder.path(), 0);
        assert_eq!(denials.all(), []);
        assert!(denials.add(denial("192.0.2.1", None)));
        assert_eq!(Denials::kept(folder.path(), 0).all().len(), 1);
    }
}
