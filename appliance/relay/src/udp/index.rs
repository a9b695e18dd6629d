//! Finds a leg by local port and source.
//!
//! Owned by a session table and used on its thread: open addressing over a fixed number of places,
//! eight to a cache line, so a search touches one line on average. Holds places of legs, not keys:
//! the caller says whether a leg is the one. Keys are hashed with seeds that a peer does not know.

use super::endpoint::{Endpoint, LocalPort};
use super::leg::LegPlace;

/// Multiplied with what comes last; any odd number with as many ones as zeros serves.
const LAST_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    hash: u32,
    /// [`EMPTY`] or the number of a leg's place.
    place: u32,
}

const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Index {
    entries: Box<[Entry]>,
    used: usize,
    seeds: [u64; 2],
}

impl Index {
    /// Room for as many entries, with at least as many left empty.
    pub(super) fn new(places: usize, seeds: [u64; 2]) -> Self {
        let places = places.next_power_of_two().max(16);
        let empty = Entry { hash: 0, place: EMPTY };
        Self { entries: vec![empty; places].into_boxed_slice(), used: 0, seeds }
    }

    /// What a key comes to. [`Endpoint::NONE`] stands for the port alone.
    pub(super) fn hash(&self, port: LocalPort, source: Endpoint) -> u32 {
        let [low, high, source_port] = source.words();
        let ip = folded(low ^ self.seeds[0], high ^ self.seeds[1]);
        let ports = source_port << 16 | u64::from(port.0);
        let hash = folded(ip ^ self.seeds[1], ports ^ self.seeds[0] ^ LAST_FACTOR);
        // The upper half is mixed no worse than the lower one.
        (hash >> 32) as u32
    }

    pub(super) fn find(&self, hash: u32, is_it: impl Fn(LegPlace) -> bool) -> Option<LegPlace> {
        let mut at = self.home(hash);
        loop {
            let entry = self.entries[at];
            if entry.place == EMPTY {
                return None;
            }
            if entry.hash == hash && is_it(LegPlace::from_number(entry.place)) {
                return Some(LegPlace::from_number(entry.place));
            }
            at = self.next(at);
        }
    }

    pub(super) fn insert(&mut self, hash: u32, place: LegPlace) {
        assert!(self.used * 2 < self.entries.len(), "more entries than legs can have");
        let mut at = self.home(hash);
        while self.entries[at].place != EMPTY {
            at = self.next(at);
        }
        self.entries[at] = Entry { hash, place: place.number() };
        self.used += 1;
    }

    /// Takes out what [`Self::insert`] put in, and moves up what had to go behind it.
    pub(super) fn remove(&mut self, hash: u32, place: LegPlace) {
        let wanted = Entry { hash, place: place.number() };
        let mut gap = self.home(hash);
        while self.entries[gap] != wanted {
            assert!(self.entries[gap].place != EMPTY, "a leg that is not in the index");
            gap = self.next(gap);
        }
        self.used -= 1;
        let mut at = self.next(gap);
        while self.entries[at].place != EMPTY {
            let mask = self.entries.len() - 1;
            let from_home = at.wrapping_sub(self.home(self.entries[at].hash)) & mask;
            if from_home >= (at.wrapping_sub(gap) & mask) {
                self.entries[gap] = self.entries[at];
                gap = at;
            }
            at = self.next(at);
        }
        self.entries[gap].place = EMPTY;
    }

    /// Bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.entries)
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.entries.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.entries.len() - 1)
    }
}

/// Both halves of a product, which depend on every bit of both factors.
fn folded(one: u64, two: u64) -> u64 {
    let product = u128::from(one) * u128::from(two);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SEEDS: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    #[test]
    fn keys_that_differ_in_little_are_spread() {
        let index = Index::new(1 << 16, SEEDS);
        let mut counts = vec![0_u32; 256];
        for last in 1..=64_u16 {
            for port in 1..=256_u16 {
                let address = format!("10.0.0.{last}:{port}").parse().unwrap();
                let hash = index.hash(LocalPort(4000), Endpoint::new(address).unwrap());
                counts[(hash & 255) as usize] += 1;
            }
        }
        // 64 on average, with a deviation of 8.
        assert!(counts.iter().all(|count| (16..=128).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn index_finds_what_a_map_finds(
            steps in prop::collection::vec((0_u32..12, 0_u32..24, any::<bool>()), 1..400)
        ) {
            // Few hashes, so that chains meet and wrap around.
            let mut index = Index::new(64, SEEDS);
            let mut map: BTreeMap<(u32, u32), ()> = BTreeMap::new();
            for (hash, place, is_insert) in steps {
                let hash = hash.wrapping_mul(5).wrapping_sub(9);
                let leg = LegPlace::from_number(place);
                if is_insert && map.len() < 31 && !map.contains_key(&(hash, place)) {
                    index.insert(hash, leg);
                    map.insert((hash, place), ());
                } else if map.remove(&(hash, place)).is_some() {
                    index.remove(hash, leg);
                }
                prop_assert_eq!(index.used, map.len());
                for other_place in 0..24 {
                    let wanted = LegPlace::from_number(other_place);
                    let found = index.find(hash, |place| place == wanted).is_some();
                    prop_assert_eq!(found, map.contains_key(&(hash, other_place)));
                }
            }
        }
    }
}
