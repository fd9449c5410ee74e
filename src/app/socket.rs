//! The unix socket in the state folder, by which the command line speaks to this process.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as Bound, UnixStream};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Its name in the state folder.
pub const FILE: &str = "edge-proxy.sock";

/// A socket that is listened on; its file goes with it.
pub(super) struct Socket {
    file: PathBuf,
    /// Which file it is.
    inode: Option<u64>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Not another process's that has taken its place.
        if inode(&self.file) == self.inode {
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

/// Listens in the state folder. `None`, and a warning, when that cannot be.
pub(super) fn listen(folder: &Path) -> Option<(UnixListener, Socket)> {
    let file = folder.join(FILE);
    match bind(&file) {
        Ok(listener) => {
            let inode = inode(&file);
            Some((listener, Socket { file, inode }))
        }
        Err(error) => {
            tracing::warn!(
                "{}: {error}; the command line cannot speak to this process",
                file.display()
            );
            None
        }
    }
}

/// Only this user may connect, from the first moment on: it is made under another name.
fn bind(file: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(file).is_ok() {
        return Err(io::Error::other(
            "another edge-proxy listens here (EDGEPROXY_STATE_DIR gives each its own)",
        ));
    }
    let part = file.with_extension(format!("{}", std::process::id()));
    let _ = std::fs::remove_file(&part);
    let made = || {
        let listener = Bound::bind(&part)?;
        std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        std::fs::rename(&part, file)?;
        UnixListener::from_std(listener)
    };
    made().inspect_err(|_| {
        let _ = std::fs::remove_file(&part);
    })
}

fn inode(file: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    file.symlink_metadata().ok().map(|found| found.ino())
}
