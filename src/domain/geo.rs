//! Countries, and what stands for a client wherever clients are counted.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An ISO 3166-1 alpha-2 code, in capitals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

/// Text that is not two letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTwoLetters;

impl Country {
    /// How many codes of two letters there are.
    pub const COUNT: usize = 26 * 26;

    /// Every code of two letters, whether or not it is in use.
    pub fn all() -> impl Iterator<Item = Self> {
        (b'A'..=b'Z').flat_map(|a| (b'A'..=b'Z').map(move |b| Self([a, b])))
    }

    /// The code as two ASCII capitals.
    #[must_use]
    pub const fn code(self) -> [u8; 2] {
        self.0
    }

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("??")
    }

    /// A dense number below [`Country::COUNT`].
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0[0] - b'A') as usize * 26 + (self.0[1] - b'A') as usize
    }
}

impl FromStr for Country {
    type Err = NotTwoLetters;

    fn from_str(text: &str) -> Result<Self, NotTwoLetters> {
        match text.as_bytes() {
            &[a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Ok(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => Err(NotTwoLetters),
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One client, for affinity and limits: an IPv4 address, or an IPv6 /64 (what one household or
/// machine can choose from at will). v4-mapped addresses count as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey(u64);

/// What marks an IPv4 client. `0001::/16` is reserved (RFC 4291), so no IPv6 client has a prefix that
/// collides.
const V4: u64 = 1 << 48;

impl From<IpAddr> for ClientKey {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self(V4 | u64::from(v4.to_bits())),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(u64::from(a) << 48 | u64::from(b) << 32 | u64::from(c) << 16 | u64::from(d))
            }
        }
    }
}

impl ClientKey {
    /// A number that no other client has: an IPv6 client's /64, or the IPv4 address below a mark.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The number of the IPv6 /48 around the client, the most that one site is usually given
    /// (RFC 6177); none for an IPv4 address.
    #[must_use]
    pub const fn site(self) -> Option<u64> {
        if self.0 >> 48 == V4 >> 48 { None } else { Some(self.0 >> 16) }
    }
}

impl fmt::Display for ClientKey {
    /// The address, or the /64.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >> 32 == V4 >> 32 {
            let bits = u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or_default();
            return write!(f, "{}", Ipv4Addr::from_bits(bits));
        }
        write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(self.0) << 64))
    }
}

/// Whether an address is one that the Internet does not route: this machine, or a private network.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || in_v4(v4, Ipv4Addr::new(100, 64, 0, 0), 10)
        }
        IpAddr::V6(v6) => {
            v6 == Ipv6Addr::LOCALHOST || v6.is_unique_local() || v6.is_unicast_link_local()
        }
    }
}

fn in_v4(ip: Ipv4Addr, net: Ipv4Addr, len: u32) -> bool {
    (ip.to_bits() ^ net.to_bits()) >> (32 - len) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ip: &str) -> ClientKey {
        ClientKey::from(ip.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_client_and_a_64_is_one_client() {
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_ne!(key("::1"), key("0.0.0.0"));
        assert_eq!(key("::ffff:192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(key("2001:db8:1:2:ffff::9").to_string(), "2001:db8:1:2::/64");
        assert_eq!(key("::1").to_string(), "::/64");
    }

    #[test]
    fn a_site_is_a_48_and_ipv4_has_none() {
        assert_eq!(key("2001:db8:1:2::1").site(), key("2001:db8:1:ffff::1").site());
        assert_ne!(key("2001:db8:1:2::1").site(), key("2001:db8:2:2::1").site());
        assert_eq!(key("::1").site(), Some(0));
        assert_eq!(key("192.0.2.1").site(), None);
        assert_eq!(key("::ffff:192.0.2.1").site(), None);
    }

    #[test]
    fn private_means_not_routed_on_the_internet() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "100.64.0.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["100.128.0.1", "172.32.0.1", "8.8.8.8", "2001:4860::1"] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn country_codes_fold_case_and_refuse_the_rest() {
        assert_eq!("br".parse::<Country>().unwrap().to_string(), "BR");
        for text in ["", "B", "BRA", "B1", "é"] {
            assert!(text.parse::<Country>().is_err(), "{text}");
        }
        assert_eq!("ZZ".parse::<Country>().unwrap().index(), Country::COUNT - 1);
    }
}
