//! What waits to be sent to one client of a stream.
//!
//! Owned by one data core, part of a client's stream. It holds at most one block of payload: what a
//! client that does not read has no room for is lost, as it would be in its socket over UDP. Answers
//! may go into a second block, so that payload never keeps a client from its answers.

use crate::block::{BLOCK_BYTES, Block, BlockPool};
use crate::limits::BLOCKS_RESERVED;
use crate::port::{Segment, Segments};
use arrayvec::ArrayVec;

/// Blocks that wait at most: one for payload, and one more for answers.
const WAITING_MAX: usize = 2;

/// What is to be sent, which decides how much of it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Payload,
    Answer,
}

/// Why something cannot wait here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The client does not read what waits already.
    NotReading,
    /// No block is left for it.
    NoBlock,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Output {
    waiting: ArrayVec<(Block, usize), WAITING_MAX>,
    in_flight: usize,
}

impl Output {
    /// Puts pieces behind each other, whole or not at all.
    pub(super) fn push(
        &mut self,
        pieces: [&[u8]; 3],
        kind: Kind,
        may_take: bool,
        pool: &mut BlockPool,
    ) -> Result<(), Full> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let usable = match kind {
            Kind::Payload => 1,
            Kind::Answer => WAITING_MAX,
        };
        let open = self.waiting.iter_mut().take(usable).next_back();
        if let Some((block, used)) = open.filter(|(_, used)| used + bytes <= BLOCK_BYTES) {
            copy(pieces, block, used);
            return Ok(());
        }
        if self.waiting.len() >= usable || bytes > BLOCK_BYTES {
            return Err(Full::NotReading);
        }
        if !may_take || pool.available() <= BLOCKS_RESERVED {
            return Err(Full::NoBlock);
        }
        let mut block = pool.take().ok_or(Full::NoBlock)?;
        let mut used = 0;
        copy(pieces, &mut block, &mut used);
        self.waiting.push((block, used));
        Ok(())
    }

    /// Everything that waits, to be sent.
    pub(super) fn take(&mut self) -> Segments {
        self.in_flight = self.waiting.len();
        let segments = self.waiting.drain(..);
        segments.map(|(block, used)| Segment::Block { block, range: 0..used }).collect()
    }

    /// What was taken has been sent.
    pub(super) fn sent(&mut self) {
        self.in_flight = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Blocks that it holds, or has in flight.
    pub(super) fn blocks(&self) -> usize {
        self.waiting.len() + self.in_flight
    }

    /// Gives back what waits.
    pub(super) fn discard(&mut self, pool: &mut BlockPool) {
        for (block, _) in self.waiting.drain(..) {
            pool.give_back(block);
        }
    }
}

fn copy(pieces: [&[u8]; 3], block: &mut Block, used: &mut usize) {
    for piece in pieces {
        block[*used..*used + piece.len()].copy_from_slice(piece);
        *used += piece.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: [u8; 1000] = [9; 1000];

    fn payload(output: &mut Output, bytes: usize, pool: &mut BlockPool) -> Result<(), Full> {
        output.push([&[1; 4], &vec![2; bytes - 4], &[]], Kind::Payload, true, pool)
    }

    fn answer(output: &mut Output, pool: &mut BlockPool) -> Result<(), Full> {
        output.push([&ANSWER, &[], &[]], Kind::Answer, true, pool)
    }

    #[test]
    fn payload_beyond_a_block_is_refused_while_answers_still_fit() {
        let (mut output, mut pool) = (Output::default(), BlockPool::new(64));
        payload(&mut output, BLOCK_BYTES - 8, &mut pool).unwrap();
        assert_eq!(payload(&mut output, 9, &mut pool), Err(Full::NotReading));
        let answers = (0..).take_while(|_| answer(&mut output, &mut pool).is_ok()).count();
        assert_eq!(answers, BLOCK_BYTES / ANSWER.len());
        payload(&mut output, 8, &mut pool).unwrap();
        assert_eq!(output.blocks(), WAITING_MAX);
        let lengths: Vec<_> = output.take().iter().map(Segment::bytes).collect();
        assert_eq!(lengths, [BLOCK_BYTES, answers * ANSWER.len()]);
    }

    #[test]
    fn blocks_in_flight_count_until_they_were_sent() {
        let (mut output, mut pool) = (Output::default(), BlockPool::new(64));
        answer(&mut output, &mut pool).unwrap();
        let segments = output.take();
        assert!(output.is_empty());
        payload(&mut output, 100, &mut pool).unwrap();
        assert_eq!(output.blocks(), 2);
        output.sent();
        assert_eq!(output.blocks(), 1);
        output.discard(&mut pool);
        assert_eq!((output.blocks(), segments.len()), (0, 1));
    }

    #[test]
    fn the_reserve_of_the_pool_is_not_for_streams() {
        let (mut output, mut pool) = (Output::default(), BlockPool::new(BLOCKS_RESERVED));
        assert_eq!(answer(&mut output, &mut pool), Err(Full::NoBlock));
        let mut pool = BlockPool::new(BLOCKS_RESERVED + 1);
        let denied = output.push([&ANSWER, &[], &[]], Kind::Payload, false, &mut pool);
        assert_eq!(denied, Err(Full::NoBlock));
        assert_eq!(answer(&mut output, &mut pool), Ok(()));
    }

    #[test]
    fn the_longest_relayed_datagram_fits_an_empty_block() {
        let head = waystation_turn::limits::CLIENT_HEAD_BYTES_MAX;
        let longest = head + waystation_turn::limits::DATAGRAM_BYTES_MAX;
        let (mut output, mut pool) = (Output::default(), BlockPool::new(64));
        payload(&mut output, longest.next_multiple_of(4), &mut pool).unwrap();
    }
}
