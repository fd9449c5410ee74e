//! Keeps the last good table in its file.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::adapters::outbound::snapshot_file::SnapshotFile;
use crate::clock;
use crate::domain::ports::Registry;

/// The file is written no more often than this, however often the registry changes ...
const BETWEEN_WRITES: Duration = Duration::from_secs(1);
/// ... and is confirmed no more often than this when it does not.
const BETWEEN_CONFIRMATIONS: Duration = Duration::from_secs(30);

/// Writes each table that comes, the latest of several, and confirms the file when one comes again.
/// Each reading of the store that agrees with the table in force is one that comes.
pub(super) async fn keep(
    mut file: SnapshotFile,
    mut tables: watch::Receiver<Option<Arc<Registry>>>,
) {
    let mut kept: Option<Arc<Registry>> = None;
    let mut confirmed = clock::now();
    let mut complaint: Option<String> = None;
    while tables.changed().await.is_ok() {
        let Some(table) = tables.borrow_and_update().clone() else { continue };
        let is_kept = kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &table));
        if is_kept && clock::now().since(confirmed) < BETWEEN_CONFIRMATIONS {
            continue;
        }
        let registry = Arc::clone(&table);
        let work = move || {
            // A file that cannot be confirmed is gone, or another process's.
            let confirmed = is_kept && file.confirm().is_ok();
            let done = if confirmed { Ok(()) } else { file.write(&registry) };
            (file, done)
        };
        let Ok((again, done)) = tokio::task::spawn_blocking(work).await else { return };
        file = again;
        match done {
            Ok(()) => {
                if complaint.take().is_some() {
                    tracing::info!("the registry's snapshot is written again");
                }
                kept = Some(table);
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
