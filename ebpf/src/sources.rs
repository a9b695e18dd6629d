//! What the programs know of addresses: this machine's, and prefixes that nothing is taken from.
//!
//! Each is there twice: whole in a map that is looked up, and in short in an array that the programs
//! look into first, which costs them no call. Called by the management core, the one writer.

use crate::{
    abi::{Address, DeniedHint, OwnAddresses, Port, family},
    tables::{MapError, removed},
};
use aya::maps::{Array, HashMap, LpmTrie, MapData, lpm_trie::Key};
use std::net::IpAddr;

/// Blocks of addresses of one family that a hint tells of.
const BLOCKS: usize = 65_536;

/// Prefixes nothing is taken from.
pub(crate) struct Denied {
    v4: LpmTrie<MapData, u32, u8>,
    v6: LpmTrie<MapData, [u32; 4], u8>,
    hints: Array<MapData, u64>,
    /// How many prefixes have addresses in each block, of both families.
    in_blocks: Vec<u16>,
}

impl Denied {
    /// None yet.
    pub(crate) fn new(
        v4: LpmTrie<MapData, u32, u8>,
        v6: LpmTrie<MapData, [u32; 4], u8>,
        hints: Array<MapData, u64>,
    ) -> Self {
        Self { v4, v6, hints, in_blocks: vec![0; 2 * BLOCKS] }
    }

    /// Adds a prefix; `false` if it was there.
    ///
    /// # Errors
    /// When the table is full or the kernel refuses.
    pub(crate) fn insert(&mut self, prefix: IpAddr, bits: u8) -> Result<bool, MapError> {
        // An entry's value is its length: the longest match of this length is this prefix, or not.
        let was_there = match prefix {
            IpAddr::V4(_) => {
                let key = v4_key(prefix, bits);
                let was_there = self.v4.get(&key, 0).ok() == Some(bits);
                self.v4.insert(&key, bits, 0)?;
                was_there
            }
            IpAddr::V6(_) => {
                let key = v6_key(prefix, bits);
                let was_there = self.v6.get(&key, 0).ok() == Some(bits);
                self.v6.insert(&key, bits, 0)?;
                was_there
            }
        };
        if !was_there {
            self.hint(prefix, bits, |count| count.saturating_add(1))?;
        }
        Ok(!was_there)
    }

    /// Removes a prefix; `false` if it was not there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn remove(&mut self, prefix: IpAddr, bits: u8) -> Result<bool, MapError> {
        let was_there = match prefix {
            IpAddr::V4(_) => removed(self.v4.remove(&v4_key(prefix, bits)))?,
            IpAddr::V6(_) => removed(self.v6.remove(&v6_key(prefix, bits)))?,
        };
        if was_there {
            self.hint(prefix, bits, |count| count.saturating_sub(1))?;
        }
        Ok(was_there)
    }

    /// Counts a prefix in its blocks, and writes the words whose bits have changed.
    fn hint(
        &mut self,
        prefix: IpAddr,
        bits: u8,
        counted: impl Fn(u16) -> u16,
    ) -> Result<(), MapError> {
        let family = if prefix.is_ipv4() { family::V4 } else { family::V6 };
        let (first, count) = DeniedHint::blocks_of(&prefix.into(), bits, family);
        let base = if prefix.is_ipv4() { 0 } else { BLOCKS };
        let first = base + usize::from(first);
        let blocks = first..first + count as usize;
        for block in &mut self.in_blocks[blocks.clone()] {
            *block = counted(*block);
        }
        let bits = u64::BITS as usize;
        for at in blocks.start / bits..blocks.end.div_ceil(bits) {
            let places = &self.in_blocks[at * bits..(at + 1) * bits];
            let word = places.iter().rev().fold(0, |word, &count| word << 1 | u64::from(count > 0));
            self.hints.set(at as u32, word, 0)?;
        }
        Ok(())
    }
}

fn v4_key(prefix: IpAddr, bits: u8) -> Key<u32> {
    Key::new(u32::from(bits), Address::from(prefix).words[3])
}

fn v6_key(prefix: IpAddr, bits: u8) -> Key<[u32; 4]> {
    Key::new(u32::from(bits), Address::from(prefix).words)
}

