//! Host names as operators write them, and what they lead to.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// Longest name, in bytes (RFC 1035, 2.3.4, as text).
const MAX_NAME: usize = 253;
/// Longest part of one between dots, in bytes.
const MAX_LABEL: usize = 63;

/// A host name, or with `*.` before it every name below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    /// In lower case, without the `*.` and without a dot at the end.
    name: String,
    below: bool,
}

/// Why a pattern was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPattern;

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host name such as www.example.com, or *.example.com for all below it")
    }
}

impl std::error::Error for BadPattern {}

impl FromStr for HostPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let text = text.trim();
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_label = |label: &str| {
            let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(is_inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // An address is none: its last label is a number.
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let is_name = name.len() <= MAX_NAME
            && name.split('.').all(is_label)
            && !name.rsplit('.').next().is_some_and(is_number);
        is_name.then(|| Self { name: name.to_ascii_lowercase(), below }).ok_or(BadPattern)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// What names lead to.
#[derive(Clone, Debug)]
pub struct HostMap<T> {
    exact: HashMap<String, T>,
    below: HashMap<String, T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: HashMap::new() }
    }
}

impl<T> HostMap<T> {
    /// What `name`, in lower case and without a dot at its end, leads to: its own pattern before that
    /// of the nearest name above it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        let above = || {
            let dots = name.match_indices('.');
            dots.map(|(dot, _)| &name[dot + 1..]).find_map(|above| self.below.get(above))
        };
        self.exact.get(name).or_else(above)
    }
}

impl<T> FromIterator<(HostPattern, T)> for HostMap<T> {
    fn from_iter<I: IntoIterator<Item = (HostPattern, T)>>(pairs: I) -> Self {
        let mut map = Self::default();
        for (HostPattern { name, below }, value) in pairs {
            if below { &mut map.below } else { &mut map.exact }.insert(name, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_its_own_comes_before_the_nearest_above() {
        let patterns = [("www.example.com", 1), ("*.example.com", 2), ("*.a.Example.com.", 3)];
        let map: HostMap<i32> =
            patterns.into_iter().map(|(name, value)| (name.parse().unwrap(), value)).collect();
        for (name, found) in [
            ("www.example.com", Some(1)),
            ("api.example.com", Some(2)),
            ("x.y.example.com", Some(2)),
            ("x.a.example.com", Some(3)),
            ("a.example.com", Some(2)),
            ("example.com", None),
            ("badexample.com", None),
        ] {
            assert_eq!(map.get(name).copied(), found, "{name}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for text in ["", "*", "*.", "a..b", "-a.com", "a b.com", "10.0.0.1", "*.*.com", "a.com:443"]
        {
            assert_eq!(text.parse::<HostPattern>(), Err(BadPattern), "{text}");
        }
        assert_eq!("*.A.com".parse::<HostPattern>().unwrap().to_string(), "*.a.com");
    }
}
