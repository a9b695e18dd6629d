//! Node ids, storage keys, and the distance between them (specification §1.2).

use std::fmt;

use crate::limits::NODE_ID_BYTES;

/// A place among the nodes: of a node, or of a key under which records are stored.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub [u8; NODE_ID_BYTES]);

/// How far two node ids are from each other; ordered as a 256-bit number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Distance(pub [u8; NODE_ID_BYTES]);

impl NodeId {
    /// The id that stands for none where a message has to have one.
    pub const ZERO: Self = Self([0; NODE_ID_BYTES]);

    /// Bitwise difference.
    pub fn distance(&self, other: &Self) -> Distance {
        let mut difference = self.0;
        difference.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
        Distance(difference)
    }

    /// Its first eight bytes as a number: of two places, they nearly always say which is nearer.
    pub(crate) fn leading(&self) -> u64 {
        self.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    /// Leading bits that both have, 256 if they are equal.
    pub fn common_prefix_bits(&self, other: &Self) -> usize {
        self.distance(other).leading_zeros()
    }

    /// The bucket of `self` in which `other` stands; none for itself.
    pub fn bucket_index(&self, other: &Self) -> Option<usize> {
        let bits = self.common_prefix_bits(other);
        (bits < NODE_ID_BYTES * 8).then_some(bits)
    }

    /// An id in one of its buckets, its lower bits taken from `random`.
    pub fn within_bucket(&self, bucket: usize, random: [u8; NODE_ID_BYTES]) -> Self {
        let mut id = random;
        for bit in 0..=bucket.min(NODE_ID_BYTES * 8 - 1) {
            let mask = 0x80_u8 >> (bit % 8);
            let wanted = if bit == bucket { !self.0[bit / 8] } else { self.0[bit / 8] };
            id[bit / 8] = id[bit / 8] & !mask | wanted & mask;
        }
        Self(id)
    }
}

impl Distance {
    /// Leading bits that are 0.
    pub fn leading_zeros(&self) -> usize {
        let mut bits = 0;
        for byte in self.0 {
            bits += byte.leading_zeros() as usize;
            if byte != 0 {
                break;
            }
        }
        bits
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}
