//! Turns: which queue of a link is next, first by source link, then by session.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only. Deficit
//! round robin: a source may send [`QUANTUM_BYTES`] before the next one has its turn, so a peer
//! with a hundred sessions gets no more of a link than one with a single session. Each step is
//! O(1), and nothing is allocated for a source that has been ready before.

use super::{LinkSessions, Switch};
use crate::leg::{Leg, Source};
use crate::limits::QUANTUM_BYTES;
use crate::slots::Slots;
use std::collections::{HashMap, VecDeque};

/// The sources of all links that something was queued for.
#[derive(Debug, Default)]
pub(super) struct Turns {
    sources: Slots<SourceTurn>,
    by_source: HashMap<(u32, Source), u32>,
}

/// One source on one link.
#[derive(Debug)]
struct SourceTurn {
    link: u32,
    source: Source,
    /// How many legs belong here, ready or not.
    legs: usize,
    /// Legs whose queued bytes may go out, each once, in turn.
    ready: VecDeque<u32>,
    /// What is left of its turn; 0: the next one begins anew.
    left_bytes: usize,
}

impl Turns {
    fn join(&mut self, link: u32, source: Source) -> u32 {
        let sources = &mut self.sources;
        let place = *self.by_source.entry((link, source)).or_insert_with(|| {
            let ready = VecDeque::new();
            sources.insert(SourceTurn { link, source, legs: 0, ready, left_bytes: 0 }).0
        });
        if let Some(turn) = self.sources.at_mut(place) {
            turn.legs += 1;
        }
        place
    }

    /// Takes a leg out that ends or has another source. `link`: what it lives on, unless that has
    /// gone with everything that was ready there.
    pub(super) fn leave(&mut self, slot: u32, leg: &mut Leg, link: Option<&mut LinkSessions>) {
        let Some(place) = leg.turn.take() else { return };
        let was_ready = std::mem::take(&mut leg.in_ready_ring);
        let Some(turn) = self.sources.at_mut(place) else { return };
        if let (true, Some(link)) = (was_ready, link) {
            turn.ready.retain(|&ready| ready != slot);
            if turn.ready.is_empty() {
                turn.left_bytes = 0;
                link.turns.retain(|&waiting| waiting != place);
            }
        }
        turn.legs -= 1;
        if turn.legs == 0 {
            self.by_source.remove(&(turn.link, turn.source));
            self.sources.remove(place);
        }
    }

    /// How many there are.
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }
}

impl Switch {
    /// Puts a leg that may send at the end of its source's ring, and its source at the end of the
    /// link's, unless they are there.
    pub(super) fn make_ready(&mut self, slot: u32) {
        let Some(leg) = self.legs.at_mut(slot) else { return };
        if leg.in_ready_ring {
            return;
        }
        if leg.may_send() {
            self.enter_turns(slot);
        }
        self.note_limit(slot);
    }

    fn enter_turns(&mut self, slot: u32) {
        let Some(leg) = self.legs.at_mut(slot) else { return };
        let Some(Some(link)) = self.links.get_mut(leg.link as usize) else { return };
        leg.in_ready_ring = true;
        let place = match leg.turn {
            Some(place) => place,
            None => self.turns.join(leg.link, leg.source),
        };
        leg.turn = Some(place);
        self.woken.push(leg.link);
        let Some(turn) = self.turns.sources.at_mut(place) else { return };
        if turn.ready.is_empty() {
            link.turns.push_back(place);
        }
        turn.ready.push_back(slot);
    }

    /// Takes a leg that must not send out of its link's turns.
    pub(super) fn leave_turns(&mut self, slot: u32) {
        let Some(leg) = self.legs.at_mut(slot) else { return };
        let link = self.links.get_mut(leg.link as usize).and_then(Option::as_mut);
        self.turns.leave(slot, leg, link);
    }

    /// Says whose bytes leave on a leg.
    pub(super) fn set_source(&mut self, slot: u32, source: Source) {
        self.leave_turns(slot);
        let Some(leg) = self.legs.at_mut(slot) else { return };
        leg.source = source;
        self.make_ready(slot);
    }

    /// Whose turn it is on a link: the leg, and what is left of its source's turn.
    pub(super) fn next_turn(&mut self, link: u32) -> Option<(u32, usize)> {
        let place = *self.link(link)?.turns.front()?;
        let turn = self.turns.sources.at_mut(place)?;
        if turn.left_bytes == 0 {
            turn.left_bytes = QUANTUM_BYTES;
        }
        Some((*turn.ready.front()?, turn.left_bytes))
    }

    /// The leg whose turn it was has sent so many bytes: it goes behind the others of its source,
    /// or out of the ring; and so does its source when its turn is over.
    pub(super) fn end_turn(&mut self, link: u32, slot: u32, bytes: usize) {
        let Some(Some(sessions)) = self.links.get_mut(link as usize) else { return };
        let Some(&place) = sessions.turns.front() else { return };
        let Some(turn) = self.turns.sources.at_mut(place) else { return };
        debug_assert_eq!(turn.ready.front(), Some(&slot), "the turn was that leg's");
        turn.ready.pop_front();
        turn.left_bytes = turn.left_bytes.saturating_sub(bytes);
        if let Some(leg) = self.legs.at_mut(slot) {
            leg.in_ready_ring = leg.may_send();
            if leg.in_ready_ring {
                turn.ready.push_back(slot);
            }
        }
        if turn.ready.is_empty() {
            turn.left_bytes = 0;
            sessions.turns.pop_front();
        } else if turn.left_bytes == 0 {
            sessions.turns.rotate_left(1);
        }
        self.note_limit(slot);
    }

    // What is ready on a link, for those that look at all of it

    /// How many sources of a link have legs that are ready.
    pub(super) fn ready_sources(&self, link: u32) -> usize {
        self.link(link).map_or(0, |sessions| sessions.turns.len())
    }

    /// How many legs of its source at this place are ready.
    pub(super) fn ready_legs(&self, link: u32, place: usize) -> usize {
        self.ready_turn(link, place).map_or(0, |turn| turn.ready.len())
    }

    /// One of them.
    pub(super) fn ready_leg(&self, link: u32, place: usize, position: usize) -> Option<u32> {
        self.ready_turn(link, place)?.ready.get(position).copied()
    }

    fn ready_turn(&self, link: u32, place: usize) -> Option<&SourceTurn> {
        self.turns.sources.at(*self.link(link)?.turns.get(place)?)
    }
}
