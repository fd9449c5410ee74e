//! The way from a path to its file: every symbolic link on it, and where it ends.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

/// Symbolic links on one way; the kernel follows as many.
const MAX_LINKS: usize = 40;

/// The entries of folders that decide where the absolute `path` leads, none of them in a folder
/// that is itself reached by a link: each symbolic link, and then the file, or the first thing on
/// the way that does not exist, or that one cannot get past.
///
/// # Errors
/// When a folder on the way may not be entered or is none, or when there are more than
/// [`MAX_LINKS`] links.
pub(super) fn trail(path: &Path) -> (Vec<PathBuf>, io::Result<()>) {
    let mut entries = Vec::new();
    let mut links = 0;
    let mut here = PathBuf::from("/");
    let mut ahead = Vec::new();
    push(&mut ahead, path);
    while let Some(name) = ahead.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let entry = here.join(name);
        // One call says all: whether it is there, whether it is a link, and where to.
        match entry.read_link() {
            Ok(_) if links == MAX_LINKS => return (entries, Err(Errno::LOOP.into())),
            Ok(target) => {
                links += 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                push(&mut ahead, &target);
                entries.push(entry);
            }
            // There, and no link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                if ahead.is_empty() {
                    entries.push(entry.clone());
                }
                here = entry;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                entries.push(entry);
                break;
            }
            Err(error) => {
                entries.push(here);
                return (entries, Err(error));
            }
        }
    }
    (entries, Ok(()))
}

/// Puts the steps of `path` on the stack of what is ahead.
fn push(ahead: &mut Vec<OsString>, path: &Path) {
    let steps = path.components().rev().filter_map(|step| match step {
        Component::Normal(name) => Some(name.into()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    ahead.extend(steps);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The trail of `path` in a folder that `make` has filled, without the folder's own name, and
    /// what is wrong at its end.
    fn trail_of(path: &str, make: impl Fn(&Path)) -> (Vec<String>, Option<i32>) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        make(&root);
        let relative = |entry: PathBuf| entry.strip_prefix(&root).unwrap().display().to_string();
        let (entries, end) = trail(&root.join(path));
        let errno = end.err().and_then(|error| error.raw_os_error());
        (entries.into_iter().map(relative).collect(), errno)
    }

    fn entries(names: &[&str]) -> (Vec<String>, Option<i32>) {
        (names.iter().map(ToString::to_string).collect(), None)
    }

    #[test]
    fn a_plain_file_is_its_own_trail() {
        let trail = trail_of("conf/x/../config.toml", |root| {
            fs::create_dir_all(root.join("conf/x")).unwrap();
            fs::write(root.join("conf/config.toml"), "").unwrap();
        });
        assert_eq!(trail, entries(&["conf/config.toml"]));
    }

    #[test]
    fn every_link_on_the_way_is_on_the_trail() {
        let trail = trail_of("etc/config.toml", |root| {
            fs::create_dir_all(root.join("vol/..2024_1")).unwrap();
            fs::write(root.join("vol/..2024_1/config.toml"), "").unwrap();
            symlink("..2024_1", root.join("vol/..data")).unwrap();
            symlink("..data/config.toml", root.join("vol/config.toml")).unwrap();
            symlink(root.join("vol"), root.join("etc")).unwrap();
        });
        let expected = ["etc", "vol/config.toml", "vol/..data", "vol/..2024_1/config.toml"];
        assert_eq!(trail, entries(&expected));
    }

    #[test]
    fn the_trail_ends_where_nothing_is() {
        assert_eq!(trail_of("a/b/c.toml", |_| {}), entries(&["a"]));
        let dangling = |root: &Path| symlink("there/c.toml", root.join("c.toml")).unwrap();
        assert_eq!(trail_of("c.toml", dangling), entries(&["c.toml", "there"]));
    }

    #[test]
    fn a_circle_and_a_file_for_a_folder_are_errors() {
        let (_, circle) = trail_of("a", |root| {
            symlink("b", root.join("a")).unwrap();
            symlink("a", root.join("b")).unwrap();
        });
        assert_eq!(circle, Some(Errno::LOOP.raw_os_error()));
        let file = trail_of("a/b", |root| fs::write(root.join("a"), "").unwrap());
        assert_eq!(file, (vec!["a".into()], Some(Errno::NOTDIR.raw_os_error())));
    }
}
