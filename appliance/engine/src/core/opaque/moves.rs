//! Sessions whose legs have other addresses, until the management core has been told.
//!
//! Part of a core's opaque sessions, on its thread. An end that proves a new address with every
//! datagram would otherwise be told of as often, so what is told is where the legs are now, after a
//! short while in which further moves are only counted.

use super::due::DueQueue;
use crate::limits::{UDP_MOVES_AFTER_NS, UDP_MOVES_TOLD_MAX};
use arrayvec::ArrayVec;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::Evidence;

/// What is told of a session besides where its legs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Changes of address since it was told last.
    pub(super) moves: u32,
    /// What showed the last of them; none if an address was given up.
    pub(super) by: Option<Evidence>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Moves {
    waiting: DueQueue<UdpSessionTag>,
    /// By the place of a session.
    untold: Vec<Told>,
}

impl Moves {
    pub(super) fn new(sessions_max: usize) -> Self {
        let untold = Vec::with_capacity(sessions_max);
        Self { waiting: DueQueue::new(sessions_max), untold }
    }

    /// A leg has another address, or none any more.
    pub(super) fn note(&mut self, session: UdpSessionTag, by: Option<Evidence>, now_ns: u64) {
        let place = session.slot as usize;
        if self.untold.len() <= place {
            self.untold.resize(place + 1, Told::default());
        }
        let moves = self.untold[place].moves.saturating_add(1);
        self.untold[place] = Told { moves, by };
        self.waiting.push(session.slot, session, now_ns + UDP_MOVES_AFTER_NS);
    }

    /// A session has ended; its place may be another's soon.
    pub(super) fn forget(&mut self, place: u32) {
        self.told(place);
        self.waiting.forget(place);
    }

    /// When the next session is to be told of.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.waiting.due_ns()
    }

    /// Sessions to be told of now; each has to be asked about with [`Self::told`].
    pub(super) fn take_due(&mut self, now_ns: u64) -> ArrayVec<UdpSessionTag, UDP_MOVES_TOLD_MAX> {
        let due = std::iter::from_fn(|| self.waiting.take_due(now_ns));
        due.take(UDP_MOVES_TOLD_MAX).map(|(_, session)| session).collect()
    }

    /// What has happened to the session at a place since this was asked last, if anything.
    pub(super) fn told(&mut self, place: u32) -> Option<Told> {
        let untold = self.untold.get_mut(place as usize)?;
        Some(std::mem::take(untold)).filter(|told| told.moves > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_relay::ids::CoreId;

    fn session(slot: u32) -> UdpSessionTag {
        UdpSessionTag { core: CoreId(0), slot, generation: 1 }
    }

    #[test]
    fn moves_of_a_while_are_told_as_one() {
        let mut moves = Moves::new(4);
        for step in 0..1000 {
            moves.note(session(2), Some(Evidence::Proof), step);
        }
        moves.note(session(1), None, 5);
        assert_eq!(moves.due_ns(), Some(UDP_MOVES_AFTER_NS));
        assert!(moves.take_due(UDP_MOVES_AFTER_NS - 1).is_empty());
        assert_eq!(moves.take_due(UDP_MOVES_AFTER_NS).as_slice(), [session(2)]);
        let told = Told { moves: 1000, by: Some(Evidence::Proof) };
        assert_eq!((moves.told(2), moves.told(2)), (Some(told), None));
        assert_eq!(moves.take_due(u64::MAX).as_slice(), [session(1)]);
        assert_eq!((moves.told(1), moves.due_ns()), (Some(Told { moves: 1, by: None }), None));
    }

    #[test]
    fn session_that_has_ended_is_not_told_of() {
        let mut moves = Moves::new(4);
        moves.note(session(0), Some(Evidence::Proof), 0);
        moves.forget(0);
        moves.forget(3);
        assert!(moves.take_due(u64::MAX).is_empty());
    }

    #[test]
    fn place_that_is_used_again_is_told_of_for_its_new_session_alone() {
        let mut moves = Moves::new(4);
        let of_generation = |generation| UdpSessionTag { generation, ..session(1) };
        moves.note(session(0), None, 0);
        assert_eq!(moves.take_due(u64::MAX).as_slice(), [session(0)]);
        moves.note(of_generation(1), None, 0);
        moves.note(session(2), None, 1);
        moves.forget(1);
        moves.note(of_generation(2), None, 2);
        assert_eq!(moves.take_due(u64::MAX).as_slice(), [session(2), of_generation(2)]);
        // One that was taken and not asked about has nothing left to leave.
        moves.forget(2);
        assert_eq!((moves.told(2), moves.due_ns()), (None, None));
    }
}
