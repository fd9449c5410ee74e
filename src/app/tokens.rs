//! The tokens of the control API: those that are configured, or one that is made at the first start.

use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::adapters::inbound::api::Tokens as InForce;
use crate::config::{Config, Secret};
use crate::infrastructure::text::push_hex;
use crate::infrastructure::tls::random;

/// The file in the state folder.
const FILE: &str = "edge-proxy.token";
/// Longest token that is read from it, in bytes.
const MAX_TOKEN: usize = 4_096;

/// Where tokens come from.
pub(super) struct Tokens {
    config: watch::Receiver<Arc<Config>>,
    generated: Option<Arc<str>>,
}

impl Tokens {
    /// Those of the configuration; without one for operators, the one in the state folder, which is made
    /// if it is missing.
    pub fn of(config: &watch::Receiver<Arc<Config>>) -> Self {
        let (is_given, folder) = {
            let settings = &config.borrow().settings;
            (settings.api_token.is_some(), settings.state_folder())
        };
        let generated = if is_given { None } else { generated(&folder.join(FILE)) };
        Self { config: config.clone(), generated }
    }

    /// Those in force.
    pub fn in_force(&self) -> InForce {
        let config = self.config.borrow();
        let given = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().into());
        InForce {
            admin: given(&config.settings.api_token).or_else(|| self.generated.clone()),
            register: given(&config.settings.api_register_token),
        }
    }
}

/// The token that a process has made in its state folder, if this user may read it.
#[must_use]
pub fn kept(folder: &Path) -> Option<String> {
    read(&folder.join(FILE)).ok().flatten()
}

fn generated(file: &Path) -> Option<Arc<str>> {
    match read(file).and_then(|known| known.map_or_else(|| make(file), Ok)) {
        Ok(token) => {
            tracing::info!(
                "the control API's token is in {} (EDGEPROXY_API_TOKEN gives another)",
                file.display()
            );
            Some(token.into())
        }
        Err(error) => {
            tracing::warn!(
                "{}: {error}; without EDGEPROXY_API_TOKEN nobody may write over TCP",
                file.display()
            );
            None
        }
    }
}

/// What is in the file, if it is there and nobody else can read it.
fn read(file: &Path) -> io::Result<Option<String>> {
    let mode = match file.metadata() {
        Ok(found) => found.mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if mode & 0o077 != 0 {
        let reason = format!("others may read it (mode {:o}); must be 600", mode & 0o777);
        return Err(io::Error::other(reason));
    }
    let token = std::fs::read_to_string(file)?.trim().to_owned();
    let is_token = (16..=MAX_TOKEN).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token {
        Ok(Some(token))
    } else {
        Err(io::Error::other("must hold a token of 16 visible characters at least"))
    }
}

fn make(file: &Path) -> io::Result<String> {
    let bytes = random::<32>().ok_or_else(|| io::Error::other("no random numbers"))?;
    let mut token = Vec::with_capacity(2 * bytes.len() + 1);
    push_hex(&mut token, &bytes);
    token.push(b'\n');
    let part: PathBuf = file.with_extension("token.part");
    let mut options = std::fs::OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    out.write_all(&token)?;
    out.sync_all()?;
    // One that another process has made meanwhile stays.
    match std::fs::hard_link(&part, file) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(_) => std::fs::rename(&part, file)?,
    }
    let _ = std::fs::remove_file(&part);
    read(file)?.ok_or_else(|| io::Error::other("it is gone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_is_nobody_elses_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let token = generated(&file).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(generated(&file).unwrap(), token);
        let mut open = file.metadata().unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o644);
        std::fs::set_permissions(&file, open).unwrap();
        assert_eq!(generated(&file), None);
    }
}
