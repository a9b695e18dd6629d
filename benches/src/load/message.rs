//! One message: number, stamp, pair, flags, then a pattern that follows from pair and number. What
//! arrives is compared whole, so that a lost, doubled, moved or changed byte is always noticed.

use std::io::{self, Read};
use thiserror::Error;

/// Bytes before the pattern: sequence (8), stamp in nanoseconds (8), pair (4), flags (4).
pub const HEADER_BYTES: usize = 24;
/// Most bytes of a message.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of one acknowledgement: how many messages have arrived so far.
pub const ACKNOWLEDGEMENT_BYTES: usize = 8;
/// Flag: acknowledge at once, the sender waits.
pub const FLAG_LAST: u32 = 1;

/// Different starts of the pattern; beside the message's length this is what a sender touches.
const PATTERN_STARTS: usize = 4_096;
/// One read takes up to this many bytes, or a message if that is longer.
const READ_BYTES: usize = 256 * 1024;

/// A message that is not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Corruption {
    #[error("pair {pair}: message {expected} was due and {got} came")]
    Sequence { pair: u32, expected: u64, got: u64 },
    #[error("pair {pair}: a message of pair {got} came")]
    Pair { pair: u32, got: u32 },
    #[error("pair {pair}: message {sequence} has other bytes than were sent")]
    Pattern { pair: u32, sequence: u64 },
    #[error("pair {pair}: the stream ended within a message")]
    Cut { pair: u32 },
}

/// The pattern of one pair.
#[derive(Clone, Debug)]
pub struct Pattern {
    pair: u32,
    block: Box<[u8]>,
    body_bytes: usize,
}

impl Pattern {
    /// The pattern of `pair` for messages of `message_bytes` bytes, at least [`HEADER_BYTES`].
    pub fn new(pair: u32, message_bytes: usize) -> Self {
        let body_bytes = message_bytes.saturating_sub(HEADER_BYTES);
        let mut state = u64::from(pair) ^ 0x9e37_79b9_7f4a_7c15;
        let block = (0..PATTERN_STARTS + body_bytes)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state.to_be_bytes()[0]
            })
            .collect();
        Self { pair, block, body_bytes }
    }

    /// Bytes of a whole message.
    pub fn message_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes
    }

    fn body(&self, sequence: u64) -> &[u8] {
        let start = usize::try_from(sequence.wrapping_mul(61) % PATTERN_STARTS as u64);
        let start = start.unwrap_or_default();
        self.block.get(start..start + self.body_bytes).unwrap_or_default()
    }

    /// Writes a whole message over `out`.
    pub fn write(&self, sequence: u64, stamp_ns: u64, flags: u32, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&sequence.to_be_bytes());
        out.extend_from_slice(&stamp_ns.to_be_bytes());
        out.extend_from_slice(&self.pair.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(self.body(sequence));
    }

    /// Compares a whole message with what was due; returns stamp and flags.
    ///
    /// # Errors
    ///
    /// Says what is other than was sent.
    pub fn check(&self, expected: u64, message: &[u8]) -> Result<(u64, u32), Corruption> {
        let pair = self.pair;
        let cut = Corruption::Cut { pair };
        let (sequence, rest) = message.split_first_chunk().ok_or(cut)?;
        let (stamp, rest) = rest.split_first_chunk().ok_or(cut)?;
        let (got_pair, rest) = rest.split_first_chunk().ok_or(cut)?;
        let (flags, body) = rest.split_first_chunk().ok_or(cut)?;
        let got = u64::from_be_bytes(*sequence);
        if got != expected {
            return Err(Corruption::Sequence { pair, expected, got });
        }
        let got_pair = u32::from_be_bytes(*got_pair);
        if got_pair != pair {
            return Err(Corruption::Pair { pair, got: got_pair });
        }
        if body != self.body(expected) {
            return Err(Corruption::Pattern { pair, sequence: expected });
        }
        Ok((u64::from_be_bytes(*stamp), u32::from_be_bytes(*flags)))
    }
}

/// A message as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    pub bytes: &'a [u8],
    pub stamp_ns: u64,
    pub flags: u32,
}

