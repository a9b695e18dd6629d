//! What a node counts.

use crate::record::RecordError;
use crate::store::{Put, PutError};

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
    /// Strangers ask too much, all together.
    RateOfAllStrangers,
    /// Addresses in whose name others write send too much, all together.
    RateOfDoubted,
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
    pub const ALL: [Self; 18] = [
        Self::Oversized,
        Self::OtherProtocol,
        Self::RateOfAddress,
        Self::RateOfStores,
        Self::RateOfStrangers,
        Self::RateOfAllStrangers,
        Self::RateOfDoubted,
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

    /// Its name in figures and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::OtherProtocol => "other_protocol",
            Self::RateOfAddress => "rate_of_address",
            Self::RateOfStores => "rate_of_stores",
            Self::RateOfStrangers => "rate_of_strangers",
            Self::RateOfAllStrangers => "rate_of_all_strangers",
            Self::RateOfDoubted => "rate_of_doubted",
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::Repeated => "repeated",
            Self::Unsolicited => "unsolicited",
            Self::ForeignAnswer => "foreign_answer",
            Self::ForeignAddress => "foreign_address",
            Self::Signature => "signature",
            Self::Itself => "itself",
            Self::Probe => "probe",
            Self::AnswerTooLong => "answer_too_long",
            Self::OutboxFull => "outbox_full",
        }
    }
}

/// Why a node is not taken in. Whoever it is, or whoever named it, is told nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NodeRefusal {
    /// Its id is not the one of its address.
    Unbound,
    /// Nobody can be at its socket address, or no node of this network.
    Unusable,
    /// As many nodes of its network as may be are there (§8.8): what surrounds a node looks so.
    Crowded,
}

impl NodeRefusal {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 3] = [Self::Unbound, Self::Unusable, Self::Crowded];

    /// Its name in figures and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Unusable => "unusable",
            Self::Crowded => "crowded",
        }
    }
}

/// Why a STORE's record is not kept. Its sender is told whether the record or this node's policy is
/// the cause, and no more.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RefusalReason {
    /// Its delegation does not count.
    Delegation,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    FromTheFuture,
    /// Its signer may not speak for its address.
    NoAuthority,
    /// Its payload is not one of its type.
    Payload,
    /// Its signature does not hold.
    Signature,
    /// It belongs under another key.
    WrongKey,
    /// It would live too long.
    TooLong,
    /// Its publisher has too many.
    TooMany,
}

impl RefusalReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 9] = [
        Self::Delegation,
        Self::Expired,
        Self::FromTheFuture,
        Self::NoAuthority,
        Self::Payload,
        Self::Signature,
        Self::WrongKey,
        Self::TooLong,
        Self::TooMany,
    ];

    /// Its name in figures and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delegation => "delegation",
            Self::Expired => "expired",
            Self::FromTheFuture => "from_the_future",
            Self::NoAuthority => "no_authority",
            Self::Payload => "payload",
            Self::Signature => "signature",
            Self::WrongKey => "wrong_key",
            Self::TooLong => "too_long",
            Self::TooMany => "too_many",
        }
    }

    fn of(error: &PutError) -> Self {
        match error {
            PutError::Record(RecordError::Delegation(_)) => Self::Delegation,
            PutError::Record(RecordError::Expired) => Self::Expired,
            PutError::Record(RecordError::FromTheFuture) => Self::FromTheFuture,
            PutError::Record(RecordError::NoAuthority) => Self::NoAuthority,
            PutError::Record(RecordError::Payload(_)) => Self::Payload,
            PutError::Record(RecordError::Signature) => Self::Signature,
            PutError::Record(RecordError::WrongKey) => Self::WrongKey,
            PutError::TooLong => Self::TooLong,
            PutError::TooMany => Self::TooMany,
        }
    }
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
    /// Of these, STOREs of a record that was there, or a newer one.
    pub stores_stale: u64,
    /// STOREs that were refused.
    pub stores_refused: u64,
    /// FIND_VALUEs answered with at least one record.
    pub values_served: u64,
    /// Records pushed to subscribers.
    pub pushes: u64,
    /// Keys of genuine messages that were skipped: later versions have sent them.
    pub unknown_keys: u64,
    drops: [u64; DropReason::ALL.len()],
    refusals: [u64; RefusalReason::ALL.len()],
    node_refusals: [u64; NodeRefusal::ALL.len()],
}

impl Statistics {
    /// Datagrams that led to nothing for a reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// STOREs that were refused for a reason.
    pub fn refused(&self, reason: RefusalReason) -> u64 {
        self.refusals[reason as usize]
    }

    /// Nodes that were not taken in for a reason, as often as they came or were named.
    pub fn nodes_refused(&self, reason: NodeRefusal) -> u64 {
        self.node_refusals[reason as usize]
    }

    pub(super) fn refuse_node(&mut self, reason: NodeRefusal) {
        self.node_refusals[reason as usize] += 1;
    }

    pub(super) fn count_store(&mut self, put: Result<Put, PutError>) {
        match put {
            Ok(Put::Stored { .. }) => self.stores_kept += 1,
            Ok(Put::Stale) => {
                self.stores_kept += 1;
                self.stores_stale += 1;
            }
            Err(error) => {
                self.stores_refused += 1;
                self.refusals[RefusalReason::of(&error) as usize] += 1;
            }
        }
    }

    pub(super) fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }
}
