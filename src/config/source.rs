//! Where settings come from. The only reader of the process environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Names the configuration file when `--config` does not.
pub(super) const CONFIG_VARIABLE: &str = "EDGEPROXY_CONFIG";
/// What systemd sets for a unit with `StateDirectory=`: one or more folders, joined by colons.
pub(super) const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// Stands for bytes that are not UTF-8.
pub(super) const NOT_UTF8: char = char::REPLACEMENT_CHARACTER;

const DEFAULT_FILE: &str = "/etc/edgeproxy/config.toml";

/// What [`load`](super::load) reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Environment variables, name and value. Of equal names the last one counts.
    pub env: Vec<(String, String)>,
    /// The TOML file, which must be readable.
    pub file: Option<PathBuf>,
}

impl Source {
    /// This process's variables that concern us, and the file named by `--config`, else by
    /// `EDGEPROXY_CONFIG`, else `/etc/edgeproxy/config.toml` if it exists.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn from_process(config_flag: Option<PathBuf>) -> Self {
        Self::from_variables(std::env::vars_os(), config_flag, Path::new(DEFAULT_FILE))
    }

    fn from_variables(
        variables: impl Iterator<Item = (OsString, OsString)>,
        config_flag: Option<PathBuf>,
        default_file: &Path,
    ) -> Self {
        let mut env = Vec::new();
        let mut named = config_flag;
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if name == CONFIG_VARIABLE {
                if !value.is_empty() {
                    named.get_or_insert(value.into());
                }
            } else if is_ours(&name) {
                env.push((name.into_owned(), value.to_string_lossy().into_owned()));
            }
        }
        // A default file that cannot even be looked at is for `load` to complain about.
        let default = || default_file.try_exists().unwrap_or(true).then(|| default_file.into());
        Self { env, file: named.or_else(default) }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("EDGEPROXY_") || name == "RUST_LOG" || name == STATE_DIRECTORY
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn source(variables: &[(&str, &str)], flag: Option<&str>, default: &str) -> Source {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Source::from_variables(variables, flag.map(Into::into), Path::new(default))
    }

    #[test]
    fn the_flag_beats_the_variable_beats_the_default_file() {
        let named = [("EDGEPROXY_CONFIG", "/b.toml")];
        let file = |source: Source| source.file.map(|path| path.display().to_string());
        assert_eq!(file(source(&named, Some("/a.toml"), "/")).as_deref(), Some("/a.toml"));
        assert_eq!(file(source(&named, None, "/")).as_deref(), Some("/b.toml"));
        assert_eq!(file(source(&[("EDGEPROXY_CONFIG", "")], None, "/")).as_deref(), Some("/"));
        assert_eq!(file(source(&[], None, "/nowhere/at/all")), None);
    }

    #[test]
    fn only_our_variables_are_taken() {
        let taken = source(
            &[("PATH", "/bin"), ("EDGEPROXY_POP", "gru"), ("RUST_LOG", "debug"), ("X_TOKEN", "t")],
            None,
            "/nowhere",
        );
        let names: Vec<_> = taken.env.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["EDGEPROXY_POP", "RUST_LOG"]);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_marked() {
        let value = OsString::from_vec(vec![b'a', 0xff]);
        let taken = Source::from_variables(
            [("EDGEPROXY_POP".into(), value)].into_iter(),
            None,
            Path::new("/nowhere"),
        );
        assert!(taken.env[0].1.contains(NOT_UTF8));
    }
}
