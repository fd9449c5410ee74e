//! Small country databases.

#[path = "../../../src/adapters/outbound/geo/mmdb_writer.rs"]
mod mmdb_writer;

use mmdb_writer::{Value, map, mmdb};

/// A file in `MaxMind`'s format that was built at `built` (seconds since the epoch) and says where
/// 203.0.113.0/24 is.
pub fn country_file(built: u64, country: &'static str) -> Vec<u8> {
    let record = map([("country", map([("iso_code", Value::Text(country))]))]);
    mmdb("Test-Country", built, &[([203, 0, 113], record)])
}
