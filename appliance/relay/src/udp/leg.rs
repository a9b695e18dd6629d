//! What is known about a session and its two legs: what each datagram needs, and the rest.
//!
//! Values inside a session table, on its thread. [`Hot`] is three cache lines that datagrams touch;
//! [`Cold`] is what openings, handshakes, proofs, new addresses and listings need.

use super::endpoint::{Endpoint, LocalPort, Tick};
use super::meter::Meter;
use super::proof::Secret;
use super::tier::TierChoice;
use super::wireguard::{Mac1Key, PeerIndex};
use crate::limits::{
    HANDSHAKE_CANDIDATES_MAX, HANDSHAKE_WAIT_NS, STRANGER_BURST_DATAGRAMS,
    STRANGER_DATAGRAMS_PER_S, UDP_SESSION_BYTES_MAX, WIREGUARD_INDICES_MAX,
};

/// Which leg of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Side {
    /// The first one of its settings.
    A,
    /// The second one.
    B,
}

impl Side {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The place in pairs.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Where what comes from here goes.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A leg in a session table: the session's place and the side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LegPlace(u32);

impl LegPlace {
    pub(super) fn new(slot: u32, side: Side) -> Self {
        Self(slot << 1 | side as u32)
    }

    pub(super) fn from_number(number: u32) -> Self {
        Self(number)
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }

    pub(super) fn slot(self) -> u32 {
        self.0 >> 1
    }

    pub(super) fn side(self) -> Side {
        if self.0 & 1 == 0 { Side::A } else { Side::B }
    }

    pub(super) fn other(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// One leg, as datagrams need it: one cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct HotLeg {
    /// Where it is; [`Endpoint::NONE`] while that is not known.
    pub(super) address: Endpoint,
    pub(super) port: LocalPort,
    /// When something came from its address that passed, or could have.
    pub(super) heard: Tick,
    /// What its end is called by, as the other end has shown to know.
    indices: [PeerIndex; WIREGUARD_INDICES_MAX],
    /// Datagrams and payload bytes from it that passed.
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) generation: u32,
    pub(super) flags: Flags,
    indices_known: u8,
    index_next: u8,
}

const _: () = assert!(size_of::<HotLeg>() == 64);
const _: () = assert!(size_of::<Hot>() == 192);
const _: () = assert!(size_of::<Hot>() + size_of::<Cold>() <= UDP_SESSION_BYTES_MAX);

/// Yes or no in one byte each would not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    /// The session carries WireGuard.
    pub(super) const WIREGUARD: u8 = 1;
    /// No other leg has its port.
    pub(super) const EXCLUSIVE: u8 = 1 << 1;
    /// It is learned by proofs.
    pub(super) const PROOF: u8 = 1 << 2;
    /// It is learned by handshakes.
    pub(super) const HANDSHAKE: u8 = 1 << 3;
    /// The session has a rate.
    pub(super) const METERED: u8 = 1 << 4;
    /// An address waits to be followed.
    pub(super) const ROAMING: u8 = 1 << 5;
    /// Somebody wants to hear of whatever a faster tier has to know.
    pub(super) const WATCHED: u8 = 1 << 6;
    /// A faster tier may carry the session: what comes from here is not all seen at once.
    pub(super) const OFFLOADED: u8 = 1 << 7;

    pub(super) fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    pub(super) fn set(&mut self, flag: u8, is_set: bool) {
        if is_set { self.0 |= flag } else { self.0 &= !flag }
    }

    /// Whether its address may change at all.
    pub(super) fn is_learned(self) -> bool {
        self.has(Self::PROOF | Self::HANDSHAKE)
    }
}

impl HotLeg {
    /// A place that no leg is in.
    pub(super) fn vacant(generation: u32) -> Self {
        Self {
            address: Endpoint::NONE,
            port: LocalPort(0),
            heard: Tick::at(0),
            indices: [PeerIndex(0); WIREGUARD_INDICES_MAX],
            packets: 0,
            bytes: 0,
            generation,
            flags: Flags::default(),
            indices_known: 0,
            index_next: 0,
        }
    }

    /// Whether its end is called by this index.
    pub(super) fn has_index(&self, index: PeerIndex) -> bool {
        self.indices.iter().take(usize::from(self.indices_known)).any(|known| *known == index)
    }

