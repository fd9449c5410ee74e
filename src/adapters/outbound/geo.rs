//! Where an address is: the table built into the binary, or a file in `MaxMind`'s format.

mod embedded;
mod mmdb;
#[cfg(test)]
mod mmdb_writer;

pub use embedded::EmbeddedGeo;
pub use mmdb::{GeoError, MmdbGeo};

const SECS_PER_DAY: u64 = 86_400;

/// The UTC date of a Unix time, as `2026-10-01`.
///
/// Days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years
/// that begin in March put the leap day last, so that months have fixed offsets.
fn date(unix_secs: u64) -> String {
    let days = unix_secs / SECS_PER_DAY + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
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
