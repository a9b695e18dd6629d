//! Messages that can be checked byte for byte: number, stamp, flow, flags, then a pattern that
//! follows from flow and number. Lengths follow from the number, so that a lost, doubled, moved or
//! changed byte is always noticed; a running SHA-256 on both sides holds stamps and flags too.
//! Pure but for the read a receiver is given; used by the threads of one flow each.

use ring::digest::{Context, Digest, SHA256, SHA256_OUTPUT_LEN};
use std::io::{self, Read};
use thiserror::Error;

/// Bytes before the pattern: sequence (8), stamp in nanoseconds (8), flow (4), flags (4).
const HEADER_BYTES: usize = 24;
/// Lengths of messages in bytes, header included, in turn: below and above what one stock data
/// frame holds (8 192, spec §6.1), and small ones between them.
const LENGTHS_BYTES: [usize; 6] = [1_024, 8_192, 512, 16_384, 100, 4_096];
/// The longest of them.
const LENGTH_BYTES_MAX: usize = 16_384;
/// Flag: nothing follows.
const FLAG_LAST: u32 = 1;
/// Different starts of the pattern.
const PATTERN_STARTS: usize = 4_096;
/// One read takes up to this many bytes.
const READ_BYTES: usize = 128 * 1024;
const _: () = assert!(READ_BYTES > 2 * LENGTH_BYTES_MAX);
/// Bytes of a receipt: messages (8) and SHA-256.
pub(super) const RECEIPT_BYTES: usize = 8 + SHA256_OUTPUT_LEN;

/// A message that is not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Corruption {
    #[error("message {expected} was due and {got} came")]
    Sequence { expected: u64, got: u64 },
    #[error("message {sequence} is of flow {got} instead of {flow}")]
    Flow { flow: u32, sequence: u64, got: u32 },
    #[error("message {sequence} has other bytes than were sent")]
    Pattern { sequence: u64 },
    #[error("message {sequence} came after the last one")]
    AfterLast { sequence: u64 },
}

/// Why receiving stopped.
#[derive(Debug, Error)]
pub(super) enum ReceiveError {
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    #[error(transparent)]
    Stream(#[from] io::Error),
}

fn length_bytes(sequence: u64) -> usize {
    let place = usize::try_from(sequence % LENGTHS_BYTES.len() as u64).unwrap_or_default();
    LENGTHS_BYTES.get(place).copied().unwrap_or(LENGTH_BYTES_MAX)
}

/// What a flow's messages look like.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    flow: u32,
    block: Box<[u8]>,
}

impl Pattern {
    /// The pattern of a flow.
    pub(super) fn new(flow: u32) -> Self {
        let mut state = u64::from(flow) ^ 0x9e37_79b9_7f4a_7c15;
        let block = (0..PATTERN_STARTS + LENGTH_BYTES_MAX)
            .map(|_| {
                // Knuth's MMIX generator: the high bits are the good ones.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state.to_be_bytes()[0]
            })
            .collect();
        Self { flow, block }
    }

    fn body(&self, sequence: u64) -> &[u8] {
        let start = usize::try_from(sequence.wrapping_mul(61) % PATTERN_STARTS as u64);
        let start = start.unwrap_or_default();
        self.block.get(start..start + length_bytes(sequence) - HEADER_BYTES).unwrap_or_default()
    }

    /// Compares a whole message with what was due; returns stamp and flags.
    fn check(&self, expected: u64, message: &[u8]) -> Result<(u64, u32), Corruption> {
        let changed = Corruption::Pattern { sequence: expected };
        let (sequence, rest) = message.split_first_chunk().ok_or(changed)?;
        let (stamp, rest) = rest.split_first_chunk().ok_or(changed)?;
        let (flow, rest) = rest.split_first_chunk().ok_or(changed)?;
        let (flags, body) = rest.split_first_chunk().ok_or(changed)?;
        let got = u64::from_be_bytes(*sequence);
        if got != expected {
            return Err(Corruption::Sequence { expected, got });
        }
        let got = u32::from_be_bytes(*flow);
        if got != self.flow {
            return Err(Corruption::Flow { flow: self.flow, sequence: expected, got });
        }
        if body != self.body(expected) {
            return Err(changed);
        }
        Ok((u64::from_be_bytes(*stamp), u32::from_be_bytes(*flags)))
    }
}

/// What one side of a flow saw: how many messages, and the digest of all their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) messages: u64,
    digest: [u8; SHA256_OUTPUT_LEN],
}

impl Receipt {
    fn new(messages: u64, digest: &Digest) -> Self {
        let digest = digest.as_ref().first_chunk().copied().unwrap_or_default();
        Self { messages, digest }
    }

    /// The receipt as it travels back.
    pub(super) fn to_bytes(&self) -> [u8; RECEIPT_BYTES] {
        let mut bytes = [0; RECEIPT_BYTES];
        let (messages, digest) = bytes.split_at_mut(8);
        messages.copy_from_slice(&self.messages.to_be_bytes());
        digest.copy_from_slice(&self.digest);
        bytes
    }
}

/// Makes the messages of a flow, one after the other.
pub(super) struct Writer {
    pattern: Pattern,
    sequence: u64,
    digest: Context,
}

impl Writer {
    /// Starts with message 0.
    pub(super) fn new(pattern: Pattern) -> Self {
        Self { pattern, sequence: 0, digest: Context::new(&SHA256) }
    }

