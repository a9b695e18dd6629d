//! One allocation: its addresses, permissions and channels, and until when each of them holds.
//!
//! Owned by the server's table. Looked at for every packet, which allocates nothing; changed by
//! requests and by time. Every change is told to the host where it happens, here and nowhere else.

mod state;

pub use state::AllocationState;

use std::net::{IpAddr, SocketAddr};

use super::answer::Allocated;
use super::{AllocationView, Change, Host, Path};
use crate::attribute::Family;
use crate::channel_data::ChannelNumber;
use crate::integrity::{Key, PasswordAlgorithm};
use crate::limits::{CHANNEL_LIFETIME_S, PERMISSION_LIFETIME_S};
use crate::message::TransactionId;
use crate::transport::FiveTuple;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// The name of an allocation inside its server; one that has ended names no later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId {
    /// Its place, below the limit on allocations.
    pub index: u32,
    /// Which allocation in that place.
    pub generation: u32,
}

/// When something ends that begins now.
pub(super) fn ends_ns(now_ns: u64, lifetime_s: u32) -> u64 {
    now_ns + u64::from(lifetime_s) * SECOND_NS
}

#[derive(Clone, Copy, Debug)]
struct Relayed {
    address: SocketAddr,
    ends_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Permission {
    peer: IpAddr,
    ends_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    number: ChannelNumber,
    peer: SocketAddr,
    ends_ns: u64,
}

/// How the client of an allocation authenticated itself.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) username: Box<str>,
    /// Absent if another server took it: then the credentials of today give it.
    pub(super) key: Option<Key>,
    pub(super) algorithm: PasswordAlgorithm,
    /// The credentials that the key comes from.
    pub(super) epoch: u64,
}

/// One allocation.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) id: AllocationId,
    pub(super) client: FiveTuple,
    pub(super) owner: Owner,
    /// Whether it is told of ICMP errors.
    hears_icmp: bool,
    /// The request that made it and what it was told, for when it comes again.
    pub(super) transaction: TransactionId,
    pub(super) told: Allocated,
    relayed: [Option<Relayed>; 2],
    /// By peer.
    permissions: Vec<Permission>,
    /// By number.
    channels: Vec<Channel>,
    /// By peer, for the other direction.
    channels_by_peer: Vec<(SocketAddr, ChannelNumber)>,
}

impl Allocation {
    pub(super) fn new(
        id: AllocationId,
        client: FiveTuple,
        owner: Owner,
        hears_icmp: bool,
        (transaction, told): (TransactionId, Allocated),
    ) -> Self {
        Self {
            id,
            client,
            owner,
            hears_icmp,
            transaction,
            told,
            relayed: [None; 2],
            permissions: Vec::new(),
            channels: Vec::new(),
            channels_by_peer: Vec::new(),
        }
    }

    pub(super) fn username(&self) -> &str {
        &self.owner.username
    }

