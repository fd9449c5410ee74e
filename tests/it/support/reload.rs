//! Another configuration for a running edge-proxy.

use std::fs;

use rustix::process::Signal;

use super::PATIENCE;
use super::edge::Edge;
use super::metrics::Metrics;

impl Edge {
    /// Has it read a configuration file with this text, and waits until that is in force.
    pub fn reload(&self, toml: &str) {
        self.site.configure(toml);
        self.reloads();
    }

    /// Has it read its configuration anew, and waits until that is in force.
    pub fn reloads(&self) {
        let said = self.asks_to_reload("configuration reloaded");
        assert!(said.is_some(), "it was not reloaded");
    }

    /// The same where only the metrics can tell, because the log does not say so.
    pub fn reload_in_silence(&self, toml: &str) {
        self.site.configure(toml);
        let before = self.metrics().reloads("success");
        self.signal_at_once(Signal::HUP);
        self.metrics_when("it was reloaded", |metrics| metrics.reloads("success") > before);
    }

    /// Has it read a configuration file that it cannot take, and gives what it says of it.
    pub fn refuses(&self, toml: &str) -> String {
        self.site.configure(toml);
        self.refuses_to_reload()
    }

    /// Has it read its configuration anew, which it cannot take, and gives what it says of it.
    pub fn refuses_to_reload(&self) -> String {
        let said = self.asks_to_reload("the configuration was not reloaded");
        said.expect("it says that it was not reloaded")
    }

    /// What it logs from the signal up to a line with this text.
    fn asks_to_reload(&self, end: &str) -> Option<String> {
        let before = self.log.len();
        self.signal_at_once(Signal::HUP);
        let mut said = String::new();
        self.log.find_after(before, PATIENCE, |line| {
            said.push_str(line);
            said.push('\n');
            line.contains(end).then_some(())
        })?;
        Some(said)
    }

    /// Waits until so many lines with this text have been logged in all.
    pub fn wait_until_logged(&self, times: usize, text: &str) {
        let mut seen = 0;
        let found = self.log.find_after(0, PATIENCE, |line| {
            seen += usize::from(line.contains(text));
            (seen >= times).then_some(())
        });
        assert!(found.is_some(), "{text:?} was logged {seen} times: {:#?}", self.log.so_far());
    }
}

impl super::site::Site {
    /// Writes the configuration file anew, in place.
    pub fn configure(&self, toml: &str) {
        fs::write(self.path("config.toml"), toml).expect("the file is written");
    }

    /// Replaces the configuration file by another one, as careful programs do.
    pub fn replace_configuration(&self, toml: &str) {
        let new = self.path("config.toml.new");
        fs::write(&new, toml).expect("the file is written");
        fs::rename(new, self.path("config.toml")).expect("the file is renamed");
    }
}

impl Metrics {
    /// Reloads that came to this: `success` or `failure`.
    pub fn reloads(&self, result: &str) -> u64 {
        self.value("edgeproxy_config_reloads_total", &[("result", result)])
    }
}
