//! Bytes of a negotiation that arrived and are not understood yet.
//!
//! Used by both roles on the link's data core. Every taker says how much it may hold; nothing
//! here grows beyond one step's bound and the record that was pushed last.

use super::{NegotiationError, peer_refused};
use crate::limits::NEGOTIATION_PAYLOAD_BYTES_MAX;
use crate::object::{ChannelForm, PeekedObject, peek_object, type_names};

/// A queue of bytes.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
}

impl Inbox {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    fn advance(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.buffer.len());
    }

    pub(super) fn take_array<const BYTES: usize>(&mut self) -> Option<[u8; BYTES]> {
        let array = *self.rest().first_chunk()?;
        self.advance(BYTES);
        Some(array)
    }

    /// Takes a string with a one byte length.
    pub(super) fn take_s8(&mut self) -> Option<Vec<u8>> {
        let (&bytes, rest) = self.rest().split_first()?;
        let string = rest.get(..usize::from(bytes))?.to_vec();
        self.advance(1 + string.len());
        Some(string)
    }

    /// Takes the payload of a C2 object of the `awaited` type.
    ///
    /// # Errors
    /// An `error_message` object gives [`NegotiationError::PeerRefused`]; every other type, and
    /// payloads over the bound, are refused.
    pub(super) fn take_object(
        &mut self,
        awaited: &'static str,
    ) -> Result<Option<Vec<u8>>, NegotiationError> {
        let found = peek_object(ChannelForm::C2, self.rest(), NEGOTIATION_PAYLOAD_BYTES_MAX)?;
        let Some(PeekedObject { type_name, payload, bytes }) = found else { return Ok(None) };
        if type_name == type_names::ERROR_MESSAGE {
            return Err(peer_refused(payload));
        }
        if type_name != awaited {
            return Err(NegotiationError::UnexpectedObject { awaited });
        }
        let payload = payload.to_vec();
        self.advance(bytes);
        Ok(Some(payload))
    }

    /// Empties the queue from `skipped` bytes on, without the range `cut` behind them.
    pub(super) fn drain_without(
        &mut self,
        skipped: usize,
        cut: core::ops::Range<usize>,
    ) -> Vec<u8> {
        let rest = self.rest().get(skipped..).unwrap_or_default();
        let mut left = rest.get(..cut.start).unwrap_or_default().to_vec();
        left.extend_from_slice(rest.get(cut.end..).unwrap_or_default());
        *self = Self::default();
        left
    }

    /// Empties the queue.
    pub(super) fn drain(&mut self) -> Vec<u8> {
        self.drain_without(0, 0..0)
    }
}

/// Whether bytes begin with one of some type names as an object does; `None` while it can go
/// either way.
pub(super) fn starts_object(bytes: &[u8], type_names: &[&str]) -> Option<bool> {
    let mut open = false;
    for name in type_names {
        let tag = || core::iter::once(name.len() as u8).chain(name.bytes());
        if tag().zip(bytes).all(|(tag, &byte)| tag == byte) {
            if bytes.len() > name.len() {
                return Some(true);
            }
            open = true;
        }
    }
    if open { None } else { Some(false) }
}

/// A whole frame before a raw peer's profile is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnsettledFrame {
    pub(super) bytes: usize,
    /// The nonce, when it is a pong.
    pub(super) pong: Option<u64>,
}

/// Measures the frame that `bytes` begins with. Pings and queries are the same in all raw
/// profiles, and nothing else can arrive yet (spec §16.2).
///
/// # Errors
/// The opcode of any other frame.
pub(super) fn measure_unsettled(bytes: &[u8]) -> Result<Option<UnsettledFrame>, u8> {
    const PING_BYTES: usize = 10;
    const QUERY_HEAD_BYTES: usize = 15;
    let Some((&opcode, fields)) = bytes.split_first() else { return Ok(None) };
    let frame_bytes = match opcode {
        0 => PING_BYTES,
        1 => match bytes.first_chunk::<QUERY_HEAD_BYTES>() {
            Some(&[.., high, low]) => {
                QUERY_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]))
            }
            None => return Ok(None),
        },
        _ => return Err(opcode),
    };
    if bytes.len() < frame_bytes {
        return Ok(None);
    }
    let pong = match fields.split_first_chunk() {
        Some((nonce, [flag, ..])) if opcode == 0 && *flag != 0 => Some(u64::from_be_bytes(*nonce)),
        _ => None,
    };
    Ok(Some(UnsettledFrame { bytes: frame_bytes, pong }))
}
