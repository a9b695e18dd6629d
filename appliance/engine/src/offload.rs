//! What a data core says of datagrams that can be relayed without it, and what it hears of them.
//!
//! Values only. A data core tells which paths there are: those of TURN in order ([`PathChange`]),
//! those of opaque sessions by what holds now ([`UdpPath`]). The management core mirrors them into
//! the maps of the XDP program, and tells back what went that way ([`Offloaded`],
//! [`UdpOffloaded`]). A path that is in no map is relayed by the data core, so losing any of this
//! costs time and never a datagram.

use std::net::SocketAddr;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::limits::WIREGUARD_INDICES_MAX;
use waystation_relay::udp::Pace;
use waystation_relay::udp::tier::WhyNot;
use waystation_relay::udp::wireguard::PeerIndex;
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

/// What holds of an opaque session now; replaces what was told of it before. It ends with
/// [`crate::control::Report::UdpEnded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPath {
    pub session: UdpSessionTag,
    /// Comes back in [`UdpPathAnswer`], so that an answer is known to be to the last word.
    pub serial: u32,
    /// Leg A and leg B, as far as they are known.
    pub legs: [Option<UdpPathLeg>; 2],
    /// Only WireGuard's data for an end that is called by the indices of its leg may be relayed.
    pub is_wireguard: bool,
    /// The rate of payload in each direction.
    pub pace: Option<Pace>,
    /// Why it is not to be relayed without the core.
    pub against: Option<WhyNot>,
}

/// A leg whose packets can be told by their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPathLeg {
    /// Where its end is.
    pub end: SocketAddr,
    /// Where its end sends to on this machine.
    pub local: SocketAddr,
    /// What its end is called by.
    pub indices: Option<[PeerIndex; WIREGUARD_INDICES_MAX]>,
}

/// What came of the last word on a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPathAnswer {
    pub session: UdpSessionTag,
    pub serial: u32,
    /// Absent: it is relayed without the core in both directions. Otherwise it is in none.
    pub against: Option<WhyNot>,
}

/// What came from one end and was relayed without the core, and when the last of it came, in
/// nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CarriedFrom {
    pub carried: Carried,
    pub heard_ns: u64,
}

/// What was relayed for one opaque session without its data core since that was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOffloaded {
    pub session: UdpSessionTag,
    /// From the ends of leg A and leg B.
    pub from: [CarriedFrom; 2],
    /// Dropped for the session's rate.
    pub dropped_datagrams: u64,
}
