//! The watcher as its users meet it, beside real files.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::time::SystemTime;

use super::*;

mod links;

/// How long anything may take that should happen; only a failing test waits as long.
const PATIENCE: Duration = Duration::from_secs(20);
/// An interval that never passes: only notices count.
const NEVER: Duration = Duration::from_secs(3600);
/// An interval for those who have nothing else.
const OFTEN: Duration = Duration::from_millis(20);

/// A folder, who watches it, and what is heard.
struct Site {
    folder: tempfile::TempDir,
    watcher: ConfigWatcher,
    changes: Changes,
}

impl Site {
    fn new(watcher: ConfigWatcher) -> Self {
        let changes = watcher.subscribe();
        Self { folder: tempfile::tempdir().unwrap(), watcher, changes }
    }

    /// One that lives by the kernel's notices alone, and one that has none.
    fn both() -> [Self; 2] {
        [Self::new(ConfigWatcher::new(NEVER)), Self::new(ConfigWatcher::polling(OFTEN))]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn watch(&self, name: &str) {
        soon(self.watcher.watch_file(self.path(name))).await.unwrap();
    }

    /// Watches a file that holds `text`.
    async fn holding(&self, name: &str, text: &str) {
        self.write(name, text);
        self.watch(name).await;
    }

    async fn next(&mut self) -> ConfigChange {
        soon(self.changes.recv()).await.unwrap()
    }

    /// Expects the event of one file, and no other before it.
    async fn expect(&mut self, name: &str) {
        assert_eq!(self.next().await, ConfigChange::FileModified(self.path(name)));
    }

    /// All that is heard of until now: what happens now is heard after that, twice.
    async fn heard(&mut self) -> Vec<ConfigChange> {
        let sentinel = ConfigChange::FileModified(self.path("sentinel"));
        let mut heard = Vec::new();
        self.holding("sentinel", "").await;
        for text in ["a", "b"] {
            self.write("sentinel", text);
            loop {
                match self.next().await {
                    change if change == sentinel => break,
                    change => heard.push(change),
                }
            }
        }
        heard
    }

    async fn expect_nothing(&mut self) {
        assert_eq!(self.heard().await, []);
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it should have happened by now")
}

#[tokio::test]
async fn a_file_written_in_place_or_renamed_over_has_changed() {
    for mut site in Site::both() {
        site.holding("config.toml", "one").await;
        site.write("config.toml", "two");
        site.expect("config.toml").await;
        site.write("new", "three");
        fs::rename(site.path("new"), site.path("config.toml")).unwrap();
        site.expect("config.toml").await;
        site.expect_nothing().await;
    }
}

#[tokio::test]
async fn neither_length_nor_time_hides_a_change() {
    for mut site in Site::both() {
        site.holding("config.toml", "one").await;
        let written = fs::metadata(site.path("config.toml")).unwrap().modified().unwrap();
        for (text, time) in [("two", written), ("six", SystemTime::UNIX_EPOCH)] {
            site.write("config.toml", text);
            let file = File::options().append(true).open(site.path("config.toml")).unwrap();
            file.set_modified(time).unwrap();
            site.expect("config.toml").await;
        }
    }
}

#[tokio::test]
async fn a_file_that_is_deleted_has_changed_and_has_again_when_it_is_back() {
    for mut site in Site::both() {
        site.holding("config.toml", "one").await;
        fs::remove_file(site.path("config.toml")).unwrap();
        site.expect("config.toml").await;
        site.write("config.toml", "one");
        site.expect("config.toml").await;
    }
}

#[tokio::test]
async fn a_file_and_its_folder_may_come_later() {
    for mut site in Site::both() {
        site.watch("config.toml").await;
        site.watch("a/b/config.toml").await;
        site.write("config.toml", "one");
        site.expect("config.toml").await;
        fs::create_dir_all(site.path("a/b")).unwrap();
        site.expect_nothing().await;
        site.write("a/b/config.toml", "one");
        site.expect("a/b/config.toml").await;
        site.write("a/b/config.toml", "two");
        site.expect("a/b/config.toml").await;
    }
}

#[tokio::test]
async fn what_leaves_the_content_as_it_was_is_no_change() {
    for mut site in Site::both() {
        site.holding("config.toml", "one").await;
        let file = File::options().append(true).open(site.path("config.toml")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        site.write("equal", "one");
        fs::rename(site.path("equal"), site.path("config.toml")).unwrap();
        site.write("config.toml", "one");
        site.write("neighbour", "two");
        site.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_burst_of_writes_is_one_event() {
    for mut site in Site::both() {
        site.holding("config.toml", "0").await;
        for n in 1..=20 {
            site.write("config.toml", &n.to_string());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        site.expect("config.toml").await;
        site.expect_nothing().await;
    }
}

#[tokio::test]
async fn what_cannot_be_read_counts_as_what_it_was() {
    for mut site in Site::both() {
        site.holding("config.toml", "one").await;
        fs::remove_file(site.path("config.toml")).unwrap();
        fs::create_dir(site.path("config.toml")).unwrap();
        site.expect_nothing().await;
        fs::remove_dir(site.path("config.toml")).unwrap();
        site.write("config.toml", "two");
        site.expect("config.toml").await;
    }
}

#[tokio::test]
async fn each_of_many_files_has_its_own_event() {
    const FILES: usize = 200;
    for mut site in Site::both() {
        let name = |n: usize| format!("{n}.toml");
        for n in 0..FILES {
            site.holding(&name(n), "one").await;
        }
        (0..FILES).for_each(|n| site.write(&name(n), "two"));
        let mut heard = Vec::new();
        for _ in 0..FILES {
            match site.next().await {
                ConfigChange::FileModified(path) => heard.push(path),
                other => panic!("{other:?}"),
            }
        }
        heard.sort();
        let mut written: Vec<_> = (0..FILES).map(|n| site.path(&name(n))).collect();
        written.sort();
        assert_eq!(heard, written);
        site.expect_nothing().await;
    }
}

/// Nothing is read while this goes on: there is one thread, and it is busy here.
#[tokio::test]
async fn what_the_kernel_could_not_keep_is_looked_for() {
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let mut site = Site::new(ConfigWatcher::new(NEVER));
    site.write("neighbour", "");
    for name in ["one.toml", "two.toml"] {
        site.holding(name, "one").await;
    }
    for _ in 0..most.trim().parse::<usize>().unwrap().div_ceil(4) {
        // Two events each.
        fs::rename(site.path("neighbour"), site.path("elsewhere")).unwrap();
        fs::rename(site.path("elsewhere"), site.path("neighbour")).unwrap();
    }
    site.write("two.toml", "two");
    site.expect("two.toml").await;
}

#[tokio::test]
async fn a_path_is_told_as_it_was_given_and_once() {
    let mut site = Site::new(ConfigWatcher::new(NEVER));
    site.write("config.toml", "one");
    fs::create_dir(site.path("x")).unwrap();
    let given = site.path("x/../config.toml");
    site.watcher.watch_file(&given).await.unwrap();
    site.watcher.watch_file(&given).await.unwrap();
    site.write("config.toml", "two");
    assert_eq!(site.next().await, ConfigChange::FileModified(given));
    site.expect_nothing().await;
}

#[tokio::test]
async fn what_could_never_be_read_is_refused() {
    for mut site in Site::both() {
        site.write("file", "");
        symlink("circle", site.path("circle")).unwrap();
        for (path, problem) in [
            (site.path("file/config.toml"), "Not a directory"),
            (site.path("circle"), "Too many levels of symbolic links"),
            (site.folder.path().into(), "it is not a regular file"),
            ("/dev/zero".into(), "it is not a regular file"),
            ("".into(), "empty path"),
        ] {
            let error = soon(site.watcher.watch_file(&path)).await.unwrap_err().to_string();
            let start = format!("{} cannot be watched: ", path.display());
            assert!(error.starts_with(&start) && error.contains(problem), "{error}");
        }
        // It may be asked for again once it can be read.
        fs::remove_file(site.path("circle")).unwrap();
        site.holding("circle", "one").await;
        site.write("circle", "two");
        site.expect("circle").await;
    }
}

#[tokio::test]
async fn there_is_a_limit_to_the_files() {
    let site = Site::new(ConfigWatcher::polling(NEVER));
    for n in 0..1024 {
        site.watch(&n.to_string()).await;
    }
    let error = soon(site.watcher.watch_file(site.path("more"))).await.unwrap_err();
    assert!(error.to_string().ends_with("1024 files are watched already"), "{error}");
}

#[tokio::test]
async fn everybody_hears_what_is_published_and_who_is_late_reads_everything() {
    let watcher = ConfigWatcher::new(NEVER);
    watcher.publish(ConfigChange::FullReload);
    let (mut one, mut two) = (watcher.subscribe(), watcher.subscribe());
    let change = |n: usize| ConfigChange::ValueChanged {
        key: "EDGEPROXY_WORKERS".into(),
        old_value: None,
        new_value: n.to_string(),
    };
    watcher.publish(change(0));
    for changes in [&mut one, &mut two] {
        assert_eq!(changes.recv().await, Ok(change(0)));
    }
    (1..=WAITING + 1).for_each(|n| watcher.publish(change(n)));
    assert_eq!(one.recv().await, Ok(ConfigChange::FullReload));
    assert_eq!(one.recv().await, Ok(change(2)));
}

#[tokio::test]
async fn dropping_the_watcher_ends_its_task() {
    let site = Site::new(ConfigWatcher::new(OFTEN));
    site.holding("config.toml", "one").await;
    let Site { watcher, mut changes, folder: _folder } = site;
    drop(watcher);
    // The task sends too: as long as it lived, the channel would be open.
    assert_eq!(soon(changes.recv()).await, Err(Closed));
}

#[test]
fn a_watcher_is_made_outside_a_runtime_and_begins_anew_in_another() {
    let mut site = Site::new(ConfigWatcher::new(NEVER));
    for (before, after) in [("one", "two"), ("three", "four")] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            site.holding("config.toml", before).await;
            site.write("config.toml", after);
            site.expect("config.toml").await;
        });
    }
}
