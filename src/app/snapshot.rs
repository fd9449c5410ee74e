//! Keeps the last good table in its file.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::unix_now;
use crate::adapters::outbound::snapshot_file::SnapshotFile;
use crate::clock;
use crate::domain::Backend;
use crate::domain::ports::Registry;

/// The file is written no more often than this, however often the registry changes ...
const BETWEEN_WRITES: Duration = Duration::from_secs(1);
/// ... and is confirmed no more often than this when it does not.
const BETWEEN_CONFIRMATIONS: Duration = Duration::from_secs(30);

/// What the file says: a table, and whose leases went on when it was written or confirmed, in seconds
/// since the Unix epoch.
struct Written {
    table: Arc<Registry>,
    at: i64,
}

impl Written {
    /// Whether it says what `table` does at `now`: but for when leases end that go on, which the file
    /// counts from its confirmation.
    fn says(&self, table: &Arc<Registry>, now: i64) -> bool {
        let is_same = Arc::ptr_eq(&self.table, table) || self.table.is_same_but_for_expiries(table);
        let mut pairs = self.table.backends.iter().zip(&table.backends);
        let has_ended =
            |backend: &Backend, at| backend.lease.as_ref().is_some_and(|lease| lease.has_ended(at));
        is_same && pairs.all(|(one, other)| has_ended(one, self.at) == has_ended(other, now))
    }
}

/// Writes each table that comes, the latest of several, and confirms the file when one comes again,
/// be it with leases that were renewed. Each reading of the store that agrees with the table in force is
/// one that comes.
pub(super) async fn keep(
    mut file: SnapshotFile,
    mut tables: watch::Receiver<Option<Arc<Registry>>>,
) {
    let mut kept: Option<Written> = None;
    let mut confirmed = clock::now();
    let mut complaint: Option<String> = None;
    while tables.changed().await.is_ok() {
        let Some(table) = tables.borrow_and_update().clone() else { continue };
        let now = unix_now();
        let is_kept = kept.as_ref().is_some_and(|kept| kept.says(&table, now));
        if is_kept && clock::now().since(confirmed) < BETWEEN_CONFIRMATIONS {
            continue;
        }
        let registry = Arc::clone(&table);
        let work = move || {
            // A file that cannot be confirmed is gone, or another process's.
            let confirmed = is_kept && file.confirm().is_ok();
            let done = if confirmed { Ok(()) } else { file.write(&registry, now) };
            (file, done)
        };
        let Ok((again, done)) = tokio::task::spawn_blocking(work).await else { return };
        file = again;
        match done {
            Ok(()) => {
                if complaint.take().is_some() {
                    tracing::info!("the registry's snapshot is written again");
                }
                kept = Some(Written { table, at: now });
            }
            Err(error) => {
                kept = None;
                let text = error.to_string();
                if complaint.as_ref() != Some(&text) {
                    let path = file.path().display();
                    tracing::warn!(
                        "the registry's snapshot {path} cannot be written: {text}; this POP could \
                         not start without its database"
                    );
                    complaint = Some(text);
                }
            }
        }
        confirmed = clock::now();
        tokio::time::sleep(BETWEEN_WRITES).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::domain::backend::{Number, RawRow};
    use crate::domain::{AdminState, Lease};

    fn leased(weight: i64, expires_at: i64) -> Arc<Registry> {
        let lease =
            Lease { generation: 1, expires_at: Some(expires_at), admin_state: AdminState::Ready };
        let row = RawRow {
            id: Some("a".into()),
            app: Some("web".into()),
            region: Some("sa".into()),
            wg_ip: Some("10.0.0.1".into()),
            port: Some(Number::Whole(80)),
            weight: Some(Number::Whole(weight)),
            lease: Some(lease),
            ..RawRow::default()
        };
        let backends = vec![Backend::try_from(row).unwrap()];
        Arc::new(Registry { backends, skipped: Vec::new() })
    }

    #[test]
    fn a_file_says_what_a_table_does_until_more_than_renewals_is_different() {
        let written = Written { table: leased(1, 100), at: 50 };
        assert!(written.says(&written.table, 60));
        assert!(written.says(&leased(1, 160), 99));
        assert!(written.says(&leased(1, 160), 159), "it has been renewed");
        assert!(!written.says(&written.table, 100), "it has ended");
        assert!(!written.says(&leased(1, 160), 160), "it has been renewed, and ended");
        assert!(!written.says(&leased(2, 100), 60));
        let ended = Written { table: leased(1, 100), at: 100 };
        assert!(ended.says(&ended.table, 200));
        assert!(!ended.says(&leased(1, 160), 120), "it goes on again");
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_do_not_write_the_file_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(folder.path(), "PostgreSQL x".into());
        let path = file.path().to_owned();
        let inode = || std::fs::metadata(&path).ok().map(|metadata| metadata.ino());
        let (tables, kept) = watch::channel(None);
        let keeping = keep(file, kept);
        let sending = async move {
            let pause = async || tokio::time::sleep(BETWEEN_WRITES * 6 / 5).await;
            let later = unix_now() + 1_000;
            tables.send_replace(Some(leased(1, later)));
            pause().await;
            let first = inode();
            assert!(first.is_some());
            tables.send_replace(Some(leased(1, later + 10)));
            pause().await;
            assert_eq!(inode(), first, "a renewal");
            tables.send_replace(Some(leased(2, later + 20)));
            pause().await;
            assert_ne!(inode(), first, "a change");
        };
        tokio::join!(keeping, sending);
    }
}
