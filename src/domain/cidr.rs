//! Address ranges, and a table that finds the longest one that holds an address.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// An address range in CIDR notation; a bare address is a range of one. IPv4 is kept as
/// v4-mapped IPv6, so that `10.0.0.0/8` and `::ffff:10.0.0.0/104` are the same range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    net: u128,
    len: u8,
}

/// Text that is not a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotACidr;

impl fmt::Display for NotACidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be an IP address or a range (CIDR)")
    }
}

impl std::error::Error for NotACidr {}

impl Cidr {
    /// Whether `ip` lies in the range.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        mask(bits(ip), self.len) == self.net
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

const fn mask(bits: u128, len: u8) -> u128 {
    if len == 0 { 0 } else { bits & (u128::MAX << (128 - len)) }
}

impl FromStr for Cidr {
    type Err = NotACidr;

    /// Host bits below the prefix are ignored, as most tools do.
    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let (ip, len) = text.split_once('/').map_or((text, None), |(ip, len)| (ip, Some(len)));
        let ip: IpAddr = ip.parse().map_err(|_| NotACidr)?;
        let (width, offset) = if ip.is_ipv4() { (32, 96) } else { (128, 0) };
        let len: u8 = match len {
            None => width,
            Some(len) if len.bytes().all(|b| b.is_ascii_digit()) => {
                len.parse().ok().filter(|len| *len <= width).ok_or(NotACidr)?
            }
            Some(_) => return Err(NotACidr),
        };
        let len = len + offset;
        Ok(Self { net: mask(bits(ip), len), len })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Ipv6Addr::from_bits(self.net).to_ipv4_mapped() {
            Some(v4) if self.len >= 96 => write!(f, "{v4}/{}", self.len - 96),
            _ => write!(f, "{}/{}", Ipv6Addr::from_bits(self.net), self.len),
        }
    }
}

/// Values by address range; the longest range that holds an address wins.
/// A look-up costs one hash per prefix length in use, whatever the number of ranges.
#[derive(Clone, Debug, Default)]
pub struct CidrMap<T> {
    lengths: Vec<(u8, HashMap<u128, T>)>,
}

impl<T> CidrMap<T> {
    /// The value for `ip`.
    #[must_use]
    pub fn get(&self, ip: IpAddr) -> Option<&T> {
        let bits = bits(ip);
        self.lengths.iter().find_map(|(len, nets)| nets.get(&mask(bits, *len)))
    }

    /// Whether there is no range at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }
}

impl<T> FromIterator<(Cidr, T)> for CidrMap<T> {
    /// Of equal ranges the last one counts.
    fn from_iter<I: IntoIterator<Item = (Cidr, T)>>(ranges: I) -> Self {
        let mut lengths: Vec<(u8, HashMap<u128, T>)> = Vec::new();
        for (cidr, value) in ranges {
            let place = lengths.iter().position(|(len, _)| *len == cidr.len);
            let place = place.unwrap_or_else(|| {
                lengths.push((cidr.len, HashMap::new()));
                lengths.len() - 1
            });
            lengths[place].1.insert(cidr.net, value);
        }
        lengths.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        Self { lengths }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_range_wins_in_both_families() {
        let map: CidrMap<&str> = [
            (cidr("10.0.0.0/8"), "wide"),
            (cidr("10.1.0.0/16"), "narrow"),
            (cidr("10.1.2.3"), "one"),
            (cidr("2001:db8::/32"), "six"),
        ]
        .into_iter()
        .collect();
        let get = |ip: &str| map.get(ip.parse().unwrap()).copied();
        assert_eq!(get("10.9.9.9"), Some("wide"));
        assert_eq!(get("10.1.9.9"), Some("narrow"));
        assert_eq!(get("10.1.2.3"), Some("one"));
        assert_eq!(get("::ffff:10.1.2.3"), Some("one"));
        assert_eq!(get("2001:db8:5::1"), Some("six"));
        assert_eq!(get("11.0.0.1"), None);
    }

    #[test]
    fn zero_lengths_hold_their_family_only() {
        assert!(cidr("0.0.0.0/0").contains("203.0.113.1".parse().unwrap()));
        assert!(!cidr("0.0.0.0/0").contains("2001:db8::1".parse().unwrap()));
        assert!(cidr("::/0").contains("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn what_is_not_a_range_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "10.0.0.0/+8", "host/8"]
        {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert_eq!(cidr("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(cidr("2001:db8::1/32").to_string(), "2001:db8::/32");
    }
}
