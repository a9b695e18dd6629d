//! What the TURN server of a core asks of it: sockets, random values, whom it may send to.
//!
//! Owns every UDP socket of the core, and a tally for each allocation. Part of the TURN server,
//! on its thread; the server calls it in the middle of its work.

use super::Direction;
use super::paths::{self, PathChanges};
use crate::entropy::Entropy;
use crate::limits::TURN_ERRORS_PER_S_MAX;
use crate::offload::{OffloadPath, PathChange};
use crate::port::StreamKey;
use crate::port::datagrams::{DatagramKey, Role, Sent, Sockets, bind, send_unfragmented};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use waystation_relay::peer_policy::PeerPolicy;
use waystation_turn::server::{AllocationId, Change, Host, Now, Path};

const SECOND_NS: u64 = 1_000_000_000;

/// Whose a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Clients send to it; its place in the list of listening sockets.
    Listener(usize),
    /// Peers send to it; the address that they know it by.
    Relayed(SocketAddr),
}

/// What an allocation has carried, and its sockets of IPv4 and of IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Which allocation in this place.
    generation: u32,
    sockets: [Option<DatagramKey>; 2],
    /// Its client's stream, if it came in one.
    stream: Option<StreamKey>,
    /// The second in which its client was last told of an error, and how often in it; none if the
    /// client is told of none.
    errors_told: Option<(u64, u32)>,
    pub(super) datagrams_to_peers: u64,
    pub(super) bytes_to_peers: u64,
    pub(super) datagrams_to_client: u64,
    pub(super) bytes_to_client: u64,
    pub(super) datagrams_in_trains: u64,
    pub(super) datagrams_in_frames: u64,
    pub(super) datagrams_offloaded: u64,
    pub(super) directions_offloaded: u32,
}

