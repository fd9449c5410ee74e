//! One worker's way from a decision to the count of connections carried that way.

use std::collections::HashMap;
use std::sync::Arc;

use super::AppTable;
use crate::domain::Region;
use crate::domain::balance::{Origin, Tier};
use crate::infrastructure::meters::{Counter, Meters, Route};

/// Counts found so far; past these they are looked up anew.
const KEPT: usize = 4_096;
/// The label of a client whose region is not known.
const UNKNOWN: &str = "unknown";

/// Counts by the numbers that a table has for places, so that no name is looked at twice.
#[derive(Debug, Default)]
pub struct RouteCounts {
    known: HashMap<(u64, Origin, u32, Tier), Arc<Counter>>,
}

impl RouteCounts {
    /// The count of connections from `origin` to the region of `member`.
    pub fn of(
        &mut self,
        table: &AppTable,
        origin: Origin,
        member: usize,
        tier: Tier,
        meters: &Meters,
    ) -> &Counter {
        let origin = origin.without_country();
        let key = (table.version, origin, table.layout.region_number(member), tier);
        if self.known.len() >= KEPT {
            // Most are of tables that are gone.
            self.known.clear();
        }
        self.known.entry(key).or_insert_with(|| {
            let client = table.layout.region_name(origin).map_or(UNKNOWN, Region::as_str);
            let backend = table.layout.members()[member].region.as_str();
            let tier = tier.number();
            meters.route(Route {
                client_region: client.into(),
                backend_region: backend.into(),
                tier,
            })
        })
    }
}
