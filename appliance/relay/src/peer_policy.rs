//! Whom datagrams are sent to for others: an address policy, and the relayed addresses of this
//! machine itself.
//!
//! Built by the management core from the configuration and asked by data cores, when a permission
//! is given and right before each use. Two clients of one relay may reach each other through their
//! relayed addresses, which belong to the machine and so are none that the address policy admits;
//! nothing else on these addresses may be reached that way, so ports count for them. Nothing here
//! allocates or changes after it was made.

use crate::address_policy::{AddressPolicy, canonical};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPolicy {
    addresses: AddressPolicy,
    relayed: Vec<IpAddr>,
    relayed_ports: Option<RangeInclusive<u16>>,
}

impl PeerPolicy {
    /// A policy that admits nobody.
    pub fn nobody() -> Self {
        Self { addresses: AddressPolicy::nothing(), ..Self::default() }
    }

    /// A policy that admits what another one does, and peers on these ports of `relayed`, which are
    /// the addresses that clients are given.
    pub fn new(
        addresses: AddressPolicy,
        relayed: Vec<IpAddr>,
        relayed_ports: RangeInclusive<u16>,
    ) -> Self {
        let relayed = relayed.into_iter().map(canonical).collect();
        Self { addresses, relayed, relayed_ports: Some(relayed_ports) }
    }

    /// Whether a client may be permitted a peer with this address, on whatever port.
    pub fn admits(&self, peer: IpAddr) -> bool {
        let peer = canonical(peer);
        self.admits_at(peer, self.relayed.contains(&peer))
    }

    /// Whether a datagram may be sent to a peer.
    pub fn admits_destination(&self, peer: SocketAddr) -> bool {
        let ip = canonical(peer.ip());
        let is_relayed = self.relayed.contains(&ip)
            && self.relayed_ports.as_ref().is_some_and(|ports| ports.contains(&peer.port()));
        self.admits_at(ip, is_relayed)
    }

    fn admits_at(&self, peer: IpAddr, is_relayed: bool) -> bool {
        if is_relayed { !self.addresses.denies(peer) } else { self.addresses.check(peer).is_ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address_policy::Block;

    fn block(first: [u8; 4], bits: u8) -> Block {
        Block::new(IpAddr::from(first), bits).unwrap()
    }

    fn policy() -> PeerPolicy {
        let own = IpAddr::from([9, 9, 9, 9]);
        let addresses = AddressPolicy::new(vec![block([10, 1, 0, 0], 16)], [own]).unwrap();
        let addresses = addresses.without(vec![block([8, 8, 8, 0], 24)]).unwrap();
        PeerPolicy::new(addresses, vec![own], 50_000..=50_010)
    }

    #[test]
    fn denied_blocks_are_taken_out_of_what_is_admitted() {
        let policy = policy();
        assert!(policy.admits(IpAddr::from([8, 8, 4, 4])));
        assert!(!policy.admits(IpAddr::from([8, 8, 8, 8])));
        assert!(!policy.admits("::ffff:8.8.8.8".parse().unwrap()));
        assert!(!policy.admits_destination(SocketAddr::from(([8, 8, 8, 8], 53))));
    }

    #[test]
    fn denied_blocks_are_denied_where_they_hide_in_other_addresses() {
        let policy = policy();
        for (denied, admitted) in [
            ("64:ff9b::8.8.8.8", "64:ff9b::8.8.4.4"),
            ("2002:808:808::1", "2002:808:404::1"),
            ("2a00::5efe:8.8.8.8", "2a00::5efe:8.8.4.4"),
        ] {
            let (denied, admitted): (IpAddr, IpAddr) =
                (denied.parse().unwrap(), admitted.parse().unwrap());
            assert!(!policy.admits(denied) && policy.admits(admitted), "{denied}");
            assert!(!policy.admits_destination(SocketAddr::new(denied, 53)), "{denied}");
        }
    }

    #[test]
    fn a_block_of_mapped_addresses_denies_the_addresses_themselves() {
        let mapped: Block = "::ffff:8.8.8.0/120".parse().unwrap();
        assert_eq!(mapped, block([8, 8, 8, 0], 24));
        let ports = 50_000..=50_010;
        let addresses = AddressPolicy::default().without(vec![mapped]).unwrap();
        let policy = PeerPolicy::new(addresses, vec![], ports);
        assert!(!policy.admits(IpAddr::from([8, 8, 8, 8])));
        assert!("::ffff:8.8.8.1/120".parse::<Block>().is_err());
    }

    #[test]
    fn nobody_is_nobody() {
        for ip in ["1.1.1.1", "10.0.0.1", "2a00::1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert!(!PeerPolicy::nobody().admits(ip), "{ip}");
            assert!(!PeerPolicy::nobody().admits_destination(SocketAddr::new(ip, 9)), "{ip}");
        }
    }

    #[test]
    fn opened_blocks_and_the_public_network_are_admitted_on_all_ports() {
        for ip in [[10, 1, 2, 3], [1, 1, 1, 1]] {
            assert!(policy().admits(IpAddr::from(ip)));
            assert!(policy().admits_destination(SocketAddr::from((ip, 22))));
        }
        assert!(!policy().admits(IpAddr::from([10, 2, 0, 1])));
        assert!(!PeerPolicy::default().admits(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn relayed_addresses_are_admitted_on_relayed_ports_only() {
        let policy = policy();
        assert!(policy.admits(IpAddr::from([9, 9, 9, 9])));
        assert!(policy.admits_destination(SocketAddr::from(([9, 9, 9, 9], 50_010))));
        for port in [22, 49_999, 50_011] {
            assert!(!policy.admits_destination(SocketAddr::from(([9, 9, 9, 9], port))));
        }
    }
}
