//! Whole numbers and spans of time that know their range.

use std::time::Duration;

use super::value::{Shape, Value};

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Whole<MIN, MAX> {
    /// `number`, if it is in the range.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number >= MIN && number <= MAX { Some(Self(number)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Value for Whole<MIN, MAX> {
    const SHAPE: Shape = Shape::Number;

    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok().and_then(Self::new)
    }

    fn accepts() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// A whole number of seconds from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Seconds<MIN, MAX> {
    /// `seconds`, if they are in the range.
    #[must_use]
    pub const fn new(seconds: u32) -> Option<Self> {
        if seconds >= MIN && seconds <= MAX { Some(Self(seconds)) } else { None }
    }

    /// The span of time.
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }

    /// The span as a number of seconds.
    #[must_use]
    pub const fn secs(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Value for Seconds<MIN, MAX> {
    const SHAPE: Shape = Shape::Number;

    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok().and_then(Self::new)
    }

    fn accepts() -> String {
        format!("a whole number of seconds from {MIN} to {MAX}")
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_in_its_range() {
        assert_eq!(<Whole<1, 3>>::parse("3").unwrap().get(), 3);
        for text in ["0", "4", "-1", "1.5", "", "three", "4294967297"] {
            assert_eq!(<Whole<1, 3>>::parse(text), None, "{text}");
        }
        assert_eq!(<Whole<1, 3>>::accepts(), "a whole number from 1 to 3");
    }

    #[test]
    fn seconds_say_their_unit() {
        assert_eq!(<Seconds<0, 60>>::parse("60").unwrap().get(), Duration::from_mins(1));
        assert_eq!(<Seconds<0, 60>>::parse("5s"), None);
        assert_eq!(<Seconds<1, 60>>::accepts(), "a whole number of seconds from 1 to 60");
    }
}
