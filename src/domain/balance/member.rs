//! A backend as the decision sees it: what is known of it, and what is observed at the moment.

use super::{Country, Region};

/// What the decision needs to know of one backend.
#[derive(Clone, Debug)]
pub struct Member {
    /// Where it is.
    pub region: Region,
    /// The country that it is in, when it is known.
    pub country: Option<Country>,
    /// Its share of its tier, at least 1.
    pub weight: u32,
    /// Open connections from which the next tier is preferred; 0 = none.
    pub soft_limit: u32,
    /// Open connections that are never exceeded; 0 = none.
    pub hard_limit: u32,
}

impl Member {
    /// Whether one more connection fits below the hard limit.
    #[must_use]
    pub const fn below_hard(&self, active: u32) -> bool {
        self.hard_limit == 0 || active < self.hard_limit
    }

    /// Whether one more connection is welcome.
    #[must_use]
    pub const fn below_soft(&self, active: u32) -> bool {
        (self.soft_limit == 0 || active < self.soft_limit) && self.below_hard(active)
    }
}

/// What is observed of the members at the moment of the decision.
pub trait Load {
    /// Open connections of a member.
    fn active(&self, member: usize) -> u32;
    /// How a member stands.
    fn standing(&self, member: usize) -> Standing;
    /// How much of its weight counts, in thousandths: less than [`FULL_SHARE`] while it warms up.
    fn share(&self, _: usize) -> u32 {
        FULL_SHARE
    }
}

/// All of a member's weight.
pub const FULL_SHARE: u32 = 1_000;

/// How a member stands, besides its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be chosen.
    Up,
    /// It ranks behind all others (its last dial failed).
    Last,
    /// It is not chosen (its probes fail, its breaker is open).
    Out,
}
