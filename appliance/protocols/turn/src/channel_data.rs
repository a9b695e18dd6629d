//! ChannelData messages: a channel number, a length, and payload (RFC 8656 §12.4).
//!
//! Owns their layout. Called for every packet of a bound channel on the data core that received it;
//! copies and allocates nothing, and never panics.

use std::fmt;
use std::ops::Range;

use crate::limits::{CHANNEL_HEADER_BYTES, CHANNEL_NUMBER_MAX, CHANNEL_NUMBER_MIN};

/// The number of a channel, between 0x4000 and 0x7fff.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The channel with a number, if channels can have it ([`CHANNEL_NUMBER_MAX`]).
    pub fn new(number: u16) -> Option<Self> {
        (CHANNEL_NUMBER_MIN..=CHANNEL_NUMBER_MAX).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for ChannelNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#06x}", self.0)
    }
}

/// Whether a packet with this first byte is ChannelData and not STUN: its first two bits are 01
/// (RFC 5766 §11).
pub fn is_channel_data(first: u8) -> bool {
    (0x40..=0x7f).contains(&first)
}

/// Channel and place of the payload, if the packet is ChannelData and holds all of it. What is
/// behind the payload is padding, which datagrams may carry (RFC 8656 §12.5).
pub fn parse(packet: &[u8]) -> Option<(ChannelNumber, Range<usize>)> {
    let &[n0, n1, l0, l1, ref behind @ ..] = packet else {
        return None;
    };
    let channel = ChannelNumber::new(u16::from_be_bytes([n0, n1]))?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    (length <= behind.len())
        .then_some((channel, CHANNEL_HEADER_BYTES..CHANNEL_HEADER_BYTES + length))
}

/// The bytes before a payload, or none if it is too long for a datagram and so for a channel.
pub fn header(channel: ChannelNumber, payload_bytes: usize) -> Option<[u8; CHANNEL_HEADER_BYTES]> {
    let [n0, n1] = channel.number().to_be_bytes();
    let [l0, l1] = u16::try_from(payload_bytes).ok()?.to_be_bytes();
    Some([n0, n1, l0, l1])
}
