//! Why a packet was neither relayed nor answered.
//!
//! Owns the reasons and their names; the data core that drives a server counts them. RFC 8489 and
//! RFC 8656 call each of these "silently discarded", and silent means to the sender alone.

/// Why a packet was neither relayed nor answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Discard {
    /// Neither STUN nor ChannelData by its first byte (RFC 8656 §12).
    NotTurn,
    /// A message that cannot be read, or a request of a length no request of ours has.
    Malformed,
    /// A request or indication of a method that is unknown, or has no such class (RFC 8489 §6.3).
    UnknownMethod,
    /// A response; a server asks nothing.
    UnexpectedResponse,
    /// A Binding indication: a client keeps its address translation alive.
    KeepAlive,
    /// An indication without a peer or payload, or with an attribute that must be known and is not.
    BadIndication,
    /// Payload from an address that has no allocation, or one that has ended.
    NoAllocation,
    /// Payload to or from a peer that the client permitted nothing, or no longer.
    NoPermission,
    /// ChannelData with a number that is bound to no peer, or no longer.
    NoChannel,
    /// ChannelData shorter than it says, or with a number outside the range.
    BadChannelData,
    /// A request of a source that proved nothing, whose prefix got its answers already.
    ReplyLimit,
    /// Payload that is too long for what has to be put around it.
    Oversize,
    /// An ICMP error of a type that is not passed on (RFC 8656 §11.5).
    IcmpType,
}

impl Discard {
    /// Every reason, in the order of its counters.
    pub const ALL: [Self; 13] = [
        Self::NotTurn,
        Self::Malformed,
        Self::UnknownMethod,
        Self::UnexpectedResponse,
        Self::KeepAlive,
        Self::BadIndication,
        Self::NoAllocation,
        Self::NoPermission,
        Self::NoChannel,
        Self::BadChannelData,
        Self::ReplyLimit,
        Self::Oversize,
        Self::IcmpType,
    ];

    /// The name in listings and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotTurn => "turn_not_turn",
            Self::Malformed => "turn_malformed",
            Self::UnknownMethod => "turn_unknown_method",
            Self::UnexpectedResponse => "turn_unexpected_response",
            Self::KeepAlive => "turn_keep_alive",
            Self::BadIndication => "turn_bad_indication",
            Self::NoAllocation => "turn_no_allocation",
            Self::NoPermission => "turn_no_permission",
            Self::NoChannel => "turn_no_channel",
            Self::BadChannelData => "turn_bad_channel_data",
            Self::ReplyLimit => "turn_reply_limit",
            Self::Oversize => "turn_oversize",
            Self::IcmpType => "turn_icmp_type",
        }
    }

    /// The place of this reason in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}
