//! Random values from a seed that is passed in.
//!
//! SHA-256 over the seed and a counter: nobody who sees values can tell others, and a simulation that
//! passes the same seed sees the same run.

use crate::hash::sha256;

/// A sequence of values that only the seed tells.
pub struct RandomSource {
    seed: [u8; 32],
    counter: u64,
}

impl RandomSource {
    /// Begins the sequence of a seed, which comes from the system for a real node.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    /// The next bytes; at most 32.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32, "one hash has 32 bytes") };
        self.counter += 1;
        let block = sha256(&[&self.seed, &self.counter.to_be_bytes()]);
        let mut bytes = [0; N];
        bytes.copy_from_slice(&block[..N]);
        bytes
    }

    /// A number below a bound, evenly enough for choosing among few.
    pub fn below(&mut self, bound: usize) -> usize {
        let value = u64::from_be_bytes(self.bytes());
        usize::try_from(value % bound.max(1) as u64).unwrap_or(0)
    }
}

impl std::fmt::Debug for RandomSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RandomSource").finish_non_exhaustive()
    }
}
