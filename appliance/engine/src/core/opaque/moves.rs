//! Sessions whose legs have other addresses, until the management core has been told.
//!
//! Part of a core's opaque sessions, on its thread. An end that proves a new address with every
//! datagram would otherwise be told of as often, so what is told is where the legs are now, after a
//! short while in which further moves are only counted.

use crate::limits::{UDP_MOVES_AFTER_NS, UDP_MOVES_TOLD_MAX};
use std::collections::VecDeque;
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

/// See the module. A session waits at most once.
#[derive(Debug)]
pub(super) struct Moves {
    /// In the order of their first move, with when to tell of it; none for one that has ended. Each
    /// leaves when it is due, so these are the sessions that there are, and those that were ended
    /// within [`UDP_MOVES_AFTER_NS`].
    waiting: VecDeque<(u64, Option<UdpSessionTag>)>,
    /// How many have left, which is the number of the first that waits.
    left: u64,
    /// By the place of a session; without moves it does not wait.
    untold: Vec<Untold>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Untold {
    told: Told,
    /// Which of all that ever waited it is.
    number: u64,
}

impl Moves {
    pub(super) fn new(sessions_max: usize) -> Self {
        Self { waiting: VecDeque::new(), left: 0, untold: Vec::with_capacity(sessions_max) }
    }

    /// A leg has another address, or none any more.
    pub(super) fn note(&mut self, session: UdpSessionTag, by: Option<Evidence>, now_ns: u64) {
        let place = session.slot as usize;
        if self.untold.len() <= place {
            self.untold.resize(place + 1, Untold::default());
        }
        let untold = &mut self.untold[place];
        if untold.told.moves == 0 {
            untold.number = self.left + self.waiting.len() as u64;
            self.waiting.push_back((now_ns + UDP_MOVES_AFTER_NS, Some(session)));
        }
        untold.told = Told { moves: untold.told.moves.saturating_add(1), by };
    }

    /// A session has ended; its place may be another's soon.
    pub(super) fn forget(&mut self, place: u32) {
        let number = self.untold.get(place as usize).map_or(0, |untold| untold.number);
        if self.told(place).is_some()
            && let Some(ahead) = number.checked_sub(self.left)
            && let Some((_, waiting)) = self.waiting.get_mut(ahead as usize)
        {
            *waiting = None;
        }
    }

    /// When the next session is to be told of.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.waiting.front().map(|(due_ns, _)| *due_ns)
    }

    /// Sessions to be told of now; each has to be asked about with [`Self::told`].
    pub(super) fn take_due(
        &mut self,
        now_ns: u64,
    ) -> arrayvec::ArrayVec<UdpSessionTag, UDP_MOVES_TOLD_MAX> {
        let mut due = arrayvec::ArrayVec::new();
        while !due.is_full()
            && let Some((_, session)) = self.waiting.pop_front_if(|(due, _)| *due <= now_ns)
        {
            self.left += 1;
            due.extend(session);
        }
        due
    }

    /// What has happened to the session at a place since this was asked last, if anything.
    pub(super) fn told(&mut self, place: u32) -> Option<Told> {
        let untold = self.untold.get_mut(place as usize)?;
        Some(std::mem::take(&mut untold.told)).filter(|told| told.moves > 0)
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
