//! Two members compared, and whether one that warms up takes part.

use super::{Choice, FULL_SHARE};

/// A member that may be chosen, as it is compared with another.
#[derive(Clone, Copy)]
pub(super) struct Fit {
    pub active: u64,
    /// In thousandths.
    pub weight: u64,
    pub share: u32,
}

impl Fit {
    pub const fn heavier_than(self, other: Self) -> bool {
        self.active * other.weight > other.active * self.weight
    }
}

/// One draw that decides, for the whole decision, whether members that warm up take part: so a share
/// of a tenth is one decision in ten, however many members share it.
#[derive(Default)]
pub(super) struct Lot {
    drawn: Option<u64>,
    /// The first, and so the nearest, that did not take part.
    pub held_back: Option<Choice>,
}

impl Lot {
    pub fn admits(&mut self, fit: Fit, choice: Choice, draw: &mut impl FnMut(u64) -> u64) -> bool {
        if fit.share >= FULL_SHARE {
            return true;
        }
        let drawn = *self.drawn.get_or_insert_with(|| draw(u64::from(FULL_SHARE)));
        let admits = drawn < u64::from(fit.share);
        if !admits {
            self.held_back.get_or_insert(choice);
        }
        admits
    }
}
