//! What is kept in arrays of the programs' own, which they look into without a call: every call of
//! the kernel's costs a packet as much as all that is done with a header.

use crate::limits::{DENIED_HINT_WORDS, OWN_V4_MAX, OWN_V6_MAX, STRANGER_BUCKETS, STRANGER_WAYS};
use crate::{Address, family};

/// Addresses of this machine, as many as are compared with; a place without kinds is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OwnAddresses {
    /// IPv4 addresses as they lie in packets.
    pub v4: [u32; OWN_V4_MAX],
    /// Which kinds of ports are served on each (`Port::bit`).
    pub v4_kinds: [u32; OWN_V4_MAX],
    /// IPv6 addresses.
    pub v6: [Address; OWN_V6_MAX],
    /// Which kinds of ports are served on each.
    pub v6_kinds: [u32; OWN_V6_MAX],
    /// IPv4 addresses that found no place here and have to be looked up; 0 spares that.
    pub v4_elsewhere: u32,
    /// IPv6 addresses that found no place here.
    pub v6_elsewhere: u32,
}

/// A source without a session, and what it owes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stranger {
    /// See [`stranger_of`]; 0 for an empty place.
    pub source: u64,
    /// When all its packets so far would be paid for, in nanoseconds of the coarse monotonic clock.
    pub paid_ns: u64,
}

/// Strangers that share a place in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct StrangerBucket {
    /// In no order.
    pub ways: [Stranger; STRANGER_WAYS],
}

/// The clock as one processor last read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reading {
    /// The tick in which it was read, as the kernel counts them.
    pub tick: u64,
    /// What it said, in nanoseconds of the coarse monotonic clock.
    pub now_ns: u64,
}

/// What a source without a session is known by: an IPv4 address, or the /64 of an IPv6 address.
///
/// No IPv6 source that is not a martian begins as the IPv4 ones do here.
#[inline(always)]
pub const fn stranger_of(source: Address, family: u8) -> u64 {
    if family == family::V4 {
        0xffff_ffff_0000_0000 | source.words[3] as u64
    } else {
        (source.words[0] as u64) << 32 | source.words[1] as u64
    }
}

/// The bucket that a stranger is in. Which sources share one nobody knows who does not know the seed.
#[inline(always)]
pub const fn bucket_of(stranger: u64, seed: u64) -> u32 {
    (stranger.wrapping_mul(seed | 1) >> (64 - STRANGER_BUCKETS.ilog2())) as u32
}

/// Which of the blocks of addresses an address is in, 65 536 for each family: where a bit says that
/// some of the block are denied, the prefixes are looked up; elsewhere none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedHint {
    /// The word of the map.
    pub word: u32,
    /// The bit in it.
    pub bit: u32,
}

impl DeniedHint {
    /// Where the hint of a block is.
    #[inline(always)]
    pub const fn of_block(block: u16, family: u8) -> Self {
        let base = if family == family::V4 { 0 } else { DENIED_HINT_WORDS / 2 };
        Self { word: base + block as u32 / u64::BITS, bit: block as u32 % u64::BITS }
    }

    /// The block of an address: the first half of an IPv4 address, or both quarters of an IPv6
    /// address's first half in one.
    #[inline(always)]
    pub const fn block_of(address: &Address, family: u8) -> u16 {
        if family == family::V4 {
            u16::from_be(address.words[3] as u16)
        } else {
            let first = address.words[0];
            u16::from_be(first as u16 ^ (first >> 16) as u16)
        }
    }

