//! One side of a session: its state, its credit both ways, and the bytes waiting for it.
//!
//! Plain values, owned and changed by [`crate::switch::Switch`] alone.

use crate::chunk_queue::ChunkQueue;
use crate::drop_reason::DropReason;
use crate::ids::{CoreId, LegTag};
use crate::limiting::{Limit, LimitClock};
use crate::quota::Quota;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a leg does, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LegKind {
    /// A query answered by this node.
    Local,
    /// Asked by this side, joined to another leg.
    Caller,
    /// Offered to this side, joined to the caller's leg.
    Target,
    /// Asked by this node itself.
    Own,
    /// A link of our own runs inside.
    Inner,
}

/// Where a leg is between query and end (spec §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LegState {
    /// The link's peer asked; nothing was answered yet.
    Asked,
    /// We asked the link's peer; it has not answered.
    Offered {
        /// A reset came before the response (spec §7.1): the session is over, only the code is
        /// still waited for.
        reset_seen: bool,
    },
    /// Both directions carry data.
    Open,
    /// The other side has ended: what waits is sent, then a reset. Nothing more is taken in.
    Ending,
}

/// What a leg is joined to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// The management core answers, or nothing is decided yet.
    Management,
    /// Another leg, on any core.
    Leg(LegTag),
    /// That, while its link changes cores: what is for it waits here.
    Frozen(LegTag),
    /// A link of our own, at this place of the same core's table.
    InnerLink(u32),
}

impl Other {
    /// The other leg, if there is one.
    pub fn leg(self) -> Option<LegTag> {
        match self {
            Self::Leg(leg) | Self::Frozen(leg) => Some(leg),
            Self::Management | Self::InnerLink(_) => None,
        }
    }
}

/// What the management core takes from the peer of a leg that is joined to nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// What comes is read and forgotten.
    Forgotten,
    /// What comes is handed up, so many bytes more; then the end is told, once.
    HandedUp { left_bytes: u32 },
    /// As that, once our query `ask` has been accepted; until then its answer is waited for.
    Awaited { ask: u64, left_bytes: u32 },
}

/// Whose bytes leave on a leg: sources take turns on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// This node's own, and those of links of its own.
    Node,
    /// Those of the peer of this link.
    Link {
        core: CoreId,
        /// Its place in that core's table.
        link: u32,
    },
}

/// Where a leg stands with the quota that paces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It has not asked, or there is no such quota.
    Free,
    /// It stands in its pacer's line, out of every ring.
    Waiting,
    /// It was let go and has its next turn before those in line.
    Granted,
}

/// A leg on its way to another link of its peer (spec §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moving {
    /// The local query by which the peer asked for it.
    pub operation: LegTag,
    pub to_link: u32,
    /// What the peer takes on the new link before it has returned credit.
    pub peer_window: u32,
    /// What we take on the new link before we have returned credit.
    pub window_bytes: u32,
    /// Whether the peer's marker has come, and with it the new link is the leg's own.
    pub arrived: bool,
    /// Credit of the new link that waits for the peer to resume.
    pub withheld_bytes: u32,
}

/// What becomes of a session that is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationStep {
    /// It stays where it is: it is unknown, not open, on another core than the link, that link has
    /// no room for it, or too many bytes from before its last move are still held.
    Refused,
    /// Our marker is on the old link; the peer may send so much on the new one.
    Begun { leg: LegTag, window_bytes: u32 },
    /// The peer's marker came: the session is on the new link, and waits to be resumed.
    Arrived,
    /// The session ended before it was resumed.
    Ended,
}

