//! An allocation as one process tells another of it.
//!
//! Values only, made on the data core that has the allocation and read on the one that takes it
//! over. Times are those of the machine's clock, which both processes read. The client's key is not
//! among it: it is looked up again, as after a change of credentials.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Allocated, Allocation, AllocationId, Channel, Owner, Permission};
use crate::channel_data::ChannelNumber;
use crate::integrity::PasswordAlgorithm;
use crate::limits::{RESERVATION_TOKEN_BYTES, TRANSACTION_ID_BYTES};
use crate::message::TransactionId;
use crate::server::{Change, Host};
use crate::transport::FiveTuple;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocationState {
    /// Whose it is.
    pub client: FiveTuple,
    /// The name its client authenticated with.
    pub username: Box<str>,
    /// Its relayed addresses, at most one of each family, and when each ends, in nanoseconds.
    pub relayed: Vec<(SocketAddr, u64)>,
    /// Peers that may send to it, and until when.
    pub permissions: Vec<(IpAddr, u64)>,
    /// Channels by number, their peers, and until when.
    pub channels: Vec<(u16, SocketAddr, u64)>,
    /// Whether it is told of ICMP errors.
    hears_icmp: bool,
    /// The request that made it.
    transaction: [u8; TRANSACTION_ID_BYTES],
    /// What its client was told: its address as the server saw it, the lifetime, and the token of
    /// the port that is kept for it.
    mapped: SocketAddr,
    lifetime_s: u32,
    token: Option<[u8; RESERVATION_TOKEN_BYTES]>,
}

impl Allocation {
    /// What another server needs to go on with it.
    pub(in crate::server) fn state(&self) -> AllocationState {
        let relayed = self.relayed.iter().flatten();
        let permissions = self.permissions.iter();
        let channels = self.channels.iter();
        AllocationState {
            client: self.client,
            username: self.owner.username.clone(),
            relayed: relayed.map(|relayed| (relayed.address, relayed.ends_ns)).collect(),
            permissions: permissions.map(|it| (it.peer, it.ends_ns)).collect(),
            channels: channels.map(|it| (it.number.number(), it.peer, it.ends_ns)).collect(),
            hears_icmp: self.hears_icmp,
            transaction: self.transaction.0,
            mapped: self.told.mapped,
            lifetime_s: self.told.lifetime_s,
            token: self.told.token,
        }
    }

    /// Whether it is as a server was told, by which nothing is allocated: while this is asked of all,
    /// clients wait.
    pub(in crate::server) fn is_as(&self, told: &AllocationState) -> bool {
        let AllocationState {
            client,
            username,
            relayed,
            permissions,
            channels,
            hears_icmp,
            transaction,
            mapped,
            lifetime_s,
            token,
        } = told;
        let own_relayed = self.relayed.iter().flatten();
        let own_relayed = own_relayed.map(|relayed| (relayed.address, relayed.ends_ns));
        let own_permissions = self.permissions.iter().map(|it| (it.peer, it.ends_ns));
        let own_channels = self.channels.iter().map(|it| (it.number.number(), it.peer, it.ends_ns));
        self.client == *client
            && self.owner.username == *username
            && own_relayed.eq(relayed.iter().copied())
            && own_permissions.eq(permissions.iter().copied())
            && own_channels.eq(channels.iter().copied())
            && self.hears_icmp == *hears_icmp
            && self.transaction.0 == *transaction
            && self.told.mapped == *mapped
            && self.told.lifetime_s == *lifetime_s
            && self.told.token == *token
    }

    /// Goes on with what another server had, and tells the host of all of it. The addresses are
    /// open.
    pub(in crate::server) fn of_state(
        id: AllocationId,
        state: &AllocationState,
        host: &mut dyn Host,
    ) -> Self {
        let owner = Owner {
            username: state.username.clone(),
            key: None,
            algorithm: PasswordAlgorithm::Md5,
            epoch: 0,
        };
        let mut relayed = [None; 2];
        for (place, with_ipv4) in relayed.iter_mut().zip([true, false]) {
            let addresses = state.relayed.iter().map(|(address, _)| *address);
            *place = addresses.into_iter().find(|address| address.is_ipv4() == with_ipv4);
        }
        let told = Allocated {
            relayed,
            mapped: state.mapped,
            lifetime_s: state.lifetime_s,
            token: state.token,
            // Only a repetition of the request that made it would be told again.
            failed: None,
        };
        let answered = (TransactionId(state.transaction), told);
        let mut allocation = Self::new(id, state.client, owner, state.hears_icmp, answered);
        for (address, ends_ns) in &state.relayed {
            allocation.add_relayed(*address, *ends_ns, host);
        }
        allocation.add_peers(state);
        allocation.tell_all(host);
        allocation
    }

    fn add_peers(&mut self, state: &AllocationState) {
        let permissions = state.permissions.iter();
        self.permissions =
            permissions.map(|&(peer, ends_ns)| Permission { peer, ends_ns }).collect();
        self.permissions.sort_by_key(|permission| permission.peer);
        self.permissions.dedup_by_key(|permission| permission.peer);
        for &(number, peer, ends_ns) in &state.channels {
            let Some(number) = ChannelNumber::new(number) else { continue };
            if let (Err(place), Err(peer_place)) =
                (self.channel_place(number), self.peer_place(peer))
            {
                self.channels.insert(place, Channel { number, peer, ends_ns });
                self.channels_by_peer.insert(peer_place, (peer, number));
            }
        }
    }

    fn tell_all(&self, host: &mut dyn Host) {
        for permission in &self.permissions {
            self.tell_permission(permission.peer, true, host);
        }
        for (path, is_permitted) in self.paths() {
            let change = if is_permitted { Change::Bound(path) } else { Change::Paused(path) };
            host.changed(&change);
        }
    }
}
