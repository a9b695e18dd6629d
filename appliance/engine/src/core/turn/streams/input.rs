//! Where the messages of one client's stream lie: in the buffer that was received, or put together.
//!
//! Owned by one data core, part of a client's stream. Only a message that a buffer's end has cut is
//! copied, and no more of it than has arrived, so that announcing a long message costs nothing.

use crate::limits::TURN_CUT_KEPT_BYTES;
use std::ops::Range;
use waystation_relay::drop_reason::DropReason;
use waystation_turn::limits::STREAM_HEAD_BYTES;
use waystation_turn::stream::{StreamError, message_bytes};

/// Where a whole message lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the buffer.
    Buffer(Range<usize>),
    /// In [`Input::cut`], until [`Input::forget_cut`].
    Cut,
}

/// Why nothing more of a stream can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its next byte starts no message.
    Unframed,
    /// Its next message is longer than its client may send.
    Oversize,
}

impl Fault {
    pub(super) fn reason(self) -> DropReason {
        match self {
            Self::Unframed => DropReason::TurnStreamUnframed,
            Self::Oversize => DropReason::TurnStreamOversize,
        }
    }
}

impl From<StreamError> for Fault {
    fn from(_: StreamError) -> Self {
        Self::Unframed
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Input {
    cut: Vec<u8>,
}

impl Input {
    /// The next message of at most so many bytes, from a place of the buffer on, which moves behind
    /// what was taken. None: the buffer is used up.
    pub(super) fn next(
        &mut self,
        buffer: &[u8],
        at: &mut usize,
        bytes_max: usize,
    ) -> Result<Option<Place>, Fault> {
        if !self.cut.is_empty() {
            return self.complete(buffer, at, bytes_max);
        }
        let rest = buffer.get(*at..).unwrap_or_default();
        let bytes = message_bytes(rest)?;
        if bytes.is_some_and(|bytes| bytes > bytes_max) {
            return Err(Fault::Oversize);
        }
        if let Some(bytes) = bytes.filter(|bytes| *bytes <= rest.len()) {
            let start = *at;
            *at += bytes;
            return Ok(Some(Place::Buffer(start..*at)));
        }
        self.cut.extend_from_slice(rest);
        *at = buffer.len();
        Ok(None)
    }

    /// Goes on with a message that began in an earlier buffer.
    fn complete(
        &mut self,
        buffer: &[u8],
        at: &mut usize,
        bytes_max: usize,
    ) -> Result<Option<Place>, Fault> {
        self.extend_to(STREAM_HEAD_BYTES, buffer, at);
        let Some(bytes) = message_bytes(&self.cut)? else { return Ok(None) };
        if bytes > bytes_max {
            return Err(Fault::Oversize);
        }
        self.extend_to(bytes, buffer, at);
        Ok((self.cut.len() == bytes).then_some(Place::Cut))
    }

    fn extend_to(&mut self, bytes: usize, buffer: &[u8], at: &mut usize) {
        let rest = buffer.get(*at..).unwrap_or_default();
        let taken = bytes.saturating_sub(self.cut.len()).min(rest.len());
        self.cut.extend_from_slice(&rest[..taken]);
        *at += taken;
    }

    /// The message that was put together.
    pub(super) fn cut(&self) -> &[u8] {
        &self.cut
    }

    /// Makes room for the next one.
    pub(super) fn forget_cut(&mut self) {
        self.cut.clear();
        if self.cut.capacity() > TURN_CUT_KEPT_BYTES {
            self.cut = Vec::new();
        }
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_within_message(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Bytes of memory it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.cut.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Binding request, ChannelData of 5 bytes with padding, and empty ChannelData.
    fn stream() -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut binding = vec![0; 20];
        binding[1] = 1;
        let messages =
            vec![binding, vec![0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0], vec![0x40, 1, 0, 0]];
        (messages.concat(), messages)
    }

    fn read(input: &mut Input, buffer: &[u8], bytes_max: usize) -> Result<Vec<Vec<u8>>, Fault> {
        let (mut at, mut found) = (0, Vec::new());
        while let Some(place) = input.next(buffer, &mut at, bytes_max)? {
            match place {
                Place::Buffer(range) => found.push(buffer[range].to_vec()),
                Place::Cut => {
                    found.push(input.cut().to_vec());
                    input.forget_cut();
                }
            }
        }
        assert_eq!(at, buffer.len(), "a buffer is used up");
        Ok(found)
    }

    #[test]
    fn messages_are_found_wherever_buffers_end() {
        let (bytes, messages) = stream();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut input = Input::default();
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let found: Vec<_> =
                    parts.iter().flat_map(|part| read(&mut input, part, 64).unwrap()).collect();
                assert_eq!(found, messages, "cut at {first} and {second}");
                assert!(!input.is_within_message());
            }
        }
    }

    #[test]
    fn a_message_may_come_byte_by_byte() {
        let (bytes, messages) = stream();
        let mut input = Input::default();
        let found: Vec<_> =
            bytes.chunks(1).flat_map(|byte| read(&mut input, byte, 64).unwrap()).collect();
        assert_eq!(found, messages);
    }

    #[test]
    fn whole_messages_are_not_copied() {
        let (bytes, _) = stream();
        let mut input = Input::default();
        read(&mut input, &bytes, 64).unwrap();
        assert_eq!(input.memory_bytes(), 0);
    }

    #[test]
    fn bytes_that_begin_no_message_are_a_fault_also_behind_a_cut() {
        assert_eq!(read(&mut Input::default(), &[0xff], 64), Err(Fault::Unframed));
        let mut input = Input::default();
        assert_eq!(read(&mut input, &[0, 1, 0], 64), Ok(vec![]));
        assert_eq!(read(&mut input, &[3], 64), Err(Fault::Unframed), "no multiple of 4");
    }

    #[test]
    fn too_long_a_message_is_a_fault_as_soon_as_its_length_is_known() {
        let long = [0x40, 0, 1, 0];
        assert_eq!(read(&mut Input::default(), &long, 64), Err(Fault::Oversize));
        let mut input = Input::default();
        assert_eq!(read(&mut input, &long[..3], 64), Ok(vec![]));
        assert_eq!(read(&mut input, &long[3..], 64), Err(Fault::Oversize));
        let mut input = Input::default();
        assert_eq!(read(&mut input, &long, 260), Ok(vec![]));
        assert!(input.is_within_message() && input.memory_bytes() < 64, "it is not made room for");
    }

    #[test]
    fn long_messages_leave_no_memory_behind() {
        let mut input = Input::default();
        let mut long = vec![0x40, 0, 0x40, 0];
        long.resize(4 + 0x4000, 7);
        assert_eq!(read(&mut input, &long[..100], 65_535), Ok(vec![]));
        assert_eq!(read(&mut input, &long[100..], 65_535), Ok(vec![long.clone()]));
        assert_eq!(input.memory_bytes(), 0);
    }
}
