//! One connection of a data core, from accept to its end, whatever it turns out to be.
//!
//! Plain values; [`super::DataCore`] alone changes them.

use super::ingress::Share;
use super::limiting::Presence;
use super::moving::Departing;
use crate::block::Block;
use crate::control::{DialId, Network};
use crate::mesh::PipeQuotas;
use crate::port::arena::ReceiveBuffer;
use crate::port::{Segment, StreamKey};
use crate::record_reader::RecordReader;
use arrayvec::ArrayVec;
use std::net::SocketAddr;
use std::sync::Arc;
use waystation_astral::brontide::{Initiator, Responder};
use waystation_astral::frame::{FrameDecoder, Profile};
use waystation_astral::gateway::NonceDecoder;
use waystation_astral::gateway::idle::IdleDecoder;
use waystation_astral::identity::Identity;
use waystation_astral::negotiation::{Acceptor, Dialer, NegotiationError, Progress};
use waystation_relay::ids::{LegTag, SocketTag};
use waystation_relay::limiting::LimitClock;
use waystation_relay::quota::Quota;

/// Bytes of the longest act.
pub(super) const ACT_MAX_BYTES: usize = 66;

/// A connection of this core.
#[derive(Debug)]
pub(super) struct Connection {
    /// Absent for a link inside a session, and once the stream is closed or on its way elsewhere.
    pub(super) stream: Option<StreamKey>,
    pub(super) remote: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) accepted_ns: u64,
    /// When something is to be done about it unless something else happens; `u64::MAX`: never.
    pub(super) deadline_ns: u64,
    /// When its entry in the wheel is due, at or before the deadline; `u64::MAX`: there is none.
    /// Later entries are left over from later deadlines.
    pub(super) timer_ns: u64,
    /// When the send in flight was submitted; 0: none.
    pub(super) sending_since_ns: u64,
    /// Whether its socket has not taken that send by the turn after.
    pub(super) stuck: bool,
    /// For a link inside a session.
    pub(super) inside: Option<LegTag>,
    pub(super) network: Network,
    /// The dial it comes from; absent for a connection that somebody else made.
    pub(super) dial: Option<DialId>,
    pub(super) phase: Phase,
}

/// What a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Nothing was received: the first byte tells a link from a raw socket (spec §11.2).
    Fresh,
    /// A dial inside a session that nobody has accepted yet, towards this identity.
    Asking(Box<Identity>),
    /// In the acts of the handshake.
    Shaking(Box<Shaking>),
    /// Authenticated, negotiating.
    Negotiating(Box<Negotiating>),
    /// A link.
    Link(Box<LinkInput>),
    /// A link that is about to leave for another core.
    Departing(Box<Departing>),
    /// A raw socket that has not shown its whole nonce.
    Presenting(NonceDecoder),
    /// A raw socket whose nonce the management core looks up.
    Presented(Early),
    /// An idle connection of a registered node.
    Idle(Box<Idle>),
    /// An idle connection that was told of its caller and has not acknowledged.
    HandingOff(Box<HandingOff>),
    /// A caller that waits for that.
    Waiting(Early),
    /// Half of a raw pipe.
    Pipe(Box<PipeHalf>),
    /// On its way to the core of its idle connection.
    Leaving(Box<Leaving>),
    /// A raw socket that nobody has a use for, kept for a moment before it is closed.
    Dismissed,
    /// Refused in words: what was said goes out, what comes is ignored, then it is closed.
    Lingering,
}

/// How a connection's stream came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Cleanly,
    ByError,
}

/// The handshake of a link.
#[derive(Debug)]
pub(super) struct Shaking {
    pub(super) act: [u8; ACT_MAX_BYTES],
    pub(super) act_bytes: usize,
    pub(super) due: Due,
}

/// The act that a handshake waits for, and our role in it.
#[derive(Debug)]
pub(super) enum Due {
    /// As responder.
    One,
    /// As initiator, from this identity.
    Two(Initiator, Identity),
    /// As responder.
    Three(Responder),
}

/// A link before its profile is known.
#[derive(Debug)]
pub(super) struct Negotiating {
    pub(super) reader: RecordReader,
    pub(super) negotiator: Negotiator,
    /// Whether we have answered anything: before that, the peer waits for an object of ours.
    pub(super) replied: bool,
    pub(super) identity: Identity,
    /// Names the link unless its negotiation does.
    pub(super) link_id: u64,
}

/// Our role in a negotiation: that of the handshake.
#[derive(Debug)]
pub(super) enum Negotiator {
    Acceptor(Acceptor),
    Dialer(Dialer),
}

impl Negotiator {
    pub(super) fn receive(
        &mut self,
        plaintext: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Progress, NegotiationError> {
        match self {
            Self::Acceptor(acceptor) => acceptor.receive(plaintext, reply),
            Self::Dialer(dialer) => dialer.receive(plaintext, reply),
        }
    }
}

/// The receiving half of a link.
#[derive(Debug)]
pub(super) struct LinkInput {
    pub(super) reader: RecordReader,
    pub(super) decoder: FrameDecoder,
    pub(super) profile: Profile,
    pub(super) identity: Identity,
    pub(super) link_id: u64,
    pub(super) received_ns: u64,
    /// When it last had sessions or frames other than pings and pongs, as far as is known.
    pub(super) active_ns: u64,
    /// Whether it had sessions when it was looked at last.
    pub(super) had_sessions: bool,
    /// Whether the idle-link policy leaves it alone.
    pub(super) keep: bool,
    /// Nonce and time of our ping that waits for its pong.
    pub(super) ping: Option<(u64, u64)>,
    pub(super) ping_round_trip_ns: u64,
    /// Pongs still to come for the pings that told P2 from P0 (spec §16.2).
    pub(super) prelude_pongs: u8,
    pub(super) frames_in: u64,
    pub(super) payload_bytes_in: u64,
    pub(super) share: Share,
    pub(super) presence: Presence,
}

/// Bytes that came before anybody could take them.
#[derive(Debug, Default)]
pub(super) struct Early {
    pub(super) block: Option<(Block, usize)>,
}

/// The idle protocol of one connection (spec §11.2).
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) decoder: IdleDecoder,
    pub(super) received_ns: u64,
    /// When our last ping was sent; 0: none since something was received.
    pub(super) pinged_ns: u64,
    pub(super) unsent: Unsent,
}

