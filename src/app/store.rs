//! The registry that the configuration names.

use std::path::Path;

use tokio::sync::watch;

use crate::adapters::outbound::sqlite::{Access, SqliteBackendRepository};
use crate::adapters::outbound::{PostgresBackendRepository, PostgresConfig};
use crate::config::Settings;
use crate::domain::ports::{BackendRepository, RepositoryError};

/// A registry, and what tells that it has changed.
pub struct Store {
    /// Where rows are read and written.
    pub repository: Box<dyn BackendRepository>,
    /// Fires when the store says that something has changed; `None` = it never does.
    pub hints: Option<watch::Receiver<u64>>,
}

impl Store {
    /// Opens the registry, to be read again and again. What is missing in it is made.
    ///
    /// # Errors
    /// When the store cannot be reached, or not be used as it is.
    pub async fn open(settings: &Settings) -> Result<Self, RepositoryError> {
        let Some(postgres) = postgres(settings) else {
            let repository =
                Box::new(SqliteBackendRepository::open(&settings.db_path, Access::Create)?);
            return Ok(Self { repository, hints: None });
        };
        postgres.initialize().await?;
        let hints = Some(postgres.hints());
        Ok(Self { repository: Box::new(postgres), hints })
    }

    /// How often the store is read without being told of a change.
    #[must_use]
    pub fn interval(settings: &Settings) -> std::time::Duration {
        if settings.postgres_enabled {
            settings.postgres_reload_secs.get()
        } else {
            settings.db_reload_secs.get()
        }
    }
}

/// Opens the registry for one command, which makes what is missing only with [`Access::Create`].
///
/// # Errors
/// When the store cannot be reached, or not be used as it is.
pub async fn open_once(
    settings: &Settings,
    access: Access,
) -> Result<Box<dyn BackendRepository>, RepositoryError> {
    match postgres(settings) {
        Some(postgres) => {
            if access == Access::Create {
                postgres.initialize().await?;
            }
            Ok(Box::new(postgres))
        }
        None => Ok(Box::new(SqliteBackendRepository::open(Path::new(&settings.db_path), access)?)),
    }
}

fn postgres(settings: &Settings) -> Option<PostgresBackendRepository> {
    // The configuration is refused without an address.
    let url = settings.postgres_url.as_ref().filter(|_| settings.postgres_enabled)?;
    Some(PostgresBackendRepository::new(PostgresConfig {
        url: url.expose().to_owned(),
        max_connections: settings.postgres_max_connections.get(),
        min_connections: settings.postgres_min_connections.get(),
        connect_timeout: settings.postgres_connect_timeout_secs.get(),
        query_timeout: settings.postgres_query_timeout_secs.get(),
        reload_interval: settings.postgres_reload_secs.get(),
    }))
}
