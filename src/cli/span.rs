//! Spans of time as people write them: `90`, `90s`, `5m`, `6h`, `2d`.

use std::str::FromStr;
use std::time::Duration;

use crate::domain::time::civil_date;

/// A span of whole seconds, a year at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

const YEAR: u64 = 31_536_000;

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3_600),
            "d" => Some(86_400),
            _ => None,
        };
        let secs = digits.parse::<u64>().ok().zip(unit);
        let secs = secs.and_then(|(number, unit)| number.checked_mul(unit));
        match secs.filter(|secs| *secs <= YEAR) {
            Some(secs) => Ok(Self(Duration::from_secs(secs))),
            None => {
                Err("must be a number of seconds, or one with s, m, h or d; a year at most".into())
            }
        }
    }
}

/// A moment in seconds since the epoch, as UTC (RFC 3339).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "to the second")]
pub(super) fn moment(at: f64) -> String {
    let secs = at.max(0.0) as u64;
    let (year, month, day) = civil_date(secs);
    let (hour, minute, second) = (secs / 3_600 % 24, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_in_every_unit_and_nothing_else_is() {
        for (text, secs) in [("90", 90), ("90s", 90), ("5m", 300), ("6h", 21_600), ("2d", 172_800)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs(secs))));
        }
        for wrong in ["", "m", "-5m", "5 m", "5w", "1.5h", "367d", "99999999999999999999s"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(moment(1_795_868_163.8), "2026-11-28T12:16:03Z");
    }
}
