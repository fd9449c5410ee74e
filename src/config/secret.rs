//! Passwords and tokens: read once, never shown.

use std::fmt;

use super::value::{Value, is_plain};

/// A token, or a database address with its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one who is asked for it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Value for Secret {
    const SECRET: bool = true;

    fn parse(text: &str) -> Option<Self> {
        is_plain(text).then(|| Self(text.into()))
    }

    fn accepts() -> String {
        "one line of text, not empty".into()
    }

    fn show(&self) -> String {
        masked(&self.0)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&masked(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// A database address without its password; nothing of any other text.
fn masked(text: &str) -> String {
    let Some((scheme, rest)) =
        text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "postgres" | "postgresql"))
    else {
        return MASK.into();
    };
    // A password may hold an unescaped `@`, `/` or `?`: all up to the last `@` is taken for it.
    // Without any `@` what looks like a host and a port may be a user and a password.
    let rest = match rest.rsplit_once('@') {
        Some((login, place)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@{place}"),
            None => rest.into(),
        },
        None if rest.contains(':') => MASK.into(),
        None => rest.into(),
    };
    let Some((address, query)) = rest.split_once('?') else {
        return format!("{scheme}://{rest}");
    };
    let query: Vec<_> = query.split('&').map(masked_parameter).collect();
    format!("{scheme}://{address}?{}", query.join("&"))
}

/// libpq also takes `password` and `sslpassword` as parameters.
fn masked_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if !name.to_ascii_lowercase().contains("pass") => parameter.into(),
        Some((name, _)) => format!("{name}={MASK}"),
        None => MASK.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_password_is_ever_shown() {
        for (given, shown) in [
            ("s3cret-token", "***"),
            ("https://s3cret", "***"),
            ("host=db password=s3cret", "***"),
            ("postgres://u:s3cret@db:5432/edge", "postgres://u:***@db:5432/edge"),
            ("postgresql://u:s3@cret/?x@db/e", "postgresql://u:***@db/e"),
            ("postgres://u:s3cret", "postgres://***"),
            ("postgres://u@db/e?password=s3cret&a=b", "postgres://u@db/e?password=***&a=b"),
            ("postgres://db/edge", "postgres://db/edge"),
        ] {
            let secret = Secret::parse(given).unwrap();
            assert_eq!(secret.show(), shown);
            assert_eq!((format!("{secret}"), format!("{secret:?}")), (shown.into(), shown.into()));
            assert_eq!(secret.expose(), given);
        }
    }
}
