//! Comma-separated lists: addresses to listen on, address ranges, names of protocols.

use std::fmt::Display;
use std::net::SocketAddr;

use super::value::{Shape, Value};
use crate::domain::cidr::Cidr;

/// One or more addresses with ports; port 0 lets the system choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Vec<SocketAddr>);

impl Addresses {
    /// The addresses, at least one.
    #[must_use]
    pub fn get(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl Value for Addresses {
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str) -> Option<Self> {
        text.split(',').map(|part| part.trim().parse().ok()).collect::<Option<_>>().map(Self)
    }

    fn accepts() -> String {
        "one or more addresses with ports such as 0.0.0.0:8080 or [::]:8080, separated by commas \
         (host names are not looked up)"
            .into()
    }

    fn show(&self) -> String {
        joined(&self.0)
    }
}

/// Addresses to listen on, or none at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(Option<Addresses>);

impl Listen {
    /// The addresses; none when it is off.
    #[must_use]
    pub fn get(&self) -> &[SocketAddr] {
        self.0.as_ref().map_or(&[], Addresses::get)
    }
}

impl Value for Listen {
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str) -> Option<Self> {
        if text.trim().eq_ignore_ascii_case("off") {
            return Some(Self(None));
        }
        Addresses::parse(text).map(|addrs| Self(Some(addrs)))
    }

    fn accepts() -> String {
        format!("off, or {}", Addresses::accepts())
    }

    fn show(&self) -> String {
        self.0.as_ref().map_or_else(|| "off".into(), Addresses::show)
    }
}

/// Any number of protocols' names (ALPN, RFC 7301), the most wanted first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols(Vec<String>);

impl Protocols {
    /// The names, in the order given.
    #[must_use]
    pub fn get(&self) -> &[String] {
        &self.0
    }
}

impl Value for Protocols {
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str) -> Option<Self> {
        if text.trim().is_empty() {
            return Some(Self::default());
        }
        let is_name = |name: &str| {
            (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let names = text.split(',').map(str::trim);
        names.map(|name| is_name(name).then(|| name.into())).collect::<Option<_>>().map(Self)
    }

    fn accepts() -> String {
        "names of protocols such as h2 or http/1.1, each of 1 to 255 visible ASCII characters, \
         separated by commas"
            .into()
    }

    fn show(&self) -> String {
        if self.0.is_empty() { "-".into() } else { joined(&self.0) }
    }
}

/// Any number of address ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs(Vec<Cidr>);

impl Cidrs {
    /// The ranges, in the order given.
    #[must_use]
    pub fn get(&self) -> &[Cidr] {
        &self.0
    }
}

impl Value for Cidrs {
    const SHAPE: Shape = Shape::List;

    fn parse(text: &str) -> Option<Self> {
        if text.trim().is_empty() {
            return Some(Self::default());
        }
        text.split(',').map(|part| part.trim().parse().ok()).collect::<Option<_>>().map(Self)
    }

    fn accepts() -> String {
        "address ranges such as 10.0.0.0/8 or 2001:db8::/32, separated by commas".into()
    }

    fn show(&self) -> String {
        if self.0.is_empty() { "-".into() } else { joined(&self.0) }
    }
}

fn joined<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_one_or_more_and_have_ports() {
        let both = Addresses::parse("0.0.0.0:80, [::]:0").unwrap();
        assert_eq!(both.get().len(), 2);
        assert_eq!(both.show(), "0.0.0.0:80,[::]:0");
        for text in ["", "0.0.0.0", ":80", "localhost:80", "0.0.0.0:80,", "0.0.0.0:70000"] {
            assert_eq!(Addresses::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_listener_may_be_off_in_one_word() {
        let off = Listen::parse(" Off ").unwrap();
        assert_eq!((off.get(), off.show().as_str()), (&[][..], "off"));
        assert_eq!(Listen::parse("[::]:80").unwrap().get().len(), 1);
        assert_eq!(Listen::parse("off,[::]:80"), None);
        assert!(Listen::accepts().starts_with("off, or one or more addresses"));
    }

    #[test]
    fn a_protocol_has_a_name_of_visible_characters() {
        assert_eq!(Protocols::parse("h2, http/1.1").unwrap().get(), ["h2", "http/1.1"]);
        assert_eq!(Protocols::parse(" ").unwrap().show(), "-");
        let long = |length| Protocols::parse(&"x".repeat(length));
        assert!(long(255).is_some());
        for wrong in [Protocols::parse("h2,"), Protocols::parse("h 2"), long(256)] {
            assert_eq!(wrong, None);
        }
    }

    #[test]
    fn ranges_may_be_none_at_all() {
        assert_eq!(Cidrs::parse("").unwrap().get(), []);
        assert_eq!(Cidrs::parse("").unwrap().show(), "-");
        let two = Cidrs::parse("10.0.0.0/8 ,::1").unwrap();
        assert_eq!(two.show(), "10.0.0.0/8,::1/128");
        assert_eq!(Cidrs::parse("10.0.0.0/8,home"), None);
    }
}
