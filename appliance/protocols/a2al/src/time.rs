//! The two clocks of this crate. Both are read by the caller and passed in.

/// Wall-clock seconds since 1970, by which records and delegations are judged.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UnixSeconds(pub u64);
