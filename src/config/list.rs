//! Comma-separated lists: addresses to listen on, and address ranges.

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
    fn ranges_may_be_none_at_all() {
        assert_eq!(Cidrs::parse("").unwrap().get(), []);
        assert_eq!(Cidrs::parse("").unwrap().show(), "-");
        let two = Cidrs::parse("10.0.0.0/8 ,::1").unwrap();
        assert_eq!(two.show(), "10.0.0.0/8,::1/128");
        assert_eq!(Cidrs::parse("10.0.0.0/8,home"), None);
    }
}