    /// Writes the next message over `out`.
    pub(super) fn next(&mut self, stamp_ns: u64, last: bool, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&stamp_ns.to_be_bytes());
        out.extend_from_slice(&self.pattern.flow.to_be_bytes());
        out.extend_from_slice(&if last { FLAG_LAST } else { 0 }.to_be_bytes());
        out.extend_from_slice(self.pattern.body(self.sequence));
        self.digest.update(out);
        self.sequence += 1;
    }

    /// What was written.
    pub(super) fn receipt(self) -> Receipt {
        Receipt::new(self.sequence, &self.digest.finish())
    }
}

/// A message as it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    pub(super) bytes: usize,
    pub(super) stamp_ns: u64,
}

/// Cuts a byte stream into checked messages.
pub(super) struct Receiver {
    pattern: Pattern,
    expected: u64,
    last_seen: bool,
    digest: Context,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Receiver {
    /// A receiver that expects message 0 first.
    pub(super) fn new(pattern: Pattern) -> Self {
        Self {
            pattern,
            expected: 0,
            last_seen: false,
            digest: Context::new(&SHA256),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            filled: 0,
        }
    }

    /// Messages that arrived so far.
    pub(super) fn arrived(&self) -> u64 {
        self.expected
    }

    /// Whether the message that says so was the last.
    pub(super) fn is_complete(&self) -> bool {
        self.last_seen
    }

    /// Reads once and gives every whole message to `each`. `false`: the stream has ended.
    ///
    /// # Errors
    ///
    /// What reading fails with, and every message that is not what was sent.
    pub(super) fn receive(
        &mut self,
        source: &mut dyn Read,
        mut each: impl FnMut(Arrived),
    ) -> Result<bool, ReceiveError> {
        let bytes = source.read(self.buffer.get_mut(self.filled..).unwrap_or_default())?;
        if bytes == 0 {
            return Ok(false);
        }
        self.filled += bytes;
        let mut start = 0;
        loop {
            let end = start + length_bytes(self.expected);
            let whole = self.buffer.get(start..end).filter(|_| end <= self.filled);
            if self.last_seen && start < self.filled {
                return Err(Corruption::AfterLast { sequence: self.expected }.into());
            }
            let Some(message) = whole else { break };
            let (stamp_ns, flags) = self.pattern.check(self.expected, message)?;
            self.digest.update(message);
            self.last_seen = flags & FLAG_LAST != 0;
            self.expected += 1;
            each(Arrived { bytes: message.len(), stamp_ns });
            start = end;
        }
        self.buffer.copy_within(start..self.filled, 0);
        self.filled -= start;
        Ok(true)
    }

    /// What was received.
    pub(super) fn receipt(&self) -> Receipt {
        Receipt::new(self.expected, &self.digest.clone().finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(flow: u32, messages: u64) -> (Vec<u8>, Receipt) {
        let mut writer = Writer::new(Pattern::new(flow));
        let (mut all, mut one) = (Vec::new(), Vec::new());
        for sequence in 0..messages {
            writer.next(1_000 + sequence, sequence + 1 == messages, &mut one);
            all.extend_from_slice(&one);
        }
        (all, writer.receipt())
    }

    fn receive_all(flow: u32, bytes: &[u8], piece: usize) -> Result<Receiver, ReceiveError> {
        let mut receiver = Receiver::new(Pattern::new(flow));
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() {
                receiver.receive(&mut piece, |_| ())?;
            }
        }
        Ok(receiver)
    }

    #[test]
    fn longest_length_is_the_longest() {
        assert_eq!(LENGTHS_BYTES.iter().max(), Some(&LENGTH_BYTES_MAX));
        assert!(LENGTHS_BYTES.iter().all(|bytes| *bytes > HEADER_BYTES));
    }

    #[test]
    fn messages_arrive_whole_in_any_segmentation_and_the_receipts_agree() {
        let (bytes, sent) = stream(3, 50);
        for piece in [1, 7, 511, 512, 513, 60_000, bytes.len()] {
            let receiver = receive_all(3, &bytes, piece).unwrap();
            assert!(receiver.is_complete());
            assert_eq!(receiver.receipt(), sent);
            assert_eq!(receiver.arrived(), 50);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed_at_once_or_by_the_digest() {
        let (bytes, sent) = stream(3, 5);
        for position in (0..bytes.len()).step_by(7).chain(0..200) {
            let mut changed = bytes.clone();
            changed[position] ^= 0x10;
            let noticed = match receive_all(3, &changed, 4_096) {
                Ok(receiver) => receiver.receipt() != sent,
                Err(_) => true,
            };
            assert!(noticed, "byte {position}");
        }
    }

    #[test]
    fn lost_doubled_and_foreign_messages_are_noticed() {
        let (bytes, _) = stream(0, 12);
        let first = LENGTHS_BYTES[0];
        assert!(receive_all(0, &bytes[first..], 4_096).is_err());
        let doubled = [&bytes[..first], &bytes[..]].concat();
        assert!(receive_all(0, &doubled, 4_096).is_err());
        assert!(receive_all(1, &bytes, 4_096).is_err());
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(
            receive_all(0, &longer, 4_096),
            Err(ReceiveError::Corrupt(Corruption::AfterLast { sequence: 12 }))
        ));
    }
}
