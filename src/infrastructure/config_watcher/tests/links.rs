//! Paths that lead elsewhere, and folders that change under them.

use std::collections::BTreeSet;

use super::*;

impl Site {
    /// Puts a new version in the place of the one before, as the kubelet does.
    fn swap(&self, version: &str, text: &str, before: Option<&str>) {
        fs::create_dir(self.path(version)).unwrap();
        self.write(&format!("{version}/config.toml"), text);
        let version = self.path(version);
        let link = version.with_file_name("..data_tmp");
        symlink(version.file_name().unwrap(), &link).unwrap();
        fs::rename(&link, version.with_file_name("..data")).unwrap();
        if let Some(before) = before {
            fs::remove_dir_all(self.path(before)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_volume_of_kubernetes_changes_by_one_link() {
    for mut site in Site::both() {
        site.swap("..2024_1", "one", None);
        symlink("..data/config.toml", site.path("config.toml")).unwrap();
        site.watch("config.toml").await;
        site.swap("..2024_2", "two", Some("..2024_1"));
        site.expect("config.toml").await;
        site.swap("..2024_3", "three", Some("..2024_2"));
        site.expect("config.toml").await;
        // A new version with the same content is no change, and what is in it is watched.
        site.swap("..2024_4", "three", Some("..2024_3"));
        site.expect_nothing().await;
        site.write("..2024_4/config.toml", "four");
        site.expect("config.toml").await;
    }
}

/// The folder that the kernel is to watch may be gone before it does.
#[tokio::test]
async fn a_volume_may_change_as_soon_as_it_is_watched() {
    const VOLUMES: usize = 32;
    let mut site = Site::new(ConfigWatcher::new(NEVER));
    for volume in 0..VOLUMES {
        fs::create_dir(site.path(&volume.to_string())).unwrap();
        let [one, two] = [1, 2].map(|version| format!("{volume}/..{version}"));
        let file = format!("{volume}/config.toml");
        site.swap(&one, "one", None);
        symlink("..data/config.toml", site.path(&file)).unwrap();
        site.watch(&file).await;
        site.swap(&two, "two", Some(&one));
    }
    let mut heard = BTreeSet::new();
    while heard.len() < VOLUMES {
        match site.next().await {
            ConfigChange::FileModified(path) => heard.insert(path),
            other => panic!("{other:?}"),
        };
    }
}

#[tokio::test]
async fn a_link_to_a_file_elsewhere_changes_with_either() {
    for mut site in Site::both() {
        fs::create_dir_all(site.path("etc")).unwrap();
        fs::create_dir_all(site.path("opt/v1")).unwrap();
        fs::create_dir_all(site.path("opt/v2")).unwrap();
        site.write("opt/v1/config.toml", "one");
        site.write("opt/v2/config.toml", "two");
        symlink(site.path("opt/v1"), site.path("etc/current")).unwrap();
        symlink("current/config.toml", site.path("etc/config.toml")).unwrap();
        site.watch("etc/config.toml").await;
        site.write("opt/v1/config.toml", "one and a half");
        site.expect("etc/config.toml").await;
        fs::remove_file(site.path("etc/current")).unwrap();
        symlink("../opt/v2", site.path("etc/current")).unwrap();
        site.expect("etc/config.toml").await;
        site.write("opt/v2/config.toml", "two and a half");
        site.expect("etc/config.toml").await;
        site.write("opt/v1/config.toml", "nobody's any more");
        site.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_folder_that_is_replaced_is_watched_as_the_one_before() {
    for mut site in Site::both() {
        fs::create_dir(site.path("etc")).unwrap();
        site.holding("etc/config.toml", "zero").await;
        // That this is heard says that the kernel tells by now.
        site.write("etc/config.toml", "one");
        site.expect("etc/config.toml").await;
        fs::create_dir(site.path("new")).unwrap();
        site.write("new/config.toml", "two");
        fs::rename(site.path("etc"), site.path("old")).unwrap();
        fs::rename(site.path("new"), site.path("etc")).unwrap();
        site.expect("etc/config.toml").await;
        site.write("etc/config.toml", "three");
        site.expect("etc/config.toml").await;
        fs::remove_dir_all(site.path("etc")).unwrap();
        site.expect("etc/config.toml").await;
        fs::create_dir(site.path("etc")).unwrap();
        site.write("etc/config.toml", "four");
        site.expect("etc/config.toml").await;
        site.write("etc/config.toml", "five");
        site.expect("etc/config.toml").await;
        site.write("old/config.toml", "nobody's any more");
        site.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_file_may_stand_where_its_folder_should_be() {
    let mut site = Site::new(ConfigWatcher::new(NEVER));
    fs::create_dir(site.path("etc")).unwrap();
    site.holding("etc/config.toml", "one").await;
    fs::rename(site.path("etc"), site.path("old")).unwrap();
    site.write("etc", "");
    site.expect("etc/config.toml").await;
    fs::remove_file(site.path("etc")).unwrap();
    fs::create_dir(site.path("etc")).unwrap();
    site.write("etc/config.toml", "two");
    site.expect("etc/config.toml").await;
}

#[tokio::test]
async fn a_volume_that_changes_all_the_time_is_watched_to_the_end() {
    let mut site = Site::new(ConfigWatcher::new(NEVER));
    site.swap("..0", "0", None);
    symlink("..data/config.toml", site.path("config.toml")).unwrap();
    site.watch("config.toml").await;
    for n in 1..=300 {
        site.swap(&format!("..{n}"), &n.to_string(), Some(&format!("..{}", n - 1)));
        tokio::task::yield_now().await;
    }
    // More than one event when the machine is so busy that there are pauses.
    assert!(!site.heard().await.is_empty());
    site.write("..300/config.toml", "the end");
    site.expect("config.toml").await;
}

/// What a folder's watch misses is found by polling, and the watch is set anew.
#[tokio::test]
async fn polling_finds_what_the_kernel_does_not_tell() {
    let mut site = Site::new(ConfigWatcher::new(OFTEN));
    fs::create_dir_all(site.path("a/etc")).unwrap();
    site.holding("a/etc/config.toml", "one").await;
    fs::create_dir_all(site.path("b/etc")).unwrap();
    site.write("b/etc/config.toml", "two");
    // The folder above is not watched.
    fs::rename(site.path("a"), site.path("c")).unwrap();
    fs::rename(site.path("b"), site.path("a")).unwrap();
    site.expect("a/etc/config.toml").await;
    site.write("a/etc/config.toml", "three");
    site.expect("a/etc/config.toml").await;
}
