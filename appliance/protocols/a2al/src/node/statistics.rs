//! What a node counts.

/// Why a datagram led to nothing. Its sender is told nothing, as the protocol has no errors.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum DropReason {
    /// More bytes than a datagram may have.
    Oversized,
    /// QUIC, STUN, the echo service, or nothing.
    OtherProtocol,
    /// Its address sends too much.
    RateOfAddress,
    /// Its address stores too much.
    RateOfStores,
    /// Strangers of its network ask too much.
    RateOfStrangers,
    /// Not a message.
    Malformed,
    /// A message of later versions.
    UnknownType,
    /// The same message was answered often enough.
    Repeated,
    /// An answer that nothing asked for, or too late.
    Unsolicited,
    /// An answer from another node than the one that was asked.
    ForeignAnswer,
    /// A ping or pong for another address than its sender's.
    ForeignAddress,
    /// The signature does not hold.
    Signature,
    /// This node's own message.
    Itself,
    /// A probe for an address that is not its source's, or too many of them.
    Probe,
    /// An answer that would not fit a datagram.
    AnswerTooLong,
    /// Too many datagrams wait to be sent.
    OutboxFull,
}

impl DropReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 16] = [
        Self::Oversized,
        Self::OtherProtocol,
        Self::RateOfAddress,
        Self::RateOfStores,
        Self::RateOfStrangers,
        Self::Malformed,
        Self::UnknownType,
        Self::Repeated,
        Self::Unsolicited,
        Self::ForeignAnswer,
        Self::ForeignAddress,
        Self::Signature,
        Self::Itself,
        Self::Probe,
        Self::AnswerTooLong,
        Self::OutboxFull,
    ];
}

/// Counters since the start (§14.3).
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams whose signature held.
    pub verified: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Questions of this node that were answered.
    pub answered: u64,
    /// Questions of this node that were not.
    pub unanswered: u64,
    /// STOREs after which the record, or a newer one, is kept.
    pub stores_kept: u64,
    /// STOREs that were refused.
    pub stores_refused: u64,
    /// FIND_VALUEs answered with at least one record.
    pub values_served: u64,
    /// Records pushed to subscribers.
    pub pushes: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Statistics {
    /// Datagrams that led to nothing for a reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    pub(super) fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }
}
