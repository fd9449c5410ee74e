//! What a setting can be: text parsed once into a type that holds only what is accepted.

use std::path::PathBuf;

use crate::domain::balance::Spill;
use crate::domain::cidr::Cidr;
use crate::domain::host::HostPattern;
use crate::domain::{App, Country, Region};

/// A type that a setting can have.
pub trait Value: Sized {
    /// How TOML writes it.
    const SHAPE: Shape = Shape::Text;
    /// Whether it is never shown.
    const SECRET: bool = false;

    /// The value that `text` stands for; `None` when it stands for none.
    fn parse(text: &str) -> Option<Self>;

    /// What [`parse`](Self::parse) accepts, to follow the words "must be".
    fn accepts() -> String;

    /// The value as people may see it; `-` when absent.
    fn show(&self) -> String;
}

/// How TOML writes a value. A quoted text is accepted for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `"in quotes"`
    Text,
    /// `12`
    Number,
    /// `true`
    Switch,
    /// `["a", "b"]`, or `"a,b"`
    List,
}

impl Value for bool {
    const SHAPE: Shape = Shape::Switch;

    fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    fn accepts() -> String {
        "true/false/1/0/yes/no/on/off".into()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn parse(text: &str) -> Option<Self> {
        is_plain(text).then(|| text.into())
    }

    fn accepts() -> String {
        "text without control characters, not empty".into()
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// Whether `text` is a line that can be logged as it is.
pub(super) fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

impl Value for PathBuf {
    fn parse(text: &str) -> Option<Self> {
        is_plain(text).then(|| text.into())
    }

    fn accepts() -> String {
        "a path".into()
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// Empty text is an absent value.
impl<T: Value> Value for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const SECRET: bool = T::SECRET;

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::parse(text).map(Some) }
    }

    fn accepts() -> String {
        T::accepts()
    }

    fn show(&self) -> String {
        self.as_ref().map_or("-".into(), T::show)
    }
}

/// Types that already know how to read themselves.
macro_rules! from_str {
    ($($type:ty: $accepts:expr;)*) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Option<Self> {
                text.trim().parse().ok()
            }

            fn accepts() -> String {
                $accepts.into()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

from_str! {
    App: crate::domain::backend::BadName.to_string();
    Region: crate::domain::backend::BadName.to_string();
    Country: "two letters (ISO 3166-1)";
    Cidr: "an address range such as 10.0.0.0/8 or 2001:db8::/32";
    HostPattern: crate::domain::host::BadPattern.to_string();
}

/// Enums that are written as one word of a closed list.
macro_rules! words {
    ($($type:ty { $($variant:ident = $word:literal),+ })*) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Option<Self> {
                match text.trim().to_ascii_lowercase().as_str() {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn accepts() -> String {
                one_of(&[$($word),+])
            }

            fn show(&self) -> String {
                match self {
                    $(Self::$variant => $word.into(),)+
                }
            }
        }
    )*};
}

/// `a, b or c`
fn one_of(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        words => words.concat(),
    }
}

words! {
    Mode { Tcp = "tcp", Http = "http" }
    HealthType { Tcp = "tcp", Http = "http" }
    LogFormat { Text = "text", Json = "json" }
    ClientAuth { Required = "required", Optional = "optional" }
    SendProxy { Off = "off", V1 = "v1", V2 = "v2" }
    Spill { Any = "any", Region = "region", Country = "country" }
}

/// What a listener carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Opaque bytes, any protocol.
    Tcp,
    /// HTTP requests.
    Http,
}

/// How a backend is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthType {
    /// A connection that opens.
    Tcp,
    /// A GET that answers with the expected status.
    Http,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What a `[[listener]]` does with TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerTls {
    /// Nothing: bytes are carried as they come.
    #[default]
    Off,
    /// It ends it here.
    Terminate,
    /// It reads the server's name and carries everything as it is.
    Passthrough,
}

impl Value for ListenerTls {
    const SHAPE: Shape = Shape::Switch;

    fn parse(text: &str) -> Option<Self> {
        if text.trim().eq_ignore_ascii_case("passthrough") {
            return Some(Self::Passthrough);
        }
        bool::parse(text).map(|on| if on { Self::Terminate } else { Self::Off })
    }

    fn accepts() -> String {
        "false, true or passthrough".into()
    }

    fn show(&self) -> String {
        match self {
            Self::Off => "false".into(),
            Self::Terminate => "true".into(),
            Self::Passthrough => "passthrough".into(),
        }
    }
}

/// What it means that clients' certificates are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// A client without one is refused.
    Required,
    /// A client may have none; one that is not good is refused.
    Optional,
}

/// The PROXY protocol header that a backend gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendProxy {
    /// None.
    #[default]
    Off,
    /// Of version 1.
    V1,
    /// Of version 2.
    V2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_words_in_any_case_are_a_boolean_and_no_other_is() {
        for text in ["true", "1", "yes", "on", "TRUE", " Yes "] {
            assert_eq!(bool::parse(text), Some(true), "{text}");
        }
        for text in ["false", "0", "no", "off", "Off"] {
            assert_eq!(bool::parse(text), Some(false), "{text}");
        }
        for text in ["", "2", "enabled", "t", "y"] {
            assert_eq!(bool::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_optional_value_may_be_empty_but_not_wrong() {
        assert_eq!(<Option<App>>::parse(""), Some(None));
        assert_eq!(<Option<App>>::parse("web").flatten().unwrap().as_str(), "web");
        assert_eq!(<Option<App>>::parse("two words"), None);
        assert_eq!(None::<App>.show(), "-");
    }

    #[test]
    fn a_choice_names_its_words() {
        assert_eq!(Mode::parse("HTTP"), Some(Mode::Http));
        assert_eq!(Mode::parse("udp"), None);
        assert_eq!(Spill::accepts(), "any, region or country");
        assert_eq!(LogFormat::Json.show(), "json");
    }

    #[test]
    fn text_that_would_break_a_log_line_is_refused() {
        assert_eq!(String::parse("a\nb"), None);
        assert_eq!(PathBuf::parse(""), None);
    }
}
