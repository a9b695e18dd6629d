//! Which ports of a relayed address are taken.
//!
//! Owns a bit per port of one range. Called by the server of a data core when an allocation is made
//! or ends; cores have ranges of their own, so nothing is shared.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use crate::limits::{PORT_DRAWS, PORT_OPENINGS_MAX};

/// What a port has to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Any,
    /// An even one.
    Even,
    /// An even one, and the next one with it.
    Pair,
}

/// The ports of one relayed address.
#[derive(Debug)]
pub(crate) struct Ports {
    ip: IpAddr,
    first: u16,
    taken: Box<[bool]>,
    free: usize,
}

impl Ports {
    pub(crate) fn new(ip: IpAddr, range: RangeInclusive<u16>) -> Self {
        let count = usize::from(range.end() - range.start()) + 1;
        Self { ip, first: *range.start(), taken: vec![false; count].into(), free: count }
    }

    /// Takes a port that `open` could open: one of those that were drawn at random, because ports
    /// that can be guessed invite strangers, or one behind them.
    pub(crate) fn take(
        &mut self,
        wanted: Wanted,
        draws: [u16; PORT_DRAWS],
        mut open: impl FnMut(SocketAddr) -> bool,
    ) -> Option<SocketAddr> {
        if self.free == 0 {
            return None;
        }
        let count = self.taken.len();
        let draws = draws.map(|draw| usize::from(draw) * count / (1 << 16));
        let from = draws.last().copied().unwrap_or_default();
        let in_order = (1..=count).map(|step| (from + step) % count);
        let candidates = draws.into_iter().chain(in_order);
        let fitting = candidates.filter(|index| self.fits(*index, wanted));
        let opened = fitting.take(PORT_OPENINGS_MAX).find(|index| open(self.address(*index)))?;
        self.set(opened, true);
        Some(self.address(opened))
    }

    /// Takes the port behind another one.
    pub(crate) fn take_next(&mut self, address: SocketAddr) -> Option<SocketAddr> {
        let index = self.index(address)? + 1;
        if self.taken.get(index).copied().unwrap_or(true) {
            return None;
        }
        self.set(index, true);
        Some(self.address(index))
    }

    /// Gives a port back.
    pub(crate) fn release(&mut self, address: SocketAddr) {
        if let Some(index) = self.index(address)
            && self.taken.get(index) == Some(&true)
        {
            self.set(index, false);
        }
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.len() - self.free
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.free
    }

    fn fits(&self, index: usize, wanted: Wanted) -> bool {
        let is_free = |index: usize| self.taken.get(index) == Some(&false);
        let is_even = self.address(index).port().is_multiple_of(2);
        is_free(index)
            && match wanted {
                Wanted::Any => true,
                Wanted::Even => is_even,
                Wanted::Pair => is_even && is_free(index + 1),
            }
    }

    fn set(&mut self, index: usize, is_taken: bool) {
        if let Some(taken) = self.taken.get_mut(index) {
            *taken = is_taken;
            self.free = if is_taken { self.free - 1 } else { self.free + 1 };
        }
    }

    fn index(&self, address: SocketAddr) -> Option<usize> {
        let offset = address.port().checked_sub(self.first)?;
        (address.ip() == self.ip).then_some(usize::from(offset))
    }

    fn address(&self, index: usize) -> SocketAddr {
        // An index is smaller than the count of a range of u16.
        let offset = u16::try_from(index).unwrap_or_default();
        SocketAddr::new(self.ip, self.first + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(range: RangeInclusive<u16>) -> Ports {
        Ports::new(IpAddr::from([192, 0, 2, 15]), range)
    }

    /// Numbers that repeat from test to test.
    struct Random(u32);

    impl Random {
        fn draws(&mut self) -> [u16; PORT_DRAWS] {
            std::array::from_fn(|_| {
                let Self(state) = self;
                *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                u16::try_from(*state >> 16).unwrap()
            })
        }
    }

    fn take(ports: &mut Ports, wanted: Wanted, random: &mut Random) -> Option<SocketAddr> {
        ports.take(wanted, random.draws(), |_| true)
    }

    #[test]
    fn every_port_is_given_once_and_then_none() {
        let (mut ports, mut random) = (ports(50_000..=50_099), Random(1));
        let mut given = std::collections::BTreeSet::new();
        while let Some(address) = take(&mut ports, Wanted::Any, &mut random) {
            assert!(given.insert(address.port()));
        }
        assert_eq!(given, (50_000..=50_099).collect());
        ports.release(SocketAddr::from(([192, 0, 2, 15], 50_042)));
        ports.release(SocketAddr::from(([192, 0, 2, 15], 50_042)));
        assert_eq!(ports.free(), 1);
        let again = take(&mut ports, Wanted::Any, &mut random).unwrap();
        assert_eq!(again.port(), 50_042);
    }

    #[test]
    fn pairs_are_even_and_their_neighbour_is_free() {
        let (mut ports, mut random) = (ports(50_001..=50_010), Random(1));
        let mut pairs = 0;
        while let Some(address) = take(&mut ports, Wanted::Pair, &mut random) {
            assert!(address.port().is_multiple_of(2));
            assert_eq!(ports.take_next(address).unwrap().port(), address.port() + 1);
            pairs += 1;
        }
        // 50 001 has no even neighbour below it in the range, 50 010 none above.
        assert_eq!((pairs, ports.free()), (4, 2));
        assert_eq!(take(&mut ports, Wanted::Even, &mut random).unwrap().port(), 50_010);
        assert_eq!(take(&mut ports, Wanted::Even, &mut random), None);
    }

    #[test]
    fn ports_in_use_elsewhere_are_passed_over_for_a_bounded_time() {
        let (mut ports, mut random) = (ports(49_152..=65_535), Random(1));
        let mut tries = 0;
        let mut third = |_| {
            tries += 1;
            tries == 3
        };
        assert!(ports.take(Wanted::Any, random.draws(), &mut third).is_some());
        assert_eq!(ports.take(Wanted::Any, random.draws(), &mut third), None);
        assert_eq!(tries, 3 + PORT_OPENINGS_MAX);
        assert_eq!(ports.free(), 16_383);
    }

    #[test]
    fn a_range_may_end_at_the_last_port() {
        let mut ports = ports(65_535..=65_535);
        assert_eq!(take(&mut ports, Wanted::Pair, &mut Random(1)), None);
        let given = ports.take(Wanted::Any, [u16::MAX; PORT_DRAWS], |_| true).unwrap();
        assert_eq!(given.port(), 65_535);
        assert_eq!(ports.take_next(given), None);
    }
}
