//! The members of one tier, as ranges of the layout.

use std::ops::Range;

/// The members of one tier.
pub(super) enum Span<'a> {
    Listed(&'a [Range<usize>]),
    Holed([Range<usize>; 2]),
}

impl Span<'_> {
    pub fn parts(&self) -> &[Range<usize>] {
        match self {
            Span::Listed(parts) => parts,
            Span::Holed(parts) => parts,
        }
    }
}
