//! Where an app's backends are, those included that take no connections now.

use std::collections::HashMap;

use super::Row;
use crate::domain::Country;
use crate::domain::balance::{Layout, Origin, Tier};

/// The rows of a table that are not deleted, by country and by region.
#[derive(Debug, Default)]
pub(super) struct Homes {
    countries: HashMap<Country, Vec<usize>>,
    regions: HashMap<u32, Vec<usize>>,
}

impl Homes {
    pub fn of(rows: &[Row], layout: &Layout) -> Self {
        let mut homes = Self::default();
        for (place, row) in rows.iter().enumerate().filter(|(_, row)| !row.backend.deleted) {
            if let Some(country) = row.backend.country {
                homes.countries.entry(country).or_default().push(place);
            }
            // A region without a number is nobody's but by being far.
            if let Some(region) = layout.number_of(&row.backend.region) {
                homes.regions.entry(region).or_default().push(place);
            }
        }
        homes
    }

    /// The rows in tiers nearer to a client than `tier`, by tier.
    pub fn nearer(
        &self,
        layout: &Layout,
        origin: Origin,
        tier: Tier,
    ) -> impl Iterator<Item = (Tier, &[usize])> {
        let country = origin.country().and_then(|country| self.countries.get(&country));
        let own = origin.region().and_then(|region| self.regions.get(&region));
        let is_own = origin.region() == Some(layout.pop());
        let pop = self.regions.get(&layout.pop()).filter(|_| !is_own);
        let tiers = [(Tier::Country, country), (Tier::Region, own), (Tier::Pop, pop)];
        tiers
            .into_iter()
            .filter(move |(nearer, _)| *nearer < tier)
            .filter_map(|(nearer, rows)| Some((nearer, rows?.as_slice())))
    }
}