/// Objects of the idle protocol that wait for the send in flight.
pub(super) type Unsent = ArrayVec<u8, 256>;

/// An idle connection between handoff and its acknowledgement.
#[derive(Debug)]
pub(super) struct HandingOff {
    pub(super) decoder: IdleDecoder,
    /// The caller's connection on this core.
    pub(super) caller: u32,
    pub(super) caller_generation: u32,
    pub(super) quotas: PipeQuotas,
    pub(super) unsent: Unsent,
}

/// A caller that moves to the core of the idle connection it is joined to.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) idle: SocketTag,
    pub(super) early: Early,
    pub(super) quotas: PipeQuotas,
}

/// Half of a raw pipe: what comes in here goes out on the other half.
#[derive(Debug)]
pub(super) struct PipeHalf {
    pub(super) other: u32,
    /// Of the identity that sends here.
    pub(super) quota: Option<Arc<Quota>>,
    /// When that quota lets the next bytes in; 0: nobody waits for it.
    pub(super) ready_ns: u64,
    /// What waits to go out here.
    pub(super) pending: ArrayVec<Pending, { crate::limits::PIPE_PENDING_MAX + 2 }>,
    /// When what is in flight here was reaped.
    pub(super) in_flight_reaped_ns: u64,
    pub(super) in_flight_sent_ns: u64,
    /// Its peer has ended its direction: nothing more comes in here.
    pub(super) ended: bool,
    /// Its peer has ended and takes nothing more: what would go out here is dropped.
    pub(super) refuses: bool,
    /// Until when the pipe waits for this ended side alone to take what is left; 0: it does not.
    pub(super) drained_by_ns: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) active_ns: u64,
    /// What keeps this side's input from going on, and what goes out here.
    pub(super) sent_clock: LimitClock,
    pub(super) due_clock: LimitClock,
    pub(super) presence: Presence,
}

/// Bytes of a pipe that wait.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) segment: Segment,
    pub(super) reaped_ns: u64,
}

impl Connection {
    pub(super) fn new(
        stream: Option<StreamKey>,
        remote: SocketAddr,
        local: SocketAddr,
        accepted_ns: u64,
        deadline_ns: u64,
    ) -> Self {
        Self {
            stream,
            remote,
            local,
            accepted_ns,
            deadline_ns,
            timer_ns: u64::MAX,
            sending_since_ns: 0,
            stuck: false,
            inside: None,
            network: Network::Tcp,
            dial: None,
            phase: Phase::Fresh,
        }
    }
}

impl Phase {
    /// Whether it counts against the cap on half-open connections.
    pub(super) fn is_half_open(&self) -> bool {
        matches!(
            self,
            Self::Fresh
                | Self::Asking(_)
                | Self::Shaking(_)
                | Self::Negotiating(_)
                | Self::Presenting(_)
        )
    }

    /// Whether it is a link that neither leaves nor stands still.
    pub(super) fn is_link(&self) -> bool {
        matches!(self, Self::Link(_))
    }

    /// Who the other side is, or must turn out to be.
    pub(super) fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Asking(identity) => Some(identity),
            Self::Shaking(shaking) => match &shaking.due {
                Due::Two(_, identity) => Some(identity),
                Due::One | Due::Three(_) => None,
            },
            Self::Negotiating(negotiating) => Some(&negotiating.identity),
            _ => self.link().map(|link| &link.identity),
        }
    }

    /// The receiving half of a link, whether it stays or is about to leave.
    pub(super) fn link(&self) -> Option<&LinkInput> {
        match self {
            Self::Link(link) => Some(link),
            Self::Departing(departing) => Some(&departing.link),
            _ => None,
        }
    }

    /// Whether it counts as a raw socket.
    pub(super) fn is_socket(&self) -> bool {
        matches!(
            self,
            Self::Presented(_)
                | Self::Idle(_)
                | Self::HandingOff(_)
                | Self::Waiting(_)
                | Self::Pipe(_)
                | Self::Leaving(..)
                | Self::Dismissed
        )
    }
}

impl PipeHalf {
    pub(super) fn new(other: u32, quota: Option<Arc<Quota>>, now_ns: u64) -> Self {
        Self {
            other,
            quota,
            ready_ns: 0,
            pending: ArrayVec::new(),
            in_flight_reaped_ns: 0,
            in_flight_sent_ns: 0,
            ended: false,
            refuses: false,
            drained_by_ns: 0,
            bytes_in: 0,
            bytes_out: 0,
            active_ns: now_ns,
            sent_clock: LimitClock::default(),
            due_clock: LimitClock::default(),
            presence: Presence::default(),
        }
    }
}

/// A received buffer that was dealt with, or is still somebody's.
#[derive(Debug)]
pub(super) enum BufferFate {
    Done(ReceiveBuffer),
    Kept,
}
