//! Messages between nodes (specification §3).
//!
//! Owns the twelve bodies, the envelope with its signature, and which datagrams are messages at all.
//! A message is parsed first, and verified only once the caller has decided that it is worth a
//! signature: rate limits and duplicates come in between.

mod body;
mod envelope;
mod node_info;

pub use body::{Body, MessageType, PoolEntry, Refusal};
pub use envelope::{Message, MessageError, Parsed, TransactionId, encode};
pub use node_info::NodeInfo;

/// What a datagram on the shared socket is, by its first bytes (§4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DatagramKind {
    /// Nothing at all.
    Empty,
    /// A question of the echo service, which this node does not offer.
    EchoProbe,
    /// A STUN message.
    Stun,
    /// QUIC; this node speaks none.
    Quic,
    /// A message of this protocol, if it is one.
    Message,
}

/// Tells what a datagram is. Only one of the last kind is worth parsing.
pub fn classify(datagram: &[u8]) -> DatagramKind {
    const STUN_MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    const QUIC_FIXED_BIT: u8 = 0x40;
    match datagram {
        [] => DatagramKind::Empty,
        [0x00, 0xec, ..] => DatagramKind::EchoProbe,
        [first, ..]
            if first & 0xc0 == 0 && datagram.len() >= 20 && datagram[4..8] == STUN_MAGIC =>
        {
            DatagramKind::Stun
        }
        [first, ..] if first & QUIC_FIXED_BIT != 0 => DatagramKind::Quic,
        [..] => DatagramKind::Message,
    }
}
