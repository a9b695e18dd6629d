//! Why something was not forwarded: one enum for the whole program.
//!
//! Every value has a counter per core ([`DropCounters`]); a drop without a reason does not exist.
//! Data cores increment, the management core reads copies.

/// Why bytes, a frame, a query, a session, a connection or a link was not carried further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// A connection beyond the cap on links and half-open handshakes, closed unread.
    TooManyConnections,
    /// Wrong version, key or tag in one of the three acts (spec §3.4).
    HandshakeRejected,
    /// No complete negotiation within the deadline after accept.
    HandshakeTimeout,
    /// The connection ended before its negotiation did.
    HandshakeAbandoned,
    /// A choice other than `mux2`, or bytes that are no negotiation (spec §4).
    NegotiationRejected,
    /// A record whose tag does not verify, or an empty record (spec §6.2).
    RecordRejected,
    /// An unknown or malformed frame (spec §6.2).
    FrameRejected,
    /// The peer closed or reset the connection in the middle of a record or frame.
    LinkTruncated,
    /// The peer did not answer a ping in time (spec §7.4).
    PingTimeout,
    /// The peer does not read: its control frames, or any bytes, could not be sent in time.
    PeerNotReading,
    /// A link closed by the operator or because the program ends.
    LinkClosedByOperator,
    /// Data for a session this link does not have; answered with a reset (spec §7.1).
    UnknownSessionData,
    /// Credit for a session this link does not have; answered with a reset (spec §7.1).
    UnknownSessionRead,
    /// Response, reset, migrate or pong for something unknown; ignored (spec §17).
    UnknownSessionIgnored,
    /// Data before the session was open; answered with a reset (spec §7.1).
    DataBeforeResponse,
    /// More data than the window advertised; the session is reset (spec §7.3).
    CreditOverflow,
    /// A query with a nonce that is in use; ignored (spec §7.1).
    DuplicateNonce,
    /// A query for an operation this node does not have, code 1.
    UnknownQuery,
    /// A query whose arguments do not parse, code 1 or an error object.
    MalformedQuery,
    /// A query the access policy refuses.
    QueryUnauthorized,
    /// A query for an identity that has no link here, or no idle connection.
    TargetNotReachable,
    /// The target of a relayed query rejected it.
    TargetRejected,
    /// The target of a relayed query did not answer in time.
    TargetTimeout,
    /// A session beyond the cap of its link or core.
    TooManySessions,
    /// Bytes received for a leg whose other side had ended already.
    PeerLegClosed,
    /// A pong that the peer's full control queue had no room for.
    PongSuppressed,
    /// A queue to the management core, or a table there, was full; the query got code 1.
    ManagementBusy,
    /// The other core's ring was full for a control message.
    MeshFull,
    /// No buffer was left in this core's arena or pool.
    BufferExhausted,
    /// A connection to the socket port that presented an unknown, used or expired nonce.
    SocketNonceUnknown,
    /// A connection to the socket port that sent no complete nonce in time.
    SocketNonceTimeout,
    /// An idle connection that sent something other than a ping, a pong or the handoff's ack.
    IdleProtocolViolation,
    /// An idle connection without a pong in time (spec §11.2).
    IdlePingTimeout,
    /// A handoff the registered node did not acknowledge in time.
    HandoffTimeout,
    /// A raw pipe that one side reset.
    PipeReset,
    /// A raw pipe without traffic for longer than the limit.
    PipeIdleTimeout,
    /// An authenticated peer that the access mode does not admit; reset before negotiation.
    IdentityDenied,
    /// A link beyond the quota of its identity, or beyond the cap of its network.
    TooManyLinks,
    /// A link without sessions for longer than the idle-link policy allows.
    LinkIdle,
    /// A link of ours that another dial for the same peer was faster than (spec §9.1).
    SurplusLink,
    /// A connection of ours that could not be made: refused, unreachable, timed out, or a proxy or
    /// gateway that said no.
    ConnectFailed,
    /// A session closed by the operator.
    SessionClosedByOperator,
    /// A session beyond the quota of its identity.
    QuotaExceeded,
    /// More input than an operation of this node takes; the session was reset.
    InputTooLong,
    /// A query to migrate a session that this node leaves where it is (spec §9.3).
    MigrationRefused,
    /// A session that was moving and whose peer stopped half-way; it was reset.
    MigrationFailed,
    /// A datagram whose lengths, header checksum or channel framing contradict each other, or that no
    /// answer could reach: its source has no port.
    UdpMalformed,
    /// A datagram for a local port that no session has.
    UdpUnknownFlow,
    /// A datagram from a new source that proves nothing to a leg of its local port.
    UdpUnproven,
    /// A proof for no leg, of a used counter, or with a tag that does not verify.
    UdpProofRejected,
    /// Datagrams of unproven sources beyond what a session looks at.
    UdpStrangersOverRate,
    /// A datagram in a WireGuard session that is none of WireGuard's by type and length.
    UdpNotWireguard,
    /// A WireGuard handshake whose mac1 is not for the end it goes to.
    UdpHandshakeRejected,
    /// A WireGuard packet for an index that its receiver has not announced.
    UdpUnknownReceiver,
    /// A datagram for a leg whose address is not known, or no longer.
    UdpLegUnknown,
    /// A peer's address that the address policy does not admit.
    UdpAddressDenied,
    /// A proof from an address that another leg of the same local port has.
    UdpAddressTaken,
    /// A datagram beyond the rate of its session.
    UdpRateExceeded,
    /// A UDP session without traffic for longer than its limit.
    UdpSessionIdle,
    /// A datagram from an address that nobody sends from: loopback, multicast and the like.
    UdpMartianSource,
    /// A datagram from a prefix that the operator denied.
    UdpPrefixDenied,
    /// A datagram of a source without a session, beyond the rate of such a source.
    UdpSourceOverRate,
    /// A datagram of a source not seen before, while there were too many of them.
    UdpNewcomersOverRate,
    /// A datagram that has travelled too far; stops those that go in circles.
    UdpHopLimit,
    /// Accepting a connection failed in the kernel, for example for want of descriptors.
    AcceptFailed,
    /// A send or receive failed in the kernel with something other than end or reset.
    SocketError,
    /// Neither STUN nor ChannelData by its first byte.
    TurnNotTurn,
    /// A STUN message that cannot be read.
    TurnMalformed,
    /// A STUN method that a server does not have.
    TurnUnknownMethod,
    /// A STUN response; the server asks nothing.
    TurnUnexpectedResponse,
    /// A Send indication without a peer or payload, or with an attribute that must be known.
    TurnBadIndication,
    /// Payload from an address that has no allocation, or one that has ended.
    TurnNoAllocation,
    /// Payload to or from a peer that the client permitted nothing.
    TurnNoPermission,
    /// ChannelData with a number that is bound to no peer.
    TurnNoChannel,
    /// ChannelData shorter than it says, or with a number outside the range.
    TurnBadChannelData,
    /// A request of a source that proved nothing, whose prefix got its answers already.
    TurnReplyLimit,
    /// Payload that is too long for what has to be put around it.
    TurnOversize,
    /// An ICMP error of a type that clients are not told of.
    TurnIcmpType,
    /// An ICMP error beyond those that a client is told of in a second.
    TurnIcmpLimit,
    /// Payload to a port of this machine that is no relayed address.
    TurnPeerDenied,
    /// A TCP connection to the TURN server beyond those that one address may have.
    TurnStreamsPerSource,
    /// A TURN client's stream whose next byte starts no message; it was closed.
    TurnStreamUnframed,
    /// A message longer than a client without an allocation sends; its stream was closed.
    TurnStreamOversize,
    /// A TURN client's stream that ended in the middle of a message.
    TurnStreamTorn,
    /// A TURN client's stream without an allocation for too long; it was closed.
    TurnStreamIdle,
    /// Payload for a TURN client over TCP that does not read what waits for it.
    TurnClientNotReading,
    /// A datagram that the kernel had no room to send.
    UdpNoRoom,
    /// A datagram that is longer than its way takes.
    UdpTooLong,
    /// A datagram to where there is no way, or a firewall is in it.
    UdpUnreachable,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 89] = [
        Self::TooManyConnections,
        Self::HandshakeRejected,
        Self::HandshakeTimeout,
        Self::HandshakeAbandoned,
        Self::NegotiationRejected,
        Self::RecordRejected,
        Self::FrameRejected,
        Self::LinkTruncated,
        Self::PingTimeout,
        Self::PeerNotReading,
        Self::LinkClosedByOperator,
        Self::UnknownSessionData,
        Self::UnknownSessionRead,
        Self::UnknownSessionIgnored,
        Self::DataBeforeResponse,
        Self::CreditOverflow,
        Self::DuplicateNonce,
        Self::UnknownQuery,
        Self::MalformedQuery,
        Self::QueryUnauthorized,
        Self::TargetNotReachable,
        Self::TargetRejected,
        Self::TargetTimeout,
        Self::TooManySessions,
        Self::PeerLegClosed,
        Self::PongSuppressed,
        Self::ManagementBusy,
        Self::MeshFull,
        Self::BufferExhausted,
        Self::SocketNonceUnknown,
        Self::SocketNonceTimeout,
        Self::IdleProtocolViolation,
        Self::IdlePingTimeout,
        Self::HandoffTimeout,
        Self::PipeReset,
        Self::PipeIdleTimeout,
        Self::IdentityDenied,
        Self::TooManyLinks,
        Self::LinkIdle,
        Self::SurplusLink,
        Self::ConnectFailed,
        Self::SessionClosedByOperator,
        Self::QuotaExceeded,
        Self::InputTooLong,
        Self::MigrationRefused,
        Self::MigrationFailed,
        Self::UdpMalformed,
        Self::UdpUnknownFlow,
        Self::UdpUnproven,
        Self::UdpProofRejected,
        Self::UdpStrangersOverRate,
        Self::UdpNotWireguard,
        Self::UdpHandshakeRejected,
        Self::UdpUnknownReceiver,
        Self::UdpLegUnknown,
        Self::UdpAddressDenied,
        Self::UdpAddressTaken,
        Self::UdpRateExceeded,
        Self::UdpSessionIdle,
        Self::UdpMartianSource,
        Self::UdpPrefixDenied,
        Self::UdpSourceOverRate,
        Self::UdpNewcomersOverRate,
        Self::UdpHopLimit,
        Self::AcceptFailed,
        Self::SocketError,
        Self::TurnNotTurn,
        Self::TurnMalformed,
        Self::TurnUnknownMethod,
        Self::TurnUnexpectedResponse,
        Self::TurnBadIndication,
        Self::TurnNoAllocation,
        Self::TurnNoPermission,
        Self::TurnNoChannel,
        Self::TurnBadChannelData,
        Self::TurnReplyLimit,
        Self::TurnOversize,
        Self::TurnIcmpType,
        Self::TurnIcmpLimit,
        Self::TurnPeerDenied,
        Self::TurnStreamsPerSource,
        Self::TurnStreamUnframed,
        Self::TurnStreamOversize,
        Self::TurnStreamTorn,
        Self::TurnStreamIdle,
        Self::TurnClientNotReading,
        Self::UdpNoRoom,
        Self::UdpTooLong,
        Self::UdpUnreachable,
    ];

    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The name in listings and as the `reason` label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooManyConnections => "too_many_connections",
            Self::HandshakeRejected => "handshake_rejected",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeAbandoned => "handshake_abandoned",
            Self::NegotiationRejected => "negotiation_rejected",
            Self::RecordRejected => "record_rejected",
            Self::FrameRejected => "frame_rejected",
            Self::LinkTruncated => "link_truncated",
            Self::PingTimeout => "ping_timeout",
            Self::PeerNotReading => "peer_not_reading",
            Self::LinkClosedByOperator => "link_closed_by_operator",
            Self::UnknownSessionData => "unknown_session_data",
            Self::UnknownSessionRead => "unknown_session_read",
            Self::UnknownSessionIgnored => "unknown_session_ignored",
            Self::DataBeforeResponse => "data_before_response",
            Self::CreditOverflow => "credit_overflow",
            Self::DuplicateNonce => "duplicate_nonce",
            Self::UnknownQuery => "unknown_query",
            Self::MalformedQuery => "malformed_query",
            Self::QueryUnauthorized => "query_unauthorized",
            Self::TargetNotReachable => "target_not_reachable",
            Self::TargetRejected => "target_rejected",
            Self::TargetTimeout => "target_timeout",
            Self::TooManySessions => "too_many_sessions",
            Self::PeerLegClosed => "peer_leg_closed",
            Self::PongSuppressed => "pong_suppressed",
            Self::ManagementBusy => "management_busy",
            Self::MeshFull => "mesh_full",
            Self::BufferExhausted => "buffer_exhausted",
            Self::SocketNonceUnknown => "socket_nonce_unknown",
            Self::SocketNonceTimeout => "socket_nonce_timeout",
            Self::IdleProtocolViolation => "idle_protocol_violation",
            Self::IdlePingTimeout => "idle_ping_timeout",
            Self::HandoffTimeout => "handoff_timeout",
            Self::PipeReset => "pipe_reset",
            Self::PipeIdleTimeout => "pipe_idle_timeout",
            Self::IdentityDenied => "identity_denied",
            Self::TooManyLinks => "too_many_links",
            Self::LinkIdle => "link_idle",
            Self::SurplusLink => "surplus_link",
            Self::ConnectFailed => "connect_failed",
            Self::SessionClosedByOperator => "session_closed_by_operator",
            Self::QuotaExceeded => "quota_exceeded",
            Self::InputTooLong => "input_too_long",
            Self::MigrationRefused => "migration_refused",
            Self::MigrationFailed => "migration_failed",
            Self::UdpMalformed => "udp_malformed",
            Self::UdpUnknownFlow => "udp_unknown_flow",
            Self::UdpUnproven => "udp_unproven",
            Self::UdpProofRejected => "udp_proof_rejected",
            Self::UdpStrangersOverRate => "udp_strangers_over_rate",
            Self::UdpNotWireguard => "udp_not_wireguard",
            Self::UdpHandshakeRejected => "udp_handshake_rejected",
            Self::UdpUnknownReceiver => "udp_unknown_receiver",
            Self::UdpLegUnknown => "udp_leg_unknown",
            Self::UdpAddressDenied => "udp_address_denied",
            Self::UdpAddressTaken => "udp_address_taken",
            Self::UdpRateExceeded => "udp_rate_exceeded",
            Self::UdpSessionIdle => "udp_session_idle",
            Self::UdpMartianSource => "udp_martian_source",
            Self::UdpPrefixDenied => "udp_prefix_denied",
            Self::UdpSourceOverRate => "udp_source_over_rate",
            Self::UdpNewcomersOverRate => "udp_newcomers_over_rate",
            Self::UdpHopLimit => "udp_hop_limit",
            Self::AcceptFailed => "accept_failed",
            Self::SocketError => "socket_error",
            Self::TurnNotTurn => "turn_not_turn",
            Self::TurnMalformed => "turn_malformed",
            Self::TurnUnknownMethod => "turn_unknown_method",
            Self::TurnUnexpectedResponse => "turn_unexpected_response",
            Self::TurnBadIndication => "turn_bad_indication",
            Self::TurnNoAllocation => "turn_no_allocation",
            Self::TurnNoPermission => "turn_no_permission",
            Self::TurnNoChannel => "turn_no_channel",
            Self::TurnBadChannelData => "turn_bad_channel_data",
            Self::TurnReplyLimit => "turn_reply_limit",
            Self::TurnOversize => "turn_oversize",
            Self::TurnIcmpType => "turn_icmp_type",
            Self::TurnIcmpLimit => "turn_icmp_limit",
            Self::TurnPeerDenied => "turn_peer_denied",
            Self::TurnStreamsPerSource => "turn_streams_per_source",
            Self::TurnStreamUnframed => "turn_stream_unframed",
            Self::TurnStreamOversize => "turn_stream_oversize",
            Self::TurnStreamTorn => "turn_stream_torn",
            Self::TurnStreamIdle => "turn_stream_idle",
            Self::TurnClientNotReading => "turn_client_not_reading",
            Self::UdpNoRoom => "udp_no_room",
            Self::UdpTooLong => "udp_too_long",
            Self::UdpUnreachable => "udp_unreachable",
        }
    }

    /// The place of this reason in [`Self::ALL`] and in [`DropCounters`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// How often each reason occurred, and how many bytes of payload went with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCounters {
    events: [u64; DropReason::COUNT],
    bytes: [u64; DropReason::COUNT],
}

