//! Received input that waits for its turn, so that whoever floods a core keeps nobody else waiting.
//!
//! Owned by one data core, on its thread. A link that sends little is served as its input arrives;
//! what goes beyond its share of a turn waits here, in the order it came, and links that wait take
//! turns. Handshakes always wait: their curve operations cost more than any frame. Nothing here
//! looks at bytes or ends connections.

use super::connection::Ended;
use crate::block::Block;
use crate::limits::{FRAME_COST_BYTES, QUERY_COST_BYTES, RECORD_COST_BYTES, SHARE_BYTES};
use crate::port::arena::ReceiveBuffer;
use crate::record_reader::InputProgress;
use std::collections::VecDeque;
use waystation_astral::frame::Frame;

/// What may still be done for a connection before others have their turn, in the time it takes to
/// open and seal so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    left_bytes: usize,
    spent_bytes: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { left_bytes: bytes, spent_bytes: 0 }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left_bytes == 0
    }

    pub(super) fn spent_bytes(&self) -> usize {
        self.spent_bytes
    }

    pub(super) fn charge(&mut self, bytes: usize) {
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        self.spent_bytes = self.spent_bytes.saturating_add(bytes);
    }

    /// For an opened record of so many bytes of plaintext.
    pub(super) fn charge_record(&mut self, bytes: usize) {
        self.charge(RECORD_COST_BYTES + bytes);
    }

    /// For a frame other than data.
    pub(super) fn charge_frame(&mut self, frame: &Frame<'_>) {
        self.charge(match frame {
            Frame::Query { .. } | Frame::RelayQuery { .. } => QUERY_COST_BYTES,
            _ => FRAME_COST_BYTES,
        });
    }

    /// Lets a step go on that cannot be interrupted here.
    pub(super) fn lift(&mut self) {
        self.left_bytes = usize::MAX;
    }
}

/// A connection, which may be gone by its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Something a connection received.
#[derive(Debug)]
pub(super) enum Input {
    /// As received.
    Buffer(ReceiveBuffer),
    /// A copy of the first bytes of a block: the buffer has gone on with a payload that was sealed
    /// in it.
    Copy(Block, usize),
    /// All that is left of it is an open record.
    Gone,
    /// Its end. Never more follows.
    End(Ended),
}

/// Input of a connection that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) place: Place,
    pub(super) input: Input,
    pub(super) progress: InputProgress,
    /// When it was reaped.
    pub(super) reaped_ns: u64,
    position: usize,
}

impl Waiting {
    pub(super) fn new(place: Place, input: Input, reaped_ns: u64) -> Self {
        Self { place, input, progress: InputProgress::default(), reaped_ns, position: usize::MAX }
    }
}

/// A connection with input that waits.
#[derive(Debug)]
struct Turn {
    place: Place,
    inputs: usize,
    paused: bool,
}

/// See the module. It holds at most every receive buffer of the port, and one end for each of the
/// connections these came from.
#[derive(Debug)]
pub(super) struct Ingress {
    /// In order of arrival.
    inputs: VecDeque<Waiting>,
    /// Each connection once, the next in front.
    turns: VecDeque<Turn>,
    /// Inputs of one connection from which on it is received from no longer.
    pause_at: usize,
}

/// What a connection's waiting input asks of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    AsBefore,
    Pause,
    Resume,
}

