//! Where the client is.

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::Country;
use crate::domain::cidr::CidrMap;
use crate::domain::geo::is_private;
use crate::domain::ports::CountryLookup;

/// What is known of addresses: what the operator says wins over the database.
pub struct Geo {
    /// Countries of address ranges, from the configuration.
    pub overrides: CidrMap<Country>,
    /// The database.
    pub database: Arc<dyn CountryLookup>,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Its country, when it is known.
    pub country: Option<Country>,
    /// It is on this machine or a private network, which counts as being at this POP.
    pub at_pop: bool,
}

impl Geo {
    /// Locates an address. Never asks the network.
    #[must_use]
    pub fn locate(&self, ip: IpAddr) -> Location {
        let ip = ip.to_canonical();
        if let Some(country) = self.overrides.get(ip) {
            return Location { country: Some(*country), at_pop: false };
        }
        if is_private(ip) {
            return Location { country: None, at_pop: true };
        }
        Location { country: self.database.country(ip), at_pop: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says Germany to everything.
    struct Germany;

    impl CountryLookup for Germany {
        fn country(&self, _: IpAddr) -> Option<Country> {
            "DE".parse().ok()
        }
        fn describe(&self) -> String {
            "all is Germany".into()
        }
    }

    #[test]
    fn overrides_win_private_is_at_the_pop_and_the_rest_is_looked_up() {
        let overrides = [("127.0.1.0/24".parse().unwrap(), "CL".parse().unwrap())];
        let geo = Geo { overrides: overrides.into_iter().collect(), database: Arc::new(Germany) };
        let at = |ip: &str| geo.locate(ip.parse().unwrap());
        assert_eq!(at("127.0.1.9").country.unwrap().to_string(), "CL");
        assert_eq!(at("::ffff:127.0.1.9").country.unwrap().to_string(), "CL");
        assert_eq!(at("10.0.0.1"), Location { country: None, at_pop: true });
        assert_eq!(at("203.0.113.1").country.unwrap().to_string(), "DE");
    }
}
