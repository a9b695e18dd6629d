//! How many nodes there are, guessed from how full the own buckets are (specification §14.1).

use crate::limits::ESTIMATE_BUCKETS;

/// An order of magnitude; it jumps by factors of two.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NetworkSize {
    /// Nodes.
    pub nodes: u64,
    /// Buckets that the guess rests on, of [`ESTIMATE_BUCKETS`].
    pub buckets: usize,
}

/// Guesses from the number of nodes in each bucket that is not empty, in order of the buckets. The
/// farthest five say how many there would be if all were spread alike; the middle one is taken. The
/// numbers are bounded, where upstream's may overflow (D-18).
pub fn estimate(buckets: &[(usize, usize)]) -> NetworkSize {
    let highest = buckets.iter().rev().take(ESTIMATE_BUCKETS);
    let mut guesses: Vec<u64> = highest
        .map(|(bucket, nodes)| {
            let shift = u32::try_from(*bucket + 1).unwrap_or(u32::MAX).min(62);
            (*nodes as u64).saturating_mul(1 << shift)
        })
        .collect();
    guesses.sort_unstable();
    let nodes = guesses.get(guesses.len() / 2).copied().unwrap_or(0);
    NetworkSize { nodes, buckets: guesses.len() }
}
