//! The two clocks of this crate. Both are read by the caller and passed in.

/// Wall-clock seconds since 1970, by which records and delegations are judged.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UnixSeconds(pub u64);

/// Milliseconds of a clock that never goes back, since any moment before the first use.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Millis(pub u64);

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Now {
    /// For waiting and for ages.
    pub millis: Millis,
    /// For records.
    pub unix: UnixSeconds,
}

impl Millis {
    /// The moment that many milliseconds later.
    #[must_use]
    pub fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds since an earlier moment; 0 if it is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
