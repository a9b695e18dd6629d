//! What happened to links, registrations and queries, in the order in which it happened.
//!
//! Filled by the node and drained by the runtime after every round of reports, both on the
//! management thread. Bounded: what finds it full is counted and gone, never waited for.

use super::limits::EVENTS_MAX;
use std::collections::VecDeque;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_engine::control::{LinkTotals, LinkUp};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::LinkTag;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// A link came up.
    LinkUp(LinkUp),
    /// A link ended. Of one whose end was never reported `totals` is zero.
    LinkDown {
        /// The link.
        link: LinkTag,
        /// Its peer.
        identity: Identity,
        /// Absent when the peer ended it properly.
        reason: Option<DropReason>,
        /// What passed over it.
        totals: LinkTotals,
    },
    /// An identity has its first link.
    Linked {
        /// The peer.
        identity: Identity,
    },
    /// The last link of an identity has ended.
    Unlinked {
        /// The peer.
        identity: Identity,
    },
    /// A node registered with the gateway, or its registration was brought back after a restart.
    Registered {
        /// The node.
        identity: Identity,
        /// Whether `node_list` shows it.
        is_public: bool,
    },
    /// A registration ended.
    Unregistered {
        /// The node.
        identity: Identity,
        /// Why.
        because: UnregisteredBecause,
    },
    /// A query was offered to a link of somebody else.
    Relayed {
        /// In whose name.
        caller: Identity,
        /// For whom.
        target: Identity,
        /// The link that it came from.
        from: LinkTag,
        /// The link that it was offered to.
        to: LinkTag,
    },
    /// A peer told us the address under which it sees us, one not told by anyone before.
    Observed {
        /// The peer.
        identity: Identity,
        /// Our address, as seen from there.
        endpoint: Endpoint,
    },
}

/// Why a registration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnregisteredBecause {
    /// Its node asked for it.
    Asked,
    /// Its node was away for too long.
    Expired,
    /// The table was full, and no other node had been away for longer.
    Displaced,
}

/// The events that nobody has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    waiting: VecDeque<NodeEvent>,
    lost: u64,
}

impl Events {
    /// Adds one, or counts it as lost.
    pub(crate) fn push(&mut self, event: NodeEvent) {
        if self.waiting.len() < EVENTS_MAX {
            self.waiting.push_back(event);
        } else {
            self.lost += 1;
        }
    }

    /// Takes all, oldest first.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = NodeEvent> {
        self.waiting.drain(..)
    }

    /// How many found no room since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}
