//! Which ports of a relayed address are taken.
//!
//! Owns a flag per port. Called by the server of a data core when an allocation is made or ends. Each
//! takes ports of its own share alone; flags are atomic because a port that was kept for a client
//! may be given back by another server.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use crate::limits::{PORT_DRAWS, PORT_OPENINGS_MAX};

/// Ports whose taken ones are counted together, so that a search passes over them at once when none
/// of them is free.
const BLOCK_PORTS: usize = 256;

/// What a port has to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Any,
    /// An even one.
    Even,
    /// An even one, and the next one with it.
    Pair,
}

/// Every port of one relayed address, and whether it is taken.
#[derive(Debug)]
pub(crate) struct TakenPorts {
    ip: IpAddr,
    first: u16,
    taken: Box<[AtomicBool]>,
    /// How many are taken of each block.
    counts: Box<[AtomicU16]>,
}

impl TakenPorts {
    pub(crate) fn new(ip: IpAddr, range: RangeInclusive<u16>) -> Self {
        let count = usize::from(range.end() - range.start()) + 1;
        let taken = (0..count).map(|_| AtomicBool::new(false)).collect();
        let counts = (0..count.div_ceil(BLOCK_PORTS)).map(|_| AtomicU16::new(0)).collect();
        Self { ip, first: *range.start(), taken, counts }
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.ip
    }

    fn is_free(&self, index: usize) -> bool {
        self.taken.get(index).is_some_and(|taken| !taken.load(Ordering::SeqCst))
    }

    /// Whether that was so already.
    fn set(&self, index: usize, is_taken: bool) -> Option<bool> {
        let was = self.taken.get(index)?.swap(is_taken, Ordering::SeqCst);
        let count = self.counts.get(index / BLOCK_PORTS)?;
        match (was, is_taken) {
            (false, true) => _ = count.fetch_add(1, Ordering::SeqCst),
            (true, false) => _ = count.fetch_sub(1, Ordering::SeqCst),
            (true, true) | (false, false) => {}
        }
        Some(was == is_taken)
    }

