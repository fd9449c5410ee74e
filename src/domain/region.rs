//! Regions: which one a country belongs to, and how far they are from each other.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::backend::{BadName, is_name};
use super::geo::Country;

/// A free-form region code, in lower case; `sa`, `us`, `eu` and `ap` are known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(Arc<str>);

impl Region {
    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if is_name(text) { Ok(Self(text.to_lowercase().into())) } else { Err(BadName) }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Every ISO 3166-1 country and its region: first those of the documented map, then the rest by
/// geography (Africa and the Middle East to `eu`, Central America and the Caribbean to `us`).
const COUNTRIES: [(&str, &str); 4] = [
    (
        "sa",
        "BR AR CL PE CO UY PY BO EC VE \
         GY SR GF FK GS AQ",
    ),
    (
        "us",
        "US CA MX \
         GT BZ SV HN NI CR PA CU DO HT JM PR BS BB TT GD LC VC DM AG KN AI MS VG VI KY TC AW CW \
         SX BQ MQ GP MF BL BM GL PM UM",
    ),
    (
        "eu",
        "PT ES FR DE NL IT GB IE BE CH AT PL CZ SE NO DK FI RU UA \
         AD AL AX BA BG BY CY EE FO GG GI GR HR HU IM IS JE LI LT LU LV MC MD ME MK MT RO RS SI \
         SJ SK SM VA XK AM AZ GE \
         AE BH IL IQ IR JO KW LB OM PS QA SA SY TR YE \
         AO BF BI BJ BV BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY \
         MA MG ML MR MU MW MZ NA NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM \
         ZW",
    ),
    (
        "ap",
        "JP KR TW HK SG MY TH VN ID PH AU NZ CN IN \
         AF BD BN BT KG KH KP KZ LA LK MM MN MO MV NP PK TJ TL TM UZ \
         AS CC CK CX FJ FM GU HM IO KI MH MP NC NF NR NU PF PG PN PW SB TF TK TO TV VU WF WS",
    ),
];

/// The other known regions, nearest first.
const DISTANCES: [(&str, [&str; 3]); 4] = [
    ("sa", ["us", "eu", "ap"]),
    ("us", ["eu", "sa", "ap"]),
    ("eu", ["us", "ap", "sa"]),
    ("ap", ["us", "eu", "sa"]),
];

/// The documented map of the world with the operator's changes to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Atlas {
    /// Countries that an operator put in another region.
    pub countries: BTreeMap<Country, Region>,
    /// For a region, the others that an operator said are nearest, nearest first.
    pub near: BTreeMap<Region, Vec<Region>>,
}

impl Atlas {
    /// The region of a country; `None` for a code that ISO does not assign.
    #[must_use]
    pub fn region_of(&self, country: Country) -> Option<Region> {
        if let Some(region) = self.countries.get(&country) {
            return Some(region.clone());
        }
        let code = country.to_string();
        let (region, _) = COUNTRIES
            .iter()
            .find(|(_, countries)| countries.split_ascii_whitespace().any(|c| c == code))?;
        region.parse().ok()
    }

    /// `regions` by their distance from `from`, nearest first, `from` itself at the head: what the
    /// operator said is near, then the known order, then the rest by name.
    #[must_use]
    pub fn by_distance(&self, from: &Region, regions: &[Region]) -> Vec<Region> {
        let near = self.near.get(from).into_iter().flatten().map(Region::as_str);
        let known = DISTANCES
            .iter()
            .find(|(region, _)| *region == from.as_str())
            .map_or(["us", "eu", "sa", "ap"].as_slice(), |(_, others)| others.as_slice());
        let order: Vec<&str> =
            std::iter::once(from.as_str()).chain(near).chain(known.iter().copied()).collect();
        let place = |region: &Region| {
            order.iter().position(|name| *name == region.as_str()).unwrap_or(order.len())
        };
        let mut sorted = regions.to_vec();
        sorted.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.cmp(b)));
        sorted
    }
}

/// The codes of the known regions.
pub fn known_regions() -> impl Iterator<Item = Region> {
    DISTANCES.iter().filter_map(|(region, _)| region.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn region(text: &str) -> Region {
        text.parse().unwrap()
    }

    fn names(regions: &[Region]) -> Vec<&str> {
        regions.iter().map(Region::as_str).collect()
    }

    #[test]
    fn every_iso_country_has_exactly_one_region() {
        let all: Vec<_> = COUNTRIES.iter().flat_map(|(_, c)| c.split_ascii_whitespace()).collect();
        let distinct: HashSet<_> = all.iter().collect();
        assert_eq!(all.len(), distinct.len());
        // 249 assigned codes, and XK, which databases use for Kosovo.
        assert_eq!(all.len(), 250);
    }

    #[test]
    fn the_documented_map_and_the_rest_by_geography() {
        let atlas = Atlas::default();
        for (country, expected) in [
            ("BR", "sa"),
            ("MX", "us"),
            ("UA", "eu"),
            ("IN", "ap"),
            ("ZA", "eu"),
            ("AE", "eu"),
            ("PA", "us"),
            ("JM", "us"),
            ("GY", "sa"),
            ("KZ", "ap"),
            ("FJ", "ap"),
        ] {
            assert_eq!(
                atlas.region_of(country.parse().unwrap()),
                Some(region(expected)),
                "{country}"
            );
        }
        assert_eq!(atlas.region_of("ZZ".parse().unwrap()), None);
    }

    #[test]
    fn an_operator_can_move_a_country_and_reorder_the_neighbours() {
        let mut atlas = Atlas::default();
        atlas.countries.insert("ZA".parse().unwrap(), region("af"));
        atlas.near.insert(region("af"), vec![region("eu")]);
        assert_eq!(atlas.region_of("ZA".parse().unwrap()), Some(region("af")));
        let all = ["ap", "zz", "us", "eu", "sa", "af"].map(region);
        assert_eq!(
            names(&atlas.by_distance(&region("af"), &all)),
            ["af", "eu", "us", "sa", "ap", "zz"]
        );
        assert_eq!(
            names(&atlas.by_distance(&region("ap"), &all)),
            ["ap", "us", "eu", "sa", "af", "zz"]
        );
    }
}
