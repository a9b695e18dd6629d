//! The protocol of idle connections between a gateway and a registered node (spec §11.2).
//!
//! The engine feeds what a socket received; after [`IdleMessage::HandoffAck`] the rest of the
//! input belongs to the pipe. No heap, no clock: the 30 s and 60 s of the protocol are the
//! caller's.

use crate::limits::IDLE_OBJECT_BYTES_MAX;

/// Keepalive, to be sent by the gateway after 30 s of silence and answered with [`PONG`].
pub const PING: &[u8] = b"\x10mod.gateway.ping\x00\x00\x00\x01\x00";
/// Answer to [`PING`].
pub const PONG: &[u8] = b"\x10mod.gateway.ping\x00\x00\x00\x01\x01";
/// The connection is being given to a caller; after it the gateway sends pipe bytes only.
pub const HANDOFF: &[u8] = b"\x13mod.gateway.handoff\x00\x00\x00\x00";
/// The registered node took it; after it the node sends pipe bytes only.
pub const HANDOFF_ACK: &[u8] = b"\x17mod.gateway.handoff_ack\x00\x00\x00\x00";

/// Every object of the protocol.
const OBJECTS: [(&[u8], IdleMessage); 4] = [
    (PING, IdleMessage::Ping),
    (PONG, IdleMessage::Pong),
    (HANDOFF, IdleMessage::Handoff),
    (HANDOFF_ACK, IdleMessage::HandoffAck),
];

/// An object on an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdleMessage {
    /// To be answered with [`PONG`], unless a handoff was sent.
    Ping,
    /// The answer to a ping.
    Pong,
    /// The gateway gives the connection to a caller.
    Handoff,
    /// The node took it; from the next byte on the connection is the pipe.
    HandoffAck,
}

/// The peer sent something else; the connection must be closed (spec §11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("idle gateway connection carries something else than its protocol")]
pub struct IdleError;

/// Finds the protocol's objects in whatever segments they arrive.
#[derive(Debug)]
pub struct IdleDecoder {
    carry: [u8; IDLE_OBJECT_BYTES_MAX],
    carried_bytes: usize,
    failed: bool,
}

impl Default for IdleDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl IdleDecoder {
    /// Starts between two objects.
    pub const fn new() -> Self {
        Self { carry: [0; IDLE_OBJECT_BYTES_MAX], carried_bytes: 0, failed: false }
    }

    /// Consumes `input` from `*cursor` on up to the end of the next object and returns it; `None`
    /// when everything is consumed and the object goes on.
    ///
    /// # Errors
    /// [`IdleError`] at the first byte that belongs to no object of the protocol, and ever after.
    pub fn next(
        &mut self,
        input: &[u8],
        cursor: &mut usize,
    ) -> Result<Option<IdleMessage>, IdleError> {
        if self.failed {
            return Err(IdleError);
        }
        for &byte in input.get(*cursor..).unwrap_or_default() {
            *cursor += 1;
            if let Some(room) = self.carry.get_mut(self.carried_bytes) {
                *room = byte;
                self.carried_bytes += 1;
            }
            let carried = self.carry.get(..self.carried_bytes).unwrap_or_default();
            match find_object(carried) {
                Match::Whole(message) => {
                    self.carried_bytes = 0;
                    return Ok(Some(message));
                }
                Match::Start => {}
                Match::Nothing => {
                    self.failed = true;
                    return Err(IdleError);
                }
            }
        }
        Ok(None)
    }

    /// Tells whether the connection may end here, that is between two objects.
    pub const fn at_boundary(&self) -> bool {
        self.carried_bytes == 0 && !self.failed
    }
}

enum Match {
    Whole(IdleMessage),
    Start,
    Nothing,
}

fn find_object(carried: &[u8]) -> Match {
    // Any non-zero byte is a true `bool` (spec §0.2), so a pong may end in more than 01.
    if carried.len() == PING.len()
        && let Some((&flag, start)) = carried.split_last()
        && PING.starts_with(start)
    {
        return Match::Whole(if flag == 0 { IdleMessage::Ping } else { IdleMessage::Pong });
    }
    for (object, message) in OBJECTS {
        if object == carried {
            return Match::Whole(message);
        }
        if object.starts_with(carried) {
            return Match::Start;
        }
    }
    Match::Nothing
}
