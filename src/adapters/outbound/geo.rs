//! Where an address is: the table built into the binary, or a file in `MaxMind`'s format.

mod embedded;
mod mmdb;
#[cfg(test)]
mod mmdb_writer;

pub use embedded::EmbeddedGeo;
pub use mmdb::{GeoError, MmdbGeo};

use crate::domain::time::civil_date;

/// The UTC date of a Unix time, as `2026-10-01`.
fn date(unix_secs: u64) -> String {
    let (year, month, day) = civil_date(unix_secs);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_time_is_its_utc_date() {
        for (secs, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_251_199, "2024-02-29"),
            (1_709_251_200, "2024-03-01"),
            (1_767_225_599, "2025-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(secs), expected, "{secs}");
        }
        // A date no file should have must not panic either.
        assert!(!date(u64::MAX).is_empty());
    }
}