    pub(super) fn view(&self) -> AllocationView<'_> {
        AllocationView {
            id: self.id,
            client: self.client,
            username: self.username(),
            relayed: self.relayed.map(|relayed| relayed.map(|relayed| relayed.address)),
            permissions: self.permissions.len(),
            channels: self.channels.len(),
            ends_ns: self.relayed.iter().flatten().map(|relayed| relayed.ends_ns).max(),
        }
    }

    /// Every bound channel, and whether its peer's packets are passed.
    pub(super) fn paths(&self) -> impl Iterator<Item = (Path, bool)> {
        let is_permitted = |path: &Path| self.permission_place(path.peer.ip()).is_ok();
        self.channels
            .iter()
            .filter_map(|channel| self.path(channel))
            .map(move |path| (path, is_permitted(&path)))
    }

    // --- what packets ask -----------------------------------------------------------------------

    /// The relayed address of a family.
    pub(super) fn relayed(&self, family: Family, now_ns: u64) -> Option<SocketAddr> {
        let relayed = self.relayed.get(family.index())?.as_ref()?;
        (now_ns < relayed.ends_ns).then_some(relayed.address)
    }

    pub(super) fn permits(&self, peer: IpAddr, now_ns: u64) -> bool {
        let permission =
            self.permission_place(peer).ok().and_then(|place| self.permissions.get(place));
        permission.is_some_and(|permission| now_ns < permission.ends_ns)
    }

    /// The peer that a channel is bound to.
    pub(super) fn peer_of(&self, number: ChannelNumber, now_ns: u64) -> Option<SocketAddr> {
        let place = self.channel_place(number).ok()?;
        let channel = self.channels.get(place)?;
        (now_ns < channel.ends_ns).then_some(channel.peer)
    }

    /// The channel that is bound to a peer.
    pub(super) fn channel_of(&self, peer: SocketAddr, now_ns: u64) -> Option<ChannelNumber> {
        let place = self.peer_place(peer).ok()?;
        let (_, number) = *self.channels_by_peer.get(place)?;
        self.peer_of(number, now_ns).is_some().then_some(number)
    }

    // --- what requests ask ----------------------------------------------------------------------

    pub(super) fn has_family(&self, family: Family) -> bool {
        matches!(self.relayed.get(family.index()), Some(Some(_)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.relayed.iter().all(Option::is_none)
    }

    pub(super) fn permissions_len(&self) -> usize {
        self.permissions.len()
    }

    pub(super) fn channels_len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there is a permission for a peer, even one that has ended and is still to go.
    pub(super) fn has_permission(&self, peer: IpAddr) -> bool {
        self.permission_place(peer).is_ok()
    }

    /// When the first part of it ends.
    pub(super) fn wake_ns(&self) -> u64 {
        let relayed = self.relayed.iter().flatten().map(|relayed| relayed.ends_ns);
        let permissions = self.permissions.iter().map(|permission| permission.ends_ns);
        let channels = self.channels.iter().map(|channel| channel.ends_ns);
        relayed.chain(permissions).chain(channels).min().unwrap_or_default()
    }

    // --- what changes it ------------------------------------------------------------------------

    pub(super) fn add_relayed(&mut self, address: SocketAddr, ends_ns: u64, host: &mut dyn Host) {
        if let Some(place) = self.relayed.get_mut(Family::of(address.ip()).index()) {
            *place = Some(Relayed { address, ends_ns });
        }
        host.changed(&Change::Allocated {
            allocation: self.id,
            client: self.client,
            relayed: address,
            username: self.username(),
            hears_icmp: self.hears_icmp,
        });
    }

    /// Lets the addresses of a family, or all, last until another time.
    pub(super) fn refresh(&mut self, family: Option<Family>, ends_ns: u64) {
        let concerned = |index: usize| family.is_none_or(|family| family.index() == index);
        let relayed = self.relayed.iter_mut().enumerate();
        for (_, relayed) in relayed.filter(|(index, _)| concerned(*index)) {
            if let Some(relayed) = relayed {
                relayed.ends_ns = ends_ns;
            }
        }
    }

    /// Lets a peer send for as long as permissions last.
    pub(super) fn permit(&mut self, peer: IpAddr, now_ns: u64, host: &mut dyn Host) {
        let ends_ns = ends_ns(now_ns, PERMISSION_LIFETIME_S);
        match self.permission_place(peer) {
            Ok(place) => {
                if let Some(permission) = self.permissions.get_mut(place) {
                    permission.ends_ns = ends_ns;
                }
            }
            Err(place) => {
                self.permissions.insert(place, Permission { peer, ends_ns });
                self.tell_permission(peer, true, host);
                self.tell_paths(peer, true, host);
            }
        }
    }

    /// Binds a channel that is free to a peer without one, or lets a bound one last on. The peer's
    /// permission comes first.
    pub(super) fn bind(
        &mut self,
        number: ChannelNumber,
        peer: SocketAddr,
        now_ns: u64,
        host: &mut dyn Host,
    ) {
        let ends_ns = ends_ns(now_ns, CHANNEL_LIFETIME_S);
        match (self.channel_place(number), self.peer_place(peer)) {
            (Ok(place), _) => {
                if let Some(channel) = self.channels.get_mut(place) {
                    channel.ends_ns = ends_ns;
                }
            }
            (Err(place), Err(peer_place)) => {
                let channel = Channel { number, peer, ends_ns };
                self.channels.insert(place, channel);
                self.channels_by_peer.insert(peer_place, (peer, number));
                if let Some(path) = self.path(&channel) {
                    host.changed(&Change::Bound(path));
                }
            }
            // The peer has another channel; requests are refused before they come here.
            (Err(_), Ok(_)) => {}
        }
    }

    /// Ends what has come to its end, and gives the addresses among it.
    pub(super) fn sweep(&mut self, now_ns: u64, host: &mut dyn Host) -> [Option<SocketAddr>; 2] {
        let ended = self.relayed.map(|relayed| {
            relayed.filter(|relayed| relayed.ends_ns <= now_ns).map(|relayed| relayed.address)
        });
        let with_address =
            |peer: IpAddr| ended.iter().flatten().any(|ended| ended.is_ipv4() == peer.is_ipv4());
        self.unbind(host, |channel| channel.ends_ns <= now_ns || with_address(channel.peer.ip()));
        self.forbid(host, |permission| {
            permission.ends_ns <= now_ns || with_address(permission.peer)
        });
        for address in ended.iter().flatten() {
            self.end_relayed(*address, host);
        }
        ended
    }

    /// Ends all of it, and gives its addresses.
    pub(super) fn end_all(&mut self, host: &mut dyn Host) -> [Option<SocketAddr>; 2] {
        self.refresh(None, 0);
        self.sweep(0, host)
    }

    /// Takes back what belongs to peers that the host no longer admits.
    pub(super) fn revoke_peers(&mut self, host: &mut dyn Host) {
        let peers = self.permissions.iter().map(|permission| permission.peer);
        // A channel outlives its peer's permission.
        let peers = peers.chain(self.channels.iter().map(|channel| channel.peer.ip()));
        let revoked: Vec<IpAddr> =
            peers.filter(|peer| !host.admits_peer(&self.owner.username, *peer)).collect();
        self.unbind(host, |channel| revoked.contains(&channel.peer.ip()));
        self.forbid(host, |permission| revoked.contains(&permission.peer));
    }

    fn end_relayed(&mut self, address: SocketAddr, host: &mut dyn Host) {
        if let Some(place) = self.relayed.get_mut(Family::of(address.ip()).index()) {
            *place = None;
        }
        host.changed(&Change::Ended { allocation: self.id, client: self.client, relayed: address });
    }

    fn unbind(&mut self, host: &mut dyn Host, ends: impl Fn(&Channel) -> bool) {
        let mut place = 0;
        while let Some(channel) = self.channels.get(place).copied() {
            if !ends(&channel) {
                place += 1;
                continue;
            }
            self.channels.remove(place);
            if let Ok(peer_place) = self.peer_place(channel.peer) {
                self.channels_by_peer.remove(peer_place);
            }
            if let Some(path) = self.path(&channel) {
                host.changed(&Change::Unbound(path));
            }
        }
    }

    fn forbid(&mut self, host: &mut dyn Host, ends: impl Fn(&Permission) -> bool) {
        let mut place = 0;
        while let Some(permission) = self.permissions.get(place).copied() {
            if !ends(&permission) {
                place += 1;
                continue;
            }
            self.permissions.remove(place);
            self.tell_paths(permission.peer, false, host);
            self.tell_permission(permission.peer, false, host);
        }
    }

    fn tell_permission(&self, peer: IpAddr, is_permitted: bool, host: &mut dyn Host) {
        let Some(relayed) = self.address_towards(peer) else {
            return;
        };
        let allocation = self.id;
        host.changed(&if is_permitted {
            Change::Permitted { allocation, relayed, peer }
        } else {
            Change::Forbidden { allocation, relayed, peer }
        });
    }

    /// Tells of the channels of a peer whose permission came or went.
    fn tell_paths(&self, peer: IpAddr, is_permitted: bool, host: &mut dyn Host) {
        let channels = self.channels.iter().filter(|channel| channel.peer.ip() == peer);
        for path in channels.filter_map(|channel| self.path(channel)) {
            let change = if is_permitted { Change::Resumed(path) } else { Change::Paused(path) };
            host.changed(&change);
        }
    }

    fn path(&self, channel: &Channel) -> Option<Path> {
        Some(Path {
            allocation: self.id,
            client: self.client,
            channel: channel.number,
            relayed: self.address_towards(channel.peer.ip())?,
            peer: channel.peer,
        })
    }

    /// The relayed address that a peer sees, whether it has ended or not.
    fn address_towards(&self, peer: IpAddr) -> Option<SocketAddr> {
        let relayed = self.relayed.get(Family::of(peer).index())?.as_ref()?;
        Some(relayed.address)
    }

    fn permission_place(&self, peer: IpAddr) -> Result<usize, usize> {
        self.permissions.binary_search_by_key(&peer, |permission| permission.peer)
    }

    fn channel_place(&self, number: ChannelNumber) -> Result<usize, usize> {
        self.channels.binary_search_by_key(&number, |channel| channel.number)
    }

    fn peer_place(&self, peer: SocketAddr) -> Result<usize, usize> {
        self.channels_by_peer.binary_search_by_key(&peer, |(peer, _)| *peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_with_eight_peers_takes_less_than_two_kibibytes() {
        const PEERS: usize = 8;
        let of_peer = size_of::<Permission>()
            + size_of::<Channel>()
            + size_of::<(SocketAddr, ChannelNumber)>();
        // Look-ups by client and by both addresses, in maps that are at least 7/16 full, and the
        // timer's entry.
        let maps = size_of::<(FiveTuple, usize)>() + 2 * size_of::<(SocketAddr, usize)>();
        let look_ups = maps * 16 / 7 + size_of::<(u64, usize)>();
        let bytes = size_of::<Allocation>() + PEERS * of_peer + look_ups;
        assert!(bytes <= 2048, "{bytes}");
    }
}
