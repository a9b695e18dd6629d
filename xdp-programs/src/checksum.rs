//! Internet checksums (RFC 1071), in the byte order of the packet: the sum does not depend on it.

use crate::parse::Flow;
use waystation_ebpf_abi::Session;

/// A sum that is folded at the end. Words of 16 and 32 bits may be mixed, for both 2^16 and 2^32
/// are 1 modulo 65 535.
#[derive(Clone, Copy)]
pub struct Sum(u64);

impl Sum {
    #[inline(always)]
    pub fn new(start: u16) -> Self {
        Self(start as u64)
    }

    #[inline(always)]
    pub fn plus16(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    #[inline(always)]
    pub fn plus32(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Takes a word away: adds its complement (RFC 1624 §3).
    #[inline(always)]
    pub fn minus16(self, word: u16) -> Self {
        self.plus16(!word)
    }

    #[inline(always)]
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The same for a sum of words of 16 bits, of which there are few.
    #[inline(always)]
    pub fn folded16(self) -> u16 {
        let mut sum = self.0 as u32;
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }
}

/// The folded sum of a datagram's pseudo-header, which is what stands in place of a checksum that the
/// sender's network card has yet to finish (`CHECKSUM_PARTIAL`). One finished checksum in 65 535 is
/// the same by chance.
#[inline(always)]
pub fn of_pseudo_header(flow: &Flow, session: &Session) -> u16 {
    Sum::new(session.key_sum).plus16(flow.udp_bytes.to_be()).folded16()
}

/// The folded sum of the words of an IPv4 header without options; 0xffff if its checksum is right.
#[inline(always)]
pub fn header_sum(words: [u32; 5]) -> u16 {
    let [first, second, third, fourth, fifth] = words;
    Sum::new(0).plus32(first).plus32(second).plus32(third).plus32(fourth).plus32(fifth).folded()
}