impl Ingress {
    /// For a port with so many receive buffers. One connection may keep an eighth of them waiting.
    pub(super) fn new(receive_buffers: usize) -> Self {
        Self {
            inputs: VecDeque::with_capacity(2 * receive_buffers),
            turns: VecDeque::with_capacity(receive_buffers),
            pause_at: (receive_buffers / 8).max(2),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether input of this connection waits, so that what comes now must wait behind it.
    pub(super) fn is_waiting(&self, place: Place) -> bool {
        self.turns.iter().any(|turn| turn.place == place)
    }

    /// Has input wait behind what the connection already has here.
    pub(super) fn push(&mut self, waiting: Waiting) -> Receiving {
        let place = waiting.place;
        self.inputs.push_back(waiting);
        let pause_at = self.pause_at;
        match self.turns.iter_mut().find(|turn| turn.place == place) {
            None => {
                self.turns.push_back(Turn { place, inputs: 1, paused: false });
                Receiving::AsBefore
            }
            Some(turn) => {
                turn.inputs += 1;
                if turn.paused || turn.inputs < pause_at {
                    return Receiving::AsBefore;
                }
                turn.paused = true;
                Receiving::Pause
            }
        }
    }

    /// Takes out all that waits of a connection, in order.
    pub(super) fn take(&mut self, place: Place) -> VecDeque<Waiting> {
        self.turns.retain(|turn| turn.place != place);
        let mut taken = VecDeque::new();
        // In the memory that it has, of which it must not need more later.
        for _ in 0..self.inputs.len() {
            let Some(waiting) = self.inputs.pop_front() else { break };
            match waiting.place == place {
                true => taken.push_back(waiting),
                false => self.inputs.push_back(waiting),
            }
        }
        taken
    }

    /// The first input of the connection whose turn it is. [`Self::finish`] or
    /// [`Self::put_back`] must follow.
    pub(super) fn next(&mut self) -> Option<Waiting> {
        let place = self.turns.front()?.place;
        let position = self.inputs.iter().position(|waiting| waiting.place == place)?;
        let mut waiting = self.inputs.remove(position)?;
        waiting.position = position;
        Some(waiting)
    }

    /// The input that was taken last is dealt with; the turn passes on.
    pub(super) fn finish(&mut self) -> Receiving {
        let Some(mut turn) = self.turns.pop_front() else { return Receiving::AsBefore };
        turn.inputs -= 1;
        if turn.inputs > 0 {
            self.turns.push_back(turn);
            return Receiving::AsBefore;
        }
        if turn.paused { Receiving::Resume } else { Receiving::AsBefore }
    }

    /// The input that was taken last is not done with; the turn passes on.
    pub(super) fn put_back(&mut self, waiting: Waiting) {
        let position = waiting.position.min(self.inputs.len());
        self.inputs.insert(position, waiting);
        self.turns.rotate_left(1);
    }
}

/// What a link has used of its share of a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    turn: u64,
    spent_bytes: usize,
}

impl Share {
    /// What is left in this turn.
    pub(super) fn budget(&self, turn: u64) -> Budget {
        let spent_bytes = if self.turn == turn { self.spent_bytes } else { 0 };
        Budget::new(SHARE_BYTES.saturating_sub(spent_bytes))
    }

    pub(super) fn spend(&mut self, turn: u64, bytes: usize) {
        let before = if self.turn == turn { self.spent_bytes } else { 0 };
        *self = Self { turn, spent_bytes: before.saturating_add(bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(slot: u32) -> Waiting {
        Waiting::new(Place { slot, generation: 1 }, Input::End(Ended::Cleanly), 0)
    }

    fn slots(ingress: &mut Ingress) -> Vec<u32> {
        let mut slots = Vec::new();
        while let Some(waiting) = ingress.next() {
            slots.push(waiting.place.slot);
            ingress.finish();
        }
        slots
    }

    #[test]
    fn connections_that_wait_take_turns() {
        let mut ingress = Ingress::new(64);
        for slot in [1, 1, 1, 2, 3, 3] {
            ingress.push(end_of(slot));
        }
        assert_eq!(slots(&mut ingress), [1, 2, 3, 1, 3, 1]);
        assert!(ingress.is_empty());
    }

    #[test]
    fn input_that_is_put_back_comes_before_what_arrived_later() {
        let mut ingress = Ingress::new(64);
        ingress.push(end_of(1));
        ingress.push(Waiting::new(Place { slot: 1, generation: 1 }, Input::End(Ended::ByError), 0));
        ingress.push(end_of(2));
        let first = ingress.next().unwrap();
        ingress.put_back(first);
        let ends: Vec<_> = std::iter::from_fn(|| {
            let waiting = ingress.next()?;
            ingress.finish();
            Some((waiting.place.slot, matches!(waiting.input, Input::End(Ended::Cleanly))))
        })
        .collect();
        assert_eq!(ends, [(2, true), (1, true), (1, false)]);
    }

    #[test]
    fn connection_with_much_waiting_is_received_from_again_when_nothing_waits() {
        let mut ingress = Ingress::new(32);
        let asked: Vec<_> = (0..6).map(|_| ingress.push(end_of(1))).collect();
        assert_eq!(asked.iter().filter(|asked| **asked == Receiving::Pause).count(), 1);
        assert_eq!(asked[3], Receiving::Pause);
        let mut finished = Vec::new();
        while ingress.next().is_some() {
            finished.push(ingress.finish());
        }
        assert_eq!(finished.pop(), Some(Receiving::Resume));
        assert!(finished.iter().all(|asked| *asked == Receiving::AsBefore));
    }

    #[test]
    fn connections_of_one_place_are_told_apart_by_generation() {
        let mut ingress = Ingress::new(32);
        ingress.push(end_of(1));
        assert!(ingress.is_waiting(Place { slot: 1, generation: 1 }));
        assert!(!ingress.is_waiting(Place { slot: 1, generation: 2 }));
    }

    #[test]
    fn share_is_whole_again_in_the_next_turn() {
        let mut share = Share::default();
        share.spend(7, SHARE_BYTES / 2);
        share.spend(7, SHARE_BYTES);
        assert!(share.budget(7).is_spent());
        assert_eq!(share.budget(8), Budget::new(SHARE_BYTES));
    }
}