    /// Whether this is where a block begins that has nothing free. One that is given back meanwhile
    /// may be missed, as by any search that has passed it.
    fn is_full_block(&self, index: usize) -> bool {
        let count =
            self.counts.get(index / BLOCK_PORTS).filter(|_| index.is_multiple_of(BLOCK_PORTS));
        count.is_some_and(|count| usize::from(count.load(Ordering::SeqCst)) >= BLOCK_PORTS)
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

/// One server's share of the ports of a relayed address. Nobody else takes one of them; who gives one
/// back may be another server.
#[derive(Debug)]
pub(crate) struct Ports {
    all: Arc<TakenPorts>,
    own: Range<usize>,
}

impl Ports {
    /// A share of the ports; none if some of it is not among them.
    pub(crate) fn new(all: Arc<TakenPorts>, share: &RangeInclusive<u16>) -> Option<Self> {
        let first = share.start().checked_sub(all.first)?;
        let own = usize::from(first)..usize::from(first) + share.len();
        (own.end <= all.taken.len()).then_some(Self { all, own })
    }

    /// Takes a port that `open` could open: one of those that were drawn at random, because ports
    /// that can be guessed invite strangers, or one behind them.
    pub(crate) fn take(
        &mut self,
        wanted: Wanted,
        draws: [u16; PORT_DRAWS],
        mut open: impl FnMut(SocketAddr) -> bool,
    ) -> Option<SocketAddr> {
        let count = self.own.len();
        let draws = draws.map(|draw| usize::from(draw) * count / (1 << 16));
        let (start, end) = (self.own.start, self.own.end);
        let behind = start + draws.last().copied().unwrap_or_default() + 1;
        let in_order = self.in_order(behind..end).chain(self.in_order(start..behind));
        let candidates = draws.into_iter().map(|place| start + place).chain(in_order);
        let fitting = candidates.filter(|index| self.fits(*index, wanted));
        let opened =
            fitting.take(PORT_OPENINGS_MAX).find(|index| open(self.all.address(*index)))?;
        self.all.set(opened, true);
        Some(self.all.address(opened))
    }

    /// Those of some ports that a search has to look at.
    fn in_order(&self, range: Range<usize>) -> impl Iterator<Item = usize> {
        let mut next = range.start;
        std::iter::from_fn(move || {
            while next + BLOCK_PORTS <= range.end && self.all.is_full_block(next) {
                next += BLOCK_PORTS;
            }
            let index = next;
            next += 1;
            (index < range.end).then_some(index)
        })
    }

    /// Takes the port behind another one.
    pub(crate) fn take_next(&mut self, address: SocketAddr) -> Option<SocketAddr> {
        let index = self.all.index(address)? + 1;
        if !self.is_free(index) {
            return None;
        }
        self.all.set(index, true);
        Some(self.all.address(index))
    }

    /// Takes exactly this one, of whichever share: another process had it. `false`: it is none of
    /// them, or taken.
    pub(crate) fn claim(&self, address: SocketAddr) -> bool {
        let was_so = self.all.index(address).and_then(|index| self.all.set(index, true));
        was_so == Some(false)
    }

    /// Gives a port back, of whichever share.
    pub(crate) fn release(&self, address: SocketAddr) {
        if let Some(index) = self.all.index(address) {
            self.all.set(index, false);
        }
    }

    /// How many of the share are taken.
    pub(crate) fn taken(&self) -> usize {
        self.own.clone().filter(|index| !self.all.is_free(*index)).count()
    }

    fn is_free(&self, index: usize) -> bool {
        self.own.contains(&index) && self.all.is_free(index)
    }

    fn fits(&self, index: usize, wanted: Wanted) -> bool {
        let is_even = self.all.address(index).port().is_multiple_of(2);
        self.is_free(index)
            && match wanted {
                Wanted::Any => true,
                Wanted::Even => is_even,
                Wanted::Pair => is_even && self.is_free(index + 1),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(range: RangeInclusive<u16>) -> Ports {
        let all = TakenPorts::new(IpAddr::from([192, 0, 2, 15]), range.clone());
        Ports::new(Arc::new(all), &range).unwrap()
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
        assert_eq!(ports.taken(), 99);
        let again = take(&mut ports, Wanted::Any, &mut random).unwrap();
        assert_eq!(again.port(), 50_042);
    }

    #[test]
    fn search_passes_over_what_is_full_and_finds_the_only_free_one_anywhere() {
        let (mut ports, mut random) = (ports(49_152..=51_000), Random(1));
        let own = ports.own.clone();
        assert_eq!(
            ports.in_order(own.clone()).collect::<Vec<_>>(),
            own.clone().collect::<Vec<_>>()
        );
        while take(&mut ports, Wanted::Any, &mut random).is_some() {}
        assert_eq!(ports.taken(), own.len());
        // Of eight blocks the last is not whole, and looked at port by port.
        assert!(ports.in_order(own.clone()).count() <= own.len() % BLOCK_PORTS);
        for port in [49_152, 49_407, 49_408, 50_000, 50_943, 50_944, 51_000] {
            let address = SocketAddr::from(([192, 0, 2, 15], port));
            for _ in 0..2 {
                ports.release(address);
                assert_eq!(take(&mut ports, Wanted::Any, &mut random), Some(address));
                assert!(!ports.claim(address));
            }
        }
        assert_eq!(take(&mut ports, Wanted::Any, &mut random), None);
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
        assert_eq!((pairs, ports.taken()), (4, 8));
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
        assert_eq!(ports.taken(), 1);
    }

    #[test]
    fn a_range_may_end_at_the_last_port() {
        let mut ports = ports(65_535..=65_535);
        assert_eq!(take(&mut ports, Wanted::Pair, &mut Random(1)), None);
        let given = ports.take(Wanted::Any, [u16::MAX; PORT_DRAWS], |_| true).unwrap();
        assert_eq!(given.port(), 65_535);
        assert_eq!(ports.take_next(given), None);
    }

    #[test]
    fn shares_take_their_own_and_give_back_any() {
        let all = Arc::new(TakenPorts::new(IpAddr::from([192, 0, 2, 15]), 50_000..=50_007));
        let share = |range| Ports::new(Arc::clone(&all), &range).unwrap();
        let (mut one, mut other) = (share(50_000..=50_003), share(50_004..=50_007));
        let mut random = Random(1);
        let given: Vec<_> =
            (0..4).map(|_| take(&mut one, Wanted::Any, &mut random).unwrap().port()).collect();
        assert!(given.iter().all(|port| (50_000..=50_003).contains(port)), "{given:?}");
        assert_eq!(take(&mut one, Wanted::Any, &mut random), None);
        // The port behind the last one is another share's.
        assert_eq!(one.take_next(SocketAddr::new(all.ip(), 50_003)), None);
        let of_other = take(&mut other, Wanted::Pair, &mut random).unwrap();
        one.release(of_other);
        other.release(SocketAddr::new(all.ip(), 50_002));
        assert_eq!((one.taken(), other.taken()), (3, 0));
        assert_eq!(take(&mut one, Wanted::Any, &mut random).unwrap().port(), 50_002);
        for beyond in [49_999..=50_001, 50_006..=50_008] {
            assert!(Ports::new(Arc::clone(&all), &beyond).is_none());
        }
    }
}