    /// Whether nothing is known of how its end is called.
    pub(super) fn has_no_index(&self) -> bool {
        self.indices_known == 0
    }

    /// What its end is called by, one of them again in places that are not needed; `None` before
    /// the first handshake.
    pub(super) fn known_indices(&self) -> Option<[PeerIndex; WIREGUARD_INDICES_MAX]> {
        let known = usize::from(self.indices_known);
        let (first, mut indices) = (*self.indices.first().filter(|_| known > 0)?, self.indices);
        indices.iter_mut().skip(known).for_each(|index| *index = first);
        Some(indices)
    }

    /// The end is called by this index too; the oldest of [`WIREGUARD_INDICES_MAX`] is forgotten.
    /// `false`: that was known.
    pub(super) fn add_index(&mut self, index: PeerIndex) -> bool {
        if self.has_index(index) {
            return false;
        }
        if let Some(place) = self.indices.get_mut(usize::from(self.index_next)) {
            *place = index;
        }
        let indices_max = WIREGUARD_INDICES_MAX as u8;
        self.indices_known = (self.indices_known + 1).min(indices_max);
        self.index_next = (self.index_next + 1) % indices_max;
        true
    }

    /// What its end is called by, the oldest first.
    pub(super) fn indices(&self) -> impl Iterator<Item = PeerIndex> {
        let known = usize::from(self.indices_known);
        // While not all places are used, the next one is behind them.
        let first = if known < self.indices.len() { 0 } else { usize::from(self.index_next) };
        self.indices.into_iter().take(known).cycle().skip(first).take(known)
    }

    /// Counts a datagram that passed.
    pub(super) fn count(&mut self, payload_bytes: usize) {
        self.packets += 1;
        self.bytes += payload_bytes as u64;
    }
}

/// A session, as datagrams need it.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Hot {
    pub(super) legs: [HotLeg; 2],
    pub(super) meter: Meter,
}

/// The rest of a session.
#[derive(Debug)]
pub(super) struct Cold {
    pub(super) legs: [ColdLeg; 2],
    pub(super) opened_ns: u64,
    pub(super) idle_limit_ns: u64,
    pub(super) strangers: Strangers,
    pub(super) tier: TierChoice,
    /// Datagrams for it that were dropped.
    pub(super) dropped: u64,
}

/// The rest of a leg.
#[derive(Debug)]
pub(super) struct ColdLeg {
    /// What its end proves itself with.
    pub(super) secret: Option<Secret>,
    /// The counter of its last proof.
    pub(super) proven: Option<u64>,
    /// What handshake messages to its end show.
    pub(super) mac1: Option<Mac1Key>,
    pub(super) candidates: Candidates,
    /// An address that sends with a known index and is not followed yet.
    pub(super) roaming: Option<Roaming>,
    /// The address before one that was followed without proof.
    pub(super) previous: Option<Previous>,
    /// An address that was followed without proof was not the end's.
    pub(super) is_contested: bool,
}

/// A new address of a leg that shows an index, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Roaming {
    pub(super) address: Endpoint,
    pub(super) heard_ns: u64,
}

/// An address that may take its leg back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) address: Endpoint,
    pub(super) until_ns: u64,
}

/// A handshake message whose index the other end has not used yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Where the message came from.
    pub(super) address: Endpoint,
    pub(super) index: PeerIndex,
    pub(super) is_initiation: bool,
    pub(super) heard_ns: u64,
}

impl Candidate {
    fn is_waiting(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.heard_ns) < HANDSHAKE_WAIT_NS
    }
}

/// The last few candidates of a leg.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    places: [Option<Candidate>; HANDSHAKE_CANDIDATES_MAX],
}

impl Candidates {
    /// Adds one, in place of one with the same index and address, or of none, or of the oldest.
    pub(super) fn add(&mut self, candidate: Candidate) {
        let is_same = |place: &Candidate| {
            place.index == candidate.index && place.address == candidate.address
        };
        let rank = |place: &Option<Candidate>| match place {
            Some(place) if is_same(place) => (0, 0),
            None => (1, 0),
            Some(place) => (2, place.heard_ns),
        };
        if let Some(place) = self.places.iter_mut().min_by_key(|place| rank(place)) {
            *place = Some(candidate);
        }
    }

