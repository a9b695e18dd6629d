//! What a data core says of datagrams that can be relayed without it, and what it hears of them.
//!
//! Values only. A data core tells which paths there are, in order ([`PathChange`]); the management
//! core mirrors them into the maps of the XDP program, and tells back what went that way
//! ([`Offloaded`]). A path that is in no map is relayed by the data core, so losing any of this
//! costs time and never a datagram.

use std::net::SocketAddr;
use waystation_turn::server::AllocationId;

/// A bound channel of a TURN client over UDP, with the addresses that are in its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OffloadPath {
    /// Whose channel.
    pub allocation: AllocationId,
    /// Where the client is, and what it sends to.
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// The channel's number there (RFC 8656 §12).
    pub channel: u16,
    /// What the peer's packets are sent to on this machine, and where the peer is.
    pub relayed: SocketAddr,
    pub peer: SocketAddr,
}

/// One step from what was told before to what holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// Nothing of what this core told before holds; what does is told anew.
    Void,
    /// A client with an allocation sends from here to there.
    Client { client: SocketAddr, server: SocketAddr },
    /// It has none any more.
    ClientGone { client: SocketAddr, server: SocketAddr },
    /// Payload goes from the client to the peer, and back if the peer is permitted. Replaces what
    /// was said of the same path.
    Open { path: OffloadPath, is_two_way: bool },
    /// It does no longer.
    Closed { path: OffloadPath },
}

/// Datagrams that were relayed elsewhere, and their payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub datagrams: u64,
    pub bytes: u64,
}

impl Carried {
    /// Adds some more.
    pub fn add(&mut self, more: Self) {
        self.datagrams += more.datagrams;
        self.bytes += more.bytes;
    }
}

/// What was relayed for one allocation without its data core since that was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloaded {
    pub allocation: AllocationId,
    /// Directions of its channels that are relayed so now.
    pub directions: u32,
    pub to_peers: Carried,
    pub to_client: Carried,
}
