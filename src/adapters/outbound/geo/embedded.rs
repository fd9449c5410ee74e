//! The country table that the binary carries: the Tor Project's, from `IPFire` Location data
//! (<https://location.ipfire.org/>, CC BY-SA 4.0).

use std::net::IpAddr;
use std::sync::Arc;

use tor_geoip::GeoipDb;

use super::date;
use crate::domain::Country;
use crate::domain::ports::CountryLookup;

/// When the data in `tor-geoip-db` 0.1.1 was generated (its `doc/export-info-v4.txt`): the crate
/// does not say so at run time. A test fails when the lock file moves to another release.
const BUILT: u64 = 1_790_138_131;

/// Countries from the table inside the binary: no file, no start-up work.
#[derive(Clone, Debug)]
pub struct EmbeddedGeo(Arc<GeoipDb>);

impl EmbeddedGeo {
    /// The table; all instances share it.
    #[must_use]
    pub fn new() -> Self {
        Self(GeoipDb::new_embedded())
    }
}

impl Default for EmbeddedGeo {
    fn default() -> Self {
        Self::new()
    }
}

impl CountryLookup for EmbeddedGeo {
    fn country(&self, ip: IpAddr) -> Option<Country> {
        self.0.lookup_country_code(ip.to_canonical())?.as_ref().parse().ok()
    }

    fn describe(&self) -> String {
        format!("embedded (Tor Project, {})", date(BUILT))
    }

    fn built(&self) -> Option<u64> {
        Some(BUILT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn country(ip: &str) -> Option<String> {
        EmbeddedGeo::new().country(ip.parse().unwrap()).map(|country| country.to_string())
    }

    #[test]
    fn well_known_addresses_are_where_everybody_knows_they_are() {
        for (ip, expected) in [
            ("8.8.8.8", "US"),
            ("200.160.2.3", "BR"),
            ("193.99.144.80", "DE"),
            ("202.12.30.33", "JP"),
            ("2001:4860:4860::8888", "US"),
            ("2001:12ff::10", "BR"),
            ("2001:200::1", "JP"),
        ] {
            assert_eq!(country(ip).as_deref(), Some(expected), "{ip}");
        }
    }

    #[test]
    fn a_mapped_address_is_looked_up_as_ipv4() {
        assert_eq!(country("::ffff:8.8.8.8").as_deref(), Some("US"));
    }

    #[test]
    fn addresses_that_nobody_routes_have_no_country() {
        for ip in ["0.0.0.0", "10.0.0.1", "127.0.0.1", "255.255.255.255", "::", "::1", "fd00::1"] {
            assert_eq!(country(ip), None, "{ip}");
        }
    }

    #[test]
    fn the_date_named_is_that_of_the_release_in_the_lock_file() {
        let lock = include_str!("../../../../Cargo.lock");
        assert!(
            lock.contains("name = \"tor-geoip-db\"\nversion = \"0.1.1\"\n"),
            "tor-geoip-db has moved: take BUILT from its doc/export-info-v4.txt"
        );
        assert_eq!(EmbeddedGeo::new().describe(), "embedded (Tor Project, 2026-09-23)");
    }
}