impl Tally {
    pub(super) fn count(&mut self, direction: Direction, bytes: usize, sent: Sent) {
        let (datagrams, total) = match direction {
            Direction::ToPeer => (&mut self.datagrams_to_peers, &mut self.bytes_to_peers),
            Direction::ToClient => (&mut self.datagrams_to_client, &mut self.bytes_to_client),
        };
        *datagrams += 1;
        *total += bytes as u64;
        self.datagrams_in_trains += u64::from(sent == Sent::InTrain);
        self.datagrams_in_frames += u64::from(sent == Sent::Framed);
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hosting {
    pub(super) sockets: Sockets,
    /// By the place of a socket.
    owners: Vec<Option<Owner>>,
    /// Whether the kernel keeps errors, by the place of a socket.
    hearing: Vec<bool>,
    /// By the place of an allocation.
    pub(super) tallies: Vec<Tally>,
    relayed: HashMap<SocketAddr, DatagramKey>,
    entropy: Entropy,
    peers: Arc<PeerPolicy>,
    /// Addresses as others know them, and as this machine has them.
    behind: Vec<(IpAddr, IpAddr)>,
    /// The destination that was judged last, and where it is sent to.
    judged: Option<(SocketAddr, Option<SocketAddr>)>,
    opened: u64,
    /// The stream whose message the server is at, and whether it got an allocation by it.
    at: Option<(StreamKey, bool)>,
    /// What the management core is to know about paths.
    pub(super) changes: PathChanges,
    /// Sockets of another process, by the address that peers know them by, which are taken instead
    /// of new ones.
    inherited: HashMap<SocketAddr, UdpSocket>,
}

impl Hosting {
    pub(super) fn new(
        sockets: Sockets,
        owners: Vec<Owner>,
        peers: Arc<PeerPolicy>,
        behind: Vec<(IpAddr, IpAddr)>,
        (allocations_max, channels_max): (usize, usize),
    ) -> Self {
        Self {
            sockets,
            hearing: vec![false; owners.len()],
            owners: owners.into_iter().map(Some).collect(),
            tallies: vec![Tally::default(); allocations_max],
            relayed: HashMap::new(),
            entropy: Entropy::default(),
            peers,
            behind,
            judged: None,
            opened: 0,
            at: None,
            changes: PathChanges::new(channels_max),
            inherited: HashMap::new(),
        }
    }

    /// Takes these sockets for the addresses that are opened next, and forgets others that were
    /// given.
    pub(super) fn inherit(&mut self, sockets: Vec<(SocketAddr, UdpSocket)>) {
        self.inherited = sockets.into_iter().collect();
    }

    /// One more descriptor of a relayed address's socket, for another process.
    pub(super) fn share(&self, relayed: SocketAddr) -> io::Result<Option<UdpSocket>> {
        let key = self.relayed.get(&relayed);
        key.map_or(Ok(None), |key| self.sockets.share(*key))
    }

    /// What the management core is told of a path: nothing if its packets may not be sent, or do
    /// not leave this machine.
    pub(super) fn offload_path(&self, path: &Path) -> Option<OffloadPath> {
        let leaves = self.bound(path.peer.ip()) == path.peer.ip();
        let goes = leaves && self.peers.admits_destination(path.peer);
        goes.then(|| paths::with_addresses(path, |known| self.bound(known))).flatten()
    }

    /// Nothing is relayed by anybody else any more.
    pub(super) fn forget_offloaded(&mut self) {
        for tally in &mut self.tallies {
            tally.directions_offloaded = 0;
        }
    }

    /// The tally of an allocation that is there.
    pub(super) fn tally_if_there(&mut self, allocation: AllocationId) -> Option<&mut Tally> {
        let tally = self.tallies.get_mut(allocation.index as usize)?;
        (tally.generation == allocation.generation).then_some(tally)
    }

    fn tell_path(&mut self, path: &Path, told: impl FnOnce(OffloadPath) -> PathChange) {
        if let Some(path) = paths::with_addresses(path, |known| self.bound(known)) {
            self.changes.push(told(path));
        }
    }

    fn tell_open(&mut self, path: &Path, is_two_way: bool) {
        if let Some(path) = self.offload_path(path) {
            self.changes.push(PathChange::Open { path, is_two_way });
        }
    }

    /// Allocations since the start.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    pub(super) fn owner(&self, key: DatagramKey) -> Option<Owner> {
        *self.owners.get(key.slot as usize)?
    }

    /// Whose a relayed address is, by where it is on this machine.
    pub(super) fn owner_of(&self, local: SocketAddr) -> Option<Owner> {
        let known = self.known_as(local);
        self.relayed.contains_key(&known).then_some(Owner::Relayed(known))
    }

    /// Takes up a policy. Returns whether it is another one.
    pub(super) fn set_peers(&mut self, peers: Arc<PeerPolicy>) -> bool {
        let is_other = self.peers != peers;
        self.peers = peers;
        self.judged = None;
        is_other
    }

    /// Where a datagram for a peer is sent, if it may be. Most come in runs to the same peer, so
    /// the last judgement is kept until the policy changes.
    pub(super) fn destination(&mut self, peer: SocketAddr) -> Option<SocketAddr> {
        if let Some((judged, destination)) = self.judged
            && judged == peer
        {
            return destination;
        }
        let destination = self
            .peers
            .admits_destination(peer)
            .then(|| SocketAddr::new(self.bound(peer.ip()), peer.port()));
        self.judged = Some((peer, destination));
        destination
    }

    /// Whether the kernel keeps errors for a relayed socket.
    pub(super) fn hears_errors(&self, key: DatagramKey) -> bool {
        self.hearing.get(key.slot as usize) == Some(&true)
    }

    /// Whether the client of an allocation may be told of one more error now; it is then counted.
    pub(super) fn may_tell_error(&mut self, allocation: AllocationId, now: Now) -> bool {
        let second = now.monotonic_ns / SECOND_NS;
        let Some(Tally { errors_told: Some(told), .. }) = self.tally_if_there(allocation) else {
            return false;
        };
        if told.0 != second {
            *told = (second, 0);
        }
        told.1 += 1;
        told.1 <= TURN_ERRORS_PER_S_MAX
    }

    /// The address that others know a sender by.
    pub(super) fn known_as(&self, source: SocketAddr) -> SocketAddr {
        let known = self.behind.iter().find(|(_, bound)| *bound == source.ip());
        known.map_or(source, |(known, _)| SocketAddr::new(*known, source.port()))
    }

    /// The socket that an allocation sends to peers of a family from.
    pub(super) fn relayed_socket(
        &self,
        allocation: AllocationId,
        is_ipv6: bool,
    ) -> Option<DatagramKey> {
        let tally = self.tallies.get(allocation.index as usize)?;
        if tally.generation != allocation.generation {
            return None;
        }
        tally.sockets[usize::from(is_ipv6)]
    }

    /// The server is about to be given a message of a stream.
    pub(super) fn begin_stream(&mut self, stream: StreamKey) {
        self.at = Some((stream, false));
    }

    /// It has dealt with it. Returns whether the stream got an allocation by it.
    pub(super) fn end_stream(&mut self) -> bool {
        self.at.take().is_some_and(|(_, is_allocated)| is_allocated)
    }

    /// The stream that an allocation's client came in.
    pub(super) fn stream_of(&self, allocation: AllocationId) -> Option<StreamKey> {
        let tally = self.tallies.get(allocation.index as usize)?;
        if tally.generation != allocation.generation {
            return None;
        }
        tally.stream
    }

    /// Counts payload that went by itself.
    pub(super) fn count(&mut self, allocation: AllocationId, direction: Direction, bytes: usize) {
        if let Some(tally) = self.tallies.get_mut(allocation.index as usize) {
            tally.count(direction, bytes, Sent::Plainly);
        }
    }

    /// The address of this machine behind one that others know.
    fn bound(&self, known: IpAddr) -> IpAddr {
        let behind = self.behind.iter().find(|(other, _)| *other == known);
        behind.map_or(known, |(_, bound)| *bound)
    }

    /// Has the kernel keep errors for a relayed socket. Returns whether it does.
    fn hear_errors(&mut self, key: DatagramKey) -> bool {
        let hears = self.sockets.hear_errors(key).is_ok();
        self.hearing[key.slot as usize] = hears;
        hears
    }

    fn tally_of(&mut self, allocation: AllocationId) -> Option<&mut Tally> {
        let tally = self.tallies.get_mut(allocation.index as usize)?;
        if tally.generation != allocation.generation {
            *tally = Tally { generation: allocation.generation, ..Tally::default() };
            self.opened += 1;
        }
        Some(tally)
    }
}

impl Host for Hosting {
    fn fill_random(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            [*byte] = self.entropy.bytes();
        }
    }

