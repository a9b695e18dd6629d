//! The secure channel under every Astral link: Noise XK over secp256k1 (BOLT 8 with the prologue
//! `astral`) and the records behind it (spec §3).
//!
//! The engine runs handshakes and records on the data core that owns the connection. A handshake
//! allocates; a record never does: [`Sealer`] and [`Opener`] work in place and replace their keys
//! themselves. Ephemeral keys are passed in, for nothing here draws random bytes. After any failure
//! the object at hand refuses everything that follows, so a caller can only close the link: there
//! is no alert to send (spec §3.4).

mod handshake;
mod record;
mod state;
#[cfg(test)]
mod tests;

pub use handshake::{Act, HandshakeError, Initiator, Responder};
pub use record::{Opener, RecordError, SealError, Sealer};
pub use state::DirectionState;

pub use crate::limits::{
    ACT_ONE_BYTES, ACT_THREE_BYTES, ACT_TWO_BYTES, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES,
    RECORD_PLAINTEXT_MAX_BYTES, TAG_BYTES,
};

/// Holds both directions of an established channel.
#[derive(Debug)]
pub struct Transport {
    /// Seals what this side sends.
    pub sealer: Sealer,
    /// Opens what the other side sent.
    pub opener: Opener,
}
