//! The addresses under which peers that we dialed say they see us (spec §12.1).
//!
//! Owned by the node on the management thread. One peer has one voice, so that no peer can fill
//! the table; what it says is shown to the operator and never acted on.

use crate::node::limits::{OBSERVED_ADDRESSES_MAX, OBSERVERS_MAX};
use std::collections::BTreeMap;
use std::net::IpAddr;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;

/// One address, for an operator. Its port would be that of one connection of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedRow {
    /// Our address, as seen from outside.
    pub address: IpAddr,
    /// How many peers see us there.
    pub peers: usize,
    /// When the last of them said so.
    pub last_ns: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Observed {
    voices: BTreeMap<Identity, (IpAddr, u64)>,
}

impl Observed {
    /// Takes a peer's word. `None` when the address is not one that anybody could dial from
    /// elsewhere; otherwise whether nobody had named it before.
    pub(crate) fn note(
        &mut self,
        now_ns: u64,
        peer: Identity,
        endpoint: &Endpoint,
    ) -> Option<bool> {
        let (Endpoint::Tcp(socket) | Endpoint::Utp(socket)) = endpoint else { return None };
        let address = socket.ip().to_canonical();
        if !is_public(address) {
            return None;
        }
        self.voices.remove(&peer);
        let is_new = self.voices.values().all(|(known, _)| *known != address);
        if is_new && self.rows().len() >= OBSERVED_ADDRESSES_MAX {
            self.drop_weakest();
        }
        if self.voices.len() >= OBSERVERS_MAX {
            self.drop_oldest();
        }
        self.voices.insert(peer, (address, now_ns));
        Some(is_new)
    }

    /// All addresses, most voices first, then the one heard of last.
    pub(crate) fn rows(&self) -> Vec<ObservedRow> {
        let mut rows: BTreeMap<IpAddr, ObservedRow> = BTreeMap::new();
        for (address, at_ns) in self.voices.values() {
            let fresh = ObservedRow { address: *address, peers: 0, last_ns: 0 };
            let row = rows.entry(*address).or_insert(fresh);
            row.peers += 1;
            row.last_ns = row.last_ns.max(*at_ns);
        }
        let mut rows: Vec<_> = rows.into_values().collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.peers, row.last_ns)));
        rows
    }

    fn drop_weakest(&mut self) {
        let Some(weakest) = self.rows().pop() else { return };
        self.voices.retain(|_, (address, _)| *address != weakest.address);
    }

    fn drop_oldest(&mut self) {
        let oldest = self.voices.iter().min_by_key(|(_, (_, at_ns))| *at_ns);
        if let Some(peer) = oldest.map(|(peer, _)| *peer) {
            self.voices.remove(&peer);
        }
    }
}

/// Whether an address is one to dial from anywhere: what stock nodes call public (spec §12.1), and
/// not one of a carrier's translator (RFC 6598).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_shared = first == 100 && second & 0xc0 == 64;
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || is_shared)
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.is_unique_local())
        }
    }
}