/// Cuts a byte stream into checked messages.
#[derive(Debug)]
pub struct Receiver {
    pattern: Pattern,
    expected: u64,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Receiver {
    /// A receiver that expects message 0 first.
    pub fn new(pattern: Pattern) -> Self {
        let buffer = vec![0; READ_BYTES.max(2 * pattern.message_bytes())].into_boxed_slice();
        Self { pattern, expected: 0, buffer, filled: 0 }
    }

    /// Messages that arrived so far.
    pub fn arrived(&self) -> u64 {
        self.expected
    }

    /// Reads once and gives every whole message to `each`. `false`: the stream has ended.
    ///
    /// # Errors
    ///
    /// What reading, checking or `each` fails with; corruption is [`io::ErrorKind::InvalidData`].
    pub fn receive(
        &mut self,
        source: &mut dyn Read,
        mut each: impl FnMut(Arrived<'_>) -> io::Result<()>,
    ) -> io::Result<bool> {
        let bytes = source.read(self.buffer.get_mut(self.filled..).unwrap_or_default())?;
        if bytes == 0 {
            return if self.filled == 0 {
                Ok(false)
            } else {
                Err(corrupt(Corruption::Cut { pair: self.pattern.pair }))
            };
        }
        self.filled += bytes;
        let message_bytes = self.pattern.message_bytes();
        let whole = self.filled - self.filled % message_bytes;
        let messages = self.buffer.get(..whole).unwrap_or_default();
        for message in messages.chunks_exact(message_bytes) {
            let (stamp_ns, flags) = self.pattern.check(self.expected, message).map_err(corrupt)?;
            self.expected += 1;
            each(Arrived { bytes: message, stamp_ns, flags })?;
        }
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        Ok(true)
    }
}

fn corrupt(corruption: Corruption) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, corruption)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pattern: &Pattern, messages: u64) -> Vec<u8> {
        let (mut all, mut one) = (Vec::new(), Vec::new());
        for sequence in 0..messages {
            pattern.write(sequence, 1_000 + sequence, 0, &mut one);
            all.extend_from_slice(&one);
        }
        all
    }

    fn receive_all(pattern: &Pattern, bytes: &[u8], piece: usize) -> io::Result<u64> {
        let mut receiver = Receiver::new(pattern.clone());
        for mut piece in bytes.chunks(piece) {
            receiver.receive(&mut piece, |_| Ok(()))?;
        }
        Ok(receiver.arrived())
    }

    #[test]
    fn messages_arrive_whole_in_any_segmentation() {
        let pattern = Pattern::new(3, 100);
        let bytes = stream(&pattern, 50);
        for piece in [1, 7, 99, 100, 101, 5_000] {
            assert_eq!(receive_all(&pattern, &bytes, piece).unwrap(), 50);
        }
    }

    #[test]
    fn every_changed_byte_but_the_stamp_and_flags_is_noticed() {
        let pattern = Pattern::new(3, 64);
        let bytes = stream(&pattern, 3);
        for position in 0..bytes.len() {
            let in_message = position % 64;
            if (8..16).contains(&in_message) || (20..24).contains(&in_message) {
                continue;
            }
            let mut changed = bytes.clone();
            changed[position] ^= 0x10;
            assert!(receive_all(&pattern, &changed, 4_096).is_err(), "byte {position}");
        }
    }

    #[test]
    fn lost_doubled_and_cut_messages_are_noticed() {
        let pattern = Pattern::new(0, 64);
        let bytes = stream(&pattern, 4);
        let lost = [&bytes[..64], &bytes[128..]].concat();
        assert!(receive_all(&pattern, &lost, 4_096).is_err());
        let doubled = [&bytes[..128], &bytes[64..]].concat();
        assert!(receive_all(&pattern, &doubled, 4_096).is_err());
        let mut receiver = Receiver::new(pattern);
        assert!(receiver.receive(&mut &bytes[..100], |_| Ok(())).unwrap());
        assert!(receiver.receive(&mut &[][..], |_| Ok(())).is_err());
    }
}