    /// The blocks that hold addresses of a prefix: the first, and how many, which is a power of two.
    pub const fn blocks_of(prefix: &Address, bits: u8, family: u8) -> (u16, u32) {
        let whole: u8 = if family == family::V4 { 16 } else { 32 };
        let free = whole.saturating_sub(bits);
        let free = if free > 16 { 16 } else { free };
        let count = 1_u32 << free;
        (Self::block_of(prefix, family) & !(count - 1) as u16, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, offset_of, size_of};
    use core::net::IpAddr;

    fn address(text: &str) -> (Address, u8) {
        let address: IpAddr = text.parse().unwrap();
        (address.into(), if address.is_ipv4() { family::V4 } else { family::V6 })
    }

    #[test]
    fn layouts_are_those_the_object_was_built_with() {
        assert_eq!((size_of::<StrangerBucket>(), align_of::<StrangerBucket>()), (64, 8));
        assert_eq!(size_of::<OwnAddresses>(), OWN_V4_MAX * 8 + OWN_V6_MAX * 20 + 8);
        assert_eq!(offset_of!(OwnAddresses, v6_kinds), OWN_V4_MAX * 8 + OWN_V6_MAX * 16);
        assert_eq!(size_of::<Reading>(), 16);
    }

    #[test]
    fn strangers_of_one_64_are_one() {
        let stranger = |text| {
            let (address, family) = address(text);
            stranger_of(address, family)
        };
        assert_eq!(stranger("2001:db8:1:2:3::4"), stranger("2001:db8:1:2::"));
        assert_ne!(stranger("2001:db8:1:3::4"), stranger("2001:db8:1:2::4"));
        assert_ne!(stranger("192.0.2.1"), stranger("192.0.2.2"));
        assert_ne!(stranger("192.0.2.1"), stranger("::c000:201"));
        assert_ne!(stranger("192.0.2.1"), 0);
    }

    #[test]
    fn every_stranger_has_a_bucket_whatever_the_seed() {
        for seed in [0, 1, 0x9e37_79b9_7f4a_7c15, u64::MAX] {
            for stranger in [0, 1, 0xffff_ffff_0100_00c0, u64::MAX] {
                assert!(bucket_of(stranger, seed) < STRANGER_BUCKETS);
            }
        }
    }

    #[test]
    fn the_blocks_of_a_prefix_are_those_its_addresses_are_in() {
        for (prefix, bits, inside, count) in [
            ("192.0.2.0", 24, &["192.0.2.0", "192.0.2.255"][..], 1),
            ("192.0.2.9", 16, &["192.0.0.0", "192.0.255.255"], 1),
            ("192.7.2.9", 10, &["192.0.0.0", "192.63.9.9", "192.31.0.1"], 64),
            ("0.0.0.0", 0, &["0.0.0.0", "255.255.255.255", "9.8.7.6"], 65_536),
            ("2001:db8::", 32, &["2001:db8::1", "2001:db8:ffff::"], 1),
            ("2001:db8:77::", 48, &["2001:db8:77:1::1"], 1),
            ("2001:d00::", 24, &["2001:d00::", "2001:dff::7", "2001:d5a::"], 256),
            ("2000::", 3, &["2001:db8::1", "3fff:1::", "2a02:898:1::2"], 65_536),
        ] {
            let (prefix, family) = address(prefix);
            let (first, blocks) = DeniedHint::blocks_of(&prefix, bits, family);
            assert_eq!(blocks, count, "{prefix:?}/{bits}");
            for text in inside {
                let block = DeniedHint::block_of(&address(text).0, family);
                let behind = u32::from(block).checked_sub(u32::from(first));
                assert!(
                    behind.is_some_and(|behind| behind < blocks),
                    "{text} in {prefix:?}/{bits}"
                );
            }
        }
        let (elsewhere, family) = address("192.64.0.0");
        let (prefix, _) = address("192.7.2.9");
        let (first, blocks) = DeniedHint::blocks_of(&prefix, 10, family);
        assert!(u32::from(DeniedHint::block_of(&elsewhere, family)) >= u32::from(first) + blocks);
    }

    #[test]
    fn hints_of_both_families_are_apart() {
        let last = DeniedHint::of_block(u16::MAX, family::V4);
        let first = DeniedHint::of_block(0, family::V6);
        assert_eq!((last.word, last.bit), (DENIED_HINT_WORDS / 2 - 1, 63));
        assert_eq!((first.word, first.bit), (DENIED_HINT_WORDS / 2, 0));
    }
}