impl Default for DropCounters {
    fn default() -> Self {
        Self { events: [0; DropReason::COUNT], bytes: [0; DropReason::COUNT] }
    }
}

impl DropCounters {
    /// Counts one event that lost `bytes` bytes of payload (0 where nothing was lost).
    pub fn count(&mut self, reason: DropReason, bytes: usize) {
        if let (Some(events), Some(lost)) =
            (self.events.get_mut(reason.index()), self.bytes.get_mut(reason.index()))
        {
            *events += 1;
            *lost += bytes as u64;
        }
    }

    /// Counts several events that lost `bytes` bytes together.
    pub fn count_many(&mut self, reason: DropReason, events: u64, bytes: u64) {
        if let (Some(counted), Some(lost)) =
            (self.events.get_mut(reason.index()), self.bytes.get_mut(reason.index()))
        {
            *counted += events;
            *lost += bytes;
        }
    }

    /// Events so far.
    pub fn events(&self, reason: DropReason) -> u64 {
        self.events.get(reason.index()).copied().unwrap_or_default()
    }

    /// Payload bytes lost so far.
    pub fn bytes(&self, reason: DropReason) -> u64 {
        self.bytes.get(reason.index()).copied().unwrap_or_default()
    }

    /// Adds another core's counters to these.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.events.iter_mut().zip(other.events) {
            *mine += theirs;
        }
        for (mine, theirs) in self.bytes.iter_mut().zip(other.bytes) {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_its_own_index_and_name() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }

    #[test]
    fn counters_of_cores_add_up() {
        let mut one = DropCounters::default();
        one.count(DropReason::CreditOverflow, 7);
        let mut two = one.clone();
        two.count(DropReason::CreditOverflow, 1);
        one.add(&two);
        assert_eq!(one.events(DropReason::CreditOverflow), 3);
        assert_eq!(one.bytes(DropReason::CreditOverflow), 15);
    }
}