/// One side of a session.
#[derive(Debug)]
pub struct Leg {
    /// The link it lives on, as the place in this core's table.
    pub link: u32,
    /// Its name on that link.
    pub nonce: u64,
    pub kind: LegKind,
    pub state: LegState,
    pub other: Other,
    pub intake: Intake,
    /// Whether this node asked.
    pub outbound: bool,
    /// The beginning of the query string, for listings.
    pub query: Box<[u8]>,
    /// Bytes the link's peer may still send us.
    pub window_left: u64,
    /// Bytes passed on to this leg's link for which the other leg's sender has no credit back yet.
    /// For legs without another leg: bytes of this leg's own sender.
    pub unreturned: u32,
    /// Bytes for which no credit is returned any more: a migration has granted a new window.
    pub credit_debt: u64,
    /// Set from our marker on the old link until the peer resumes on the new one.
    pub moving: Option<Box<Moving>>,
    /// Bytes we may still send to the link's peer.
    pub credit: u64,
    /// Bytes waiting for credit or for room on the link.
    pub queue: ChunkQueue,
    /// Whether its source's ring of ready legs holds it.
    pub in_ready_ring: bool,
    pub source: Source,
    /// The place of its source on its link, once something was queued.
    pub turn: Option<u32>,
    /// The quota it was counted in at.
    pub quota: Option<Arc<Quota>>,
    /// The place of what paces it.
    pub pacer: Option<u32>,
    pub pace: Pace,
    /// Before this time nothing is sent (spec §6.3), in nanoseconds; 0: no such time.
    pub hold_until_ns: u64,
    pub opened_ns: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// What of both was told when it was asked last where they go.
    pub placed_bytes: u64,
    /// What its own queued bytes wait for.
    pub limit: Option<Limit>,
    /// What those of its own sender wait for at the other leg.
    pub held: Option<Limit>,
    pub limit_clock: LimitClock,
}

impl Leg {
    /// Whether queued bytes may go out now.
    pub fn may_send(&self) -> bool {
        self.credit > 0
            && self.hold_until_ns == 0
            && self.pace != Pace::Waiting
            && self.moving.is_none()
            && !self.queue.is_empty()
    }
}

/// What one leg tells another. Kept in order with the data between the same two legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The query of `to` was sent on; `from`, which lives on this link of its core, waits for the
    /// answer.
    Offered { to: LegTag, from: LegTag, link: u32 },
    /// The leg `to` is the target of lives on this link of this core.
    Joined { to: LegTag, core: CoreId, link: u32 },
    /// The target accepted.
    Accepted { to: LegTag, from: LegTag },
    /// The target rejected, or could not be asked; `reason` is counted at the caller's core, unless
    /// somebody else has counted already.
    Rejected { to: LegTag, code: u8, reason: Option<DropReason> },
    /// The other side has ended: flush, then reset.
    End { to: LegTag },
    /// The session was closed: reset at once, whatever waits.
    Abort { to: LegTag },
    /// So many bytes of the sender behind `to` were passed on.
    Consumed { to: LegTag, bytes: u32 },
    /// What the sender behind `to` has sent waits for this now at `from`, or for nothing. It says
    /// who tells it, because what a leg told before its link changed cores can arrive after what
    /// it tells from there.
    Limited { to: LegTag, from: LegTag, limit: Option<Limit> },
    /// The link of `from` is to change cores: keep what is for it, and say so. The attempt has this
    /// number.
    Freeze { to: LegTag, from: LegTag, round: u32 },
    /// Nothing more comes for `to` until it has thawed the other side.
    Frozen { to: LegTag, round: u32 },
    /// The link of the other side is about to change cores itself.
    FreezeRefused { to: LegTag, round: u32 },
    /// What `to` knew as `was` is `from` now, on this link of its core, and takes what was kept.
    Thawed { to: LegTag, was: LegTag, from: LegTag, link: u32 },
}

impl Signal {
    /// The leg it is for.
    pub fn to(&self) -> LegTag {
        match *self {
            Self::Offered { to, .. }
            | Self::Joined { to, .. }
            | Self::Accepted { to, .. }
            | Self::Rejected { to, .. }
            | Self::End { to }
            | Self::Abort { to }
            | Self::Consumed { to, .. }
            | Self::Limited { to, .. } => to,
            Self::Freeze { to, .. }
            | Self::Frozen { to, .. }
            | Self::FreezeRefused { to, .. }
            | Self::Thawed { to, .. } => to,
        }
    }

    /// The core of the leg it is for.
    pub fn core(&self) -> CoreId {
        self.to().core
    }
}
