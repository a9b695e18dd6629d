//! Which ports the legs of sessions have, and on which core each is.
//!
//! Part of the table of opaque sessions. A port is on one core, because its socket is; legs that
//! prove a token may share one.

use super::OpenRefusal;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use waystation_relay::ids::CoreId;

#[derive(Clone, Copy, Debug)]
struct Taken {
    core: CoreId,
    legs: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct PortTable {
    range: RangeInclusive<u16>,
    taken: BTreeMap<u16, Taken>,
    /// Given to nobody who does not name them.
    reserved: BTreeSet<u16>,
    /// Where the search for a free one goes on: a port that was given back is the last to be given
    /// again, because its end may go on sending for a while.
    next: u16,
}

impl PortTable {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        let next = *range.start();
        Self { range, taken: BTreeMap::new(), reserved: BTreeSet::new(), next }
    }

    /// Keeps these for whoever names them.
    pub(super) fn reserve(&mut self, ports: BTreeSet<u16>) {
        self.reserved = ports;
    }

    /// The core that ports are on which are in use already.
    pub(super) fn core_of(&self, wanted: [Option<u16>; 2]) -> Result<Option<CoreId>, OpenRefusal> {
        for port in wanted.into_iter().flatten() {
            if !self.range.contains(&port) {
                let (min, max) = (*self.range.start(), *self.range.end());
                return Err(OpenRefusal::PortOutOfRange { port, min, max });
            }
        }
        let core = |port: Option<u16>| self.taken.get(&port?).map(|taken| taken.core);
        match (core(wanted[0]), core(wanted[1])) {
            (Some(a), Some(b)) if a != b => {
                let [a, b] = wanted.map(Option::unwrap_or_default);
                Err(OpenRefusal::PortsApart(a, b))
            }
            (a, b) => Ok(a.or(b)),
        }
    }

    /// Takes these ports, or free ones, for two legs on a core.
    pub(super) fn take(
        &mut self,
        wanted: [Option<u16>; 2],
        core: CoreId,
    ) -> Result<[u16; 2], OpenRefusal> {
        let [a, b] = wanted;
        // Named ports come first, so that no free one is taken to be the other leg's.
        let named = [a, b].map(|port| port.inspect(|port| self.add(*port, core)));
        let mut ports = [0; 2];
        for (index, port) in named.into_iter().enumerate() {
            ports[index] = match port.or_else(|| self.take_free(core)) {
                Some(port) => port,
                None => {
                    let before = ports[..index].iter().copied();
                    let named = named.into_iter().skip(index).flatten();
                    let taken: Vec<_> = before.chain(named).collect();
                    taken.into_iter().for_each(|port| self.give_back(port));
                    return Err(OpenRefusal::NoFreePort);
                }
            };
        }
        Ok(ports)
    }

    pub(super) fn give_back(&mut self, port: u16) {
        let Some(taken) = self.taken.get_mut(&port) else { return };
        taken.legs -= 1;
        if taken.legs == 0 {
            self.taken.remove(&port);
        }
    }

    fn take_free(&mut self, core: CoreId) -> Option<u16> {
        let behind = self.next..=*self.range.end();
        let before = *self.range.start()..=self.next;
        let is_free = |port: &u16| !self.taken.contains_key(port) && !self.reserved.contains(port);
        let free = behind.chain(before).find(is_free)?;
        self.next = if free == *self.range.end() { *self.range.start() } else { free + 1 };
        self.add(free, core);
        Some(free)
    }

    fn add(&mut self, port: u16, core: CoreId) {
        self.taken.entry(port).or_insert(Taken { core, legs: 0 }).legs += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: CoreId = CoreId(1);

    #[test]
    fn ports_go_round_before_one_is_given_again() {
        let mut ports = PortTable::new(5..=8);
        assert_eq!(ports.take([None, None], CORE), Ok([5, 6]));
        ports.give_back(5);
        ports.give_back(6);
        assert_eq!(ports.take([None, None], CORE), Ok([7, 8]));
        assert_eq!(ports.take([None, Some(6)], CORE), Ok([5, 6]));
        assert_eq!(ports.take([None, Some(6)], CORE), Err(OpenRefusal::NoFreePort));
        ports.give_back(6);
        assert_eq!(ports.core_of([Some(6), None]), Ok(None), "the failure gave back what it took");
        assert_eq!(ports.take([None, None], CORE), Err(OpenRefusal::NoFreePort));
        assert_eq!(ports.core_of([Some(6), Some(5)]), Ok(Some(CORE)));
    }

    #[test]
    fn reserved_ports_are_only_given_by_name() {
        let mut ports = PortTable::new(5..=8);
        ports.reserve(BTreeSet::from([5, 6]));
        assert_eq!(ports.take([None, None], CORE), Ok([7, 8]));
        assert_eq!(ports.take([None, None], CORE), Err(OpenRefusal::NoFreePort));
        assert_eq!(ports.take([Some(6), Some(5)], CORE), Ok([6, 5]));
    }

    #[test]
    fn ports_on_two_cores_make_no_session() {
        let mut ports = PortTable::new(5..=9);
        ports.take([Some(5), Some(6)], CoreId(0)).unwrap();
        ports.take([Some(7), Some(8)], CoreId(1)).unwrap();
        assert_eq!(ports.core_of([Some(5), Some(9)]), Ok(Some(CoreId(0))));
        assert_eq!(ports.core_of([Some(5), Some(7)]), Err(OpenRefusal::PortsApart(5, 7)));
        let refused = OpenRefusal::PortOutOfRange { port: 4, min: 5, max: 9 };
        assert_eq!(ports.core_of([None, Some(4)]), Err(refused));
    }
}