    fn admits_peer(&mut self, _username: &str, peer: IpAddr) -> bool {
        self.peers.admits(peer)
    }

    fn open_relayed(&mut self, address: SocketAddr) -> bool {
        let bound = SocketAddr::new(self.bound(address.ip()), address.port());
        let socket = match self.inherited.remove(&address) {
            // As a new one is, whatever it has sent last.
            Some(socket) => send_unfragmented(&socket, false).map(|()| socket),
            None => bind(bound, Role::Relayed),
        };
        let Ok(key) = socket.and_then(|socket| self.sockets.add(socket)) else {
            return false;
        };
        let place = key.slot as usize;
        if self.owners.len() <= place {
            self.owners.resize(place + 1, None);
            self.hearing.resize(place + 1, false);
        }
        self.owners[place] = Some(Owner::Relayed(address));
        self.hearing[place] = false;
        self.relayed.insert(address, key);
        true
    }

    fn close_relayed(&mut self, address: SocketAddr) {
        if let Some(key) = self.relayed.remove(&address) {
            self.owners[key.slot as usize] = None;
            self.sockets.close(key);
        }
    }

    fn changed(&mut self, change: &Change<'_>) {
        match *change {
            Change::Allocated { allocation, relayed, client, hears_icmp, .. } => {
                let key = self.relayed.get(&relayed).copied();
                // Where the kernel keeps none, the client is told of none.
                let hears = hears_icmp && key.is_some_and(|key| self.hear_errors(key));
                let stream = self.at.as_mut().map(|(stream, is_allocated)| {
                    *is_allocated = true;
                    *stream
                });
                if let Some(tally) = self.tally_of(allocation) {
                    tally.stream = stream;
                    tally.errors_told = tally.errors_told.or(hears.then_some((0, 0)));
                    tally.sockets[usize::from(relayed.is_ipv6())] = key;
                }
                if let Some(change) = paths::client(&client, true) {
                    self.changes.push(change);
                }
            }
            Change::Ended { allocation, relayed, client } => {
                let mut is_gone = false;
                if let Some(tally) = self.tally_of(allocation) {
                    tally.sockets[usize::from(relayed.is_ipv6())] = None;
                    is_gone = tally.sockets == [None; 2];
                }
                if let Some(change) = paths::client(&client, false).filter(|_| is_gone) {
                    self.changes.push(change);
                }
            }
            // A channel is bound together with a permission for its peer.
            Change::Bound(path) | Change::Resumed(path) => self.tell_open(&path, true),
            Change::Paused(path) => self.tell_open(&path, false),
            Change::Unbound(path) => self.tell_path(&path, |path| PathChange::Closed { path }),
            // Permissions alone name no port, so no packet can be told by them.
            Change::Permitted { .. } | Change::Forbidden { .. } => {}
        }
    }
}