/// Addresses of this machine that the programs judge packets for, and which kinds of ports are the
/// relay's on each.
pub struct LocalAddressTable {
    own: Array<MapData, OwnAddresses>,
    current: OwnAddresses,
    /// Those that found no place in the array.
    elsewhere: HashMap<MapData, Address, u8>,
}

impl LocalAddressTable {
    pub(crate) fn new(
        own: Array<MapData, OwnAddresses>,
        elsewhere: HashMap<MapData, Address, u8>,
    ) -> Self {
        Self { own, current: OwnAddresses::default(), elsewhere }
    }

    /// Adds one, or replaces which kinds of ports are served on it.
    ///
    /// # Errors
    /// When the table is full or the kernel refuses.
    pub fn insert(&mut self, address: IpAddr, kinds: &[Port]) -> Result<(), MapError> {
        let bits = kinds.iter().fold(0, |bits, kind| bits | kind.bit());
        let is_elsewhere = self.elsewhere.get(&address.into(), 0).is_ok();
        let mut own = self.current;
        if !is_elsewhere && put(&mut own, address, bits.into()) {
            return self.store(own);
        }
        self.elsewhere.insert(Address::from(address), bits, 0)?;
        *elsewhere_of(&mut own, address) += u32::from(!is_elsewhere);
        self.store(own)
    }

    /// Removes one, if it is there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, address: IpAddr) -> Result<(), MapError> {
        let mut own = self.current;
        take_out(&mut own, address);
        if removed(self.elsewhere.remove(&Address::from(address)))? {
            let elsewhere = elsewhere_of(&mut own, address);
            *elsewhere = elsewhere.saturating_sub(1);
        }
        self.store(own)
    }

    fn store(&mut self, own: OwnAddresses) -> Result<(), MapError> {
        self.own.set(0, own, 0)?;
        self.current = own;
        Ok(())
    }
}

/// Puts an address in its place or a free one; `false` if there is none. One on which nothing is
/// served is in none: it is as if it were not this machine's.
fn put(own: &mut OwnAddresses, address: IpAddr, kinds: u32) -> bool {
    take_out(own, address);
    if kinds == 0 {
        return true;
    }
    let address = (Address::from(address), address.is_ipv4());
    let all_kinds: &mut [u32] = if address.1 { &mut own.v4_kinds } else { &mut own.v6_kinds };
    let Some(at) = all_kinds.iter().position(|kinds| *kinds == 0) else { return false };
    all_kinds[at] = kinds;
    if address.1 {
        own.v4[at] = address.0.words[3];
    } else {
        own.v6[at] = address.0;
    }
    true
}

fn take_out(own: &mut OwnAddresses, address: IpAddr) {
    let words = Address::from(address);
    if address.is_ipv4() {
        let places = own.v4_kinds.iter_mut().zip(&mut own.v4);
        for (kinds, its) in places.filter(|(_, its)| **its == words.words[3]) {
            (*kinds, *its) = (0, 0);
        }
    } else {
        let places = own.v6_kinds.iter_mut().zip(&mut own.v6);
        for (kinds, its) in places.filter(|(_, its)| **its == words) {
            (*kinds, *its) = (0, Address::default());
        }
    }
}

fn elsewhere_of(own: &mut OwnAddresses, address: IpAddr) -> &mut u32 {
    if address.is_ipv4() { &mut own.v4_elsewhere } else { &mut own.v6_elsewhere }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::limits;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_take_free_places_and_give_them_back() {
        let mut own = OwnAddresses::default();
        for last in 0..limits::OWN_V4_MAX {
            assert!(put(&mut own, address(&format!("192.0.2.{last}")), 2));
        }
        assert!(!put(&mut own, address("192.0.2.99"), 2), "all places are taken");
        assert!(put(&mut own, address("192.0.2.3"), 6), "its own place is free to it");
        assert!(own.v4_kinds.contains(&6));
        take_out(&mut own, address("192.0.2.0"));
        assert!(put(&mut own, address("192.0.2.99"), 2));
        assert!(put(&mut own, address("2001:db8::1"), 4), "the other family has its own");
    }

    #[test]
    fn an_address_that_serves_nothing_takes_no_place() {
        let mut own = OwnAddresses::default();
        assert!(put(&mut own, address("2001:db8::1"), 2));
        assert!(put(&mut own, address("2001:db8::1"), 0));
        assert_eq!(own.v6_kinds, [0; limits::OWN_V6_MAX]);
    }
}