    /// The newest with an index that still waits and that `is_it`.
    pub(super) fn find(
        &self,
        now_ns: u64,
        is_it: impl Fn(&Candidate) -> bool,
    ) -> Option<Candidate> {
        let waiting = self.places.iter().flatten().filter(|place| place.is_waiting(now_ns));
        waiting.filter(|place| is_it(place)).max_by_key(|place| place.heard_ns).copied()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.places.iter().flatten()
    }

    /// Forgets those for which `is_kept` does not hold.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&Candidate) -> bool) {
        for place in &mut self.places {
            if place.as_ref().is_some_and(|candidate| !is_kept(candidate)) {
                *place = None;
            }
        }
    }
}

/// How many datagrams of unproven sources a session still looks at.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    paid_until_ns: u64,
}

impl Strangers {
    pub(super) fn admits(&mut self, now_ns: u64) -> bool {
        let cost_ns = 1_000_000_000 / STRANGER_DATAGRAMS_PER_S;
        let paid_until_ns = self.paid_until_ns.max(now_ns) + cost_ns;
        let is_admitted = paid_until_ns <= now_ns + STRANGER_BURST_DATAGRAMS * cost_ns;
        if is_admitted {
            self.paid_until_ns = paid_until_ns;
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(index: u32, heard_ns: u64) -> Candidate {
        let address = Endpoint::new("192.0.2.1:9".parse().unwrap()).unwrap();
        Candidate { address, index: PeerIndex(index), is_initiation: true, heard_ns }
    }

    #[test]
    fn oldest_candidate_makes_room() {
        let mut candidates = Candidates::default();
        for index in 0..6 {
            candidates.add(candidate(index, u64::from(index)));
        }
        let has = |index| candidates.find(6, |found| found.index == PeerIndex(index)).is_some();
        assert_eq!([0, 1, 2, 3, 4, 5].map(has), [false, false, true, true, true, true]);
    }

    #[test]
    fn repeated_candidate_takes_one_place() {
        let mut candidates = Candidates::default();
        candidates.add(candidate(1, 0));
        for heard_ns in 1..9 {
            candidates.add(candidate(2, heard_ns));
        }
        assert!(candidates.find(9, |found| found.index == PeerIndex(1)).is_some());
    }

    #[test]
    fn candidate_waits_for_one_handshake() {
        let mut candidates = Candidates::default();
        candidates.add(candidate(1, 5));
        assert!(candidates.find(5 + HANDSHAKE_WAIT_NS - 1, |_| true).is_some());
        assert!(candidates.find(5 + HANDSHAKE_WAIT_NS, |_| true).is_none());
    }

    #[test]
    fn fifth_index_replaces_the_first() {
        let mut leg = HotLeg::vacant(0);
        assert!(leg.has_no_index() && !leg.has_index(PeerIndex(0)));
        for index in [1, 2, 3, 3, 4, 5] {
            leg.add_index(PeerIndex(index));
        }
        let known = [1, 2, 3, 4, 5].map(|index| leg.has_index(PeerIndex(index)));
        assert_eq!(known, [false, true, true, true, true]);
    }

    #[test]
    fn places_without_an_index_repeat_one_that_is_known() {
        let mut leg = HotLeg::vacant(0);
        assert_eq!(leg.known_indices(), None);
        assert!(leg.add_index(PeerIndex(7)) && leg.add_index(PeerIndex(8)));
        assert!(!leg.add_index(PeerIndex(7)));
        assert_eq!(leg.known_indices(), Some([7, 8, 7, 7].map(PeerIndex)));
    }

    #[test]
    fn strangers_have_a_burst_and_a_rate() {
        let mut strangers = Strangers::default();
        let second_ns = 1_000_000_000;
        let admitted = |strangers: &mut Strangers, now_ns| {
            (0..1000).filter(|_| strangers.admits(now_ns)).count() as u64
        };
        assert_eq!(admitted(&mut strangers, 7), STRANGER_BURST_DATAGRAMS);
        assert_eq!(admitted(&mut strangers, 7), 0);
        let later = admitted(&mut strangers, 7 + second_ns / 2);
        assert_eq!(later, STRANGER_DATAGRAMS_PER_S / 2);
    }
}
