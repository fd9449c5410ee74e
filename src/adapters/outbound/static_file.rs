//! The registry in the configuration file: what was read with it, until the next reload.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock;
use crate::domain::ports::{BackendRepository, Pending, Registry, Renewal, RepositoryError};
use crate::domain::{AdminState, Backend, BackendId};

/// Backends that are written in the configuration file. They are changed there only.
#[derive(Debug)]
pub struct StaticBackendRepository {
    file: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// By id.
    backends: Vec<Backend>,
    /// Whether nobody has been given them yet.
    is_news: bool,
}

impl StaticBackendRepository {
    /// The registry of `backends`, which were read in `file`.
    #[must_use]
    pub fn new(file: &Path, backends: Vec<Backend>) -> Self {
        let held = Held { backends: by_id(backends), is_news: true };
        Self { file: file.into(), held: Mutex::new(held) }
    }

    /// Has `backends`, which the file says now, in place of those it said before.
    pub fn replace(&self, backends: Vec<Backend>) {
        let backends = by_id(backends);
        let mut held = self.held();
        held.is_news |= held.backends != backends;
        held.backends = backends;
    }

    /// What it holds.
    #[must_use]
    pub fn registry(&self) -> Registry {
        Registry { backends: self.held().backends.clone(), skipped: Vec::new() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self) -> Registry {
        self.held().is_news = false;
        self.registry()
    }

    fn refuse<T>(&self) -> Result<T, RepositoryError> {
        let file = self.file.display();
        let reason = format!("backends are in {file}; edit them there, and reload");
        Err(RepositoryError { store: self.describe(), reason })
    }
}

fn by_id(mut backends: Vec<Backend>) -> Vec<Backend> {
    backends.sort_by(|a, b| a.id.cmp(&b.id));
    backends
}

impl BackendRepository for StaticBackendRepository {
    fn describe(&self) -> String {
        format!("file {}", self.file.display())
    }

    fn get_healthy(&self) -> Pending<'_, Vec<Backend>> {
        Box::pin(async {
            let now = i64::try_from(clock::wall().as_secs()).unwrap_or(i64::MAX);
            let held = self.held();
            held.backends.iter().filter(|b| b.eligible(now).is_ok()).cloned().collect()
        })
    }

    fn load(&self) -> Pending<'_, Result<Registry, RepositoryError>> {
        Box::pin(async { Ok(self.give()) })
    }

    /// What was given by the last call is given again only after [`replace`](Self::replace) has
    /// brought something else.
    fn load_if_changed(&self) -> Pending<'_, Result<Option<Registry>, RepositoryError>> {
        Box::pin(async {
            let is_news = self.held().is_news;
            Ok(is_news.then(|| self.give()))
        })
    }

    /// Fails: nothing but its owner writes the file.
    fn put(&self, _backends: Vec<Backend>) -> Pending<'_, Result<(), RepositoryError>> {
        Box::pin(async { self.refuse() })
    }

    /// Fails: nothing but its owner writes the file.
    fn remove(&self, _id: BackendId) -> Pending<'_, Result<bool, RepositoryError>> {
        Box::pin(async { self.refuse() })
    }

    /// Fails: nothing but its owner writes the file.
    fn register(
        &self,
        _backend: Backend,
        _expires_at: i64,
    ) -> Pending<'_, Result<i64, RepositoryError>> {
        Box::pin(async { self.refuse() })
    }

    /// Fails: nothing but its owner writes the file.
    fn renew(&self, _renewals: Vec<Renewal>) -> Pending<'_, Result<(), RepositoryError>> {
        Box::pin(async { self.refuse() })
    }

    /// Fails: nothing but its owner writes the file.
    fn set_state(
        &self,
        _id: BackendId,
        _state: AdminState,
    ) -> Pending<'_, Result<bool, RepositoryError>> {
        Box::pin(async { self.refuse() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::backend::{Number, RawRow};

    fn backend(id: &str) -> Backend {
        Backend::try_from(RawRow {
            id: Some(id.into()),
            app: Some("web".into()),
            region: Some("sa".into()),
            wg_ip: Some("10.0.0.1".into()),
            port: Some(Number::Whole(80)),
            ..RawRow::default()
        })
        .unwrap()
    }

    fn repository(ids: &[&str]) -> StaticBackendRepository {
        let backends = ids.iter().map(|id| backend(id)).collect();
        StaticBackendRepository::new(Path::new("/etc/x.toml"), backends)
    }

    async fn news(repository: &StaticBackendRepository) -> Option<Vec<String>> {
        let read = repository.load_if_changed().await.unwrap()?;
        Some(read.backends.iter().map(|backend| backend.id.to_string()).collect())
    }

    #[tokio::test]
    async fn what_a_reload_brings_is_news_once_and_only_if_it_differs() {
        let repository = repository(&["b", "a"]);
        assert_eq!(news(&repository).await, Some(vec!["a".into(), "b".into()]));
        assert_eq!(news(&repository).await, None);
        repository.replace(vec![backend("a"), backend("b")]);
        assert_eq!(news(&repository).await, None, "nothing is different");
        repository.replace(vec![backend("c")]);
        assert_eq!(repository.get_healthy().await, [backend("c")]);
        assert_eq!(news(&repository).await, Some(vec!["c".into()]), "looking took nothing away");
        repository.replace(vec![]);
        repository.replace(vec![]);
        assert_eq!(news(&repository).await, Some(vec![]));
    }

    #[tokio::test]
    async fn writing_says_where_to_write_instead() {
        let repository = repository(&["a"]);
        let expected = "registry file /etc/x.toml: backends are in /etc/x.toml; \
                        edit them there, and reload";
        let put = repository.put(vec![backend("b")]).await.unwrap_err();
        let removed = repository.remove("a".parse().unwrap()).await.unwrap_err();
        let registered = repository.register(backend("b"), 1).await.unwrap_err();
        let renewed = repository.renew(vec![]).await.unwrap_err();
        let set = repository.set_state("a".parse().unwrap(), AdminState::Drain).await.unwrap_err();
        for error in [put, removed, registered, renewed, set] {
            assert_eq!(error.to_string(), expected);
        }
        assert_eq!(repository.load().await.unwrap().backends, [backend("a")]);
    }
}
