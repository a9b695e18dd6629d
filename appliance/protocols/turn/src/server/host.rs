//! What a TURN server asks of the data core that owns it, and what it tells it.
//!
//! Owns the trait and the changes; the data core implements one and mirrors the other into whatever
//! moves packets faster than the server does. Called in the middle of a server's work, so an
//! implementation must not call the server.

use std::net::{IpAddr, SocketAddr};

use super::AllocationId;
use crate::channel_data::ChannelNumber;
use crate::transport::FiveTuple;

/// What a server asks of the data core that owns it.
pub trait Host {
    /// Fills the bytes with values that nobody can guess.
    fn fill_random(&mut self, bytes: &mut [u8]);

    /// Whether a user may exchange packets with a peer. The address is as the client wrote it, and
    /// may hide another one: an implementation unfolds mapped and translated ones first.
    fn admits_peer(&mut self, username: &str, peer: IpAddr) -> bool;

    /// Opens a relayed address; false if it is in use or cannot be had.
    fn open_relayed(&mut self, address: SocketAddr) -> bool;

    /// Closes a relayed address that was opened.
    fn close_relayed(&mut self, address: SocketAddr);

    /// Learns that something has changed. Changes come in the order in which they hold, and what
    /// began with one ends with another: everything before the address that it hangs on is closed.
    fn changed(&mut self, change: &Change<'_>);
}

/// A bound channel: which packets of a client go where, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    /// Whose channel.
    pub allocation: AllocationId,
    /// Where the client is.
    pub client: FiveTuple,
    /// The channel's number there.
    pub channel: ChannelNumber,
    /// What the peer sees.
    pub relayed: SocketAddr,
    /// Where the peer is.
    pub peer: SocketAddr,
}

/// Something that has changed. The key of a path is (client, channel) in one direction and
/// (relayed, peer) in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// A client has a relayed address.
    Allocated {
        /// The allocation, which may have one of each family.
        allocation: AllocationId,
        /// Its client.
        client: FiveTuple,
        /// The address.
        relayed: SocketAddr,
        /// The name it authenticated with.
        username: &'a str,
        /// Whether the client knows what to do with ICMP errors about its datagrams: whoever opened
        /// the address reports them to [`super::Server::receive_icmp`] then, and otherwise not.
        hears_icmp: bool,
    },
    /// It has it no longer.
    Ended {
        /// The allocation, which may have one of the other family left.
        allocation: AllocationId,
        /// Its client.
        client: FiveTuple,
        /// The address.
        relayed: SocketAddr,
    },
    /// Packets from a peer, of any port, are passed to the client.
    Permitted {
        /// The allocation.
        allocation: AllocationId,
        /// What they are sent to.
        relayed: SocketAddr,
        /// The peer.
        peer: IpAddr,
    },
    /// They no longer are.
    Forbidden {
        /// The allocation.
        allocation: AllocationId,
        /// What they are sent to.
        relayed: SocketAddr,
        /// The peer.
        peer: IpAddr,
    },
    /// A path goes in both directions.
    Bound(Path),
    /// A bound path goes to its peer only: its peer's permission has ended before the channel.
    Paused(Path),
    /// A paused path goes in both directions again.
    Resumed(Path),
    /// A path has ended, whether it was paused or not.
    Unbound(Path),
}
