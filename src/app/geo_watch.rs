//! Watches the country database, whether the configuration is watched or not.

use std::path::PathBuf;

use super::reload;
use crate::config::Config;
use crate::infrastructure::ConfigWatcher;
use crate::infrastructure::config_watcher::Changes;

/// A country database that is watched for as long as this lives.
pub(super) struct GeoWatch {
    path: PathBuf,
    changes: Changes,
    /// Whether the file could not be read the last time.
    pub has_failed: bool,
    _watcher: ConfigWatcher,
}

impl GeoWatch {
    /// Watches the database that the configuration names; `None` when it is the embedded one, or when
    /// it cannot be watched, with a warning.
    pub async fn begin(config: &Config) -> Option<Self> {
        let path = config.settings.geoip_path.clone()?;
        let watcher = ConfigWatcher::new(config.settings.config_watch_interval_secs.get());
        let changes = watcher.subscribe();
        if let Err(error) = reload::in_time(watcher.watch_file(&path)).await {
            tracing::warn!("{error}; a change of it needs a restart");
            return None;
        }
        Some(Self { path, changes, has_failed: false, _watcher: watcher })
    }

    /// Whether it is the database that the configuration names.
    pub fn is_of(&self, config: &Config) -> bool {
        config.settings.geoip_path.as_ref() == Some(&self.path)
    }

    /// Until the file has changed.
    pub async fn changed(watch: &mut Option<Self>) {
        if let Some(watch) = watch
            && watch.changes.recv().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
