//! A file that changes, a setting that is announced, and a watcher that goes:
//! `cargo run --example config_watcher`

use std::time::Duration;

use edgeproxy::infrastructure::{ConfigChange, ConfigWatcher};

/// What a program would do about a change.
fn answer(change: ConfigChange) -> String {
    match change {
        ConfigChange::FileModified(path) => format!("read {} again", path.display()),
        ConfigChange::ValueChanged { key, old_value, new_value } => {
            let before = old_value.unwrap_or_else(|| "nothing".into());
            format!("{key} was {before} and is {new_value}")
        }
        ConfigChange::FullReload => "read everything again".into(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder =
        std::env::temp_dir().join(format!("edgeproxy-config-watcher-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let file = folder.join("config.toml");
    std::fs::write(&file, "workers = 2\n")?;

    let watcher = ConfigWatcher::new(Duration::from_secs(5));
    watcher.watch_file(&file).await?;
    let mut rx = watcher.subscribe();

    let patience = Duration::from_secs(10);
    std::fs::write(&file, "workers = 4\n")?;
    let change = tokio::time::timeout(patience, rx.recv()).await??;
    assert_eq!(change, ConfigChange::FileModified(file.clone()));
    println!("{}", answer(change));

    watcher.publish(ConfigChange::ValueChanged {
        key: "EDGEPROXY_WORKERS".into(),
        old_value: Some("2".into()),
        new_value: "4".into(),
    });
    let told = answer(rx.recv().await?);
    println!("{told}");
    assert_eq!(told, "EDGEPROXY_WORKERS was 2 and is 4");

    // By the way of editors that write a new file and put it in the place of the old one.
    std::fs::write(folder.join("new"), "workers = 8\n")?;
    std::fs::rename(folder.join("new"), &file)?;
    let change = tokio::time::timeout(patience, rx.recv()).await??;
    assert_eq!(change, ConfigChange::FileModified(file));

    // A receiver that is far behind reads everything.
    for _ in 0..1000 {
        watcher.publish(ConfigChange::FullReload);
    }
    println!("{}", answer(rx.recv().await?));

    drop(watcher);
    while rx.recv().await.is_ok() {}
    std::fs::remove_dir_all(&folder)?;
    println!("OK");
    Ok(())
}
